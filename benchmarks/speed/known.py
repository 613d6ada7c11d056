"""The registry of other systems, by id. The only place that imports it, and light: it makes nothing."""

from collections.abc import Callable, Mapping
from functools import partial

from ..baselines import BASELINES
from .stage import SpeedSystem

Make = Callable[[], SpeedSystem]


def baselines() -> Mapping[str, Make]:
    """What makes each of them, in any process: the registry's own functions cannot be sent to one."""
    return {name: partial(make_baseline, name) for name in BASELINES}


def make_baseline(name: str) -> SpeedSystem:
    """The system of this id."""
    return BASELINES[name]()
