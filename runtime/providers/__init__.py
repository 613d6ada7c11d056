"""Selects and checks a provider: the engine and device that run the graphs. There is no silent fallback.

Each provider is a module of this package that has what `ProviderModule` says; it is imported when first needed.
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
from .sessions import open_graph

log = logging.getLogger(__name__)

Provider = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
PROVIDERS: tuple[str, ...] = get_args(Provider)
ON_GPU = ("cuda", "tensorrt")
PRECISIONS: tuple[str, ...] = get_args(Precision)
AT_ONCE = {"cpu": 1, "openvino": 1, "cuda": 8, "tensorrt": 8}
"""Default number of clips in a graph call; on the CPU a call of eight takes 5 to 15 % more than eight calls.

On a GPU it is the usual batch of engines (`shapes.USES`), which was not measured.
"""
_MODULES = {"tensorrt": "tensorrt", "cuda": "cuda", "cpu": "sessions", "openvino": "openvino"}
"""Module of each provider, the best first: `auto` takes the first that works here in the requested precision."""


class ProviderModule(Protocol):
    """Contents of a provider's module."""

    PRECISIONS: tuple[str, ...]
    """Precisions that it computes in; `auto` takes the first that the voice has graphs for."""

    def probe(self) -> None:
        """Raise `ProviderError`, with the reason, unless the provider works on this machine."""
        ...

    def open_graphs(self, bundle: Bundle, precision: str, threads: int | None) -> Mapping[str, Runnable]:
        """Every graph of the bundle, ready to run. Raises `BundleError` or `ProviderError`."""
        ...


def require_known(provider: str) -> None:
    """Raise `OptionError` for a name that is none of `PROVIDERS`."""
    if provider not in PROVIDERS:
        raise OptionError(f"unknown provider {provider!r}; known: {', '.join(PROVIDERS)}")


def engine(provider: str) -> ProviderModule:
    """The module of a provider. Raises `OptionError` for an unknown name."""
    require_known(provider)
    return cast(ProviderModule, importlib.import_module(f".{_MODULES[provider]}", __package__))


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
    for name in (name for name in _MODULES if name not in without):
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
    """Every graph of a voice on a provider. `auto`: the provider was chosen by `choose_provider`.

    Then a voice without TensorRT engines for every call opens on the next best provider, with a warning in the log; the
    missing engines are an error where there is no other. Damaged engines are always an error.
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
    return CorePool(opened.graphs, lambda name: open_graph(bundle, name, entries[name], threads=1, at_once=True), cores)


def _check_precision(name: str) -> None:
    if name not in PRECISIONS:
        raise OptionError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
