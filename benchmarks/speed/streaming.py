"""Streams block by block, start-up, and long files, each in a fresh process."""

import json
import math
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

from ...runtime import Converter
from ...runtime.errors import ComosvcError
from .chain import sung_clip
from .timing import Watch, resident_mb

_STARTS = 5
_FILE_RATE = 44_100

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
    """`convert_file` in a process of its own; `peak_mb` is all that it ever had."""

    minutes: float
    seconds: float
    peak_mb: float | None


def measure_start_up(options: dict[str, Any]) -> StartUp:
    """`options` are those of `Converter`."""
    found = np.array([_fresh(_START, [json.dumps(options)]) for _ in range(_STARTS)], float)
    imported, load, first, resident = np.median(found, axis=0)
    memory = None if np.isnan(resident) else float(resident)
    return StartUp(import_ms=imported, load_ms=load, first_second_ms=first, resident_mb=memory)


def measure_long_files(
    options: dict[str, Any], minutes: Sequence[float], folder: Path | None, say: Callable[[str], None]
) -> tuple[LongFile, ...]:
    """Files of these lengths, written and converted in `folder` (None: the system's for temporary files)."""
    found = []
    for length in minutes:
        with TemporaryDirectory(dir=folder) as place:
            say(f"a file of {length:g} minutes")
            source, output = Path(place) / "long.flac", Path(place) / "out.flac"
            _write(source, length)
            seconds, peak = _fresh(_LONG, [json.dumps(options), str(source), str(output)])
            if soundfile.info(output).frames != soundfile.info(source).frames:
                raise ComosvcError(f"the conversion of {length:g} minutes is not as long as its source")
        found.append(LongFile(minutes=length, seconds=seconds, peak_mb=peak))
    return tuple(found)


def _write(path: Path, minutes: float) -> None:
    clip = sung_clip(20.0, _FILE_RATE)
    with soundfile.SoundFile(path, "w", _FILE_RATE, 1) as file:
        left = round(60.0 * minutes * _FILE_RATE)
        while left:
            file.write(clip[:left])
            left -= min(left, len(clip))


def _fresh(code: str, arguments: list[str]) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ComosvcError(f"a process of its own failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


STREAM_RATE = 48_000
"""Of what is streamed: an audio device's usual rate, so that resampling is counted."""
_CLIP_S, _LEAST_BLOCKS = 8.0, 20


@dataclass(frozen=True, kw_only=True)
class BlockLatency:
    """Blocks of one size through a stream of `STREAM_RATE`, after its warm-up."""

    block_ms: float
    latency_ms: float
    """By which the output lags behind the input: `Stream.latency_samples`."""
    blocks_ms: tuple[float, ...]
    """Time that each call of `process` took."""
    processor_ms: tuple[float, ...]
    """Processor time of the same calls: what they would take if nobody else was at work."""
    others_cores: float

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.blocks_ms, share))

    @property
    def in_time(self) -> float:
        """Share of the blocks that took no longer than they last."""
        return float(np.mean(np.array(self.blocks_ms) <= self.block_ms))

    @property
    def total_ms(self) -> float:
        """Latency and the 99th percentile of a block's computation."""
        return self.latency_ms + self.percentile(99)


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


def measure_blocks(converter: Converter, block_ms: float, seconds: float, limit_s: float) -> BlockLatency:
    """Blocks for `seconds` of audio; fewer, but `_LEAST_BLOCKS` at least, where that takes longer than `limit_s`."""
    size = round(1e-3 * block_ms * STREAM_RATE)
    audio = sung_clip(_CLIP_S, STREAM_RATE).astype(np.float32)
    count = max(_LEAST_BLOCKS, round(seconds * STREAM_RATE / size))
    with converter.stream(STREAM_RATE, block_ms=block_ms) as stream:
        taken, processor = [], []
        watch, start = Watch(), time.perf_counter()
        for number in range(count):
            block = np.take(audio, np.arange(number * size, (number + 1) * size), mode="wrap")
            wall, busy = time.perf_counter(), time.process_time()
            stream.process(block)
            taken.append(round(1e3 * (time.perf_counter() - wall), 4))
            processor.append(round(1e3 * (time.process_time() - busy), 4))
            if number + 1 >= _LEAST_BLOCKS and time.perf_counter() - start > limit_s:
                break
        return BlockLatency(
            block_ms=block_ms,
            latency_ms=1e3 * stream.latency_samples / STREAM_RATE,
            blocks_ms=tuple(taken),
            processor_ms=tuple(processor),
            others_cores=watch.stop().others_cores,
        )


def measure_soak(converter: Converter, block_ms: float, minutes: float, say: Callable[[str], None]) -> Soak:
    """`minutes` of audio through one stream; a part of a minute counts as one."""
    size = round(1e-3 * block_ms * STREAM_RATE)
    audio = sung_clip(_CLIP_S, STREAM_RATE).astype(np.float32)
    per_minute = round(60.0 * STREAM_RATE / size)
    left = round(minutes * per_minute)
    medians, worst, resident, in_time = [], [], [], 0
    with converter.stream(STREAM_RATE, block_ms=block_ms) as stream:
        watch, start, number = Watch(), time.perf_counter(), 0
        for minute in range(math.ceil(left / per_minute)):
            say(f"minute {minute + 1} of {minutes:g}")
            taken = []
            for _ in range(min(per_minute, left - number)):
                block = np.take(audio, np.arange(number * size, (number + 1) * size), mode="wrap")
                wall = time.perf_counter()
                stream.process(block)
                taken.append(1e3 * (time.perf_counter() - wall))
                number += 1
            medians.append(float(np.median(taken)))
            worst.append(float(np.percentile(taken, 99)))
            in_time += int(np.count_nonzero(np.array(taken) <= block_ms))
            resident.append(resident_mb())
        return Soak(
            block_ms=block_ms,
            minutes=minutes,
            seconds=time.perf_counter() - start,
            median_ms=tuple(medians),
            p99_ms=tuple(worst),
            in_time=in_time / left,
            resident_mb=tuple(resident),
            others_cores=watch.stop().others_cores,
        )
