"""What a sweep on a cluster costs: bytes, products, memory and hours for many checkpoints (docs/cluster.md).

For N checkpoints of B bytes in matrices of E entries, the largest of L bytes, W workers that each read r bytes and
multiply p entries a second, and s passes over the matrix a search:

    seconds of one checkpoint   t = B/r + s·E/p
    hours of W workers          N·t/(3600·W)
    bytes read                  N·B, by every worker W·(B/t) a second
    memory of a worker          2·L + 300 MB, and pages of the file that the system may take back

The first pass over a tensor reads the file; the others find it in the page cache where L fits there.
"""

from __future__ import annotations

from dataclasses import dataclass

from flatcore.sweep.planning import OVERHEAD


@dataclass(frozen=True)
class ClusterCost:
    """What all checkpoints cost: bytes read, entries multiplied; bytes a worker; seconds of one, hours of all."""

    nbytes: float
    products: float
    memory: float
    seconds: float
    hours: float
    rate: float  # bytes/s that all workers together read


def cluster_cost(
    checkpoints: int,
    nbytes: float,
    entries: float,
    largest: float,
    *,
    workers: int,
    read_rate: float,
    product_rate: float,
    passes: float,
) -> ClusterCost:
    """The cost of a sweep by the formulas above.

    Parameters
    ----------
    checkpoints, nbytes, entries, largest
        N, B, E and L.
    workers, read_rate, product_rate, passes
        W, r (bytes/s) and p (entries/s) of one worker, s.

    Examples
    --------
    >>> cost = cluster_cost(100, 2e9, 1e9, 1e8, workers=10, read_rate=1e9, product_rate=1e10, passes=20)
    >>> round(cost.seconds, 6), round(cost.hours, 4), cost.memory
    (4.0, 0.0111, 500000000.0)

    """
    seconds = nbytes / read_rate + passes * entries / product_rate
    return ClusterCost(
        nbytes=checkpoints * nbytes,
        products=checkpoints * passes * entries,
        memory=2.0 * largest + OVERHEAD,
        seconds=seconds,
        hours=checkpoints * seconds / workers / 3600.0,
        rate=workers * nbytes / seconds,
    )


def cost_table(
    checkpoints: int,
    nbytes: float,
    entries: float,
    largest: float,
    *,
    product_rate: float,
    passes: float,
    workers: tuple[int, ...],
    read_rates: tuple[float, ...],
) -> str:
    """Hours and common read rate for numbers of workers and read rates of one, as a table in Markdown.

    Parameters
    ----------
    checkpoints, nbytes, entries, largest, product_rate, passes
        As in :func:`cluster_cost`.
    workers, read_rates
        A row for each pair.

    """
    lines = ["| workers | GB/s a worker | seconds a checkpoint | GB/s together | hours |", "|---|---|---|---|---|"]
    for count in workers:
        for rate in read_rates:
            cost = cluster_cost(
                checkpoints,
                nbytes,
                entries,
                largest,
                workers=count,
                read_rate=rate,
                product_rate=product_rate,
                passes=passes,
            )
            numbers = (cost.seconds, cost.rate / 1e9, cost.hours)
            lines.append(f"| {count} | {rate / 1e9:g} | " + " | ".join(f"{x:.3g}" for x in numbers) + " |")
    return "\n".join(lines)
