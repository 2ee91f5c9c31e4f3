"""Spectra of any symmetric operator: extreme eigenpairs with certificates, and estimates with error bars."""

from flatcore.spectral._costs import OperatorCost
from flatcore.spectral._density import spectral_density
from flatcore.spectral._diagonal import diagonal
from flatcore.spectral._eigsh import eigsh
from flatcore.spectral._trace import trace

__all__ = ["OperatorCost", "diagonal", "eigsh", "spectral_density", "trace"]
