"""``committee-learning``: epochs of the other online rules beside vectorised NumPy, on the trees of ``least-action``.

Rules A and B of entropic least action, seven replicas in batches of 80, SGD on the cross-entropy in batches of 50.
Replicas learn on all threads, the others on one, and so does NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.online_problem import RULES, tree
from benchmarks.runner import Case, Options, Workload, entries_for, no_targets
from benchmarks.workloads.least_action import MACHINES, SAME, SERIAL


def cases(options: Options) -> Iterator[Case]:
    """Each rule on each machine."""
    epochs, machines = (2, ((297, 9),)) if options.quick else (10, MACHINES)
    for rule in RULES[1:]:
        weights, alpha = ("binary", 0.3) if rule == "replicas" else ("continuous", 1.0)
        contenders = SAME if rule == "replicas" else SERIAL
        for n_inputs, n_hidden in machines:
            problem = tree(rule, n_inputs, n_hidden, weights, alpha, epochs)
            yield Case(f"{rule}, N = {n_inputs}, K = {n_hidden}", entries_for(contenders, problem))


WORKLOAD = Workload(
    "committee-learning",
    "epochs of entropic least action, of replicas and of SGD on the cross-entropy, trees",
    cases,
    no_targets,
)
