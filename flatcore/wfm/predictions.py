"""What a machine says of patterns: fields, outputs, errors, margins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore.wfm.models import Committee, checked_model, checked_weights
from flatcore.wfm.patterns import Patterns, Words, checked_patterns, sign_words


def fields(model: Committee, weights: Any, patterns: Any) -> NDArray[np.float64]:
    """Fields h_k = w_k·ξ_k/√n of all units: (P, K).

    Parameters
    ----------
    model, weights
        A :class:`Committee` and its weights (K, n).
    patterns
        :class:`Patterns`, or arrays (inputs, labels) of ±1.
    """
    patterns = checked_patterns(checked_model(model), patterns)
    return _fields(model, checked_weights(model, weights), patterns)


def outputs(model: Committee, weights: Any, patterns: Any) -> NDArray[np.int8]:
    """The machine's output for every pattern: (P,), ±1, and 0 where a field that decides is exactly zero."""
    h = np.sign(fields(model, weights, patterns))
    out = np.prod(h, axis=1) if model.activation == "parity" else np.sign(_decided(h))
    return out.astype(np.int8)


def errors(model: Committee, weights: Any, patterns: Any) -> int:
    """How many patterns are classified wrongly; a field of zero counts against its label."""
    patterns = checked_patterns(checked_model(model), patterns)
    if model.weights == "binary":
        return int(binary_errors(model, sign_words(checked_weights(model, weights))[None], patterns)[0])
    return int(np.count_nonzero(outputs(model, weights, patterns) != patterns.labels))


def binary_errors(model: Committee, weights: Words, patterns: Patterns) -> NDArray[np.int64]:
    """Errors (B,) of binary machines of the model's shape, their weights as words (B, K, C)."""
    parity = model.activation == "parity"
    return _core.wfm_binary_errors(
        patterns.words, patterns.num_patterns, model.fan_in, weights, patterns.labels, parity
    )


def margins(model: Committee, weights: Any, patterns: Any) -> NDArray[np.float64]:
    """How far each pattern is from being misclassified: (P,), in units of the fields.

    For a majority the σh_k are sorted and the ((K + 1)/2)-th largest is returned: every other field may lose its sign
    before the output does. For a parity machine the smallest |h_k|, with the sign of being right. Negative where the
    pattern is misclassified, zero on the border.
    """
    patterns = checked_patterns(checked_model(model), patterns)
    h = fields(model, weights, patterns)
    labels = patterns.labels[:, None]
    if model.activation == "parity":
        right = np.prod(np.sign(h), axis=1) * patterns.labels
        return np.asarray(np.abs(h).min(axis=1) * right)
    return np.asarray(np.sort(labels * h, axis=1)[:, (model.n_hidden - 1) // 2])


def _fields(model: Committee, weights: NDArray[np.float64], patterns: Patterns) -> NDArray[np.float64]:
    if model.weights == "binary":
        h = _core.wfm_binary_fields(patterns.words, patterns.num_patterns, model.fan_in, sign_words(weights))
    else:
        h = _core.wfm_fields(patterns.words, patterns.num_patterns, model.fan_in, weights)
    return np.asarray(h / np.sqrt(model.fan_in))


def _decided(signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the signs where units of field zero cannot turn it over, else zero."""
    total, undecided = signs.sum(axis=1), np.count_nonzero(signs == 0, axis=1)
    return np.where(np.abs(total) > undecided, total, 0.0)
