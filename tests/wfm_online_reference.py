"""Slow, plain versions of the online solvers' epochs and of the γ-cross-entropy, one pattern and unit at a time."""

from itertools import product

import numpy as np
import scipy.stats


def seen_by_units(model, inputs):
    """(P, K, n): what each unit sees of each pattern."""
    P, n = len(inputs), model.fan_in
    if model.kind == "tree":
        return inputs.reshape(P, model.n_hidden, n).astype(float)
    return np.repeat(inputs[:, None, :].astype(float), model.n_hidden, axis=1)


def wrong(model, h, label):
    """Whether a pattern with fields h is misclassified; zero counts as wrong for its unit."""
    if model.activation == "parity":
        return label * np.prod(np.sign(h)) <= 0
    return np.count_nonzero(label * h <= 0) > (len(h) - 1) / 2


def least_action_moves(model, h, label):
    """(unit, sign of the step) for the units that an error moves."""
    if not wrong(model, h, label):
        return []
    if model.activation == "parity":
        k = int(np.argmin(np.abs(h)))
        return [(k, -1.0 if h[k] >= 0 else 1.0)]
    few = np.count_nonzero(label * h <= 0) - (len(h) - 1) // 2
    by_size = sorted((k for k in range(len(h)) if label * h[k] <= 0), key=lambda k: (-label * h[k], k))
    return [(k, float(label)) for k in by_size[:few]]


def least_action_binary(model, seen, labels, order, H):
    H, moved = H.copy(), 0
    for mu in order:
        h = np.einsum("ki,ki->k", seen[mu], np.where(H > 0, 1.0, -1.0))
        moves = least_action_moves(model, h, labels[mu])
        moved += bool(moves)
        for k, c in moves:
            H[k] += (2 * c * seen[mu, k]).astype(H.dtype)
    return H, moved


def least_action_continuous(model, seen, labels, order, w):
    w, moved, root = w.copy(), 0, np.sqrt(model.fan_in)
    for mu in order:
        moves = least_action_moves(model, np.einsum("ki,ki->k", seen[mu], w) / root, labels[mu])
        moved += bool(moves)
        for k, c in moves:
            w[k] += c * seen[mu, k] / root
    return w, moved


def margin(model, seen, labels, order, w, delta):
    w, moved, root, K = w.copy(), 0, np.sqrt(model.fan_in), model.n_hidden
    for mu in order:
        s = labels[mu] * np.einsum("ki,ki->k", seen[mu], w) / root
        missing = (K + 1) // 2 - np.count_nonzero(s > delta)
        moved += missing > 0
        weak = sorted((k for k in range(K) if s[k] <= delta), key=lambda k: (-s[k], k))
        for k in weak[: max(0, missing)]:
            w[k] += labels[mu] * (delta - s[k]) * seen[mu, k] / root
    return w, moved


def majority_log_slopes(a):
    """∂ log P(majority right)/∂a_k by enumeration of what the units say, in logarithms."""
    K = len(a)
    right, wrong_ = scipy.stats.norm.logcdf(a), scipy.stats.norm.logsf(a)
    logs, decided = [], [[] for _ in range(K)]
    for says in product([0, 1], repeat=K):
        total = sum(right[k] if says[k] else wrong_[k] for k in range(K))
        if sum(says) >= (K + 1) // 2:
            logs.append(total)
        for k in range(K):
            if says[k] == 0 and sum(says) == (K - 1) // 2:
                decided[k].append(total - wrong_[k])
    log_p = np.logaddexp.reduce(logs)
    return np.array([np.exp(scipy.stats.norm.logpdf(a[k]) + np.logaddexp.reduce(decided[k]) - log_p) for k in range(K)])


def perturbed(model, seen, labels, order, w, delta, step):
    w, root = w.copy(), np.sqrt(model.fan_in)
    for mu in order:
        a = labels[mu] * np.einsum("ki,ki->k", seen[mu], w) / (root * delta)
        w += (step / delta * labels[mu] * majority_log_slopes(a))[:, None] * seen[mu] / root
    return w


def replicated(model, seen, labels, orders, batch, coupling, gamma, H):
    """All replicas take a batch at fixed weights, then all are pulled."""
    H = H.copy()
    y, P = orders.shape
    for first in range(0, P, batch):
        for a in range(y):
            W, step = np.where(H[a] > 0, 1.0, -1.0), np.zeros_like(H[a])
            for mu in orders[a, first : first + batch]:
                for k, c in least_action_moves(model, np.einsum("ki,ki->k", seen[mu], W), labels[mu]):
                    step[k] += 2 * c * seen[mu, k]
            H[a] += step
        W = np.where(H > 0, 1.0, -1.0)
        H += coupling * (np.tanh(gamma * W.sum(axis=0)) - W)
    return H


def loss(model, seen, labels, w, beta, gamma):
    """The mean γ-cross-entropy."""
    h = np.einsum("pki,ki->pk", seen, w) / np.sqrt(model.fan_in)
    t = np.tanh(beta * h)
    if model.n_hidden == 1:
        x = h[:, 0]
    elif model.activation == "parity":
        x = t.prod(axis=1)
    else:
        x = t.sum(axis=1) / np.sqrt(model.n_hidden)
    return np.mean(np.logaddexp(0.0, -2 * gamma * labels * x)) / (2 * gamma)


def dense_derivatives(model, seen, labels, w, beta, gamma):
    """Gradient (N,) and Hessian (N, N), from the derivatives of x at the fields written out entry by entry."""
    P, K, n = seen.shape
    gradient, hessian = np.zeros(K * n), np.zeros((K * n, K * n))
    for mu in range(P):
        h = np.einsum("ki,ki->k", seen[mu], w) / np.sqrt(n)
        t = np.tanh(beta * h)
        d1, d2 = beta * (1 - t**2), -2 * beta**2 * t * (1 - t**2)
        first, second = np.zeros(K), np.zeros((K, K))
        if K == 1:
            x, first[0] = h[0], 1.0
        elif model.activation == "parity":
            x = t.prod()
            for k in range(K):
                first[k] = d1[k] * np.delete(t, k).prod()
                for m in range(K):
                    second[k, m] = (
                        d2[k] * np.delete(t, k).prod() if k == m else (d1[k] * d1[m] * np.delete(t, [k, m]).prod())
                    )
        else:
            x, first, second = t.sum() / np.sqrt(K), d1 / np.sqrt(K), np.diag(d2) / np.sqrt(K)
        s = 1 / (1 + np.exp(2 * gamma * labels[mu] * x))
        at_fields = 2 * gamma * s * (1 - s) * np.outer(first, first) - s * labels[mu] * second
        J = np.zeros((K, K * n))  # ∂h_k/∂w
        for k in range(K):
            J[k, k * n : (k + 1) * n] = seen[mu, k] / np.sqrt(n)
        gradient -= s * labels[mu] * first @ J / P
        hessian += J.T @ at_fields @ J / P
    return gradient, hessian


def descent(model, seen, labels, order, w, beta, gamma, batch, rate):
    """SGD with normalisation after every batch."""
    w = w.copy()
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        gradient, _ = dense_derivatives(model, seen[part], labels[part], w, beta, gamma)
        w -= rate * gradient.reshape(w.shape)
        w *= np.sqrt(model.fan_in) / np.linalg.norm(w, axis=1, keepdims=True)
    return w
