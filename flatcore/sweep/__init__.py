"""Thousands of checkpoints: spectra of every file, one after the other where they belong together.

What is swept
    Files and folders are found by patterns, in natural order (step9 before step10). Files of one folder whose names
    differ only in numbers, or of folders that do, are a *trajectory*: they are analysed by their steps, and each search
    starts from the singular vectors of the checkpoint before it. Trajectories are independent and run in parallel;
    where there are more workers than trajectories, these are cut into consecutive *segments*, each of which begins
    cold.

How it survives
    The parent process alone writes. Every finished checkpoint becomes one line of an append-only journal
    (``OUT.sweep/journal.jsonl``: a checksum, then JSON), on disk before the next one is taken on. At the end, or on
    Ctrl-C, the journal is compacted to the table. A sweep that was killed, at any moment, and is started again repeats
    nothing that is in the journal and takes up each segment with the same start vectors (``OUT.sweep/start-*.npz``,
    written just before the line), so that its rows are those of an uninterrupted run. The journal knows the settings
    and every file's size and time of change: with other settings it is refused, files that changed are done again. A
    lock on it keeps a second sweep out.

    A file that cannot be read is a row with its error. A worker process that dies loses the checkpoint it had, which is
    tried again, three times in all, and then is a row with an error.

Where it runs
    In this process, in local processes that are spawned, or on any `concurrent.futures.Executor`, among them
    dask.distributed's. A task is one checkpoint; start vectors go to it and rows come back by value, so workers need
    nothing but the checkpoints and flatcore.
"""

from flatcore.sweep.costs import ClusterCost, cluster_cost, cost_table
from flatcore.sweep.rows import Column, columns
from flatcore.sweep.sweeping import sweep

__all__ = ["ClusterCost", "Column", "cluster_cost", "columns", "cost_table", "sweep"]
