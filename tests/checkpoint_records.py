"""Records of checkpoints made by hand from random matrices, as large and as hostile as a test wants."""

import numpy as np

from flatcore.results import (
    CheckpointAnalysis,
    FailedTensor,
    HeadComposition,
    LayerPair,
    ProductSpectrum,
    TensorSpectrum,
    read_only,
)
from flatcore.weights import angle_chance, overlap_chance

HOSTILE = "<script>alert(1)</script>"
ROLES = {
    "self_attn.q_proj": "attention query",
    "self_attn.k_proj": "attention key",
    "self_attn.v_proj": "attention value",
    "self_attn.o_proj": "attention output",
    "mlp.gate_proj": "MLP gate",
    "mlp.up_proj": "MLP up",
    "mlp.down_proj": "MLP down",
}


def _ranks(s):
    """Stable and effective rank of a spectrum."""
    with np.errstate(all="ignore"):
        p = s / s.sum()
        entropy = -np.where(p > 0.0, p * np.log(p), 0.0).sum()
        return float((s @ s) / s[0] ** 2), float(np.exp(entropy)) if s[0] > 0.0 else np.nan


def tensor(name, role, W, k=4, status="converged"):
    s = np.linalg.svd(W, compute_uv=False)
    m, n = W.shape
    k, fro = min(k, m, n), float(np.linalg.norm(s))
    edge = fro / np.sqrt(m * n) * (np.sqrt(m) + np.sqrt(n))
    stable, effective = _ranks(s)
    return TensorSpectrum(
        name=name,
        role=role,
        shape=(m, n),
        dtype="F32",
        matrix="weight (out, in)",
        values=read_only(s[:k]),
        residuals=read_only(np.full(k, 1e-7)),
        converged=read_only(np.full(k, status == "converged")),
        status=status,
        spectral=float(s[0]),
        frobenius=fro,
        stable_rank=stable,
        effective_rank=effective,
        effective_rank_error=0.0,
        tail=float(1.0 - (s[:k] @ s[:k]) / fro**2) if fro > 0.0 else np.nan,
        edge=float(edge),
        outliers=int((s[:k] > edge).sum()),
        reads=1,
        rank_reads=1,
        seconds=0.01,
    )


def product(name, kind, head, rng, rank=4, note=""):
    B, A = rng.standard_normal((8, rank)), rng.standard_normal((rank, 8))
    s = np.linalg.svd(B @ A, compute_uv=False)[:rank]
    X, Y = B.T @ B, A @ A.T
    gap = float(np.linalg.norm(X - Y))
    return ProductSpectrum(
        name=name,
        kind=kind,
        head=head,
        factors=(f"{name}.left", f"{name}.right"),
        shape=(8, 8),
        rank=rank,
        values=read_only(s),
        spectral=float(s[0]),
        frobenius=float(np.linalg.norm(s)),
        stable_rank=_ranks(s)[0],
        effective_rank=_ranks(s)[1],
        gap=gap,
        relative_gap=gap / float(np.hypot(np.linalg.norm(X), np.linalg.norm(Y))),
        scaling=1.0,
        note=note,
    )


def composition(lower, upper, kind, scores, chance_95=0.5):
    return HeadComposition(lower, upper, kind, read_only(scores), 0.8 * chance_95, chance_95)


def pair(lower, upper, rng, k=4, width=30, aligned=False):
    U, V = (np.linalg.qr(rng.standard_normal((width, k)))[0] for _ in range(2))
    overlaps = np.abs(U.T @ (U if aligned else V))
    chance = overlap_chance(width, overlaps.size)
    return LayerPair(
        lower=lower,
        upper=upper,
        width=width,
        matrices=("weight (out, in)",) * 2,
        between=(),
        gap=1.0,
        relative_gap=float(rng.uniform()),
        overlaps=read_only(np.minimum(overlaps, 1.0)),
        largest=float(min(overlaps.max(), 1.0)),
        chance=chance,
        chance_95=overlap_chance(width, overlaps.size, 0.95),
        ratio=float(overlaps.max()) / chance,
        angles=read_only(np.linalg.svd(overlaps, compute_uv=False)),
        angle_chance=angle_chance(width, k),
        status="computed",
    )


def analysis(tensors, products=(), compositions=(), pairs=(), **changes):
    fields = {
        "path": "model.safetensors", "kind": "safetensors file", "family": "Llama", "k": 4, "seed": 0,
        "tensors": tuple(tensors), "products": tuple(products), "compositions": tuple(compositions),
        "pairs": tuple(pairs), "failed": (), "not_analysed": (), "unknown": (), "notes": (), "seconds": 0.5,
    }  # fmt: skip
    return CheckpointAnalysis(**(fields | changes))


def failed(name="model.layers.0.mlp.up_proj.weight", reason="contains nan at index (3, 1); expected finite numbers"):
    return FailedTensor(name, "MLP up", (16, 8), "BF16", reason)


def transformer(layers=3, heads=2, extra=0, seed=0):
    """A Llama's records with small matrices: every kind of part, compositions of all pairs of layers."""
    rng = np.random.default_rng(seed)
    attention = [f"model.layers.{layer}.self_attn" for layer in range(layers)]
    tensors = [tensor("model.embed_tokens.weight", "embedding", rng.standard_normal((40, 8)))]
    products, pairs = [], []
    for layer in range(layers):
        names = {suffix: f"model.layers.{layer}.{suffix}.weight" for suffix in ROLES}
        tensors += [tensor(names[s], role, rng.standard_normal((16, 8))) for s, role in ROLES.items()]
        products += [product(attention[layer], kind, head, rng) for head in range(heads) for kind in ("QK", "OV")]
        pairs.append(pair(names["mlp.up_proj"], names["mlp.down_proj"], rng, aligned=layer == 1))
        products += [product(f"{attention[layer]}.{m}_proj", "LoRA", -1, rng, note="alpha 8 over r 4") for m in "qv"]
    compositions = [
        composition(attention[lower], attention[upper], kind, rng.uniform(0.1, 0.6, (heads, heads)))
        for upper in range(layers)
        for lower in range(upper)
        for kind in "QKV"
    ]
    for index in range(extra):
        tensors.append(
            tensor(f"vision.blocks.{index}.attn.qkv.weight", "attention q, k and v", rng.standard_normal((9, 3)))
        )
    return analysis(tensors, products, compositions, pairs, not_analysed=(("model.norm.weight", "a vector"),))


def hostile(*names):
    """These names wherever a file could put one."""
    rng = np.random.default_rng(1)
    name, *_ = names
    return analysis(
        [tensor(n, n, W) for n in names for W in (rng.standard_normal((5, 4)), np.zeros((2, 2)))],
        [product(n, kind, head, rng, note=n) for n in names for kind, head in (("QK", 0), ("OV", 0), ("LoRA", -1))],
        [composition(n, n, "Q", np.eye(2)) for n in names],
        [pair(n, n, rng, aligned=True) for n in names],
        path=name, kind=name, family=name, unknown=names, notes=names, not_analysed=tuple((n, n) for n in names),
        failed=tuple(FailedTensor(n, n, (2, 2), n, n) for n in names),
    )  # fmt: skip
