"""A stream, block by block: how long each takes, and whether that stays so."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...runtime import Converter
from .clips import sung_clip
from .memory import resident_mb
from .noise import Watch

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
