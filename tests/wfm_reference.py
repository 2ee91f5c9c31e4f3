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
    """log p₊, log p₋ (P, K), normalised, and log Z (P,); the odds are clamped, where there are several units."""
    least = np.log(1e-300) if model.activation == "parity" and model.n_hidden > 1 else -np.inf
    rise, fall = np.maximum(log_ndtr(z), least), np.maximum(log_ndtr(-z), least)
    shape = (len(z), model.n_hidden, 2)
    messages, log_z = np.empty(shape), np.empty(len(z))
    for mu in range(len(z)):
        messages[mu], log_z[mu] = log_odds(model, rise[mu], fall[mu], target[mu])
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


def response(omega, V, log_plus, log_minus):
    """g = ∂ log Z/∂ω and Γ = −∂g/∂ω."""
    z = omega / np.sqrt(V)
    log_z = np.logaddexp(log_plus + log_ndtr(z), log_minus + log_ndtr(-z))
    g = (
        -np.expm1(np.minimum(log_minus - log_plus, 700.0))
        * np.exp(log_plus - z**2 / 2 - np.log(2 * np.pi) / 2 - log_z)
        / np.sqrt(V)
    )
    return g, g**2 + z * g / np.sqrt(V)


def amp_sweep(model, patterns, c, m, V, g, damping):
    """Outputs after a sweep (P, K), S (K, n), sums of Γ and g² (K), Σ log Z, the change."""
    x, target = absorbed(model, patterns)
    V = np.maximum(V, LEAST_VARIANCE)
    omega = c * (x * m).sum(axis=2) - V * g
    log_plus, log_minus, log_z = node(model, omega / np.sqrt(V), target)
    fresh, gamma = response(omega, V, log_plus, log_minus)
    change = (np.abs(fresh - g) * np.sqrt(V)).max()
    kept = (1 - damping) * fresh + damping * g
    S = c * np.einsum("pki,pk->ki", x, kept) + c**2 * gamma.sum(axis=0)[:, None] * m
    return kept, S, gamma.sum(axis=0), (kept**2).sum(axis=0), log_z.sum(), change


def gaussian_sweep(model, patterns, g, gamma, mean, s, damping):
    """Messages g (P, K, n), Γ (P, K), H (K, n), G (K) after a sweep on edges, and the change."""
    x, target = absorbed(model, patterns)
    xi = x / np.sqrt(model.fan_in)
    cavity = mean - xi * g * s[:, None]
    omega, V = (xi * cavity).sum(axis=2), np.maximum(np.broadcast_to(s, gamma.shape), LEAST_VARIANCE)
    log_plus, log_minus, _ = node(model, omega / np.sqrt(V), target)
    part = np.maximum(V[..., None] - xi**2 * s[:, None], LEAST_VARIANCE)
    fresh, _ = response(omega[..., None] - xi * cavity, part, log_plus[..., None], log_minus[..., None])
    _, fresh_gamma = response(omega, V, log_plus, log_minus)
    change = np.abs(fresh - g).max()
    g, gamma = (1 - damping) * fresh + damping * g, (1 - damping) * fresh_gamma + damping * gamma
    return g, gamma, (xi * g).sum(axis=0), gamma.sum(axis=0) / model.fan_in, change


def solutions(model, patterns):
    """All weights (count, K, n) without errors, by enumeration."""
    size = model.num_weights
    every = np.array([1 - 2 * ((np.arange(2**size) >> i) & 1) for i in range(size)]).T.reshape(-1, *model.shape)
    x, target = absorbed(model, patterns)
    tau = np.sign(np.einsum("pki,wki->wpk", x, every))
    right = tau.sum(2) > 0 if model.activation == "majority" else tau.prod(2) == target
    return every[right.all(axis=1)]
