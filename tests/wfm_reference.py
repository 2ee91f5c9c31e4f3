"""Slow reference versions of the message-passing equations of committees, as they are written; for tests only."""

import numpy as np
from scipy.special import log_ndtr, logsumexp

MOST_FIELD, LEAST_VARIANCE = 30.0, 1e-6


def unit_inputs(model, inputs):
    """(P, K, n): what each unit sees."""
    n = model.fan_in
    cut = [inputs[:, k * n : (k + 1) * n] if model.kind == "tree" else inputs for k in range(model.n_hidden)]
    return np.stack(cut, axis=1).astype(np.float64)


def conventions(model, labels):
    """Sign (what multiplies the patterns) and target of the output node."""
    labels = np.asarray(labels, dtype=np.int8)
    ones = np.ones_like(labels)
    return (ones, labels) if model.activation == "parity" and model.n_hidden % 2 == 0 else (labels, ones)


def absorbed(model, patterns):
    """Inputs (P, K, n) times the sign, and the targets."""
    sign, target = conventions(model, patterns.labels)
    return unit_inputs(model, patterns.inputs) * sign[:, None, None], target


def log_odds(model, log_rise, log_fall, target):
    """log P(target | τ_k = ±1) for every unit and log Z, by summing over all signs of the units: (K, 2) and a float."""
    K = model.n_hidden
    states = np.array(np.meshgrid(*[[1, -1]] * K, indexing="ij")).reshape(K, -1).T
    right = (states.sum(1) > 0) if model.activation == "majority" else (states.prod(1) == target)
    weight = np.where(states > 0, log_rise, log_fall)  # (2^K, K)
    out = np.full((K, 2), -np.inf)
    for k in range(K):
        others = np.delete(weight, k, axis=1).sum(axis=1)
        for side, sign in enumerate((1, -1)):
            chosen = others[right & (states[:, k] == sign)]
            if chosen.size:
                out[k, side] = logsumexp(chosen)
    return out, float(logsumexp(weight.sum(axis=1)[right]))


def node(model, z, target):
    """log p₊, log p₋ (P, K), normalised, and log Z (P,)."""
    shape = (len(z), model.n_hidden, 2)
    messages, log_z = np.empty(shape), np.empty(len(z))
    for mu in range(len(z)):
        messages[mu], log_z[mu] = log_odds(model, log_ndtr(z[mu]), log_ndtr(-z[mu]), target[mu])
    if model.n_hidden > 1:
        half = np.clip(messages[..., 0] - messages[..., 1], -2 * MOST_FIELD, 2 * MOST_FIELD)
        messages = np.stack([-np.logaddexp(0, -half), -np.logaddexp(0, half)], axis=-1)
    return messages[..., 0], messages[..., 1], log_z


def edge_sweep(model, patterns, a, b, damping):
    """Messages after one sweep (P, K, n), their sums (K, n), the change of tanh before damping, and log Z (P,)."""
    x, target = absorbed(model, patterns)
    h = np.tanh(b - a)
    omega = (x * h).sum(axis=2)
    rest = 1 / np.cosh(b - a) ** 2
    V = np.maximum(rest.sum(axis=2), LEAST_VARIANCE)
    log_plus, log_minus, log_z = node(model, omega / np.sqrt(V), target)
    center, scale = omega[..., None] - x * h, np.sqrt(np.maximum(V[..., None] - 1 + h**2, LEAST_VARIANCE))

    def log_q(z):
        return np.logaddexp(log_plus[..., None] + log_ndtr(z), log_minus[..., None] + log_ndtr(-z))

    new = 0.5 * (log_q((center + x) / scale) - log_q((center - x) / scale))
    new = np.clip(new, -MOST_FIELD, MOST_FIELD)
    change = np.abs(np.tanh(new) - np.tanh(a)).max()
    new = (1 - damping) * new + damping * a
    return new, new.sum(axis=0), change, log_z
