"""``kernels``: each kernel beside NumPy and plain Python, at widths that plain Python can do (48), float64."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contenders import answering
from benchmarks.hessian_problem import gaussian_problem
from benchmarks.kernel_problem import kernel_problems
from benchmarks.reduced_problem import ReducedProblem
from benchmarks.runner import Case, Options, Workload, entries_for, no_targets

WIDTH = 48


def cases(options: Options) -> Iterator[Case]:
    """One table a kernel."""
    chain = gaussian_problem([16, *[WIDTH] * 3, 6], 64, "float64")
    problems = {"Hessian product": chain, "reduced product": ReducedProblem(chain), **kernel_problems(WIDTH)}
    for name, problem in problems.items():
        yield Case(f"{name}, width {WIDTH}, float64", entries_for(answering(f"kernel: {name}"), problem))


WORKLOAD = Workload("kernels", "each kernel beside NumPy and plain Python", cases, no_targets)
