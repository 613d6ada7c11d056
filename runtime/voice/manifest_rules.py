"""Rules for a manifest beyond the types of its fields: ranges with reasons, graph contracts, consistency."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..audio.spec import SINE_HARMONICS, AudioSpec
from ..errors import BundleError, abridged
from .graphs import GRAPHS, OPTIONAL_INPUTS, TensorSpec

if TYPE_CHECKING:
    from .manifest import GraphEntry, Manifest

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
_LOOKAHEAD_MS = Interval(0.0, 120_000.0, "ms; an encoder with windows of 20 s looks 20 s ahead")
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
    "front_end.content_window_s": Interval(0.0, 120.0, "seconds; the authors cut at 20; memory grows with the square"),
    "front_end.content_overlap_s": Interval(0.0, 60.0, "seconds; half of the longest window"),
    "lookahead_ms.*": _LOOKAHEAD_MS,
}
"""Ranges by place in `bundle.json`; `*` is any free key, any index, or any graph of a context."""
FREE_KEYS = ("context", "lookahead_ms")
_FILES = ("graphs.*.file", "graphs.*.weights", "variants.*.*.file", "variants.*.*.weights")
_NAMES = ("name", "singer_embedding_file", *_FILES)
_SLOWEST_FRAMES_HZ, _FASTEST_FRAMES_HZ = 10.0, 1_000.0  # 86 and 187.5 mel frames per second are usual
_SHORTEST_WINDOW_S = 0.5  # of content; each window is a call of the encoder
_REQUIRED_GRAPHS = ("content", "pitch", "acoustic", "vocoder")
_VARIANTS = ("fp16", "int8")
_SOURCE_KINDS = ("pulse", "sine", "none")
_Rules = Iterator[tuple[bool, str]]
"""Whether each rule holds, and the message where it does not. A rule may rest on those before it."""


def check_manifest(manifest: "Manifest") -> None:
    """Raise `BundleError` for a value beyond its limit, or parts that contradict each other or the graph contracts."""
    check_limits(manifest)
    check_audio(manifest.audio)
    for rules in (_provenance, _graphs, _singers, _front_end, _source, _steps, _live_encoder):
        _check(rules(manifest))


def check_audio(spec: AudioSpec) -> None:
    """Raise `BundleError` for settings that contradict each other."""
    _check(_audio(spec))


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
    is_name = longest == LONGEST_NAME
    half = any("\ud800" <= character <= "\udfff" for character in text)
    _check([
        (len(text) <= longest, f"{place} has {len(text)} characters; at most {longest} are allowed"),
        (not is_name or bool(text.strip()), f"{place} is empty"),
        # The rest of the name would look like lines of a message.
        (not is_name or "\n" not in text, f"{place} is {abridged(text)}: a name has no line breaks"),
        (not half, f"{place} is {abridged(text)}: half of a surrogate pair is no character"),
    ])  # fmt: skip


def check_depth(data: Any, where: str) -> None:
    """Raise `BundleError` for a parsed object of JSON whose lists and objects are nested too deeply."""
    level, depth = [data], 0

    def inside(value: Any) -> Any:
        return value.values() if isinstance(value, dict) else value

    while level := [item for value in level for item in inside(value) if isinstance(item, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise BundleError(f"{where}: lists and objects stand more than {DEEPEST} deep inside each other")


def _leaves(place: str, path: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """All texts and numbers, each with its place ("singers.alto.index") and its path in `RANGES`. Checks keys too."""
    dot = "." if place else ""
    if isinstance(value, Mapping | list | tuple) and len(value) > MOST_ENTRIES:
        raise BundleError(f"{place} has {len(value)} entries; at most {MOST_ENTRIES} are allowed")
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            key = "*" if path in FREE_KEYS else field.name
            yield from _leaves(f"{place}{dot}{field.name}", f"{path}{dot}{key}", getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_text(f"a key of {place}", key, LONGEST_NAME)
            yield from _leaves(f"{place}.{key}", f"{path}.*", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(f"{place}[{index}]", f"{path}.*", item)
    else:
        yield place, path, value


def _check(rules: Iterable[tuple[bool, str]]) -> None:
    for holds, message in rules:
        if not holds:
            raise BundleError(message)


def _audio(spec: AudioSpec) -> _Rules:
    lengths = [spec.hop_length, spec.win_length, spec.n_fft]
    rate, low, high = spec.frame_rate_hz, _SLOWEST_FRAMES_HZ, _FASTEST_FRAMES_HZ
    nested = "audio: hop_length, win_length and n_fft are {}, {} and {}; each must hold the last"
    bands = f"audio: f_min_hz is {spec.f_min_hz:g}, f_max_hz {spec.f_max_hz:g}; the mel bands lie between them"
    yield spec.n_mels % 4 == 0, f"audio.n_mels must be a multiple of 4, got {spec.n_mels}"
    yield sorted(lengths) == lengths, nested.format(*lengths)
    yield low <= rate <= high, f"audio: {rate:.1f} mel frames per second; {low:g} to {high:g} are read"
    yield spec.f_min_hz < spec.f_max_hz, bands


def _provenance(manifest: "Manifest") -> _Rules:
    """Rules for the fields that are read back: hashes of other files, and versions."""
    for key in ("files", "versions"):
        texts = manifest.provenance.get(key, {})
        fits = isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())
        yield fits, f"provenance.{key} must be an object of texts, got {abridged(texts)}"
    for name, digest in manifest.files.items():
        yield _is_sha256(digest), f"provenance.files.{name} is not a SHA-256"


def _graphs(manifest: "Manifest") -> _Rules:
    missing = [name for name in _REQUIRED_GRAPHS if name not in manifest.graphs]
    yield not missing, f"no graph for {', '.join(missing)}"
    yield from _entries("graphs", "fp32", manifest.graphs, manifest)
    for precision, entries in manifest.variants.items():
        unknown = [name for name in entries if name not in manifest.graphs]
        yield precision in _VARIANTS, f"variants.{precision} is unknown; known: {', '.join(_VARIANTS)}"
        yield not unknown, f"variants.{precision} of {', '.join(unknown)}, which graphs does not name"
        yield from _entries(f"variants.{precision}", precision, entries, manifest)


def _entries(where: str, precision: str, entries: "dict[str, GraphEntry]", manifest: "Manifest") -> _Rules:
    model = manifest.model
    sizes = {"C": model.content_channels, "D": model.singer_channels, "H": model.source.channels}
    sizes["M"] = manifest.audio.n_mels
    for name, entry in entries.items():
        place = f"{where}.{name}"
        alone = entry.file is not None or entry.weights is None
        yield alone, f"{place}.weights is {entry.weights}, and there is no file before it"
        yield name in GRAPHS, f"unknown graph {name!r}; known: {', '.join(GRAPHS)}"
        yield entry.precision == precision, f"{place} is {entry.precision}; it must be {precision}"
        yield _is_sha256(entry.sha256), f"{place}.sha256 is not a SHA-256"
        optional = OPTIONAL_INPUTS.get(name, ())
        yield from _tensors(f"{place}.inputs", entry.inputs, GRAPHS[name].inputs, optional, sizes)
        yield from _tensors(f"{place}.outputs", entry.outputs, GRAPHS[name].outputs, (), sizes)


def _tensors(
    where: str,
    found: tuple[tuple[str, str, tuple[int | str, ...]], ...],
    wanted: tuple[TensorSpec, ...],
    optional: tuple[str, ...],
    sizes: dict[str, int],
) -> _Rules:
    """`sizes`: the model's own, by letter; every other dimension must stay dynamic."""
    contract = {tensor.name: tensor for tensor in wanted}
    names = [name for name, _, _ in found]
    fits = [name for name in contract if name in names or name not in optional] == names
    yield fits, f"{where} are {', '.join(names)}; the contract has {', '.join(contract)}, in this order"
    for name, dtype, dims in found:
        tensor = contract[name]
        yield dtype == tensor.dtype, f"{where}: {name} is {dtype}, the contract has {tensor.dtype}"
        same_rank = len(dims) == len(tensor.dims)
        yield same_rank, f"{where}: {name} has dims {list(dims)}, the contract {list(tensor.dims)}"
        for dim, letter in zip(dims, tensor.dims, strict=True):
            if letter in sizes:
                yield dim == sizes[letter], f"{where}: {name} has {letter} = {dim}, should be {sizes[letter]}"
            else:
                yield isinstance(dim, str), f"{where}: {name} fixes {letter} to {dim}; it must be dynamic"


def _singers(manifest: "Manifest") -> _Rules:
    yield bool(manifest.singers), "no singers"
    for name, singer in manifest.singers.items():
        low, high = singer.f0_range_hz or (singer.f0_median_hz or 1.0,) * 2
        median = low if singer.f0_median_hz is None else singer.f0_median_hz
        ordered = 0.0 < low <= median <= high
        yield ordered, f"singers.{name}: F0 range {low}-{high} Hz does not hold the median {median} Hz"


def _front_end(manifest: "Manifest") -> _Rules:
    front_end, least = manifest.front_end, _SHORTEST_WINDOW_S
    window, overlap = front_end.content_window_s, front_end.content_overlap_s
    too_much = f"front_end.content_overlap_s is {overlap}; at most half of content_window_s, {window}, may overlap"
    no_pieces = "front_end.content_index is stretched, which needs pieces to be stretched over: content_window_s is 0"
    long_enough = window == 0.0 or window >= least
    yield long_enough, f"front_end.content_window_s is {window}; 0, or {least} and more, are read"
    yield 0.0 <= 2.0 * overlap <= window, too_much
    yield front_end.content_index == "time" or window > 0.0, no_pieces


def _source(manifest: "Manifest") -> _Rules:
    kind, channels = manifest.model.source.kind, manifest.model.source.channels
    yield kind in _SOURCE_KINDS, f"model.source.kind is {kind!r}; known: {', '.join(_SOURCE_KINDS)}"
    fits = kind != "sine" or channels == SINE_HARMONICS
    yield fits, f"model.source.channels is {channels}; a sine source has {SINE_HARMONICS}"
    has_source = any(name == "source" for name, _, _ in manifest.graphs["vocoder"].inputs)
    yield has_source == (kind != "none"), "model.source contradicts the inputs of the vocoder graph"


def _steps(manifest: "Manifest") -> _Rules:
    model = manifest.model
    for steps, indices in model.schedules.items():
        place, number = f"model.schedules[{steps}]", int(steps) if re.fullmatch("[1-9][0-9]{0,4}", steps) else 0
        yield 1 < number <= MOST_STEPS, f"{place}: steps are whole numbers from 2 to {MOST_STEPS}"
        yield len(indices) == number - 1, f"{place} needs steps - 1 indices, has {len(indices)}"
    yield not model.schedules or "acoustic_n" in manifest.graphs, "model.schedules without an acoustic_n graph"
    can = model.usual_steps in model.step_counts
    yield can, f"model.default_steps is {model.default_steps}; the voice can do {model.step_counts}"
    if model.ode is not None:
        bands, levels, n_mels = len(model.ode.mel_mean), len(model.ode.sigmas), manifest.audio.n_mels
        yield bands in (1, n_mels), f"model.ode.mel_mean has {bands} numbers for {n_mels} bands"
        beyond = [steps for steps, indices in model.schedules.items() if not all(0 <= i < levels for i in indices)]
        yield not beyond, f"model.schedules{beyond} points beyond the {levels} levels of model.ode.sigmas"


def _live_encoder(manifest: "Manifest") -> _Rules:
    has_low, lookahead = "content_low" in manifest.graphs, manifest.lookahead_ms.content_low_latency
    yield has_low == (manifest.context.content_low is not None), "context.content_low contradicts the graphs"
    yield has_low == (lookahead is not None), "lookahead_ms.content_low_latency contradicts the graphs"


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None
