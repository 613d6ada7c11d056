"""Every baseline by its id. Listing them imports nothing; making one needs torch."""

from collections.abc import Callable
from importlib import import_module

from ..speed.stage import SpeedSystem


def _maker(module: str, function: str, *arguments: object) -> Callable[[], SpeedSystem]:
    def make() -> SpeedSystem:
        return getattr(import_module(f"..{module}", __name__), function)(*arguments)

    return make


BASELINES: dict[str, Callable[[], SpeedSystem]] = {
    "comosvc-authors": _maker("comosvc", "student"),
    "comosvc-teacher": _maker("comosvc", "teacher"),
}
