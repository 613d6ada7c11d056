"""The registry of other systems, by id. The only place that imports it, and light: it makes nothing."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial

from .stage import SpeedSystem

Make = Callable[[], SpeedSystem]


def baselines() -> Mapping[str, Make]:
    """What makes each of them, in any process."""
    return {name: partial(make_baseline, name) for name in _registry()}


def make_baseline(name: str) -> SpeedSystem:
    """The system of this id."""
    return _registry()[name]()


def _registry() -> Mapping[str, Make]:
    if importlib.util.find_spec("..baselines", __package__) is None:
        return {}
    return importlib.import_module("..baselines", __package__).BASELINES
