"""``committee-kernels``: each kernel of flatcore.wfm, its edges a second and its share of the roofline.

Trees of N = 1001 with K = 1 and N = 999 with K = 9, and a perceptron of N = 10,001 where no edge has a message;
α = 0.6. On all threads and on one; what learns one pattern after another has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.committee_measures import FlatcoreMeasure, measure
from benchmarks.committee_problem import CommitteeProduct
from benchmarks.contenders.committee_products import Bits
from benchmarks.contenders.fbp_flatcore import FlatcoreSweeps
from benchmarks.contenders.on_threads import OnThreads
from benchmarks.contenders.online_flatcore import FlatcoreOnline
from benchmarks.fbp_problem import sweep_problem
from benchmarks.online_problem import RULES, tree
from benchmarks.runner import Case, Entry, Options, Workload, no_targets
from flatcore.wfm import Committee, random_patterns

ALPHA = 0.6
SIZES, LARGE = ((1001, 1), (999, 9)), (10_001, 1)
QUICK, QUICK_LARGE = ((99, 9),), (1001, 1)
ROUNDS = 3
Make = Callable[[int, int, bool], Any]  # inputs, units, whether large


def cases(options: Options) -> Iterator[Case]:
    """A table a kernel, a row for each size and number of threads."""
    sizes, large = (QUICK, QUICK_LARGE) if options.quick else (SIZES, LARGE)
    for name, (contender, threads, make) in kernels().items():
        entries = []
        for inputs, units in sizes if "edges" in name else (*sizes, large):
            problem = make(inputs, units, (inputs, units) == large)
            for count in threads:
                label = f"N = {inputs:,}, K = {units}, {'all threads' if count is None else f'{count} thread'}"
                entries.append(Entry(OnThreads(contender, count), problem, label))
        yield Case(name, entries, rounds=ROUNDS, compares=False)


def kernels() -> dict[str, tuple[Any, tuple[int | None, ...], Make]]:
    """Contender, threads and problem by name."""
    both, one = (None, 1), (1,)
    found: dict[str, tuple[Any, tuple[int | None, ...], Make]] = {
        f"{product}, float32": (Bits("flatcore"), both, _product(product)) for product in ("fields", "sums")
    }
    for form in ("edge", "amp"):
        for weights in ("binary", "continuous"):
            where = "on edges, float64" if form == "edge" else "of AMP, float32"
            found[f"sweep {where}, {weights}"] = (FlatcoreSweeps(), both, _sweep(form, weights))
    for rule in RULES:
        for weights in _weights(rule):
            threads = both if rule == "replicas" else one
            found[f"epoch of {rule}, {weights}"] = (FlatcoreOnline(), threads, _epoch(rule, weights))
    found["errors of 64 binary machines"] = (FlatcoreMeasure(), both, _measure("errors", "binary"))
    found["local energy, flips"] = (FlatcoreMeasure(), both, _measure("flips", "binary"))
    found["local energy, Gaussian"] = (FlatcoreMeasure(), both, _measure("gaussian", "continuous"))
    found["Hessian product of the cross-entropy"] = (FlatcoreMeasure(), both, _measure("Hessian product", "continuous"))
    found["Bethe free entropy on edges"] = (FlatcoreMeasure(), both, _measure("Bethe free entropy", "binary"))
    return found


def _weights(rule: str) -> tuple[str, ...]:
    if rule == "least action":
        return ("binary", "continuous")
    return ("binary",) if rule == "replicas" else ("continuous",)


def _product(product: str) -> Make:
    def make(inputs: int, units: int, large: bool) -> CommitteeProduct:
        model = Committee(inputs, units)
        patterns = random_patterns(model, int(ALPHA * inputs))
        return CommitteeProduct(model, patterns, product, 5 if large else 200)

    return make


def _sweep(form: str, weights: str) -> Make:
    def make(inputs: int, units: int, large: bool) -> Any:
        return sweep_problem(inputs, units, form, weights, load=ALPHA, sweeps=2 if large else 10)

    return make


def _epoch(rule: str, weights: str) -> Make:
    def make(inputs: int, units: int, large: bool) -> Any:
        return tree(rule, inputs, units, weights, ALPHA, 1 if large else 5)

    return make


def _measure(kernel: str, weights: str) -> Make:
    machines = {"errors": (64, 64), "flips": (100, 20), "gaussian": (100, 20)}

    def make(inputs: int, units: int, large: bool) -> Any:
        repeats = {"errors": 5, "Hessian product": 100}.get(kernel, 1)
        count = machines.get(kernel, (1, 1))[large]
        return measure(kernel, inputs, units, ALPHA, weights, count, 1 if large else repeats)

    return make


WORKLOAD = Workload("committee-kernels", "kernels of flatcore.wfm against the roofline", cases, no_targets)
