"""Threads for the length of one call: the `threads=` argument, and small problems that want one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flatcore import _core
from flatcore._checks import check_count

_MOST_THREADS = 1 << 16


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Use `threads` OpenMP and BLAS threads inside, and what was set before outside; None changes nothing."""
    if threads is None:
        yield
        return
    if check_count("threads", threads) > _MOST_THREADS:
        raise ValueError(f"threads is {threads}; expected at most {_MOST_THREADS}")
    before, blas_before = _core.max_threads(), _core.get_blas_threads()
    try:
        _core.set_threads(threads)
        _core.set_blas_threads(threads)
        yield
    finally:
        _core.set_threads(before)
        if blas_before > 0:
            _core.set_blas_threads(blas_before)


_serial = threading.Lock()
_serial_depth, _blas_outside = 0, 0


@contextmanager
def serial_blas() -> Iterator[None]:
    """One BLAS thread inside; calls may overlap in several threads, the last to leave restores what was set before."""
    global _serial_depth, _blas_outside
    with _serial:
        if _serial_depth == 0:
            _blas_outside = _core.get_blas_threads()
            if _blas_outside > 1:
                _core.set_blas_threads(1)
        _serial_depth += 1
    try:
        yield
    finally:
        with _serial:
            _serial_depth -= 1
            if _serial_depth == 0 and _blas_outside > 1:
                _core.set_blas_threads(_blas_outside)
