"""Spectra of any symmetric operator: extreme eigenpairs with certificates."""

from flatcore.spectral._costs import OperatorCost
from flatcore.spectral._eigsh import eigsh

__all__ = ["OperatorCost", "eigsh"]
