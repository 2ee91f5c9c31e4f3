"""Spectra of any symmetric operator, and singular values of any matrix: extreme pairs with certificates."""

from flatcore.spectral._eigsh import eigsh
from flatcore.spectral._top_svd import top_svd

__all__ = ["eigsh", "top_svd"]
