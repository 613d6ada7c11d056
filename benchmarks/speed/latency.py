"""`comosvc-bench latency`: how long a caller waits for a short clip. This version has no streaming to measure."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import Converter
from ...runtime.errors import OptionError
from ..report import current_commit, in_words, installed_versions
from . import machine
from .clips import sung_clip
from .grid import Grid
from .noise import Watch
from .results import FORMAT_VERSION, ResultError, read_results
from .voices import CLIP_RATE

SCOPE = (
    "Whole clips, each a call of convert() of its own. This version has no streaming: these are not the latencies of a "
    "live conversion, which keeps its state from block to block and also waits for its look-ahead."
)
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """What is measured."""

    model: str = "demo"
    clips_ms: tuple[float, ...] = (250.0, 500.0, 1000.0, 2000.0)
    calls: int = 50
    threads: int = 1
    provider: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.calls < 20:
            raise OptionError(f"--calls {self.calls}: the 95th and 99th percentile need 20 calls or more")


@dataclass(frozen=True, kw_only=True)
class ClipLatency:
    """Calls with clips of one length. `first_ms`: the first call of that length, which is not among `calls_ms`."""

    clip_ms: float
    first_ms: float
    calls_ms: tuple[float, ...]
    others_cores: float

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.calls_ms, share))

    @property
    def in_time(self) -> float:
        """Share of the calls that took no longer than their clip lasts."""
        return float(np.mean(np.array(self.calls_ms) <= self.clip_ms))


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """A run of `comosvc-bench latency`."""

    command: str
    voice: str
    provider: str
    precision: str
    threads: int
    load_ms: float
    lookahead_ms: float
    """What a live conversion with this voice would wait for, by its manifest; not measured."""
    clips: tuple[ClipLatency, ...]
    streaming: bool = False
    machine: dict[str, Any] = field(default_factory=machine.machine_facts)
    versions: dict[str, str] = field(default_factory=installed_versions)
    commit: str | None = field(default_factory=current_commit)


def measure_latency(options: LatencyOptions, command: str, say: Callable[[str], None]) -> LatencyReport:
    """Raises `ComosvcError` where the voice cannot be loaded as asked."""
    start = time.perf_counter()
    with Converter(
        options.model, provider=options.provider, precision=options.precision, threads=options.threads
    ) as converter:
        load_ms = 1e3 * (time.perf_counter() - start)
        clips = []
        for clip_ms in options.clips_ms:
            say(f"{options.calls} clips of {clip_ms:g} ms")
            clips.append(_calls(converter, clip_ms, options.calls))
        return LatencyReport(
            command=command,
            voice=converter.manifest.name,
            provider=converter.provider,
            precision=converter.precision,
            threads=options.threads,
            load_ms=load_ms,
            lookahead_ms=converter.manifest.lookahead_ms.total,
            clips=tuple(clips),
        )


def _calls(converter: Converter, clip_ms: float, calls: int) -> ClipLatency:
    audio = sung_clip(1e-3 * clip_ms, CLIP_RATE).astype(np.float32)

    def call_ms() -> float:
        start = time.perf_counter()
        converter.convert(audio, CLIP_RATE)
        return 1e3 * (time.perf_counter() - start)

    first_ms = call_ms()
    for _ in range(_WARM_UP):
        call_ms()
    watch = Watch()
    taken = tuple(call_ms() for _ in range(calls))
    return ClipLatency(clip_ms=clip_ms, first_ms=first_ms, calls_ms=taken, others_cores=watch.stop().others_cores)


def save_latency(report: LatencyReport, path: Path) -> None:
    """Write a report; `load_latency` reads it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"format_version": FORMAT_VERSION, "kind": "latency", **asdict(report)}
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")


def load_latency(path: Path) -> LatencyReport:
    """Read what `save_latency` wrote. Raises `ResultError`."""
    body = read_results(path)
    try:
        del body["format_version"], body["kind"]
        clips = [ClipLatency(**{**clip, "calls_ms": tuple(clip["calls_ms"])}) for clip in body.pop("clips")]
        return LatencyReport(**body, clips=tuple(clips))
    except (KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def latency_grid(report: LatencyReport) -> Grid:
    """A row for each length of clip."""
    rows = []
    for clip in report.clips:
        shown = [clip.first_ms, *(clip.percentile(share) for share in (50, 95, 99))]
        rows.append((f"{clip.clip_ms:g} ms", *(f"{ms:.3g}" for ms in shown), f"{clip.in_time:.0%}"))
    return Grid(
        title=f"time to answer, ms: {report.voice} on {report.provider} in {report.precision}, "
        f"{report.threads} thread(s)",
        heads=("clip", "first call", "p50", "p95", "p99", "within its own length"),
        rows=tuple(rows),
        note=f"{SCOPE} Loading took {report.load_ms:.0f} ms. The voice's look-ahead is {report.lookahead_ms:.1f} ms by "
        "its manifest.",
    )


def latency_provenance(report: LatencyReport) -> str:
    """What was run, where, and with what."""
    others = max(clip.others_cores for clip in report.clips)
    return (
        f"`{report.command}` at commit {report.commit}, on {machine.in_words(report.machine)}; "
        f"{in_words(report.versions)}. Other processes took up to {others:.2f} cores."
    )
