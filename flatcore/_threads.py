"""The `threads=` argument: OpenMP and BLAS threads for the length of one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flatcore import _core
from flatcore._checks import check_count


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Use `threads` OpenMP and BLAS threads inside, and what was set before outside; None changes nothing."""
    if threads is None:
        yield
        return
    check_count("threads", threads)
    before, blas_before = _core.max_threads(), _core.get_blas_threads()
    _core.set_threads(threads)
    _core.set_blas_threads(threads)
    try:
        yield
    finally:
        _core.set_threads(before)
        if blas_before > 0:
            _core.set_blas_threads(blas_before)
