"""Records and tables of `comosvc-bench latency`. A figure that was not measured is None."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..report import Result, Table

STREAM_RATE = 48_000
"""Of the streams: an audio device's usual rate, so that resampling is counted."""


@dataclass(frozen=True, kw_only=True)
class Waits:
    """Computing times of the blocks of a stream, or of whole clips, of one length."""

    what: str
    """"block" or "clip"."""
    length_ms: float
    taken_ms: tuple[float, ...]
    processor_ms: tuple[float, ...] = ()
    """Processor time of the same blocks: their time on an idle machine."""
    latency_ms: float | None = None
    """Delay of a stream's output: `Stream.latency_samples`."""
    first_ms: float | None = None
    """The first call with a clip of this length, which is not among `taken_ms`."""
    others_cores: float

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.taken_ms, share))

    @property
    def in_time(self) -> float:
        """Share of those that took no longer than they last."""
        return float(np.mean(np.array(self.taken_ms) <= self.length_ms))


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """Medians of several fresh processes: `import comosvc.runtime`, `Converter(...)`, a first second of audio."""

    import_ms: float
    load_ms: float
    first_second_ms: float
    resident_mb: float | None
    """After loading."""

    @property
    def total_ms(self) -> float:
        return self.import_ms + self.load_ms + self.first_second_ms


@dataclass(frozen=True, kw_only=True)
class LongFile:
    """`convert_file` in a process of its own, and the most memory that it had."""

    minutes: float
    seconds: float
    peak_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Soak:
    """One stream for a long time, as fast as it goes. One number for each minute of audio."""

    block_ms: float
    minutes: float
    seconds: float
    """That it took."""
    median_ms: tuple[float, ...]
    p99_ms: tuple[float, ...]
    in_time: float
    """Share of all blocks that took no longer than they last."""
    resident_mb: tuple[float | None, ...]
    others_cores: float


@dataclass(frozen=True, kw_only=True)
class LowDistance:
    """Low latency against the default, means over conversions. Mels are log mels of the audio, distances in nepers;
    F0 is that given to the model.
    """

    n: int
    mel_l1: float
    """Between the two."""
    f0_cents: float
    """Root mean square between the two, frames that are more than half a semitone apart left out."""
    f0_gross: float
    """Share of those."""
    f0_voicing: float
    truth_l1: float
    """From the default to the true singer."""
    low_truth_l1: float
    """From low latency to the true singer."""
    unconverted_l1: float
    stream_snr_db: tuple[float, float] | None = None
    """The least of a stream's against low latency of the whole: with its own F0, with the song's true F0 given."""
    stream_mel_l1: tuple[float, float] | None = None
    """The greatest distance of the log mels of the same two."""
    stream_f0_cents: tuple[float, float] | None = None
    """The greatest root mean square between the F0 found in the one and in the other, no frame left out."""


@dataclass(frozen=True, kw_only=True)
class LatencyReport(Result):
    """A run of `comosvc-bench latency`."""

    kind: ClassVar[str] = "latency"
    voice: str
    provider: str
    precision: str
    threads: int
    load_ms: float
    lookahead_ms: float
    """Look-ahead of a live conversion with this voice, by its manifest."""
    rows: tuple[Waits, ...] = ()
    start_up: StartUp | None = None
    distance: LowDistance | None = None
    soak: Soak | None = None
    long_files: tuple[LongFile, ...] = ()

    def waits(self, what: str) -> list[Waits]:
        """Those of blocks, or of clips."""
        return [row for row in self.rows if row.what == what]

    @property
    def note(self) -> str:
        timed = (*self.rows, *([] if self.soak is None else [self.soak]))
        words = f" Other processes took up to {max(row.others_cores for row in timed):.2f} cores." if timed else ""
        return f"{self.provenance}{words}"


def latency_tables(report: LatencyReport) -> tuple[Table, ...]:
    """Tables of the blocks of a stream, of whole clips, and of the other measurements."""
    further = Table(title=f"further: {_what(report)}", heads=("what", "measured"), rows=tuple(_facts(report)))
    return tuple(table for table in (_block_table(report), _clip_table(report), further) if table.rows)


def _what(report: LatencyReport) -> str:
    return f"{report.voice} on {report.provider} in {report.precision}, {report.threads} thread(s)"


def _block_table(report: LatencyReport) -> Table:
    rows = []
    for block in report.waits("block"):
        taken = (block.percentile(50), block.percentile(95), block.percentile(99))
        busy_ms = float(np.percentile(block.processor_ms, 99))
        numbers = (block.latency_ms or 0.0, *taken, busy_ms)
        shown = [*(f"{ms:.1f}" for ms in numbers), f"{block.in_time:.1%}", f"{numbers[0] + taken[2]:.1f}"]
        rows.append((f"{block.length_ms:g} ms", *shown))
    return Table(
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


def _clip_table(report: LatencyReport) -> Table:
    rows = []
    for clip in report.waits("clip"):
        shown = [clip.first_ms or 0.0, *(clip.percentile(share) for share in (50, 95, 99))]
        rows.append((f"{clip.length_ms:g} ms", *(f"{ms:.3g}" for ms in shown), f"{clip.in_time:.0%}"))
    return Table(
        title=f"whole clips, each a call of convert() of its own, ms: {_what(report)}",
        heads=("clip", "first call", "p50", "p95", "p99", "within its own length"),
        rows=tuple(rows),
        note=f"Loading took {report.load_ms:.0f} ms.",
    )
