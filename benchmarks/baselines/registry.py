"""Every baseline by its id. Listing them imports nothing; making one needs torch."""

from collections.abc import Callable
from importlib import import_module

from .steps import SpeedSystem


def _maker(module: str, function: str, *arguments: str) -> Callable[[], SpeedSystem]:
    def make() -> SpeedSystem:
        return getattr(import_module(f"..{module}", __name__), function)(*arguments)

    return make


BASELINES: dict[str, Callable[[], SpeedSystem]] = {
    "comosvc-authors": _maker("comosvc", "student"),
    "comosvc-teacher": _maker("comosvc", "teacher"),
    "sovits-flow": _maker("sovits", "flow"),
    "sovits-diff": _maker("sovits", "diffusion", ""),
    "sovits-diff-1000": _maker("sovits", "diffusion", "1000"),
    "sovits-diff-shallow": _maker("sovits", "diffusion", "shallow"),
    "diffsvc": _maker("diffsvc", "diffsvc", ""),
    "diffsvc-1000": _maker("diffsvc", "diffsvc", "1000"),
    "sovits-diff-20x512": _maker("sovits", "on_the_papers_network", ""),
    "sovits-diff-1000-20x512": _maker("sovits", "on_the_papers_network", "1000"),
    "diffsvc-20x512": _maker("diffsvc", "on_the_papers_network", ""),
    "diffsvc-1000-20x512": _maker("diffsvc", "on_the_papers_network", "1000"),
}
