"""Frozen records of results."""

from flatcore.results.chains import Analysis, BalanceResult, CouplingResult, GainsResult, ManyAnalyses
from flatcore.results.checkpoints import (
    CheckpointAnalysis,
    FailedTensor,
    HeadComposition,
    ProductSpectrum,
    TensorSpectrum,
)
from flatcore.results.comparison import CheckpointComparison, ProductChange, TensorChange, TopSpectrum
from flatcore.results.estimates import DiagonalEstimate, SpectralDensity, TraceEstimate
from flatcore.results.frame import Frame, Rows
from flatcore.results.layers import JacobianPath, LayerPair, LayerSpectrum, ModuleAnalysis
from flatcore.results.pairs import Certificate, EigenResult, SolverState, SvdResult
from flatcore.results.record import Array, Record, Reported, number, numbers, percent, plain, read_only
from flatcore.results.sweeps import SweepPlan, SweepResult

__all__ = [
    "Analysis",
    "Array",
    "BalanceResult",
    "Certificate",
    "CheckpointAnalysis",
    "CheckpointComparison",
    "CouplingResult",
    "DiagonalEstimate",
    "EigenResult",
    "FailedTensor",
    "Frame",
    "GainsResult",
    "HeadComposition",
    "JacobianPath",
    "LayerPair",
    "LayerSpectrum",
    "ManyAnalyses",
    "ModuleAnalysis",
    "ProductChange",
    "ProductSpectrum",
    "Record",
    "Reported",
    "Rows",
    "SolverState",
    "SpectralDensity",
    "SvdResult",
    "SweepPlan",
    "SweepResult",
    "TensorChange",
    "TensorSpectrum",
    "TopSpectrum",
    "TraceEstimate",
    "number",
    "numbers",
    "percent",
    "plain",
    "read_only",
]
