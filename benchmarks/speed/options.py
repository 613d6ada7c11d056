"""The options of `comosvc-bench rtf`, checked before anything is built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ...runtime.conversion.cores import check_threads
from ...runtime.errors import OptionError, ProviderError
from ...runtime.providers import PRECISIONS
from .timing import Rounds

T = TypeVar("T")
ALL = "all"
DEVICES = ("cpu", "cuda")
ENGINES = ("torch", "torch-compile", "onnx", "onnx-nograph", "openvino", "tensorrt")
"""Baselines run in torch and onnx; ours in whatever the runtime offers, which is never torch. "onnx-nograph" is ONNX
Runtime on a GPU without CUDA graphs.
"""
LENGTH_LIMIT_S = 3600.0
ALL_LIMIT_S = 30.0
"""`--systems all` stops here unless `--full`: a step of a sampler of many is not cheap at three minutes."""


@dataclass(frozen=True, kw_only=True)
class RtfOptions:
    """The grid to measure: systems in this order, of the sizes those of least audio first."""

    systems: tuple[str, ...] = (ALL,)
    lengths_s: tuple[float, ...] = (1.0, 5.0, 10.0, 30.0)
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    device: str = "cpu"
    engines: tuple[str, ...] = ("torch", "onnx")
    precisions: tuple[str, ...] = ("fp32",)
    singers: tuple[int, ...] = ()
    """Sizes of casts that our voices are also measured with."""
    rounds: Rounds = field(default_factory=Rounds)
    full: bool = False


PRESETS = {
    "cpu": RtfOptions(
        lengths_s=(1.0, 5.0, 10.0, 30.0, 180.0),
        threads=(1, 2),
        engines=("torch", "onnx", "openvino"),
        precisions=("fp32", "bf16", "int8"),
    ),
    "gpu": RtfOptions(
        systems=("comosvc", "comosvc-light", "comosvc-authors"),
        lengths_s=(0.1, 0.25, 1.0, 5.0, 10.0, 30.0, 180.0),  # the first two are a stream's blocks
        batches=(1, 8, 32),
        device="cuda",
        engines=("torch", "torch-compile", "onnx", "onnx-nograph", "tensorrt"),
        precisions=("fp32", "fp16"),
        rounds=Rounds(most=100, least=5, limit_s=60.0),
    ),
}


def preset(name: str | None) -> RtfOptions:
    """The named grid, its lengths as `all` permits them, or the default one. Raises `OptionError`."""
    if name is None:
        return RtfOptions()
    return PRESETS[_known(name, "preset", PRESETS)]


def within_limits(options: RtfOptions, lengths_given: bool) -> RtfOptions:
    """`options` if `--systems all` permits its lengths. A preset's own are cut; raises `OptionError` for given ones."""
    if options.full or ALL not in options.systems:
        return options
    too_long = [length for length in options.lengths_s if length > ALL_LIMIT_S]
    if too_long and lengths_given:
        raise OptionError(
            f"--lengths {too_long[0]:g} with --systems all: it stops at {ALL_LIMIT_S:g} s\n"
            "hint: add --full, which takes hours, or name the systems"
        )
    return replace(options, lengths_s=tuple(length for length in options.lengths_s if length <= ALL_LIMIT_S))


def parse_lengths(text: str, option: str = "--lengths", unit: str = "s") -> tuple[float, ...]:
    """`"1,5,10"`, in seconds or milliseconds ("ms"). Raises `OptionError`."""
    limit = LENGTH_LIMIT_S * (1e3 if unit == "ms" else 1.0)

    def length(word: str) -> float:
        value = float(word)
        if not 0.0 < value <= limit:  # false for NaN
            raise ValueError
        return value

    return _parse(text, option, length, f"lengths in {unit}, more than 0 and at most {limit:g}")


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """`"1,4"`, whole numbers from 1. Raises `OptionError`."""

    def count(word: str) -> int:
        number = int(word)
        if number < 1:
            raise ValueError
        return number

    return _parse(text, option, count, "whole numbers from 1 up")


def parse_threads(text: str) -> tuple[int, ...]:
    counts = parse_counts(text, "--threads")
    for n in counts:
        check_threads(n)
    return counts


def parse_engines(text: str) -> tuple[str, ...]:
    return tuple(_known(word, "engine", ENGINES) for word in _words(text, "--engines"))


def parse_precisions(text: str) -> tuple[str, ...]:
    known = [name for name in PRECISIONS if name != "auto"]
    return tuple(_known(word, "precision", known) for word in _words(text, "--precision"))


def parse_systems(text: str) -> tuple[str, ...]:
    """Names only; `systems.find_subjects` checks that they exist."""
    return _words(text, "--systems")


def check_device(name: str) -> str:
    """The device, if torch sees one. Raises `OptionError` or `ProviderError`."""
    _known(name, "device", DEVICES)
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ProviderError(
                f"--device cuda: torch {torch.__version__} sees no CUDA GPU on this machine\n"
                "hint: --device cpu, or --preset cpu; on a machine with a GPU install a CUDA build of torch"
            )
    return name


def _parse(text: str, option: str, parse: Callable[[str], T], wanted: str) -> tuple[T, ...]:
    values = []
    for word in _words(text, option):
        try:
            values.append(parse(word))
        except ValueError:
            raise OptionError(f"{option} {text}: {word!r} is not allowed; it takes {wanted}") from None
    return tuple(dict.fromkeys(values))


def _words(text: str, option: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(words):
        raise OptionError(f"{option} {text!r} has an empty part; it takes names or numbers with commas between them")
    return words


def _known(name: str, what: str, known: Sequence[str] | dict[str, RtfOptions]) -> str:
    if name not in known:
        raise OptionError(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return name
