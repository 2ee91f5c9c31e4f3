"""Spectra, balance, coupling and the strongest path of consecutive weight matrices."""

from flatcore.weights.balance import balance_of
from flatcore.weights.coupling import angle_chance, coupling_of, overlap_chance
from flatcore.weights.gains import direction_gains, normalised_partial_norms
from flatcore.weights.layers import Kernel, Layer, analyze_layers, array_layers, kernel_columns, offsets_text
from flatcore.weights.spectra import Svd, layer_svds

__all__ = [
    "Kernel",
    "Layer",
    "Svd",
    "analyze_layers",
    "angle_chance",
    "array_layers",
    "balance_of",
    "coupling_of",
    "direction_gains",
    "kernel_columns",
    "layer_svds",
    "normalised_partial_norms",
    "offsets_text",
    "overlap_chance",
]
