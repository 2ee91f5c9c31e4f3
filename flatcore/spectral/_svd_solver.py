"""The largest singular triplets of one matrix: which method, until when, and what was missed.

1. `_search`: a Krylov process until the recurrence's residuals are small enough. It starts fused; where the rounding of
   squares would hide the tolerance, Golub–Kahan goes on from the vectors found.
2. `measured`: with fresh products in float64, the best triplets within the space found and their true residuals.
3. `_probe`: random blocks in the complement of everything found, until one finds nothing.

Matrices so small, or with so many triplets wanted, that a full decomposition is cheaper go there.
"""

from __future__ import annotations

import numpy as np

from flatcore._checks import FloatArray, human
from flatcore._memory import check_memory
from flatcore.results import Certificate
from flatcore.spectral._certificate import certified_gap
from flatcore.spectral._costs import MISS_PROBABILITY
from flatcore.spectral._small import orthonormal_columns
from flatcore.spectral._svd_full import decompose, full_cost
from flatcore.spectral._svd_operator import StoredOperator
from flatcore.spectral._svd_process import FusedLanczos, GolubKahan, KrylovProcess
from flatcore.spectral._svd_run import MEASURED_BYTES, SvdRun, Triplets, measured

PROBE_BLOCK = 4
SHORT_PROBE, LONG_PROBE, LONGEST_PROBE = 6, 14, 24
# A block of squares within the first ratio may be part of a cluster wider than a block can see at once; within the
# second it is a multiple value for all that Krylov spaces know.
_CLOSE, _TIED = 0.97, 0.998
_SHARPER = (0.75, 0.2)  # what the recurrence must reach, in units of the tolerance, before fresh products measure

# The cost model of a search: flop/s of one core in products with a few rows, seconds of bookkeeping a step.
_SKINNY_RATE, _STEP_SECONDS = 4e10, 1e-4
_TYPICAL_STEPS = 50  # k = 16: between planted values (33) and a Gaussian bulk (92)


def solve(run: SvdRun, start: FloatArray | None) -> tuple[Triplets, Certificate | None]:
    """K triplets and what is known about missed ones."""
    operator = run.operator
    cheaper, costs = _full_is_cheaper(operator, run.k)
    if cheaper:
        run.note(f"Full decomposition ({costs})")
        found, delta = decompose(run)
        run.steps = 1
        run.tell(found.s, found.residuals)  # nothing is left to stop
        return found, Certificate("dense", delta / operator.scale, 0.0, 0, operator.cols, 0)
    side = "AAᵀ" if operator.transposed else "AᵀA"
    run.note(f"Block Lanczos on {side}, one read of the matrix a step, on {operator.cols} rows in {operator.dtype}.")
    check_memory(f"a search for {run.k} singular triplets", _krylov_bytes(run, start))
    found, process = _converged(run, FusedLanczos, start)
    if run.status != "converged":
        return found, None
    if process.exhausted:
        run.all_values = process.values
        return found, Certificate("dense", 0.0, 0.0, 0, operator.cols, run.hits)
    kind, block = type(process), process.block
    del process  # its memory is the probe's
    return _probe(run, found, kind, block)


def _sizes(k: int, start: FloatArray | None) -> tuple[int, int]:
    """Capacity and block: four rows cost hardly more than the read of the matrix, wider blocks need more vectors."""
    block = max(4 if k <= 16 else 8 if k <= 64 else 16, 0 if start is None else len(start))
    return max(64, 4 * k) + 8 * block, block


def _full_is_cheaper(operator: StoredOperator, k: int) -> tuple[bool, str]:
    """Whether a full decomposition costs less than a typical run, and both predictions in words."""
    M, N = float(operator.rows), float(operator.cols)
    capacity, block = _sizes(k, None)
    full = full_cost(operator, k)
    steps = _TYPICAL_STEPS * max(1.0, k / 16.0)
    step = 4.0 * block * M * N + 8.0 * block * N * min(capacity, N)
    krylov = steps * (step / _SKINNY_RATE + _STEP_SECONDS)
    costs = f"{human(full.flops)}flop against {human(steps * step)}flop in {steps:.0f} block steps"
    return full.affordable and (full.seconds <= krylov or (capacity >= N and M * N < 1e7)), costs


def _krylov_bytes(run: SvdRun, start: FloatArray | None) -> int:
    """The fused basis beside what fresh products hold of k long vectors; or the probe's basis beside k triplets."""
    M, N, k, itemsize = run.operator.rows, run.operator.cols, run.k, run.operator.dtype.itemsize
    search = min(sum(_sizes(k, start)), N) * N * itemsize + MEASURED_BYTES * k * max(M, N)
    probe = min(k + PROBE_BLOCK * (LONGEST_PROBE + 2), N) * N * itemsize + k * (M + N) * itemsize
    return int(max(search, probe))


def _converged(run: SvdRun, kind: type[KrylovProcess], start: FloatArray | None) -> tuple[Triplets, KrylovProcess]:
    """Triplets whose true residuals reach the tolerance, or a status that says why not; and their process."""
    process = kind(run.operator, *_sizes(run.k, start), run.seeds, start=start)
    while True:
        for sharper in _SHARPER:
            inner = sharper * run.tol
            _search(run, process, inner)
            hidden = isinstance(process, FusedLanczos) and (process.noise[: run.k] > inner * process.values[:1]).any()
            if run.status == "converged" and hidden:
                break
            found = measured(run, orthonormal_columns(process.right(run.k).T))
            if run.status != "converged" or (found.residuals <= run.tol * found.s[0]).all():
                return found, process
        if isinstance(process, GolubKahan):
            run.status = "precision_limited"
            return found, process
        ratio = float(process.values[: run.k][-1] / process.values[0]) if process.values[0] > 0.0 else 0.0
        run.note(f"From step {run.steps} on Golub–Kahan, two reads a step: squaring would hide σ_k ≈ {ratio:.1e}·σ_1.")
        start = process.right(run.k)
        del process
        process = GolubKahan(run.operator, *_sizes(run.k, start), run.seeds, start=start)


def _search(run: SvdRun, process: KrylovProcess, tol: float) -> None:
    """Step until the first k residuals reach tol·σ_1 (or their rounding), evaluating where that is plausible."""
    k = min(run.k, process.capacity)
    if process.rows >= k and _excess(process, k, tol) <= 1.0:
        return
    schedule = _Schedule(process.rows + (k if process.rows else 0))
    while not process.exhausted:
        if process.full:
            process.restart(k)
        run.advance(process)
        last = process.exhausted or process.full or run.steps >= run.max_steps
        if not (last or run.callback is not None or (process.rows >= k and schedule.due(run.steps))):
            continue
        process.evaluate()
        if run.stopped(process.values[:k], process.residuals[:k]):
            return
        if process.rows >= k:
            excess = _excess(process, k, tol)
            if excess <= 1.0:
                return
            schedule.observe(run.steps, excess)
        if run.steps >= run.max_steps and not process.exhausted:
            run.status = "max_iterations"
            return


def _excess(process: KrylovProcess, k: int, tol: float) -> float:
    """The largest of the first k residuals in units of what is asked of it."""
    target = np.maximum(tol * process.values[0], process.noise[:k])
    residuals = process.residuals[:k]
    return float(np.max(np.divide(residuals, target, out=np.where(residuals > 0.0, np.inf, 0.0), where=target > 0.0)))


class _Schedule:
    """When to solve the small problem next: residuals fall geometrically, so two of them predict the step."""

    def __init__(self, rows: int) -> None:
        self._next = 0
        self._seen: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        return step >= self._next

    def observe(self, step: int, excess: float) -> None:
        wait = 2.0
        if self._seen is not None and 1.0 < excess < self._seen[1] < np.inf:
            rate = np.log(self._seen[1] / excess) / (step - self._seen[0])
            wait = 0.8 * np.log(excess) / rate
        self._seen = step, excess
        self._next = step + int(np.clip(wait, 1, 6))


def _probe(run: SvdRun, found: Triplets, kind: type[KrylovProcess], block: int) -> tuple[Triplets, Certificate | None]:
    """Look for values beyond the k-th in the complement of everything found, until a probe finds none."""
    operator, probes = run.operator, 0
    while True:
        probes += 1  # each may miss
        margin = run.tol * found.s[0]
        limit = found.s[-1] + margin
        steps = _probe_steps(found.s, block)
        locked = found.V, found.U
        probe = kind(operator, PROBE_BLOCK * (LONGEST_PROBE + 1), PROBE_BLOCK, run.seeds, locked=locked)
        while probe.steps < steps and not probe.exhausted:
            run.advance(probe)
            if run.stopped(found.s, found.residuals):
                return found, None
        probe.evaluate()
        missed = int((probe.values > limit).sum())
        if missed == 0:
            run.probe = probe
            return found, _certificate(run, found, probe, margin, probes * MISS_PROBABILITY)
        run.hits += missed
        start = np.concatenate([found.V, probe.right(missed)])
        del probe
        found, process = _converged(run, kind, start)
        if run.status != "converged":
            return found, None
        kind, block = type(process), process.block
        del process


def _probe_steps(s: FloatArray, block: int) -> int:
    """Only of a multiple value, or a close cluster, can a block miss copies: more than its own width."""
    squares = s**2
    ratios = squares[block - 1 :] / np.maximum(squares[: max(0, len(s) - block + 1)], np.finfo(float).tiny)
    closest = float(ratios.max(initial=0.0))
    return LONGEST_PROBE if closest >= _TIED else LONG_PROBE if closest >= _CLOSE else SHORT_PROBE


def _certificate(run: SvdRun, found: Triplets, probe: KrylovProcess, margin: float, probability: float) -> Certificate:
    """Beyond σ_k by how much: the gap of the squares, whose spectrum below a square has at most that width."""
    square = float(found.s[-1] + margin) ** 2  # below it there were no hits
    complement = run.operator.cols - len(found.s)
    gap = certified_gap(complement, PROBE_BLOCK, probe.steps, square, MISS_PROBABILITY)
    deflated = np.sqrt(2.0) * np.linalg.norm(found.residuals)  # both sides of each
    delta = (np.sqrt(square + gap) - found.s[-1] + deflated) / run.operator.scale
    return Certificate("probe", float(delta), probability, probe.steps, PROBE_BLOCK, run.hits)
