"""`comosvc-bench latency`: waiting times for a block of a stream, a short clip, a first second, and long files."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from ...runtime import Converter, Stream
from ...runtime.errors import ComosvcError, OptionError
from ..report import Provenance
from .chain import CLIP_RATE, sung_clip
from .latency_results import STREAM_RATE, LatencyReport, LongFile, Soak, StartUp, Waits
from .low_distance import measure_low_distance
from .timing import Watch, resident_mb

FULL_SIZE = ("full-size", "full-size-light")
"""Names of voices of the published sizes with random weights, the second with the light vocoder."""
_WARM_UP, _SOAK_BLOCK_MS = 2, 20.0
_CLIP_S, _LEAST_BLOCKS = 8.0, 20


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """Choices of `comosvc-bench latency`."""

    model: str = "demo"
    blocks_ms: tuple[float, ...] = (10.0, 20.0, 40.0, 80.0)
    """Of a stream."""
    stream_s: float = 20.0
    """Audio for each size of block."""
    limit_s: float = 60.0
    """Limit for each size of block."""
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


def measure_latency(options: LatencyOptions, command: str, say: Callable[[str], None]) -> LatencyReport:
    """Raises `ComosvcError` where the voice cannot be loaded as asked."""
    model = options.model
    if model in FULL_SIZE:
        from .full_size import AUTHORS_SIZE, LIGHT_SIZE

        say(f"exporting the {model} voice, unless it is there")
        wanted = next(voice for voice in (AUTHORS_SIZE, LIGHT_SIZE) if voice.name == model)
        model = os.fspath(wanted.ready().model)
    loading = {"provider": options.provider, "precision": options.precision, "threads": options.threads}
    start_up = None
    if options.start_up:
        say("start-up")
        start_up = measure_start_up({"model": model, **loading})
    start = time.perf_counter()
    with Converter(model, **loading) as converter:
        load_ms = 1e3 * (time.perf_counter() - start)
        rows = []
        for block_ms in options.blocks_ms:
            say(f"a stream in blocks of {block_ms:g} ms")
            rows.append(measure_blocks(converter, block_ms, options.stream_s, options.limit_s))
        for clip_ms in options.clips_ms:
            say(f"{options.calls} clips of {clip_ms:g} ms")
            rows.append(_measure_clips(converter, clip_ms, options.calls))
        return LatencyReport(
            provenance=Provenance.here(command),
            voice=converter.manifest.name,
            provider=converter.provider,
            precision=converter.precision,
            threads=options.threads,
            load_ms=load_ms,
            lookahead_ms=converter.manifest.lookahead_ms.total,
            rows=tuple(rows),
            start_up=start_up,
            distance=measure_low_distance(converter, say) if options.distance else None,
            soak=measure_soak(converter, options.soak_minutes, say) if options.soak_minutes else None,
            long_files=measure_long_files({"model": model, **loading}, options.long_files_minutes, say),
        )


def _measure_clips(converter: Converter, clip_ms: float, calls: int) -> Waits:
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
    others = watch.stop().others_cores
    return Waits(what="clip", length_ms=clip_ms, first_ms=first_ms, taken_ms=taken, others_cores=others)


_STARTS = 5
_START = """
import time; start = time.perf_counter()
import json, sys
from comosvc.runtime import Converter
imported = time.perf_counter()
options = json.loads(sys.argv[1])
converter = Converter(**options)
loaded = time.perf_counter()
from comosvc.benchmarks.speed.timing import resident_mb
resident = resident_mb()
from comosvc.runtime.providers.self_test import vowel
audio, _ = vowel(converter.spec)
audio = audio[: converter.spec.sample_rate]
begun = time.perf_counter()
converter.convert(audio, converter.spec.sample_rate)
first = time.perf_counter() - begun
print(json.dumps([1e3 * (imported - start), 1e3 * (loaded - imported), 1e3 * first, resident]))
"""
_LONG = """
import json, sys, time
from comosvc.runtime import Converter
from comosvc.benchmarks.speed.timing import high_water_mb
options, source, output = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
converter = Converter(**options)
start = time.perf_counter()
converter.convert_file(source, output)
print(json.dumps([time.perf_counter() - start, high_water_mb()]))
"""


def measure_start_up(options: dict[str, Any]) -> StartUp:
    """`options` are those of `Converter`."""
    found = np.array([_fresh(_START, [json.dumps(options)]) for _ in range(_STARTS)], float)
    imported, load, first, resident = np.median(found, axis=0)
    memory = None if np.isnan(resident) else float(resident)
    return StartUp(import_ms=imported, load_ms=load, first_second_ms=first, resident_mb=memory)


def measure_long_files(
    options: dict[str, Any], minutes: Sequence[float], say: Callable[[str], None]
) -> tuple[LongFile, ...]:
    """Files of these lengths, each converted by a process of its own."""
    found = []
    for length in minutes:
        with TemporaryDirectory() as place:
            say(f"a file of {length:g} minutes")
            source, output = Path(place) / "long.flac", Path(place) / "out.flac"
            _write(source, length)
            seconds, peak = _fresh(_LONG, [json.dumps(options), str(source), str(output)])
            if soundfile.info(output).frames != soundfile.info(source).frames:
                raise ComosvcError(f"the conversion of {length:g} minutes is not as long as its source")
        found.append(LongFile(minutes=length, seconds=seconds, peak_mb=peak))
    return tuple(found)


def _write(path: Path, minutes: float) -> None:
    clip = sung_clip(20.0, CLIP_RATE)
    with soundfile.SoundFile(path, "w", CLIP_RATE, 1) as file:
        left = round(60.0 * minutes * CLIP_RATE)
        while left:
            file.write(clip[:left])
            left -= min(left, len(clip))


def _fresh(code: str, arguments: list[str]) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ComosvcError(f"a process of its own failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def measure_blocks(converter: Converter, block_ms: float, seconds: float, limit_s: float) -> Waits:
    """Blocks for `seconds` of audio; fewer, but `_LEAST_BLOCKS` at least, where that takes longer than `limit_s`."""
    blocks = _Blocks(block_ms)
    with converter.stream(STREAM_RATE, block_ms=block_ms) as stream:
        watch, start = Watch(), time.perf_counter()
        for number in range(max(_LEAST_BLOCKS, round(seconds * STREAM_RATE / blocks.size))):
            blocks.process(stream)
            if number + 1 >= _LEAST_BLOCKS and time.perf_counter() - start > limit_s:
                break
        return Waits(
            what="block",
            length_ms=block_ms,
            latency_ms=1e3 * stream.latency_samples / STREAM_RATE,
            taken_ms=tuple(blocks.taken_ms),
            processor_ms=tuple(blocks.processor_ms),
            others_cores=watch.stop().others_cores,
        )


def measure_soak(converter: Converter, minutes: float, say: Callable[[str], None]) -> Soak:
    """`minutes` of audio through one stream; a part of a minute counts as one."""
    blocks = _Blocks(_SOAK_BLOCK_MS)
    per_minute = round(60.0 * STREAM_RATE / blocks.size)
    count = round(minutes * per_minute)
    medians, worst, resident, in_time = [], [], [], 0
    with converter.stream(STREAM_RATE, block_ms=_SOAK_BLOCK_MS) as stream:
        watch, start = Watch(), time.perf_counter()
        for minute in range(math.ceil(count / per_minute)):
            say(f"minute {minute + 1} of {minutes:g}")
            blocks.forget()  # the memory in use shall be that of the stream
            for _ in range(min(per_minute, count - minute * per_minute)):
                blocks.process(stream)
            medians.append(float(np.median(blocks.taken_ms)))
            worst.append(float(np.percentile(blocks.taken_ms, 99)))
            in_time += int(np.count_nonzero(np.array(blocks.taken_ms) <= _SOAK_BLOCK_MS))
            resident.append(resident_mb())
        return Soak(
            block_ms=_SOAK_BLOCK_MS,
            minutes=minutes,
            seconds=time.perf_counter() - start,
            median_ms=tuple(medians),
            p99_ms=tuple(worst),
            in_time=in_time / count,
            resident_mb=tuple(resident),
            others_cores=watch.stop().others_cores,
        )


class _Blocks:
    """Sung blocks of one size without an end, and the times that a stream took for them."""

    def __init__(self, block_ms: float) -> None:
        self.size = round(1e-3 * block_ms * STREAM_RATE)
        self._audio, self._first = sung_clip(_CLIP_S, STREAM_RATE).astype(np.float32), 0
        self.forget()

    def forget(self) -> None:
        self.taken_ms: list[float] = []
        self.processor_ms: list[float] = []

    def process(self, stream: Stream) -> None:
        block = np.take(self._audio, np.arange(self._first, self._first + self.size), mode="wrap")
        self._first += self.size
        wall, busy = time.perf_counter(), time.process_time()
        stream.process(block)
        self.taken_ms.append(round(1e3 * (time.perf_counter() - wall), 4))
        self.processor_ms.append(round(1e3 * (time.process_time() - busy), 4))
