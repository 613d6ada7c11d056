"""Which engine runs the graphs, chosen and checked so that nobody computes on the wrong device without knowing.

Each provider is a module of this package, imported when it is asked for, that follows `Engine`.
"""

import importlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

from ..conversion.calls import Runnable
from ..conversion.cores import MOST, CorePool, usable_cores
from ..conversion.processes import native_code
from ..errors import NoEnginesError, OptionError, ProviderError
from ..voice.bundle import Bundle
from . import cpu

log = logging.getLogger(__name__)

Provider = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PROVIDERS: tuple[str, ...] = get_args(Provider)
ON_GPU = ("cuda", "tensorrt")
PRECISIONS: tuple[str, ...] = get_args(Precision)
AT_ONCE = {"cpu": 1, "openvino": 1, "cuda": 8, "tensorrt": 8}
"""Clips to a graph call where the caller does not say; on the CPU a call of eight takes 5 to 15 % more than eight.

On a GPU it is what engines are built for (`profiles.USES`), not what was measured.
"""
_BUILT = ("tensorrt", "cuda", "cpu", "openvino")
"""The best first: `auto` takes the first that works here in the precision that was asked for."""


class Engine(Protocol):
    """What a provider's module has."""

    PRECISIONS: tuple[str, ...]
    """Those that it computes in; `auto` takes the first that the voice has graphs for."""

    def probe(self) -> None:
        """Raise `ProviderError`, saying what is missing, unless the provider works on this machine."""
        ...

    def open_graphs(self, bundle: Bundle, precision: str, threads: int | None) -> Mapping[str, Runnable]:
        """Every graph of the bundle, ready to run. Raises `BundleError` or `ProviderError`."""
        ...


def require_known(provider: str) -> None:
    """Raise `OptionError` for a name that is none of `PROVIDERS`."""
    if provider not in PROVIDERS:
        raise OptionError(f"unknown provider {provider!r}; known: {', '.join(PROVIDERS)}")


def engine(provider: str) -> Engine:
    """The module of a provider by its name. Raises `OptionError` or `ProviderError`."""
    require_known(provider)
    if provider not in _BUILT:
        raise ProviderError(
            f"provider {provider!r} is not available: this version of the runtime has no such engine\n"
            "hint: provider='cpu', or 'auto' for the best that works here"
        )
    return cast(Engine, importlib.import_module(f".{provider}", __package__))


@native_code()
def choose_provider(requested: str, precision: str = "auto", without: Collection[str] = ()) -> str:
    """The provider that will run: `auto` takes the best that works here and is not in `without`.

    Raises `ProviderError`, never falls back.
    """
    _check_precision(precision)
    if requested != "auto":
        try:
            engine(requested).probe()
        except ProviderError as error:
            raise ProviderError(f"provider {requested!r} does not run here: {error}") from error
        return requested
    reasons = []
    for name in (name for name in _BUILT if name not in without):
        candidate = engine(name)
        if precision not in ("auto", *candidate.PRECISIONS):
            reasons.append(f"{name}: does not compute in {precision}")
            continue
        try:
            candidate.probe()
            return name
        except ProviderError as error:
            reasons.append(f"{name}: {error}")
    wanted = "" if precision == "auto" else f" in {precision}"
    raise ProviderError(f"no provider computes{wanted} here\n" + "\n".join(reasons))


def choose_precision(requested: str, bundle: Bundle, provider: str) -> str:
    """The precision that will be used: `auto` takes the provider's first that the voice has graphs for.

    Raises `OptionError`, or `ProviderError` if the provider does not compute in it or the voice has no graphs for it.
    """
    _check_precision(requested)
    computed = engine(provider).PRECISIONS
    possible = [precision for precision in computed if bundle.manifest.has(precision)]
    if requested == "auto" and possible:
        return possible[0]
    if requested in possible:
        return requested
    if requested in computed:
        raise ProviderError(
            f"{bundle.origin} has no graphs in {requested}; on {provider} it runs in {', '.join(possible)}\n"
            f"hint: comosvc-export precision VOICE --add {requested} -o FILE"
        )
    raise ProviderError(f"provider {provider!r} does not compute in {requested}; it can do {', '.join(computed)}")


@dataclass(frozen=True)
class OpenedVoice:
    """The graphs of a voice, and what runs them."""

    provider: str
    precision: str
    graphs: Mapping[str, Runnable]


@native_code()
def open_voice(bundle: Bundle, provider: str, precision: str, threads: int | None, auto: bool) -> OpenedVoice:
    """Every graph of a voice on a provider, which `auto` chose or somebody named.

    A voice without TensorRT engines that hold every call opens on the next best provider if it was `auto`, and the log
    says so; where there is no other, the error is that they are missing. Damaged engines are an error under `auto` too:
    a disk fails, or somebody else writes there.
    Raises `BundleError`, `OptionError` or `ProviderError`.
    """
    chosen = choose_precision(precision, bundle, provider)
    if not auto or provider != "tensorrt":
        return OpenedVoice(provider, chosen, engine(provider).open_graphs(bundle, chosen, threads))
    try:
        graphs = cast(Any, engine(provider)).open_graphs(bundle, chosen, threads, any_use=False)
        return OpenedVoice(provider, chosen, graphs)
    except NoEnginesError as error:
        try:
            other = choose_provider("auto", precision, without=(provider,))
        except ProviderError:
            raise error from None
        log.warning("the voice opens on %s; tensorrt, which may be faster, would need engines: %s", other, error)
        return open_voice(bundle, other, precision, threads, auto=True)


def open_core_pool(opened: OpenedVoice, bundle: Bundle, threads: int | None) -> CorePool | None:
    """A runner of calls side by side; None where that gains nothing, as in OpenVINO on two cores."""
    cores = min(MOST, threads or usable_cores())
    if opened.provider != "cpu" or cores == 1:
        return None
    entries = bundle.manifest.entries(opened.precision)
    return CorePool(
        opened.graphs, lambda name: cpu.open_graph(bundle, name, entries[name], threads=1, at_once=True), cores
    )


def _check_precision(name: str) -> None:
    if name not in PRECISIONS:
        raise OptionError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
