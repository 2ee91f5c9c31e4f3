"""Spectra of any symmetric operator: extreme eigenpairs with certificates, estimates with standard errors."""

from flatcore.spectral._density import spectral_density
from flatcore.spectral._diagonal import diagonal
from flatcore.spectral._eigsh import eigsh
from flatcore.spectral._trace import trace

__all__ = ["diagonal", "eigsh", "spectral_density", "trace"]
