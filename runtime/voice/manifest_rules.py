"""Rules for a manifest beyond the types of its fields: ranges with reasons, graph contracts, consistency."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..audio.spec import SINE_HARMONICS, AudioSpec, FrontEnd
from ..errors import BundleError, abridged
from .graphs import GRAPHS, OPTIONAL_INPUTS, TensorSpec

LONGEST_NAME, LONGEST_TEXT = 200, 20_000
"""Characters of a name (of a voice, a singer, a graph, a file), and of other texts such as licences."""
MOST_ENTRIES, DEEPEST = 10_000, 32
"""Entries of a list or an object, and depth of nesting."""


class Interval(NamedTuple):
    """A closed interval, and the reason for its ends."""

    least: float
    most: float
    reason: str


_CHANNELS = Interval(1, 4_096, "ContentVec, the widest encoder known, has 768")
_PAST = Interval(0, 2_000, "frames that every piece is computed with besides its own; 300 are the most that is known")
_WINDOW_MS = Interval(0.0, 1_000.0, "a window of analysis; 25 ms is a HuBERT's")
_LOOKAHEAD_MS = Interval(0.0, 120_000.0, "ms; an encoder that sees 20 s at once looks 20 s ahead")
_F0 = Interval(10.0, 10_000.0, "Hz; people sing from about 40 to 2000")
_DIM = Interval(1, 2**31 - 1, "a fixed size of a tensor; the contract of its graph says which")
_LEVEL = Interval(1e-9, 1e6, "a noise level; the authors' go from 0.002 to 80")

MOST_STEPS = 200
"""The authors' teacher takes 50."""

RANGES: dict[str, Interval] = {
    "format_version": Interval(1, 1, "the format of this version"),
    "audio.sample_rate": Interval(8_000, 192_000, "Hz; the rates of files and devices"),
    "audio.n_fft": Interval(32, 16_384, "samples; the authors' 44.1 kHz voices have 2048"),
    "audio.win_length": Interval(32, 16_384, "samples; as n_fft"),
    "audio.hop_length": Interval(16, 4_096, "samples; 128 and 512 are usual"),
    "audio.n_mels": Interval(4, 512, "mel bands; 80 and 128 are usual"),
    "audio.f_min_hz": Interval(0.0, 96_000.0, "Hz; below half of the highest rate"),
    "audio.f_max_hz": Interval(1.0, 96_000.0, "Hz; up to half of the highest rate"),
    "audio.content_sample_rate": Interval(16_000, 16_000, "Hz; the pitch and content graphs take 16 kHz"),
    "audio.content_hop_length": Interval(80, 3_200, "samples; frames of 5 to 200 ms, 20 ms is a HuBERT's"),
    "audio.mel_log_base": Interval(1.1, 100.0, "e and 10 are usual"),
    "audio.mel_floor": Interval(1e-12, 1.0, "a magnitude; 1e-5 is usual"),
    "graphs.*.inputs.*.*.*": _DIM,
    "graphs.*.outputs.*.*.*": _DIM,
    "variants.*.*.inputs.*.*.*": _DIM,
    "variants.*.*.outputs.*.*.*": _DIM,
    "singers.*.index": Interval(0, MOST_ENTRIES, "a row of the embedding table"),
    "singers.*.f0_median_hz": _F0,
    "singers.*.f0_range_hz.*": _F0,
    "model.content_channels": _CHANNELS,
    "model.singer_channels": _CHANNELS,
    "model.sigma_min": _LEVEL,
    "model.sigma_max": _LEVEL,
    "model.source.channels": Interval(1, 64, "an NSF source has 9"),
    "model.initial_noise_scale": Interval(0.0, 100.0, "1 is the authors'"),
    "model.schedules.*.*": Interval(0, 9_999, "a row of the table of noise levels"),
    "model.default_steps": Interval(1, MOST_STEPS, "the authors' teacher takes 50"),
    "model.ode.sigmas.*": _LEVEL,
    "model.ode.mel_mean.*": Interval(-1e4, 1e4, "a logarithm of a magnitude"),
    "model.ode.mel_scale": Interval(1e-6, 1e4, "the spread of logarithms of magnitudes"),
    "context.*.past": _PAST,
    "context.*.future": _PAST,
    "context.*.window_ms": _WINDOW_MS,
    "front_end.content_window_s": Interval(
        0.0, 120.0, "seconds; the authors cut at 20, and memory grows with the square"
    ),
    "front_end.content_overlap_s": Interval(0.0, 60.0, "seconds; half of the longest window"),
    "lookahead_ms.*": _LOOKAHEAD_MS,
}
"""Ranges by place in `bundle.json`; `*` is any free key, any index, or any graph of a context."""
SLOWEST_FRAMES_HZ, FASTEST_FRAMES_HZ = 10.0, 1_000.0
"""Mel frames per second; 86 and 187.5 are usual."""
SHORTEST_WINDOW_S = 0.5
"""Shortest content window; each window is a call of the encoder."""
FREE_KEYS = ("context", "lookahead_ms")
_FILES = ("graphs.*.file", "graphs.*.weights", "variants.*.*.file", "variants.*.*.weights")
_NAMES = ("name", "singer_embedding_file", *_FILES)


def check_limits(part: Any, where: str = "") -> None:
    """Raise `BundleError` for the first number, text or list beyond its limit, of a decoded manifest, or of its part at
    the place `where`.
    """
    for place, path, value in _leaves(where, where, part):
        if isinstance(value, str):
            check_text(place, value, LONGEST_NAME if path in _NAMES else LONGEST_TEXT)
        elif isinstance(value, int | float) and not isinstance(value, bool) and not path.startswith("provenance"):
            least, most, reason = RANGES[path]
            if not least <= value <= most:  # nor NaN
                wanted = f"{least:g}" if least == most else f"{least:g} to {most:g}"
                raise BundleError(f"{place} is {abridged(value)}; it must be {wanted} ({reason})")


def check_text(place: str, text: str, longest: int) -> None:
    """Raise `BundleError` for a text that is too long or contains half of a surrogate pair, and for an empty name."""
    if len(text) > longest:
        raise BundleError(f"{place} has {len(text)} characters; at most {longest} are allowed")
    if longest == LONGEST_NAME and not text.strip():
        raise BundleError(f"{place} is empty")
    if longest == LONGEST_NAME and "\n" in text:  # the rest of the name would look like lines of a message
        raise BundleError(f"{place} is {abridged(text)}: a name has no line breaks")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BundleError(f"{place} is {abridged(text)}: half of a surrogate pair is no character")


def _leaves(place: str, path: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """All texts and numbers, each with its place ("singers.alto.index") and its path in `RANGES`. Checks keys too."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            key = "*" if path in FREE_KEYS else field.name
            yield from _leaves(_join(place, field.name), _join(path, key), getattr(value, field.name))
    elif isinstance(value, Mapping):
        _check_count(place, value)
        for key, item in value.items():
            check_text(f"a key of {place}", key, LONGEST_NAME)
            yield from _leaves(_join(place, key), _join(path, "*"), item)
    elif isinstance(value, list | tuple):
        _check_count(place, value)
        for index, item in enumerate(value):
            yield from _leaves(f"{place}[{index}]", _join(path, "*"), item)
    else:
        yield place, path, value


def _check_count(place: str, value: Any) -> None:
    if len(value) > MOST_ENTRIES:
        raise BundleError(f"{place} has {len(value)} entries; at most {MOST_ENTRIES} are allowed")


def check_depth(data: Any, where: str) -> None:
    """Raise `BundleError` for parsed JSON whose lists and objects are nested too deeply."""
    level, depth = [data], 0
    while level := [item for value in level for item in _items(value)]:
        depth += 1
        if depth > DEEPEST:
            raise BundleError(f"{where}: lists and objects stand more than {DEEPEST} deep inside each other")


def _items(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in inside if isinstance(item, dict | list)]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


if TYPE_CHECKING:
    from .manifest import GraphEntry, Manifest, ModelEntry

_REQUIRED_GRAPHS = ("content", "pitch", "acoustic", "vocoder")
_VARIANTS = ("fp16", "int8")
_SOURCE_KINDS = ("pulse", "sine", "none")
_FIXED_LETTERS = "MCDH"  # the model's own sizes; every other dimension must stay dynamic


def check_manifest(manifest: "Manifest") -> None:
    """Raise `BundleError` for a value beyond its limit, or parts that contradict each other or the graph contracts."""
    check_limits(manifest)
    check_audio(manifest.audio)
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
        known = 1 < number <= MOST_STEPS
        _expect(known, f"model.schedules[{steps}]: steps are whole numbers from 2 to {MOST_STEPS}")
        _expect(len(indices) == number - 1, f"model.schedules[{steps}] needs steps - 1 indices, has {len(indices)}")
    _expect(not model.schedules or "acoustic_n" in manifest.graphs, "model.schedules without an acoustic_n graph")
    can = model.usual_steps in model.step_counts
    _expect(can, f"model.default_steps is {model.default_steps}; the voice can do {model.step_counts}")
    if model.ode is not None:
        _check_ode(model, manifest.audio)


def check_audio(spec: AudioSpec) -> None:
    """Raise `BundleError` for settings that contradict each other."""
    _expect(spec.n_mels % 4 == 0, f"audio.n_mels must be a multiple of 4, got {spec.n_mels}")
    lengths = spec.hop_length, spec.win_length, spec.n_fft
    nested = sorted(lengths) == list(lengths)
    _expect(
        nested, "audio: hop_length, win_length and n_fft are {}, {} and {}; each must hold the last".format(*lengths)
    )
    slowest, fastest = SLOWEST_FRAMES_HZ, FASTEST_FRAMES_HZ
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
    least = SHORTEST_WINDOW_S
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
