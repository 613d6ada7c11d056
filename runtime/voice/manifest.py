"""The manifest of a bundle: `bundle.json` as frozen dataclasses, read strictly.

Export builds these and writes `to_json`; the runtime reads them back with `from_json`. An unknown key, a missing key or
a value of another type is an error, and so is a number beyond its range (`limits`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..audio.frames import ceil_div
from ..audio.spec import AudioSpec, F0Name, FrontEnd
from ..errors import BundleError, abridged, pip_install
from ..storage import MismatchError, decode, encode, sha256, without_repeats
from .manifest_rules import check_depth, check_manifest

FORMAT_VERSION = 1
MANIFEST_FILE = "bundle.json"
FROM_FP32 = ("fp32", "bf16")
"""Precisions that engines compute in from fp32 graphs."""


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """One ONNX file. `inputs` and `outputs` are (name, dtype, dims); a dim is a fixed size or a dynamic one's name."""

    sha256: str
    precision: str
    inputs: tuple[tuple[str, str, tuple[int | str, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int | str, ...]], ...]
    file: str | None = None
    """Name inside the bundle; None: the file lies in the cache under its hash."""
    weights: str | None = None
    """Name inside the bundle of a second part of the ONNX file, which other graphs share. `sha256` is the hash of both
    parts together."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names inside the bundle of the parts of the ONNX file, in order; none for a file in the cache."""
        return tuple(name for name in (self.file, self.weights) if name is not None)


@dataclass(frozen=True, kw_only=True)
class SingerEntry:
    """A target singer: row of the embedding table, F0 statistics of the training recordings in Hz, licence, credit.

    F0 statistics are None where they are unknown, as for imported checkpoints.
    """

    index: int
    f0_median_hz: float | None
    f0_range_hz: tuple[float, float] | None
    licence: str
    credit: str


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """What excites the vocoder: `kind` "pulse" is `source.pulse_source`, "sine" is `source.sine_source` of 9 channels;
    "none" if the design has no source input.
    """

    kind: str
    channels: int


@dataclass(frozen=True, kw_only=True)
class OdeEntry:
    """What following a teacher's ODE takes (`sampler.OdeNoise`): the noise level of each `step_index`, and the mean
    (one number or one for each band) and scale that take the bundle's mel to the model's units.
    """

    sigmas: tuple[float, ...]
    mel_mean: tuple[float, ...]
    mel_scale: float


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Sizes and sampler of the acoustic model.

    `schedules` maps a number of steps to the `step_index` of each step after the first, which is the `acoustic` graph.
    """

    content_channels: int
    singer_channels: int
    sigma_min: float
    sigma_max: float
    source: SourceEntry
    objective: str
    initial_noise_scale: float = 1.0
    schedules: dict[str, tuple[int, ...]] = field(default_factory=dict)
    content_labels: tuple[str, ...] = ()
    """Meaning of the content channels where they have one (phones)."""
    departures: tuple[str, ...] = ()
    """Where the training departs from the published recipe."""
    ode: OdeEntry | None = None
    """The model is a teacher, whose steps follow its ODE; None: a student's steps, each with fresh noise."""
    default_steps: int | None = None
    """Default number of steps of a conversion; None: see `usual_steps`."""
    f0_extractor: F0Name = "swift-f0"
    """Extractor of the F0 that the model was trained on."""

    @property
    def step_counts(self) -> tuple[int, ...]:
        """Possible numbers of steps of a conversion, ascending."""
        return (1, *sorted(map(int, self.schedules)))

    @property
    def usual_steps(self) -> int:
        """`default_steps`; without it 1, and the longest schedule of a model that follows an ODE."""
        if self.default_steps is not None:
            return self.default_steps
        return 1 if self.ode is None else self.step_counts[-1]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Frames before and after a frame that its result depends on, in the graph's own frames.

    `window_ms` is the length of the frame's window of audio, centred on it; 0: its hop.
    """

    past: int
    future: int
    window_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ContextEntry:
    """Context of each graph: content frames, pitch frames (16 ms), mel frames, mel frames."""

    content: Context
    pitch: Context
    acoustic: Context
    vocoder: Context
    content_low: Context | None = None
    """Where the voice has an encoder of its own for live use."""


@dataclass(frozen=True, kw_only=True)
class LookaheadEntry:
    """How far each part looks into the future, in ms, and the total of a live conversion.

    That one takes the `_low_latency` figures: a voice may have a better encoder for files beside one for live use.
    """

    content: float
    pitch: float
    pitch_low_latency: float
    acoustic: float
    vocoder: float
    total: float
    content_low_latency: float | None = None
    """None: `content` is live use's too."""


@dataclass(frozen=True, kw_only=True)
class LicenceEntry:
    """Licence and credit of one part of the bundle (a network, a data set, a singer)."""

    part: str
    licence: str
    credit: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`bundle.json`, format 1."""

    name: str
    audio: AudioSpec
    graphs: dict[str, GraphEntry]
    singers: dict[str, SingerEntry]
    singer_embedding_file: str
    """A safetensors file with one tensor, `embedding` (singers, D) float32."""
    singer_embedding_sha256: str
    model: ModelEntry
    context: ContextEntry
    lookahead_ms: LookaheadEntry
    licences: tuple[LicenceEntry, ...]
    consent: str
    provenance: dict[str, Any]
    """Versions, commit and data summary. `files`: SHA-256 of the files that no other field names."""
    front_end: FrontEnd = field(default_factory=FrontEnd)
    """How the voice's conditions are taken from the audio."""
    variants: dict[str, dict[str, GraphEntry]] = field(default_factory=dict)
    """Graphs in other precisions than `graphs`: precision -> name -> file. One that stays fp32 there is left out."""
    format_version: int = FORMAT_VERSION
    digest: str | None = field(default=None, compare=False)
    """SHA-256 of the other fields of `bundle.json`, written by `to_json`; None in bundles of older versions."""

    def __post_init__(self) -> None:
        check_manifest(self)

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 by name of the files that no other field names."""
        return self.provenance.get("files", {})

    def context_of(self, graph: str, steps: int = 1) -> Context:
        """Frames of input before and after a frame on which the result of a graph, after `steps` of them, depends.

        Past the frame's own hop, half a window counts on either side, in whole frames.
        """
        context: Context = getattr(self.context, graph.removesuffix("_n"))
        hop_ms = 1e3 * self.audio.content_hop_length / self.audio.content_sample_rate
        overhang = max(0, ceil_div(round(1e3 * (context.window_ms / hop_ms - 1.0)), 2000))
        return Context(past=steps * context.past + overhang, future=steps * context.future + overhang)

    def has(self, precision: str) -> bool:
        """True if the voice has graphs for `precision`; bf16 is computed from fp32 graphs."""
        return precision in (*FROM_FP32, *self.variants)

    def entries(self, precision: str) -> dict[str, GraphEntry]:
        """Graph files by graph name for `precision`."""
        return {**self.graphs, **self.variants.get(precision, {})}


def to_json(manifest: Manifest) -> str:
    """The text of `bundle.json`, with its digest."""
    data = json.loads(json.dumps(encode(manifest), ensure_ascii=False, allow_nan=False))
    return json.dumps({**data, "digest": _digest(data)}, indent=1, ensure_ascii=False)


def from_json(text: str | bytes, origin: str) -> Manifest:
    """Read `bundle.json`. Raises `BundleError`, which names the bundle `origin`, for any fault."""
    try:
        data = _parse(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{origin}: {MANIFEST_FILE} is not JSON: {error}") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{origin}: bundle format {abridged(version)}; this version of comosvc reads format {FORMAT_VERSION}\n"
            f"hint: a newer bundle needs a newer comosvc: {pip_install('--upgrade comosvc')}"
        )
    try:
        check_depth(data, MANIFEST_FILE)
        manifest = decode(Manifest, data, MANIFEST_FILE)
    except (MismatchError, BundleError) as error:
        raise BundleError(f"{origin}: {error}") from error
    # The digest finds damage and edits by hand. It does not find forgery.
    if manifest.digest is not None and manifest.digest != _digest(data):
        raise BundleError(
            f"{origin}: {MANIFEST_FILE} is not what was written when the bundle was made: it was damaged or changed\n"
            "hint: fetch the bundle again; comosvc-export set changes names, F0, licence, credit and consent"
        )
    return manifest


def _parse(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=without_repeats, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of the data as JSON in one fixed form, without its field `digest`."""
    rest = {key: value for key, value in data.items() if key != "digest"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())
