"""Spectra of any symmetric operator, with certificates or error bars; largest singular triplets of any matrix."""

from flatcore.spectral._costs import OperatorCost
from flatcore.spectral._density import spectral_density
from flatcore.spectral._diagonal import diagonal
from flatcore.spectral._eigsh import eigsh
from flatcore.spectral._top_svd import top_svd
from flatcore.spectral._trace import trace

__all__ = ["OperatorCost", "diagonal", "eigsh", "spectral_density", "top_svd", "trace"]
