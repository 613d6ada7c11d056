"""From names to systems, each in every requested engine and precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ...runtime.errors import ComosvcError, OptionError
from ...runtime.providers import choose_precision, choose_provider
from ...runtime.providers import engine as runtime_engine
from ...runtime.voice.bundle import SUFFIX, open_bundle
from ...runtime.voice.manifest import FROM_FP32
from ...training.loop.devices import why_emulated
from ..baselines import BASELINES
from ..baselines.steps import SpeedSystem
from .chain import Skipped, Variant, measure_overhead
from .engines import DTYPES, open_onnx, open_torch
from .exported import export_system
from .full_size import AUTHORS_SIZE, LIGHT_SIZE, FullSize, ready_cast, ready_counted, ready_precision
from .options import ALL, DEVICES, RtfOptions
from .results import VariantKey
from .voices import ReadyVoice, open_voice

Make = Callable[[], SpeedSystem]


OURS, OURS_LIGHT = "comosvc", "comosvc-light"
_PROVIDERS = {
    ("onnx", "cpu"): "cpu",
    ("openvino", "cpu"): "openvino",
    ("onnx", "cuda"): "cuda",
    ("onnx-nograph", "cuda"): "cuda",
    ("tensorrt", "cuda"): "tensorrt",
}
"""The runtime's provider for an engine on a device."""
_COMPILERS = {"torch": None, "torch-compile": "inductor"}
"""torch's engines, with the backend of `torch.compile`."""
_FULL_SIZE = {OURS: AUTHORS_SIZE, OURS_LIGHT: LIGHT_SIZE}


@dataclass(frozen=True)
class NetworkSubject:
    """A baseline."""

    id: str
    make: Make


@dataclass(frozen=True)
class VoiceSubject:
    """A voice of ours: `model` as `Converter` takes it; None is `full_size`, exported where it has to be."""

    id: str
    model: str | None = None
    full_size: FullSize = AUTHORS_SIZE

    def ready(self, precision: str) -> Callable[[], ReadyVoice]:
        """Makes the voice, with graphs in `precision` unless that is computed from fp32."""
        if self.model is not None:
            return partial(ReadyVoice, self.model)
        if precision in FROM_FP32:
            return self.full_size.ready
        return partial(ready_precision, self.full_size.ready, precision)


Subject = NetworkSubject | VoiceSubject


def find_subjects(names: Sequence[str], known: Mapping[str, Make] | None = None) -> list[Subject]:
    """The systems of these names, each once: baselines, "comosvc" and "comosvc-light" (full size), "comosvc:VOICE", or
    "all" of the first two kinds. Raises `OptionError` for others and `BundleError` for a voice that cannot be opened.
    """
    known = BASELINES if known is None else known
    found: dict[str, Subject] = {}
    for name in names:
        for one in (*_FULL_SIZE, *known) if name == ALL else (name,):
            subject = _subject(one, known)
            if found.setdefault(subject.id, subject) != subject:
                raise OptionError(f"two voices are called {subject.id}; rename a file, the results would mix them")
    return list(found.values())


def _subject(name: str, known: Mapping[str, Make]) -> Subject:
    if name in _FULL_SIZE:
        return VoiceSubject(name, full_size=_FULL_SIZE[name])
    kind, colon, model = name.partition(":")
    if kind == OURS and colon:
        open_bundle(model)  # or say at once why not
        # The results name the voice, not where it lies on this machine.
        return VoiceSubject(f"{OURS}:{Path(model).name.removesuffix(SUFFIX)}", model)
    if name not in known:
        raise OptionError(
            f"unknown system {name!r}; known: {', '.join((ALL, *_FULL_SIZE, *known))}\n"
            f"hint: {OURS}:VOICE measures a voice, a {SUFFIX} file or a shipped name such as {OURS}:demo"
        )
    return NetworkSubject(name, known[name])


def plan(subjects: Sequence[Subject], options: RtfOptions) -> tuple[list[Variant], list[Skipped]]:
    """Every subject in every engine and precision, and the combinations that cannot run here.

    Raises `OptionError` if none can.
    """
    variants: list[Variant] = []
    skipped: list[Skipped] = []
    for subject in subjects:
        for engine in options.engines:
            for precision in options.precisions:
                key = VariantKey(subject.id, engine, precision)
                try:
                    variants += (
                        _of_network(subject, key, options)
                        if isinstance(subject, NetworkSubject)
                        else _of_voice(subject, key, options)
                    )
                except ComosvcError as error:
                    skipped.append(Skipped(key, str(error), _device_for(subject, key, options.device)))
    if not variants:
        reasons = "\n".join(f"{skip.key}: {skip.why}" for skip in skipped) or "our voices do not run in torch"
        raise OptionError(f"nothing of what was asked for can be measured here\n{reasons}")
    return variants, skipped


def _device_for(subject: Subject, key: VariantKey, asked: str) -> str | None:
    """The device that can run it, the wanted one first; None if no device can."""
    if isinstance(subject, VoiceSubject):
        found = [
            device
            for (engine, device), provider in _PROVIDERS.items()
            if engine == key.engine and key.precision in runtime_engine(provider).PRECISIONS
        ]
    elif key.engine in _COMPILERS:
        found = [*DEVICES] if key.precision in DTYPES else []
    else:
        found = ["cpu"] if (key.engine, key.precision) == ("onnx", "fp32") else []
    return asked if asked in found else next(iter(found), None)


def _of_network(subject: NetworkSubject, key: VariantKey, options: RtfOptions) -> list[Variant]:
    if key.engine in _COMPILERS:
        if key.precision not in DTYPES:
            raise OptionError(f"torch has no {key.precision} here; known: {', '.join(DTYPES)}")
        _require_unit(key, options)
        opener = partial(open_torch, subject.make, options.device, key.precision, _COMPILERS[key.engine])
        return [Variant(key, partial(measure_overhead, subject.make), opener)]
    if key.engine != "onnx":
        raise OptionError(f"baselines run in torch and onnx, not in {key.engine}")
    if key.precision != "fp32":
        raise OptionError(f"exported baselines are fp32, not {key.precision}")
    provider = choose_provider(_PROVIDERS[key.engine, options.device])
    if provider != "cpu":  # `open_session` runs there and nowhere else: no row shall say otherwise
        raise OptionError(f"exported baselines run on the CPU only, not on {provider}")
    return [Variant(key, partial(export_system, subject.make), partial(open_onnx, subject.make), provider)]


def _require_unit(key: VariantKey, options: RtfOptions) -> None:
    """Raise `OptionError` for a precision that the device emulates: its row would take minutes and be useless."""
    lacking = why_emulated(key.precision, torch.device(options.device))
    if lacking:
        raise OptionError(lacking)


def _of_voice(subject: VoiceSubject, key: VariantKey, options: RtfOptions) -> list[Variant]:
    if key.engine in _COMPILERS:
        return []  # no engine of the runtime: no row and no note
    if (key.engine, options.device) not in _PROVIDERS:
        raise OptionError(f"the runtime has no {key.engine} on {options.device}")
    provider = choose_provider(_PROVIDERS[key.engine, options.device])
    if subject.model is not None:
        choose_precision(key.precision, open_bundle(subject.model), provider)
    elif key.precision not in runtime_engine(provider).PRECISIONS:
        raise OptionError(f"provider {provider!r} does not compute in {key.precision}")
    _require_unit(key, options)
    opener = partial(open_voice, provider, key.precision, key.engine != "onnx-nograph")
    ready = partial(ready_counted, subject.ready(key.precision), key.precision)
    own = Variant(key, ready, opener, provider)
    casts = [Variant(replace(key, singers=n), partial(ready_cast, ready, n), opener, provider) for n in options.singers]
    return [own, *casts]
