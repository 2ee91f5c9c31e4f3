"""What is known of a checkpoint's tensors, and what is computed from it."""

from flatcore.checkpoints.analysis import analyze_checkpoint
from flatcore.checkpoints.rules import PairRule, Rules
from flatcore.checkpoints.structure import Structure, recognise

__all__ = ["PairRule", "Rules", "Structure", "analyze_checkpoint", "recognise"]
