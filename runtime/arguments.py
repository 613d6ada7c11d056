"""Checks of arguments by kind. Each raises `OptionError` with the wrong value."""

import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from .errors import OptionError
from .text import abridged


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """`value`, a whole number of any integer type but bool, within `least` to `most`."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        upper = f"2^{most.bit_length()} - 1" if most >= 2**32 else most
        raise OptionError(f"{name} is {abridged(value)}; it must be a whole number from {least} to {upper}")
    return number


def finite(value: Any) -> float:
    """A real number as a float; NaN for anything else, bools and infinities among it."""
    if isinstance(value, bool):
        return math.nan
    try:
        number = float(value if isinstance(value, float | np.floating) else operator.index(value))
    except (TypeError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def milliseconds(name: str, value: object) -> float:
    """`value` as a float, more than 0 and at most 1000."""
    number = finite(value)
    if not 0.0 < number <= 1e3:
        raise OptionError(f"{name} is {abridged(value)}; it must be more than 0 and at most 1000 ms")
    return number


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """`value` if it is one of the names in `known`."""
    if not isinstance(value, str) or value not in known:
        raise OptionError(f"{name} is {abridged(value)}; known: {', '.join(known)}")
    return value


def check_progress(progress: Callable[..., Any] | None) -> None:
    """Raise `OptionError` unless `progress` is None or callable."""
    if progress is not None and not callable(progress):
        raise OptionError(f"progress is {abridged(progress)}; it must be a function, or None")
