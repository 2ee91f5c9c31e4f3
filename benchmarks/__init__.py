"""Benchmarks of flatcore: ``python -m benchmarks`` from the root of a clone.

A workload (``workloads/``) builds the data and says which contenders answer the same question; a contender
(``contenders/``) is one way to answer it; ``timing`` runs them interleaved; ``runner`` checks every answer against
independent references and fails when they disagree; ``process`` runs an entry elsewhere, for its memory or with another
build of flatcore; ``table`` and ``cli`` write what was measured.
"""
