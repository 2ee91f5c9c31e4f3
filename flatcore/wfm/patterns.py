"""Patterns of ±1 inputs with ±1 labels, held at one bit an entry (src/cpp/core/wfm/patterns.hpp)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._checks import as_numpy, check_count, chunks
from flatcore._memory import check_memory
from flatcore.wfm._arguments import check_size
from flatcore.wfm.models import Committee, checked_model, normalised

Words = NDArray[np.uint32]
_GROUP, _WORD, _LINE = 16, 32, 64  # patterns interleaved, inputs a word, bytes of a cache line
_CHUNK_BYTES = 1 << 22  # of bit strings made or converted together: they stay in cache


class Patterns:
    """P labelled patterns of N inputs, ±1, one bit an entry.

    Made by :func:`random_patterns`, :func:`teacher_patterns` or :meth:`from_arrays`, which copies. ``words`` and
    ``labels`` are read-only; ``inputs`` unpacks into a new array each time.

    Parameters
    ----------
    words
        Packed inputs, uint32 (groups, segments, words, 16).
    labels
        (P,), ±1.
    n_inputs
        N.
    """

    def __init__(self, words: Words, labels: NDArray[np.int8], n_inputs: int) -> None:
        self.words, self.labels, self.n_inputs = words, labels, n_inputs
        self.words.flags.writeable = False
        self.labels.flags.writeable = False

    @classmethod
    def from_arrays(cls, model: Committee, inputs: Any, labels: Any) -> Patterns:
        """Patterns from arrays of ±1, which are copied: inputs (P, N) and labels (P,).

        Raises
        ------
        ValueError
            Wrong shapes, no pattern, entries other than ±1.
        """
        checked_model(model)
        array, signs = as_numpy("inputs", inputs), as_numpy("labels", labels)
        if array.ndim != 2 or array.shape[1] != model.n_inputs:
            raise ValueError(f"inputs has shape {array.shape}; expected (P, N) with N = {model.n_inputs}")
        if len(array) == 0:
            raise ValueError(f"inputs has shape {array.shape}; expected at least one pattern")
        if signs.shape != (len(array),):
            raise ValueError(f"labels has shape {signs.shape}; expected ({len(array)},), one for each pattern")
        _check_signs("labels", signs)
        words = _empty_words(model, len(array))
        for rows in chunks(len(array), max(1, _CHUNK_BYTES // array.shape[1])):
            _check_signs("inputs", array[rows], rows.start)
            strings = np.packbits(array[rows] > 0, axis=1, bitorder="little")
            _core.wfm_pack(words, len(array), model.fan_in, strings, rows.start)
        return cls(words, signs.astype(np.int8), model.n_inputs)

    @property
    def num_patterns(self) -> int:
        """P."""
        return len(self.labels)

    def __len__(self) -> int:
        return self.num_patterns

    @property
    def segments(self) -> int:
        """Pieces of n inputs that the packing keeps apart."""
        return int(self.words.shape[1])

    @property
    def inputs(self) -> NDArray[np.int8]:
        """The inputs unpacked: (P, N), int8, ±1."""
        check_memory("the unpacked inputs", self.num_patterns * self.n_inputs)
        out = np.empty((self.num_patterns, self.n_inputs), dtype=np.int8)
        for rows in chunks(self.num_patterns, max(1, _CHUNK_BYTES // self.n_inputs)):
            out[rows] = self._signs(rows)
        return out

    def _strings(self, rows: slice) -> NDArray[np.uint8]:
        inputs = self.n_inputs // self.segments
        count = min(rows.stop, self.num_patterns) - rows.start
        return _core.wfm_unpack(self.words, self.num_patterns, inputs, rows.start, count)

    def _signs(self, rows: slice) -> NDArray[np.int8]:
        bits = np.unpackbits(self._strings(rows), axis=1, count=self.n_inputs, bitorder="little")
        return bits.view(np.int8) * np.int8(2) - np.int8(1)

    def for_model(self, model: Committee) -> Patterns:
        """The same patterns, cut as the model's units see them: themselves where they are already."""
        if self.n_inputs != model.n_inputs:
            raise ValueError(f"patterns have {self.n_inputs} inputs; the model expects {model.n_inputs}")
        if self.segments == model.segments:
            return self
        words = _empty_words(model, self.num_patterns)
        for rows in chunks(self.num_patterns, max(1, 8 * _CHUNK_BYTES // self.n_inputs)):
            _core.wfm_pack(words, self.num_patterns, model.fan_in, self._strings(rows), rows.start)
        return Patterns(words, self.labels, self.n_inputs)

    def __repr__(self) -> str:
        return f"Patterns({self.num_patterns} of {self.n_inputs} inputs)"


def random_patterns(model: Committee, n_patterns: int, seed: int = 0) -> Patterns:
    """Random patterns with random labels, all entries ±1 with probability ½.

    Parameters
    ----------
    model
        The machine that is to learn them; patterns serve other machines of as many inputs too.
    n_patterns
        P. The load is α = P/(K·n).
    seed
        Of the patterns: the same seed gives the same ones for every model with N inputs. Solvers and measures draw
        from streams of their own, so that the same seed may serve them too.

    Returns
    -------
    Patterns

    Examples
    --------
    >>> random_patterns(Committee(45, 5), 20)
    Patterns(20 of 45 inputs)
    """
    words, rng = _random_inputs(model, n_patterns, seed)
    return Patterns(words, _signs_of(rng.integers(0, 2, n_patterns)), model.n_inputs)


def teacher_patterns(model: Committee, n_patterns: int, seed: int = 0) -> tuple[Patterns, NDArray[np.float64]]:
    """Random patterns labelled by a random machine of the same kind, independent of them, which therefore solves them.

    Returns
    -------
    (Patterns, weights)
        The teacher's weights have shape (K, n): ±1, or normal entries scaled to ‖w_k‖² = n.
    """
    from flatcore.wfm.predictions import outputs  # which needs patterns

    words, rng = _random_inputs(model, n_patterns, seed)
    teacher = random_weights(model, rng)
    unlabelled = Patterns(words, np.ones(n_patterns, dtype=np.int8), model.n_inputs)
    return Patterns(words, outputs(model, teacher, unlabelled), model.n_inputs), teacher


def rows_of(patterns: Patterns) -> Words:
    """The inputs' words pattern by pattern: (P, S, C), uint32, for what visits one pattern at a time.

    A segment's n bits fill C = ⌈n/32⌉ words from the lowest bit on, the last one padded with zeros.
    """
    check_memory("the patterns by rows", patterns.words.nbytes)
    return _core.wfm_rows(patterns.words, patterns.num_patterns, patterns.n_inputs // patterns.segments)


def sign_words(signs: NDArray[Any]) -> Words:
    """The words (…, C) of signs (…, n): bit 1 where positive, ordered as in :func:`rows_of`."""
    rows = np.ascontiguousarray(signs, dtype=np.int8).reshape(-1, signs.shape[-1])
    return _core.wfm_pack_signs(rows).reshape(*signs.shape[:-1], -1)


def random_weights(model: Committee, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights (K, n) uniform over the model's own: ±1, or on the spheres ‖w_k‖² = n."""
    if model.weights == "binary":
        return _signs_of(rng.integers(0, 2, model.shape)).astype(np.float64)
    return normalised(model, rng.standard_normal(model.shape))


def checked_patterns(model: Committee, patterns: Any) -> Patterns:
    """Patterns, or a pair of arrays (inputs, labels), cut for the model."""
    if isinstance(patterns, Patterns):
        return patterns.for_model(model)
    if isinstance(patterns, (tuple, list)) and len(patterns) == 2:
        return Patterns.from_arrays(model, *patterns)
    raise ValueError(f"patterns is a {type(patterns).__name__}; expected Patterns or a pair (inputs, labels)")


def _random_inputs(model: Committee, n_patterns: int, seed: int) -> tuple[Words, np.random.Generator]:
    checked_model(model)
    check_size("n_patterns", n_patterns)
    rng = np.random.default_rng(check_count("seed", seed, 0))
    words, width = _empty_words(model, n_patterns), (model.n_inputs + 7) // 8
    for rows in chunks(n_patterns, max(_GROUP, _CHUNK_BYTES // width // _GROUP * _GROUP)):
        count = rows.stop - rows.start
        drawn = rng.integers(0, 2**64, (count * width + 7) // 8, dtype=np.uint64)  # 17 times as fast as rng.bytes
        strings = drawn.astype("<u8", copy=False).view(np.uint8)[: count * width].reshape(count, width)
        _core.wfm_pack(words, n_patterns, model.fan_in, strings, rows.start)
    return words, rng


def _empty_words(model: Committee, n_patterns: int) -> Words:
    """Zeroed words for so many patterns, on cache lines."""
    shape = (-(-n_patterns // _GROUP), model.segments, -(-model.fan_in // _WORD), _GROUP)
    size = math.prod(shape) * 4
    check_memory("the packed patterns", size)
    buffer = np.zeros(size + _LINE, dtype=np.uint8)
    first = -buffer.ctypes.data % _LINE
    return buffer[first : first + size].view(np.uint32).reshape(shape)


def _signs_of(bits: NDArray[np.int64]) -> NDArray[np.int8]:
    return (2 * bits - 1).astype(np.int8)


def _check_signs(name: str, array: NDArray[Any], first: int = 0) -> None:
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has dtype {array.dtype}; expected numbers ±1")
    wrong = (array != 1) & (array != -1)
    if wrong.any():
        index = np.argwhere(wrong)[0]
        value = array[tuple(index)]
        index[0] += first
        raise ValueError(f"{name} contains {value} at index ({', '.join(map(str, index))}); expected ±1")
