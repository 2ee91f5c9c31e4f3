"""Which of three equivalent problems gives a chain's eigenvalues fastest, by a prediction that can be read.

- *dual*: d_M·r unknowns; Gauss–Newton matrices of quadratic losses, and Hessians whose loss gradient counts as zero;
- *reduced*: the coordinates of the nonzero eigenvalues, N ≤ P unknowns;
- *full*: all P parameters.

A route's predicted time is its set-up and the cheapest way the eigensolver has for its number of unknowns
(``flatcore/spectral/_costs.py``: products, orthogonalisation, the probe). Routes whose vectors do not fit in memory are
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flatcore._checks import human
from flatcore._memory import available_memory
from flatcore.linear.dual import dual_cost
from flatcore.linear.hessian import CurvatureOperator
from flatcore.linear.interpolation import negligible_gradient
from flatcore.linear.reduced import reduced_cost, reduced_dimension
from flatcore.spectral._costs import MEMORY_BANDWIDTH, Plan, Problem, choose, rate

ROUTES = ("dual", "reduced", "full")


@dataclass(frozen=True)
class Route:
    """One way to the eigenvalues: how large, what setting up costs, and how the eigensolver would go about it."""

    name: str
    problem: Problem
    setup_flops: float = 0.0
    setup_bytes: float = 0.0

    @cached_property
    def plan(self) -> Plan:
        """How the eigensolver will go about it."""
        return choose(self.problem, guessed=False, available=available_memory()).plan

    @property
    def fits(self) -> bool:
        """Whether its vectors fit in memory."""
        available = available_memory()
        return available is None or self.plan.bytes(self.problem) <= available

    @property
    def seconds(self) -> float:
        """Predicted time of set-up and solution."""
        return max(self.setup_flops / rate(8), self.setup_bytes / MEMORY_BANDWIDTH) + self.plan.seconds

    def describe(self) -> str:
        """One line of the explanation."""
        setup = f"set-up {human(self.setup_flops)} flops, " if self.setup_flops else ""
        cost = self.problem.cost
        return (
            f"{self.name}: {human(self.problem.N)} unknowns, {setup}about {human(round(self.plan.vectors))} products "
            f"of {human(cost.flops_per_vector)} flops, {human(cost.shared_bytes)} bytes read a block "
            f"({self.plan.name}): {self.seconds:.2g} s predicted."
        )


@dataclass(frozen=True)
class Choice:
    """The route taken, with everything that was considered."""

    route: Route
    lines: tuple[str, ...]


def choose_route(H: CurvatureOperator, k: int, which: str, tol: float, start: int, forced: str) -> Choice:
    """The fastest route, or the one named by `forced`; raises ``ValueError`` where that does not apply."""
    routes = [_full(H, k, tol, start), _reduced(H, k, tol, start)]
    lines = []
    obstacle = _dual_obstacle(H, which)
    if not obstacle:
        dual = _dual(H, k, tol, start)
        if forced != "dual" and dual.seconds >= min(route.seconds for route in routes):
            lines.append(f"{dual.describe()} Whether it applies was not looked at.")
        elif not (obstacle := _gradient_obstacle(H, tol)):  # reads the weights
            routes.append(dual)
    if obstacle:
        lines.append(f"dual: not for this problem, {obstacle}.")
        if forced == "dual":
            raise ValueError(f"route is 'dual'; {obstacle}")
    lines += [route.describe() for route in sorted(routes, key=lambda route: route.seconds)]
    if forced != "auto":
        chosen = next(route for route in routes if route.name == forced)
        return Choice(chosen, (*lines, f"Route {forced}, as asked."))
    chosen = min(routes, key=lambda route: (not route.fits, route.seconds))
    return Choice(chosen, (*lines, f"Route {chosen.name}: the least time predicted."))


def _full(H: CurvatureOperator, k: int, tol: float, start: int) -> Route:
    return Route("full", Problem(H.shape[0], k, H.dtype.itemsize, tol, H.cost, start))


def _reduced(H: CurvatureOperator, k: int, tol: float, start: int) -> Route:
    products = H.products
    N, m = reduced_dimension(products, H.is_gauss_newton), products.narrow_width
    problem = Problem(N, min(k, N), H.dtype.itemsize, tol, reduced_cost(products, N), start)
    return Route("reduced", problem, setup_flops=8.0 * m * m * sum(products.chain.dims))


def _dual(H: CurvatureOperator, k: int, tol: float, start: int) -> Route:
    products = H.products
    assert products.whitened is not None
    chain, d, r = products.chain, products.chain.dims[-1], products.whitened.factor.shape[1]
    problem = Problem(d * r, min(k, d * r), 8, tol, dual_cost(chain.depth, d, r), start)
    flops = 2.0 * (d + r) * chain.num_parameters + 2.0 * (d * d + r * r) * sum(chain.dims)
    return Route("dual", problem, flops, 2.0 * products.weight_bytes)


def _dual_obstacle(H: CurvatureOperator, which: str) -> str:
    form = H.products.whitened
    if form is None:
        return "the loss is not quadratic"
    if form.factor.shape[1] == 0:
        return "the inputs are all zero"
    if which == "SA":
        return "it knows the largest eigenvalues only"
    return ""


def _gradient_obstacle(H: CurvatureOperator, tol: float) -> str:
    if H.is_gauss_newton or negligible_gradient(H.products, tol):
        return ""
    return "the loss gradient is not negligible"
