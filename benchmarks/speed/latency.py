"""`comosvc-bench latency`: how long a caller waits, for a block of a stream or for a short clip."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import Converter
from ...runtime.errors import OptionError
from ..quality.low_distance import LowDistance, measure_low_distance
from ..report import WordTable, current_commit, in_words, installed_versions
from . import timing as machine
from .chain import sung_clip
from .results import FORMAT_VERSION, ResultError, read_results
from .streaming import (
    STREAM_RATE,
    BlockLatency,
    LongFile,
    Soak,
    StartUp,
    measure_blocks,
    measure_long_files,
    measure_soak,
    measure_start_up,
)
from .timing import Watch
from .voices import CLIP_RATE

FULL_SIZE = ("full-size", "full-size-light")
"""Stand for voices of the published sizes with random weights, the second with the light vocoder."""
_WARM_UP, _SOAK_BLOCK_MS = 2, 20.0


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """What is measured."""

    model: str = "demo"
    blocks_ms: tuple[float, ...] = (10.0, 20.0, 40.0, 80.0)
    """Of a stream."""
    stream_s: float = 20.0
    """Audio for each size of block."""
    limit_s: float = 60.0
    """... which ends early where it takes longer than this."""
    clips_ms: tuple[float, ...] = (250.0, 500.0, 1000.0, 2000.0)
    calls: int = 50
    start_up: bool = False
    distance: bool = False
    """Low latency against the default, on the held-out set of the demo voice."""
    soak_minutes: float = 0.0
    long_files_minutes: tuple[float, ...] = ()
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
    """What a live conversion with this voice waits for, by its manifest."""
    clips: tuple[ClipLatency, ...]
    blocks: tuple[BlockLatency, ...] = ()
    start_up: StartUp | None = None
    distance: LowDistance | None = None
    soak: Soak | None = None
    long_files: tuple[LongFile, ...] = ()
    machine: dict[str, Any] = field(default_factory=machine.machine_facts)
    versions: dict[str, str] = field(default_factory=installed_versions)
    commit: str | None = field(default_factory=current_commit)


def measure_latency(options: LatencyOptions, command: str, say: Callable[[str], None]) -> LatencyReport:
    """Raises `ComosvcError` where the voice cannot be loaded as asked."""
    model = options.model
    if model in FULL_SIZE:
        from .full_size import AUTHORS_SIZE, LIGHT_SIZE

        say(f"exporting the {model} voice, unless it is there")
        wanted = next(voice for voice in (AUTHORS_SIZE, LIGHT_SIZE) if voice.name == model)
        model = os.fspath(wanted.ready().model)
    loading = {"provider": options.provider, "precision": options.precision, "threads": options.threads}
    fresh = {"model": model, **loading}
    start_up = long_files = None
    if options.start_up:
        say("start-up")
        start_up = measure_start_up(fresh)
    start = time.perf_counter()
    with Converter(model, **loading) as converter:
        load_ms = 1e3 * (time.perf_counter() - start)
        blocks, clips = [], []
        for block_ms in options.blocks_ms:
            say(f"a stream in blocks of {block_ms:g} ms")
            blocks.append(measure_blocks(converter, block_ms, options.stream_s, options.limit_s))
        for clip_ms in options.clips_ms:
            say(f"{options.calls} clips of {clip_ms:g} ms")
            clips.append(_calls(converter, clip_ms, options.calls))
        distance = measure_low_distance(converter, say) if options.distance else None
        soak = measure_soak(converter, _SOAK_BLOCK_MS, options.soak_minutes, say) if options.soak_minutes else None
        if options.long_files_minutes:
            long_files = measure_long_files(fresh, options.long_files_minutes, None, say)
        return LatencyReport(
            command=command,
            voice=converter.manifest.name,
            provider=converter.provider,
            precision=converter.precision,
            threads=options.threads,
            load_ms=load_ms,
            lookahead_ms=converter.manifest.lookahead_ms.total,
            clips=tuple(clips),
            blocks=tuple(blocks),
            start_up=start_up,
            distance=distance,
            soak=soak,
            long_files=long_files or (),
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
        for name, kind in (("clips", ClipLatency), ("blocks", BlockLatency), ("long_files", LongFile)):
            body[name] = tuple(kind(**_tuples(row)) for row in body.pop(name))
        for name, kind in (("start_up", StartUp), ("distance", LowDistance), ("soak", Soak)):
            body[name] = None if body[name] is None else kind(**_tuples(body[name]))
        return LatencyReport(**body)
    except (KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def latency_grids(report: LatencyReport) -> tuple[WordTable, ...]:
    """Blocks of a stream, whole clips, and what else was asked for."""
    grids = [_block_grid(report)] if report.blocks else []
    grids += [_clip_grid(report)] if report.clips else []
    facts = _facts(report)
    if facts:
        grids.append(WordTable(title=f"further: {_what(report)}", heads=("what", "measured"), rows=tuple(facts)))
    return tuple(grids)


def _what(report: LatencyReport) -> str:
    return f"{report.voice} on {report.provider} in {report.precision}, {report.threads} thread(s)"


def _block_grid(report: LatencyReport) -> WordTable:
    rows = []
    for block in report.blocks:
        taken = (block.percentile(50), block.percentile(95), block.percentile(99))
        busy_ms = float(np.percentile(block.processor_ms, 99))
        numbers = (block.latency_ms, *taken, busy_ms)
        shown = [*(f"{ms:.1f}" for ms in numbers), f"{block.in_time:.1%}", f"{block.total_ms:.1f}"]
        rows.append((f"{block.block_ms:g} ms", *shown))
    return WordTable(
        title=f"a stream at {STREAM_RATE / 1e3:g} kHz, ms: {_what(report)}",
        heads=("block", "latency", "p50", "p95", "p99", "p99 of processor time", "in time", "latency + p99"),
        rows=tuple(rows),
        note="Latency: by how much what comes out lags behind what goes in, resampling included. p50 to p99: the "
        "computation of a block; in time: the share of blocks that took no longer than they last. Not counted: the "
        "block that an audio device collects first, and the device itself.",
    )


def _facts(report: LatencyReport) -> list[tuple[str, str]]:
    rows = []
    if (start := report.start_up) is not None:
        rows.append(
            (
                "start-up, fresh process",
                f"{start.total_ms:.0f} ms: import {start.import_ms:.0f}, load {start.load_ms:.0f}, first second of "
                f"audio {start.first_second_ms:.0f}; {_mb(start.resident_mb)} after loading",
            )
        )
    if (far := report.distance) is not None:
        rows.append(
            (
                "low latency against the default",
                f"{far.n} held-out conversions: log mel L1 {far.mel_l1:.3f} nepers; F0 {far.f0_cents:.1f} cents RMS, "
                f"{far.f0_gross:.1%} gross, voicing differs in {far.f0_voicing:.1%}; to the true singer "
                f"{far.low_truth_l1:.3f} (default {far.truth_l1:.3f}, unconverted {far.unconverted_l1:.3f})",
            )
        )
        rows += _stream_facts(far)
    if (soak := report.soak) is not None:
        rows.append(
            (
                f"{soak.minutes:g} min in one stream, blocks of {soak.block_ms:g} ms",
                f"{soak.seconds / 60:.1f} min; {soak.in_time:.2%} of blocks in time; median of a block in the first "
                f"minute {soak.median_ms[0]:.1f} ms, in the last {soak.median_ms[-1]:.1f} ms; memory after the first "
                f"{_mb(soak.resident_mb[0])}, after the last {_mb(soak.resident_mb[-1])}",
            )
        )
    for file in report.long_files:
        speed = file.seconds / (60 * file.minutes)
        rows.append((f"a file of {file.minutes:g} min", f"RTF {speed:.3f}; {_mb(file.peak_mb)} at most"))
    return rows


def _stream_facts(far: LowDistance) -> list[tuple[str, str]]:
    if far.stream_snr_db is None or far.stream_mel_l1 is None or far.stream_f0_cents is None:
        return []
    own, given = (
        f"{snr_db:.1f} dB, {mel_l1:.1g} nepers, {cents:.1g} cents"
        for snr_db, mel_l1, cents in zip(far.stream_snr_db, far.stream_mel_l1, far.stream_f0_cents, strict=True)
    )
    words = (
        "the same conversions, at 16 to 48 kHz in blocks of 10 to 333 ms, the worst of each: waveform SNR, log mel L1, "
        f"F0 RMS {own} with its own F0; {given} with F0 given"
    )
    return [("a stream against low latency of the whole", words)]


def _mb(memory_mb: float | None) -> str:
    return "memory not known" if memory_mb is None else f"{memory_mb:.0f} MB"


def _clip_grid(report: LatencyReport) -> WordTable:
    rows = []
    for clip in report.clips:
        shown = [clip.first_ms, *(clip.percentile(share) for share in (50, 95, 99))]
        rows.append((f"{clip.clip_ms:g} ms", *(f"{ms:.3g}" for ms in shown), f"{clip.in_time:.0%}"))
    return WordTable(
        title=f"whole clips, each a call of convert() of its own, ms: {_what(report)}",
        heads=("clip", "first call", "p50", "p95", "p99", "within its own length"),
        rows=tuple(rows),
        note=f"Loading took {report.load_ms:.0f} ms.",
    )


def latency_provenance(report: LatencyReport) -> str:
    """What was run, where, and with what."""
    timed = (*report.clips, *report.blocks, *([] if report.soak is None else [report.soak]))
    others = f" Other processes took up to {max(row.others_cores for row in timed):.2f} cores." if timed else ""
    return (
        f"`{report.command}` at commit {report.commit}, on {machine.in_words(report.machine)}; "
        f"{in_words(report.versions)}.{others}"
    )
