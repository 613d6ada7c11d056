"""The systems that CoMoSVC is compared with: their networks as published, in their default sizes, with random weights.

Written from the public repositories' configurations and papers for timing; no trained weights are meant to be loaded.
Each does the arithmetic that its original does in eager mode, without the original's detours: weights loaded once,
weight norm folded in, no masks where nothing is masked.

Listing `BASELINES` imports nothing heavy; making a system needs torch.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from .steps import SpeedSystem


def _make(module: str, function: str, *arguments: str) -> SpeedSystem:
    return getattr(import_module(f".{module}", __name__), function)(*arguments)


BASELINES: dict[str, Callable[[], SpeedSystem]] = {
    "comosvc-authors": partial(_make, "comosvc", "student"),
    "comosvc-teacher": partial(_make, "comosvc", "teacher"),
    "sovits-flow": partial(_make, "sovits", "flow"),
    "sovits-diff": partial(_make, "sovits", "diffusion", ""),
    "sovits-diff-1000": partial(_make, "sovits", "diffusion", "1000"),
    "sovits-diff-shallow": partial(_make, "sovits", "diffusion", "shallow"),
    "diffsvc": partial(_make, "diffsvc", "diffsvc", ""),
    "diffsvc-1000": partial(_make, "diffsvc", "diffsvc", "1000"),
    "sovits-diff-20x512": partial(_make, "sovits", "on_the_papers_network", ""),
    "sovits-diff-1000-20x512": partial(_make, "sovits", "on_the_papers_network", "1000"),
    "diffsvc-20x512": partial(_make, "diffsvc", "on_the_papers_network", ""),
    "diffsvc-1000-20x512": partial(_make, "diffsvc", "on_the_papers_network", "1000"),
}
