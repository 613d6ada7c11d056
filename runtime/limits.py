"""The range of every number of a manifest, with its reason, and the limits of its texts and lists.

An attacker chooses the numbers of a bundle together with its hashes. Numbers within their ranges keep memory and time
at the scale of a usual conversion; the ranges are several times wider than known voices need. Every new number of the
manifest needs a row here.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .errors import BundleError
from .text import abridged

LONGEST_NAME, LONGEST_TEXT = 200, 20_000
"""Characters of a name (of a voice, a singer, a graph, a file), and of other texts such as licences."""
MOST_ENTRIES, DEEPEST = 10_000, 32
"""Entries of a list or an object, and depth of nesting."""


class Range(NamedTuple):
    """A closed interval, and the reason for its ends."""

    least: float
    most: float
    reason: str


_CHANNELS = Range(1, 4_096, "ContentVec, the widest encoder known, has 768")
_PAST = Range(0, 2_000, "frames that every piece is computed with besides its own; 300 are the most that is known")
_WINDOW_MS = Range(0.0, 1_000.0, "a window of analysis; 25 ms is a HuBERT's")
_LOOKAHEAD_MS = Range(0.0, 120_000.0, "ms; an encoder that sees 20 s at once looks 20 s ahead")
_F0 = Range(10.0, 10_000.0, "Hz; people sing from about 40 to 2000")
_DIM = Range(1, 2**31 - 1, "a fixed size of a tensor; the contract of its graph says which")
_LEVEL = Range(1e-9, 1e6, "a noise level; the authors' go from 0.002 to 80")

MOST_STEPS = 200
"""The authors' teacher takes 50."""

RANGES: dict[str, Range] = {
    "format_version": Range(1, 1, "the format of this version"),
    "audio.sample_rate": Range(8_000, 192_000, "Hz; the rates of files and devices"),
    "audio.n_fft": Range(32, 16_384, "samples; the authors' 44.1 kHz voices have 2048"),
    "audio.win_length": Range(32, 16_384, "samples; as n_fft"),
    "audio.hop_length": Range(16, 4_096, "samples; 128 and 512 are usual"),
    "audio.n_mels": Range(4, 512, "mel bands; 80 and 128 are usual"),
    "audio.f_min_hz": Range(0.0, 96_000.0, "Hz; below half of the highest rate"),
    "audio.f_max_hz": Range(1.0, 96_000.0, "Hz; up to half of the highest rate"),
    "audio.content_sample_rate": Range(16_000, 16_000, "Hz; the pitch and content graphs take 16 kHz"),
    "audio.content_hop_length": Range(80, 3_200, "samples; frames of 5 to 200 ms, 20 ms is a HuBERT's"),
    "audio.mel_log_base": Range(1.1, 100.0, "e and 10 are usual"),
    "audio.mel_floor": Range(1e-12, 1.0, "a magnitude; 1e-5 is usual"),
    "graphs.*.inputs.*.*.*": _DIM,
    "graphs.*.outputs.*.*.*": _DIM,
    "variants.*.*.inputs.*.*.*": _DIM,
    "variants.*.*.outputs.*.*.*": _DIM,
    "singers.*.index": Range(0, MOST_ENTRIES, "a row of the embedding table"),
    "singers.*.f0_median_hz": _F0,
    "singers.*.f0_range_hz.*": _F0,
    "model.content_channels": _CHANNELS,
    "model.singer_channels": _CHANNELS,
    "model.sigma_min": _LEVEL,
    "model.sigma_max": _LEVEL,
    "model.source.channels": Range(1, 64, "an NSF source has 9"),
    "model.initial_noise_scale": Range(0.0, 100.0, "1 is the authors'"),
    "model.schedules.*.*": Range(0, 9_999, "a row of the table of noise levels"),
    "model.default_steps": Range(1, MOST_STEPS, "the authors' teacher takes 50"),
    "model.ode.sigmas.*": _LEVEL,
    "model.ode.mel_mean.*": Range(-1e4, 1e4, "a logarithm of a magnitude"),
    "model.ode.mel_scale": Range(1e-6, 1e4, "the spread of logarithms of magnitudes"),
    "context.*.past": _PAST,
    "context.*.future": _PAST,
    "context.*.window_ms": _WINDOW_MS,
    "front_end.content_window_s": Range(0.0, 120.0, "seconds; the authors cut at 20, and memory grows with the square"),
    "front_end.content_overlap_s": Range(0.0, 60.0, "seconds; half of the longest window"),
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


def check_limits(manifest: Any) -> None:
    """Raise `BundleError` for the first number, text or list of a decoded manifest that is beyond its limit."""
    for place, path, value in _leaves("", "", manifest):
        if isinstance(value, str):
            check_text(place, value, LONGEST_NAME if path in _NAMES else LONGEST_TEXT)
        elif isinstance(value, int | float) and not isinstance(value, bool) and not path.startswith("provenance"):
            least, most, reason = RANGES[path]
            if not least <= value <= most:  # nor NaN
                wanted = f"{least:g}" if least == most else f"{least:g} to {most:g}"
                raise BundleError(f"{place} is {abridged(value)}; it must be {wanted} ({reason})")


def check_text(place: str, text: str, longest: int) -> None:
    """Raise `BundleError` for a text that is too long or contains half of a surrogate pair."""
    if len(text) > longest:
        raise BundleError(f"{place} has {len(text)} characters; at most {longest} are allowed")
    if longest == LONGEST_NAME and "\n" in text:  # a message would go on in lines of the name's own
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
