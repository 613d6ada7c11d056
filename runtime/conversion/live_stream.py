"""A stream behind an audio callback. The callback copies and never waits; a thread computes."""

import atexit
import logging
import os
import threading
from typing import Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from ..audio.features import RUMBLE_HZ, HighPass
from ..audio.resampling import mono
from ..errors import AudioError, ComosvcError, OptionError, abridged, finite, milliseconds, one_of
from .stream import SingerChoice, Stream

DeadlinePolicy = Literal["hold", "dry", "silence"]
DEADLINE_POLICIES: tuple[str, ...] = get_args(DeadlinePolicy)
_KEPT_S = 2.0
"""Input and output that are kept. A computation that is further behind starts anew at the present."""
_HELD_S = 0.5
"""Seconds in which "hold" repeats a block: covers a short gap without turning a long one into a drone."""
_BETWEEN_ERRORS_S = 1.0
"""Seconds of audio between two errors. A second error after less audio ends the computation."""
_log = logging.getLogger(__name__)


class LiveStream:
    """A stream for audio callbacks: `exchange` takes a block and returns as much at once, without waiting for graphs.

    The output is the converted input of `latency_samples` earlier: the latency of the stream, and a block of time to
    compute in. For an output that is not ready `policy` fills in and `underruns` counts; late output is left out, so
    that the latency is constant. "hold" repeats the last ready block for half a second, "dry" gives the delayed input,
    "silence" zeros. A block below `gate_db` (RMS without offset and rumble, full scale at 0 dB) counts as silence. So
    does a block with invalid samples (NaN, far beyond full scale), which `bad_blocks` counts. After an error of a graph
    the computation starts again; a second error within a second ends it.
    """

    def __init__(
        self, stream: Stream, block_ms: float = 20.0, policy: DeadlinePolicy = "hold", gate_db: float | None = None
    ) -> None:
        """`stream` belongs to this from `start` on; `change` sets its singer and key.

        `block_ms`: more than 0 and at most 1000; the length that is computed at a time and that `exchange` takes
        (`block_samples`). `policy`: "hold", "dry" or "silence". `gate_db`: -120 to 0 dB, or None for no gate.
        Raises `OptionError`.
        """
        self._stream, self._policy = stream, one_of("the deadline policy", policy, DEADLINE_POLICIES)
        block_ms = milliseconds("block_ms", block_ms)
        if gate_db is not None and not -120.0 <= finite(gate_db) <= 0.0:
            raise OptionError(f"the input gate is {abridged(gate_db)} dB; it must be -120 to 0 dB, or None")
        self._gate = 0.0 if gate_db is None else 10.0 ** (finite(gate_db) / 20.0)
        self._without_rumble = HighPass(stream.sample_rate, RUMBLE_HZ)
        self._block_samples = max(1, round(1e-3 * block_ms * stream.sample_rate))
        self._kept = round(_KEPT_S * stream.sample_rate)
        self._size = 2 * self._kept + self.latency_samples
        self._heard, self._sung = np.zeros(self._size, np.float32), np.zeros(self._size, np.float32)
        self._heard_end = self._sung_end = 0
        self._sung_from = 0  # output before this position was never computed
        self._held = np.zeros(self.block_samples, np.float32)  # for "hold"
        self._held_for = 0
        self._underruns, self._restarts, self._bad_blocks = 0, 0, 0
        self._bad_block: AudioError | None = None
        self._error: Exception | None = None
        self._changed, self._turn = threading.Condition(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._process = os.getpid()

    @property
    def block_samples(self) -> int:
        """Samples that `exchange` takes: this number, or a multiple."""
        return self._block_samples

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input: the stream's own, and a block to compute in."""
        return self._stream.latency_samples + self._block_samples

    @property
    def underruns(self) -> int:
        """Blocks that were not ready in time."""
        return self._underruns

    @property
    def restarts(self) -> int:
        """Number of restarts of the computation at the current input, because it was late or a graph failed."""
        return self._restarts

    @property
    def bad_blocks(self) -> int:
        """Number of blocks with invalid samples, which counted as silence."""
        return self._bad_blocks

    @property
    def bad_block(self) -> AudioError | None:
        """Error of the last such block, or None."""
        return self._bad_block

    @property
    def error(self) -> Exception | None:
        """The exception that ended the computation, or None."""
        return self._error

    def __repr__(self) -> str:
        counts = f"{self.underruns} underruns, {self.restarts} restarts"
        return f"<LiveStream of {self._stream!r}, {self.block_samples} samples a block, {counts}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a live stream cannot be pickled or copied: it has a thread of its own")

    @property
    def n_samples(self) -> int:
        """Number of input samples so far."""
        return self._heard_end

    def start(self) -> None:
        """Begin to compute."""
        if self._thread is not None:
            raise ComosvcError("this live stream was started already\nhint: one start; make another after stop")
        self._thread = threading.Thread(target=self._run, name="comosvc-live", daemon=True)
        # A thread that is inside a graph when the interpreter ends takes the process down.
        atexit.register(self.stop)
        self._thread.start()

    def stop(self) -> None:
        """End the computation and discard pending output. Called at the interpreter's end too."""
        atexit.unregister(self.stop)
        if self._process != os.getpid():
            return  # the thread belongs to the process before the fork, and may hold the lock for ever
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def change(self, singer: SingerChoice = None, key: float | None = None) -> None:
        """Change singer or key from the next block on. Raises `OptionError`."""
        with self._turn:
            if singer is not None:
                self._stream.singer = singer
            if key is not None:
                self._stream.key = key

    def exchange(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """`block_samples` of mono float32 in, or a multiple; the same number out. Only checks and copies.

        Raises `ComosvcError` if it is not running.
        """
        if self._thread is None or self._stopped or self._process != os.getpid():
            what = "was started in another process" if self._process != os.getpid() else "was stopped"
            what = "has not been started" if self._thread is None else what
            raise ComosvcError(f"this live stream {what}\nhint: start() before the first block, stop() after the last")
        if np.ndim(audio) != 1:
            raise AudioError(f"the block has shape {np.shape(audio)}; a live stream takes mono, (samples,)")
        count = len(audio)
        if not count:
            return np.zeros(0, np.float32)
        if count % self.block_samples or count > self._kept:
            raise ComosvcError(
                f"a block of {count} samples; this live stream takes {self.block_samples}, or a multiple up to "
                f"{_KEPT_S:g} s\nhint: a fixed block size of the audio device, and block_ms to match it"
            )
        try:
            audio = mono(audio, "the block", self._heard_end)
        except AudioError as error:
            self._bad_blocks, self._bad_block = self._bad_blocks + 1, error
            audio = np.zeros(count, np.float32)
        with self._changed:
            _write(self._heard, self._heard_end, audio)
            self._heard_end += count
            self._changed.notify()
            first = self._heard_end - count - self.latency_samples
            ready = _read(self._sung, max(0, first), max(0, first + count))
            missing = first + count > self._sung_end or max(0, first) < self._sung_from
            if not missing:
                out = np.pad(ready, (count - len(ready), 0))
                self._held, self._held_for = out[-self.block_samples :], 0
                return out
            self._underruns += 1
            self._held_for += count
            if self._policy == "dry":
                dry = _read(self._heard, max(0, first), max(0, first + count))
                return np.pad(dry, (count - len(dry), 0))
            hold = self._policy == "hold" and self._held_for <= _HELD_S * self._stream.sample_rate
            return np.resize(self._held, count) if hold else np.zeros(count, np.float32)

    def _run(self) -> None:
        done, failed_at = 0, None
        while (block := self._next(done)) is not None:
            start, audio = block
            try:
                if start != done:
                    with self._turn:
                        self._stream.reset()
                    self._start_anew(start)
                with self._turn:
                    sung = self._stream.process(self._gated(audio))
                done = start + len(audio)
                self._keep(sung, done)
            except Exception as error:
                done = start + len(audio)
                if failed_at is not None and done - failed_at < _BETWEEN_ERRORS_S * self._stream.sample_rate:
                    self._error = error
                    _log.exception("the live conversion ended")
                    return
                _log.warning("the live conversion starts anew: %s", error)
                failed_at = done
                self._start_anew(done)

    def _gated(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        return audio if np.sqrt(np.square(self._without_rumble.push(audio)).mean()) >= self._gate else 0.0 * audio

    def _start_anew(self, position: int) -> None:
        """Skip the computation to `position`."""
        self._restarts += 1
        with self._changed:
            self._sung_from = self._sung_end = position

    def _keep(self, sung: NDArray[np.float32], done: int) -> None:
        """Store the output for the input up to `done`, for `exchange`."""
        with self._changed:
            # Without the stream's own latency: output position n belongs to input position n.
            at = done - len(sung) - self._stream.latency_samples
            skip = max(0, self._sung_from - at)
            if skip < len(sung):
                _write(self._sung, at + skip, sung[skip:])
                self._sung_end = at + len(sung)

    def _next(self, done: int) -> tuple[int, NDArray[np.float32]] | None:
        """The next block with its position; None when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._heard_end - done >= self.block_samples)
            if self._stopped:
                return None
            too_late = self._heard_end - done > self._kept
            start = self._heard_end - self.block_samples if too_late else done
            return start, _read(self._heard, start, start + self.block_samples)


def _write(ring: NDArray[np.float32], position: int, values: NDArray[np.float32]) -> None:
    at, end = position % len(ring), position % len(ring) + len(values)
    ring[at:end] = values[: len(ring) - at]
    ring[: max(0, end - len(ring))] = values[len(ring) - at :]


def _read(ring: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    return ring[np.arange(first, last) % len(ring)]
