"""Live conversion in blocks of any size: as many samples out as in, a constant time later."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track, clip_frames
from ..audio.resampling import CANCELLED_LIVE, PhaseMeter, as_samples, take_channel
from ..audio.world_f0 import f0_warnings
from ..errors import AudioError, ComosvcError, OptionError
from ..voice.bundle import Bundle
from ..voice.singers import FOUND_KEYS, check_semitones, voice_of
from .calls import Batches, Runnable
from .low_latency import LowLatency, latency_samples
from .request import Request, check_f0
from .stages import Clip, Timings, run

SingerChoice = str | Mapping[str, float] | None
"""A name, weights by name for a blend, or None for the voice's first."""
_AT_ONCE_S = 1.0  # longer blocks are taken apart, so that memory stays flat


class Stream:
    """A conversion that goes on. Made by `Converter.stream`; for one thread at a time.

    The output is that of `convert(..., latency="low")` for the whole input, `latency_samples` later; but channels that
    cancel each other stay mixed, and `warnings` says so.
    """

    def __init__(
        self,
        bundle: Bundle,
        ready: Callable[[], Mapping[str, Runnable]],
        request: Request,
        sample_rate: int,
        block_ms: float,
        channel: str,
    ) -> None:
        self._bundle, self._ready, self._request = bundle, ready, replace(request, piece_s=_AT_ONCE_S)
        self._sample_rate, self._channel = sample_rate, channel
        self._latency_samples = latency_samples(bundle.manifest, sample_rate, request.steps)
        given = request.f0_hz is not None
        self._f0_warnings = () if given else tuple(f0_warnings(bundle.manifest.model.f0_extractor, live=True))
        self._busy, self._closed = threading.Lock(), False
        self._warm_up(max(1, round(1e-3 * block_ms * sample_rate)))

    def __repr__(self) -> str:
        singers, closed = " + ".join(self._request.voice.weights), ", closed" if self._closed else ""
        latency = f"{self.latency_samples} samples of latency"
        return f"<Stream at {self.sample_rate} Hz, {singers}, key {self.key:+g}, {latency}{closed}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stream cannot be pickled or copied: it holds the song so far\n"
            "hint: pickle the Converter, and make a stream where it is unpickled"
        )

    @property
    def sample_rate(self) -> int:
        """Sample rate of input and output, in Hz."""
        return self._sample_rate

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the result so far."""
        phase = (CANCELLED_LIVE,) if self._phase.cancelled else ()
        return (*self._f0_warnings, *phase, *self._chain.pitch_survey.warnings())

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input, always."""
        return self._latency_samples

    def process(self, audio: NDArray[Any]) -> NDArray[np.float32]:
        """The next samples in, (n,) or (n, channels), of the types that `convert` takes; as many out, float32 (n,).

        Raises `AudioError` for samples that are none, such as NaN, and takes nothing of that block. After any other
        error, of a graph for instance, the block is lost and the stream begins anew with the next, whose output begins
        with `latency_samples` zeros. So play silence for a block that raised.
        """
        with self._in_use():
            if self._ended:
                raise ComosvcError("this stream was flushed: nothing comes after its end\nhint: stream.reset()")
            if np.shape(audio)[:1] == (0,):
                return np.zeros(0, np.float32)
            block = as_samples(audio, "the block")
            samples = take_channel(block, self._channel, "the block", self._skipped + self._chain.n_samples)
            self._check_given_f0_covers(self._skipped + self._chain.n_samples + len(samples))
            if self._channel == "mid" and block.ndim == 2:
                self._phase.add(block)
            length, end = round(_AT_ONCE_S * self.sample_rate), self._chain.n_samples + len(samples)
            try:
                return np.concatenate([self._push(samples[at : at + length]) for at in range(0, len(samples), length)])
            except BaseException:
                self._begin(self._skipped + end)
                raise

    def flush(self) -> NDArray[np.float32]:
        """The rest, exactly `latency_samples`, as if silence followed. `reset` begins anew.

        Whether it raises or not, this was the stream's end.
        """
        with self._in_use():
            if self._ended:
                raise ComosvcError("this stream was flushed already\nhint: stream.reset() begins anew")
            self._ended = True
            if self._chain.n_samples:
                self._chain.listen(np.zeros(0, np.float32), last=True)
                self._compute()
            return self._take(self._chain.n_samples, self.latency_samples)

    def reset(self) -> None:
        """Forget all input. Singer and key stay; a given F0 begins again."""
        with self._in_use():
            self._begin()

    def close(self) -> None:
        """End; the converter stays open."""
        self._closed = True

    @property
    def singer(self) -> SingerChoice:
        """The target singer: weights by name. A name, weights or None may be assigned between blocks."""
        return self._request.voice.weights

    @singer.setter
    def singer(self, singer: SingerChoice) -> None:
        with self._in_use():
            self._retarget(replace(self._request, voice=voice_of(self._bundle, singer)))

    @property
    def key(self) -> float:
        """Semitones up; may be assigned between blocks."""
        assert self._request.key is not None
        return self._request.key

    @key.setter
    def key(self, key: float) -> None:
        with self._in_use():
            key = stream_key(key)
            if self._request.f0_hz is not None:
                check_f0(self._request.f0_hz, key, self._bundle.manifest.audio.sample_rate)
            self._retarget(replace(self._request, key=key))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _retarget(self, request: Request) -> None:
        self._request = request
        self._chain.retarget(request)

    def _begin(self, skipped: int = 0) -> None:
        """Begin a new chain. A given F0 continues `skipped` samples later, to the nearest frame."""
        manifest, request = self._bundle.manifest, self._request
        if request.f0_hz is not None:
            frame = round(skipped / self.sample_rate * manifest.audio.frame_rate_hz)
            request = replace(request, f0_hz=request.f0_hz[frame:])
        self._chain = LowLatency(manifest, request, self.sample_rate, Timings(float))
        self._out, self._ended, self._skipped, self._phase = Track(), False, skipped, PhaseMeter()

    def _compute(self) -> None:
        """Append all that the input so far allows to the output."""
        run(Clip(self._chain.stages()), Batches(self._ready()))
        self._out.append(self._chain.emit())

    def _warm_up(self, block: int) -> None:
        """Let every graph run at the size of a block before the first that counts: first runs take longer."""
        noise = 0.1 * np.random.default_rng(0).standard_normal(self.latency_samples + 3 * block)
        self._begin()
        for at in range(0, len(noise), block):
            self._push(noise[at : at + block].astype(np.float32))
        self._begin()

    def _push(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        self._chain.listen(audio, last=False)
        # An earlier block may have made enough output for a small one.
        if self._out.end < self._chain.n_samples - self.latency_samples:
            self._compute()
        return self._take(self._chain.n_samples - len(audio), len(audio))

    def _take(self, position: int, count: int) -> NDArray[np.float32]:
        """The `count` samples that go out while the input goes on from `position`; before the first there are zeros."""
        first, last = position - self.latency_samples, position - self.latency_samples + count
        out = self._out.read(max(0, first), max(0, last))
        self._out.forget(last)
        return np.pad(out, (count - len(out), 0))

    def _check_given_f0_covers(self, n_samples: int) -> None:
        if self._request.f0_hz is None:
            return
        manifest = self._bundle.manifest
        given = len(self._request.f0_hz)
        needed = clip_frames(n_samples, self.sample_rate, manifest.audio, manifest.front_end)
        if needed > given:
            raise AudioError(
                f"the block goes on to sample {n_samples}, which is mel frame {needed}, and f0_hz ends after {given}; "
                "nothing of the block was taken\n"
                "hint: give F0 of the whole input, Converter.frames(samples, sample_rate) numbers"
            )

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise ComosvcError(
                "this stream is in use by another thread\nhint: a stream is one singer's; make one for each thread"
            )
        try:
            if self._closed:
                raise ComosvcError("this stream is closed\nhint: make another with Converter.stream, or close it later")
            self._ready()
            yield
        finally:
            self._busy.release()


def stream_key(key: float | str) -> float:
    """`key` in semitones. Raises `OptionError`, also for "auto" and "octave"."""
    if isinstance(key, str) and key in FOUND_KEYS:
        raise OptionError(
            f"key is {key!r}, which needs the whole song, and a stream gets it block by block\n"
            "hint: give semitones, for instance those that convert(..., key='auto') found for this singer"
        )
    return check_semitones(key)
