"""The systems that CoMoSVC is compared with: their networks as published, in their default sizes, with random weights.

Written from the public repositories' configurations and papers for timing; no trained weights are meant to be loaded.
Each does the arithmetic that its original does in eager mode, without the original's detours: weights loaded once,
weight norm folded in, no masks where nothing is masked.
"""

from .registry import BASELINES

__all__ = ["BASELINES"]
