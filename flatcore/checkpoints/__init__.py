"""What is known of a checkpoint's tensors, and what is computed from it."""

from flatcore.checkpoints.analysis import analyze_checkpoint
from flatcore.checkpoints.chain import BrokenChainError, chain_of
from flatcore.checkpoints.comparison import compare_checkpoints
from flatcore.checkpoints.rules import PairRule, Rules
from flatcore.checkpoints.structure import Structure, recognise

__all__ = [
    "BrokenChainError",
    "PairRule",
    "Rules",
    "Structure",
    "analyze_checkpoint",
    "chain_of",
    "compare_checkpoints",
    "recognise",
]
