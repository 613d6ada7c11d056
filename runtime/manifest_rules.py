"""Rules for a manifest beyond the types of its fields: ranges, graph contracts, consistency of its parts."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import limits
from .errors import BundleError
from .graph import GRAPHS, OPTIONAL_INPUTS, TensorSpec
from .source import SINE_HARMONICS
from .spec import AudioSpec, FrontEnd
from .text import abridged

if TYPE_CHECKING:
    from .manifest import GraphEntry, Manifest, ModelEntry

_REQUIRED_GRAPHS = ("content", "pitch", "acoustic", "vocoder")
_VARIANTS = ("fp16", "int8")
_SOURCE_KINDS = ("pulse", "sine", "none")
_FIXED_LETTERS = "MCDH"  # the model's own sizes; every other dimension must stay dynamic


def check_manifest(manifest: "Manifest") -> None:
    """Raise `BundleError` for a value beyond its limit, or parts that contradict each other or the graph contracts."""
    limits.check_limits(manifest)
    _check_audio(manifest.audio)
    _check_provenance(manifest.provenance)
    _check_graphs(manifest)
    _check_singers(manifest)
    _check_front_end(manifest.front_end)
    _check_source(manifest)
    _check_steps(manifest)
    has_low = manifest.context.content_low is not None
    _expect(has_low == ("content_low" in manifest.graphs), "context.content_low contradicts the graphs")
    _expect(
        has_low == (manifest.lookahead_ms.content_low_latency is not None),
        "lookahead_ms.content_low_latency contradicts the graphs",
    )


def _check_source(manifest: "Manifest") -> None:
    source = manifest.model.source
    known = source.kind in _SOURCE_KINDS
    _expect(known, f"model.source.kind is {source.kind!r}; known: {', '.join(_SOURCE_KINDS)}")
    nine = source.kind != "sine" or source.channels == SINE_HARMONICS
    _expect(nine, f"model.source.channels is {source.channels}; a sine source has {SINE_HARMONICS}")
    has_source = any(name == "source" for name, _, _ in manifest.graphs["vocoder"].inputs)
    _expect(has_source == (source.kind != "none"), "model.source contradicts the inputs of the vocoder graph")


def _check_steps(manifest: "Manifest") -> None:
    model = manifest.model
    for steps, indices in model.schedules.items():
        number = int(steps) if re.fullmatch("[1-9][0-9]{0,4}", steps) else 0
        known = 1 < number <= limits.MOST_STEPS
        _expect(known, f"model.schedules[{steps}]: steps are whole numbers from 2 to {limits.MOST_STEPS}")
        _expect(len(indices) == number - 1, f"model.schedules[{steps}] needs steps - 1 indices, has {len(indices)}")
    _expect(not model.schedules or "acoustic_n" in manifest.graphs, "model.schedules without an acoustic_n graph")
    can = model.usual_steps in model.step_counts
    _expect(can, f"model.default_steps is {model.default_steps}; the voice can do {model.step_counts}")
    if model.ode is not None:
        _check_ode(model, manifest.audio)


def _check_audio(spec: AudioSpec) -> None:
    _expect(spec.n_mels % 4 == 0, f"audio.n_mels must be a multiple of 4, got {spec.n_mels}")
    lengths = spec.hop_length, spec.win_length, spec.n_fft
    nested = sorted(lengths) == list(lengths)
    _expect(
        nested, "audio: hop_length, win_length and n_fft are {}, {} and {}; each must hold the last".format(*lengths)
    )
    slowest, fastest = limits.SLOWEST_FRAMES_HZ, limits.FASTEST_FRAMES_HZ
    rate = spec.frame_rate_hz
    _expect(slowest <= rate <= fastest, f"audio: {rate:.1f} mel frames per second; {slowest:g} to {fastest:g} are read")
    rising = spec.f_min_hz < spec.f_max_hz
    _expect(rising, f"audio: f_min_hz is {spec.f_min_hz:g}, f_max_hz {spec.f_max_hz:g}; the mel bands lie between them")


def _check_provenance(provenance: Mapping[str, Any]) -> None:
    """The provenance fields that are read back: hashes of other files, and versions."""
    for key in ("files", "versions"):
        texts = provenance.get(key, {})
        fits = isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        _expect(fits, f"provenance.{key} must be an object of texts, got {abridged(texts)}")
    for name, digest in provenance.get("files", {}).items():
        _expect(_is_sha256(digest), f"provenance.files.{name} is not a SHA-256")


def _check_ode(model: "ModelEntry", spec: AudioSpec) -> None:
    assert model.ode is not None
    bands, known = len(model.ode.mel_mean), len(model.ode.sigmas)
    _expect(bands in (1, spec.n_mels), f"model.ode.mel_mean has {bands} numbers for {spec.n_mels} bands")
    beyond = [steps for steps, indices in model.schedules.items() if not all(0 <= i < known for i in indices)]
    _expect(not beyond, f"model.schedules{beyond} points beyond the {known} levels of model.ode.sigmas")


def _check_front_end(front_end: FrontEnd) -> None:
    window, overlap = front_end.content_window_s, front_end.content_overlap_s
    least = limits.SHORTEST_WINDOW_S
    _expect(
        window == 0.0 or window >= least, f"front_end.content_window_s is {window}; 0, or {least} and more, are read"
    )
    _expect(
        0.0 <= 2.0 * overlap <= window,
        f"front_end.content_overlap_s is {overlap}; at most half of content_window_s, {window}, may overlap",
    )
    _expect(
        front_end.content_index == "time" or window > 0.0,
        "front_end.content_index is stretched, which needs pieces to be stretched over: content_window_s is 0",
    )


def _check_graphs(manifest: "Manifest") -> None:
    missing = [name for name in _REQUIRED_GRAPHS if name not in manifest.graphs]
    _expect(not missing, f"no graph for {', '.join(missing)}")
    _check_entries("graphs", "fp32", manifest.graphs, manifest)
    for precision, entries in manifest.variants.items():
        _expect(precision in _VARIANTS, f"variants.{precision} is unknown; known: {', '.join(_VARIANTS)}")
        unknown = [name for name in entries if name not in manifest.graphs]
        _expect(not unknown, f"variants.{precision} of {', '.join(unknown)}, which graphs does not name")
        _check_entries(f"variants.{precision}", precision, entries, manifest)


def _check_entries(where: str, precision: str, entries: "dict[str, GraphEntry]", manifest: "Manifest") -> None:
    sizes = {
        "M": manifest.audio.n_mels,
        "C": manifest.model.content_channels,
        "D": manifest.model.singer_channels,
        "H": manifest.model.source.channels,
    }
    for name, entry in entries.items():
        alone = entry.file is not None or entry.weights is None
        _expect(alone, f"{where}.{name}.weights is {entry.weights}, and there is no file before it")
        _expect(name in GRAPHS, f"unknown graph {name!r}; known: {', '.join(GRAPHS)}")
        _expect(entry.precision == precision, f"{where}.{name} is {entry.precision}; it must be {precision}")
        _expect(_is_sha256(entry.sha256), f"{where}.{name}.sha256 is not a SHA-256")
        spec = GRAPHS[name]
        _check_tensors(f"{where}.{name}.inputs", entry.inputs, spec.inputs, OPTIONAL_INPUTS.get(name, ()), sizes)
        _check_tensors(f"{where}.{name}.outputs", entry.outputs, spec.outputs, (), sizes)


def _check_tensors(
    where: str,
    found: tuple[tuple[str, str, tuple[int | str, ...]], ...],
    wanted: tuple[TensorSpec, ...],
    optional: tuple[str, ...],
    sizes: dict[str, int],
) -> None:
    contract = {tensor.name: tensor for tensor in wanted}
    names = [name for name, _, _ in found]
    required = [name for name in contract if name not in optional]
    fits = set(required) <= set(names) and names == [name for name in contract if name in names]
    _expect(fits, f"{where} are {', '.join(names)}; the contract has {', '.join(contract)}, in this order")
    for name, dtype, dims in found:
        tensor = contract[name]
        _expect(dtype == tensor.dtype, f"{where}: {name} is {dtype}, the contract has {tensor.dtype}")
        same_rank = len(dims) == len(tensor.dims)
        _expect(same_rank, f"{where}: {name} has dims {list(dims)}, the contract {list(tensor.dims)}")
        for dim, letter in zip(dims, tensor.dims, strict=True):
            if letter in _FIXED_LETTERS:
                _expect(dim == sizes[letter], f"{where}: {name} has {letter} = {dim}, should be {sizes[letter]}")
            else:
                _expect(isinstance(dim, str), f"{where}: {name} fixes {letter} to {dim}; it must be dynamic")


def _check_singers(manifest: "Manifest") -> None:
    _expect(bool(manifest.singers), "no singers")
    for name, singer in manifest.singers.items():
        low, high = singer.f0_range_hz or (singer.f0_median_hz or 1.0,) * 2
        median = low if singer.f0_median_hz is None else singer.f0_median_hz
        ordered = 0.0 < low <= median <= high
        _expect(ordered, f"singers.{name}: F0 range {low}-{high} Hz does not hold the median {median} Hz")


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise BundleError(message)
