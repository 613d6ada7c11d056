"""Errors for callers, checks of arguments, and commands that install optional extras.

Each message says what happened, with the values, and what to do.
"""

import importlib
import importlib.metadata
import json
import math
import operator
import re
import shlex
import sys
import unicodedata
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import numpy as np


class ComosvcError(Exception):
    """Base of all errors of this package. Their text is safe on a terminal, and its lines are shortened."""

    def __str__(self) -> str:
        return printable("\n".join(map(shortened, super().__str__().split("\n"))))

    @property
    def hint(self) -> str | None:
        """The part of the message after "hint: "; None without a hint."""
        return str(self).partition("\nhint: ")[2] or None


class AudioError(ComosvcError):
    """The audio that came in cannot be used: not there, not audio, damaged, or of the wrong shape, type or rate."""


class BundleError(ComosvcError):
    """The voice bundle cannot be used: not a bundle, damaged, of another version, or unlike its manifest."""


class ProviderError(ComosvcError):
    """The provider or precision asked for does not run here, or failed while running."""


class OptionError(ComosvcError):
    """An argument is out of range or names something that the bundle does not have."""


class OutputError(ComosvcError):
    """The result cannot be written: the file is there already, or the place does not take it."""


class CancelledError(ComosvcError):
    """The caller's progress function returned False."""


class EngineError(ProviderError):
    """A TensorRT engine cannot be built, or an existing one cannot be used."""


class NoEnginesError(EngineError):
    """No TensorRT engines of this voice fit; the message lists the others and the command that builds engines."""


_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control, format and surrogate characters and line separators (categories of Unicode)."""
_KEPT = "\n\t\u200c\u200d"  # also the two joiners of Arabic, Indic scripts and emoji
_LONGEST, _LONGEST_LINE = 60, 4_000
_LONG_WORD = re.compile(r"(\S{100})\S{300,}(\S{100})")


def printable(text: str) -> str:
    r"""`text` with control, format and surrogate characters written as escapes such as \x1b or \u202e."""
    if text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _ESCAPED and c not in _KEPT else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 128 else character.encode("ascii", "backslashreplace").decode()


def abridged(value: object) -> str:
    """`repr` of a value for a message, cut off where it is long."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def shortened(line: str) -> str:
    """A line of a message without the middle of long words, or of itself where it is still too long."""
    line = _LONG_WORD.sub(r"\1...\2", line)
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def install(extra: str) -> str:
    """The command that installs an extra, from where this package was installed: a clone, or the index."""
    return pip_install(f"comosvc[{extra}]" if is_frozen() else shlex.quote(f"{_source()}[{extra}]"))


def pip_install(requirements: str) -> str:
    """The command that installs `requirements`. A frozen application has no pip: a sentence for its maker."""
    if is_frozen():
        return f"this application has to be built again with {requirements}"
    return f"pip install {requirements}"


def is_frozen() -> bool:
    """True in applications frozen by PyInstaller or the like. Pip's notes then describe the build machine."""
    return getattr(sys, "frozen", False)


def _source() -> str:
    """The local folder that the package was installed from, as noted by pip (PEP 610), else the package's name."""
    try:
        noted = json.loads(importlib.metadata.distribution("comosvc").read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        return "comosvc"
    if "dir_info" not in noted:
        return "comosvc"
    from urllib.request import url2pathname  # here, where something is missing anyway: it brings http along

    return url2pathname(urlsplit(noted["url"]).path)


def import_native(name: str) -> Any:
    """Import a package of compiled code. Raises `ImportError`, or the exception of a signal handler.

    pybind11 makes an ImportError of Ctrl-C, which looks like a package that is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        interrupt = error.__cause__
        if interrupt is None or isinstance(interrupt, Exception):
            raise
        raise interrupt from None


def without_home(error: Exception) -> BaseException:
    """An exit with a message if `error` is that of --install-completion; else `error` itself.

    It is an OSError, or, of `Path.home` for a user without one, a RuntimeError.
    """
    if "--install-completion" not in sys.argv:
        return error
    return SystemExit(
        f"error: completion cannot be installed into your home folder: {error}\n"
        "hint: set HOME to a folder that can be written to, or print it with --show-completion"
    )


def without_package(error: ModuleNotFoundError, command: str, extra: str) -> BaseException:
    """An exit whose message gives the command that installs the missing package; `error` for a module of our own."""
    if (error.name or "comosvc").startswith("comosvc"):
        return error
    return SystemExit(
        f"error: {command} needs the package {error.name}, which is not installed\nhint: {install(extra)}"
    )


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """`value`, a whole number of any integer type but bool, within `least` to `most`."""
    number = None
    with suppress(TypeError):
        number = operator.index(value)
    if number is None or isinstance(value, bool) or not least <= number <= most:
        upper = f"2^{most.bit_length()} - 1" if most >= 2**32 else most
        raise OptionError(f"{name} is {abridged(value)}; it must be a whole number from {least} to {upper}")
    return number


def finite(value: Any) -> float:
    """A real number as a float; NaN for anything else, bools and infinities among it."""
    number = math.nan
    with suppress(TypeError, OverflowError):
        number = float(value if isinstance(value, float | np.floating) else operator.index(value))
    return number if math.isfinite(number) and not isinstance(value, bool) else math.nan


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
