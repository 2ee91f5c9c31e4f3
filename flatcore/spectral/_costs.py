r"""What a block product costs, and which route, block and basis that makes the cheapest.

Predicted time of block Lanczos with b vectors a block and p basis rows:

    passes(b, k, tol)·(product(b) + orthogonalisation) + probe + k certifying products in float64,

where a block product takes the longer of bytes / bandwidth and flops / rate, bytes = shared + b·per vector. One step
reads the basis (0.75·p rows on average) twice, for 4·0.75·p·b·N flops, and pays its share of the restarts. The
passes were counted (docs/theory.md, "What blocks and bases cost"), with 3·k for 2.5·k below: within a fifth, most
within a tenth, they are

    passes = (34·b^{−0.25} + 5.4·k·b^{−0.93})·(1 + 0.1·log10(1e-4/tol))

for a basis of p = max(24, 2.5·k) + 4·b rows. Restarting with the best half loses little: a larger basis would save up
to 5 % of the passes for b ≤ 2 (some 15 % for b = 8), and every row costs its share of the orthogonalisation and the
cache.

The dense route costs N products and 9·N³ flops of LAPACK.

The choice depends on the problem and on nothing measured while running, so that the same input gives the same bits;
only where memory is scarce the machine has a say: plans that do not fit are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flatcore.spectral._certificate import steps_needed

# Rough rates of one current two-core machine (docs/benchmarks.md has the yardsticks measured beside every figure): only
# their ratios matter for the choice.
MEMORY_BANDWIDTH = 50e9  # bytes/s
FLOAT32_RATE = 160e9  # flops/s of skinny products; half of it in float64
LAPACK_RATE = 50e9  # of the nominal 9·N³ flops of a symmetric eigendecomposition
STEP_SECONDS = 4e-4  # a step's interpreted code and small matrices

# What a probe certifies: with this probability at most, an eigenvalue this much of the spectrum's width beyond the last
# one found was missed.
MISS_PROBABILITY = 1e-3
END_PROBABILITY = MISS_PROBABILITY / 2  # at either end of the spectrum, where both bound its width
PROBE_GAP = 0.1
PROBE_BLOCKS = (1, 2, 4)

BLOCKS = (1, 2, 4, 8)
_PASSES = 34.0  # at b = 1 and tol 1e-4, beside those that every wanted vector adds
_BLOCK_POWER = -0.25
_PASSES_PER_VECTOR = 5.4
_BLOCK_POWER_PER_VECTOR = -0.93
_PASSES_PER_DECADE = 0.1
_MEMORY_SHARE = 0.5  # of the memory available: more than that is taken only where nothing smaller exists
_GUESSED_FLOPS = 1000.0  # per entry of the vector, for operators of which nothing is known


@dataclass(frozen=True)
class OperatorCost:
    """What one product of an operator with a block of b vectors costs.

    ``shared_bytes`` are read once a block, at ``bandwidth`` bytes/s where given (weights streamed from a disk) and at
    the memory's otherwise; ``bytes_per_vector`` and ``flops_per_vector`` count b times. ``workspace_bytes`` a vector is
    memory the operator allocates meanwhile.
    """

    shared_bytes: float
    bytes_per_vector: float
    flops_per_vector: float
    bandwidth: float | None = None
    workspace_bytes: float = 0.0

    def seconds(self, vectors: int, itemsize: int) -> float:
        """Predicted time of one block product in float32 (itemsize 4) or float64 (8)."""
        shared = self.shared_bytes / (self.bandwidth or MEMORY_BANDWIDTH)
        memory = shared + vectors * self.bytes_per_vector / MEMORY_BANDWIDTH
        return max(memory, vectors * self.flops_per_vector / rate(itemsize))


def guessed_cost(N: int, itemsize: int) -> OperatorCost:
    """For operators of which nothing is known: proportional to N."""
    return OperatorCost(0.0, 2.0 * N * itemsize, _GUESSED_FLOPS * N)


def rate(itemsize: int) -> float:
    """Flops a second in the precision of that many bytes."""
    return FLOAT32_RATE * 4.0 / itemsize


@dataclass(frozen=True)
class Problem:
    """What the prediction depends on; `start` counts the start vectors given."""

    N: int
    k: int
    itemsize: int
    tol: float
    cost: OperatorCost
    start: int = 0


@dataclass(frozen=True)
class Probe:
    """Random blocks in the complement of what was found."""

    block: int
    steps: int

    @property
    def rows(self) -> int:
        """Rows of its basis, the last front included."""
        return self.block * (self.steps + 1)


NO_PROBE = Probe(0, 0)


@dataclass(frozen=True)
class Plan:
    """A route with its predicted time and products; block and basis are 0 for the dense one, which needs no probe."""

    route: str
    block: int
    basis: int
    probe: Probe
    seconds: float
    vectors: float

    @property
    def name(self) -> str:
        """For people."""
        return self.route if self.route == "dense" else f"{self.route}, block {self.block}, basis {self.basis}"

    def rows(self, k: int) -> int:
        """Rows of the basis allocated: the iteration's, or the k vectors found and the probe's."""
        return max(self.basis, k + self.probe.rows)

    def bytes(self, problem: Problem) -> int:
        """Memory in use at the peak: the basis, the operator's, and front and products, or blocks in float64."""
        N, size = problem.N, problem.itemsize
        if self.route == "dense":
            return 8 * N * N * 4
        block = max(self.block, self.probe.block)
        running = 3 * block * N * size
        certifying = 4 * certifying_block(problem) * N * 8
        starting = 2 * problem.start * N * 8
        most = max(running, certifying, starting)
        return int(self.rows(problem.k) * N * size + most + block * problem.cost.workspace_bytes)


def certifying_block(problem: Problem) -> int:
    """Vectors multiplied together in float64 for residuals or a warm start: at most 16, fewer beyond 256 MB.

    Where it is known what they share, so many that it takes a tenth of what each takes by itself, but at least four:
    wider blocks gain nothing and spill the caches.
    """
    shared, own = problem.cost.seconds(0, 8), replace(problem.cost, shared_bytes=0.0).seconds(1, 8)
    known = 0.0 < 10.0 * shared < 16.0 * own
    enough = max(4, math.ceil(10.0 * shared / own)) if known else 16
    return max(1, min(enough, max(problem.k, problem.start), (1 << 28) // (8 * problem.N)))


def dense_plan(problem: Problem) -> Plan:
    """All eigenvalues by LAPACK."""
    N = problem.N
    products = 0.0 if N <= 1 else math.ceil(N / 256) * problem.cost.seconds(min(N, 256), 8)
    return Plan("dense", 0, 0, NO_PROBE, products + 9.0 * N**3 / LAPACK_RATE, N)


def lanczos_plans(problem: Problem) -> tuple[Plan, ...]:
    """Block Lanczos in every block and basis size considered; start vectors widen the block."""
    k = problem.k
    start = min(problem.start, max(k, BLOCKS[-1]))
    blocks = sorted({max(b, start) for b in (*BLOCKS, k if k <= 16 else 1)})
    probe = cheapest_probe(problem)
    return tuple(_lanczos_plan(problem, b, basis_rows(k, b), probe) for b in blocks)


def basis_rows(k: int, b: int) -> int:
    """Rows of the basis for k eigenvectors by blocks of b."""
    return max(24, 5 * k // 2) + 4 * b


def cheapest_probe(problem: Problem) -> Probe:
    """Wide blocks need fewer steps for the same certificate, narrow ones fewer vectors."""
    steps = {b: steps_needed(PROBE_GAP, problem.N, b, END_PROBABILITY) for b in PROBE_BLOCKS}
    return min((Probe(b, q) for b, q in steps.items()), key=lambda probe: _probe_seconds(problem, probe))


def _probe_seconds(problem: Problem, probe: Probe) -> float:
    rows = problem.k + probe.rows / 2
    step = _orthogonalisation(problem, probe.block, rows, restarted=False)
    return probe.steps * (problem.cost.seconds(probe.block, problem.itemsize) + step)


def _lanczos_plan(problem: Problem, b: int, p: int, probe: Probe) -> Plan:
    k, cost = problem.k, problem.cost
    decades = max(0.0, -4.0 - math.log10(problem.tol))
    passes = _PASSES * b**_BLOCK_POWER + _PASSES_PER_VECTOR * k * b**_BLOCK_POWER_PER_VECTOR
    passes *= 1.0 + _PASSES_PER_DECADE * decades
    step = cost.seconds(b, problem.itemsize) + _orthogonalisation(problem, b, 0.75 * p, restarted=True)
    part = certifying_block(problem)
    certificate = math.ceil(k / part) * cost.seconds(part, 8)
    vectors = passes * b + probe.steps * probe.block + k
    seconds = passes * step + _probe_seconds(problem, probe) + certificate
    return Plan("block Lanczos", b, p, probe, seconds, vectors)


def _orthogonalisation(problem: Problem, b: int, rows: float, *, restarted: bool) -> float:
    """One step against so many basis rows; a restart writes 0.55·p combinations of p rows every 0.45·p/b steps."""
    N, size = problem.N, problem.itemsize
    moved, flops = 2.0 * rows * N * size, 4.0 * rows * b * N
    if restarted:
        moved, flops = moved + 4.0 * b * N * size, flops + 3.3 * rows * b * N
    return STEP_SECONDS + moved / MEMORY_BANDWIDTH + flops / rate(size)


@dataclass(frozen=True)
class Choice:
    """The plan taken, all plans considered and why one of them was taken."""

    plan: Plan
    considered: tuple[Plan, ...]
    reason: str

    def lines(self) -> tuple[str, ...]:
        """The prediction as text, one line a plan."""
        plans = (
            f"{'→' if p is self.plan else ' '} {p.name}: predicted {p.seconds:.2g} s, {p.vectors:.0f} products"
            for p in self.considered
        )
        return (*plans, self.reason)


def choose(problem: Problem, *, guessed: bool, available: int | None, route: str | None = None) -> Choice:
    """The cheapest route, block and basis; `available` bytes bound the bases considered, `route` forces one of two.

    Of a guessed cost only its proportions are believed: the dense route is taken where it needs fewer products.
    """
    room = math.inf if available is None else _MEMORY_SHARE * available
    dense, plans = dense_plan(problem), lanczos_plans(problem)
    fitting = [plan for plan in plans if plan.bytes(problem) <= room]
    best = min(fitting or [min(plans, key=lambda p: p.bytes(problem))], key=lambda plan: plan.seconds)
    considered = (dense, *plans)
    scarce = "" if len(fitting) == len(plans) else " Larger bases were left out: they would take over half the memory."
    if route is not None:
        return Choice(dense if route == "dense" else best, considered, f"The {route} route was asked for.")
    if best.basis + best.block >= problem.N:
        return Choice(dense, considered, f"A Krylov basis would span all {problem.N} dimensions.")
    if dense.bytes(problem) <= room and (dense.vectors <= best.vectors if guessed else dense.seconds <= best.seconds):
        return Choice(dense, considered, "The dense eigendecomposition is the cheapest.")
    guess = " The operator's cost is a guess; give it a `cost` (flatcore.spectral.OperatorCost)." if guessed else ""
    return Choice(best, considered, "The cheapest block and basis." + scarce + guess)
