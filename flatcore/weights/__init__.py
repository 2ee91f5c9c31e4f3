"""Spectra, balance, coupling and the strongest path of consecutive weight matrices."""

from flatcore.weights.balance import balance_of
from flatcore.weights.coupling import angle_chance, coupling_of, overlap_chance
from flatcore.weights.gains import direction_gains, normalised_partial_norms
from flatcore.weights.spectra import Svd, layer_svds

__all__ = [
    "Svd",
    "angle_chance",
    "balance_of",
    "coupling_of",
    "direction_gains",
    "layer_svds",
    "normalised_partial_norms",
    "overlap_chance",
]
