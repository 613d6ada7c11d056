"""Stages of a conversion, and the loop that drives the stages of all clips.

A stage has one graph of one clip: `pending` gives the calls that can run now, `take` the outputs of one of them. A
conversion is a generator of stages; it goes on to the next when nothing is pending.
"""

import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from numpy.typing import NDArray

from ..audio.frames import ArrivedClip, Track, mel_range
from ..audio.spec import AudioSpec
from ..voice.manifest import Context
from .calls import Call, Reply, Runner
from .generated import Input

T = TypeVar("T")
Timings = defaultdict[str, float]
"""Milliseconds by stage."""
Outputs = tuple[NDArray, ...]


class AnalysedClip(ArrivedClip, Protocol):
    """The part of a clip that has arrived: see `analysis.SourceClip`."""

    at_16k: Track

    def is_silent(self, first: int, last: int) -> bool: ...


@dataclass(eq=False)
class _Begun:
    """A piece with its next call, if any, and the last one that was answered."""

    piece: tuple[int, int]
    call: Call | None
    answered: tuple[Call, Outputs] | None = None


class Stage(ABC):
    """One graph of one clip: pieces, frames `first` to `last`, that do not need each other's outputs.

    Up to `at_once` pieces are computed at a time, with the graph's context on either side, and appended to the tracks
    in their order. `clip`: its silent parts are skipped.
    """

    name: str
    """Key of the stage's time in `timings_ms`."""
    rate = 1
    """Output positions to a frame."""

    def __init__(
        self, timings_ms: Timings, tracks: Sequence[Track], context: Context, clip: AnalysedClip | None, at_once: int
    ) -> None:
        self._timings_ms, self._tracks, self._clip, self._at_once = timings_ms, tracks, clip, at_once
        self.past, self.future = context.past, context.future
        self._planned, self._begun = deque[tuple[int, int]](), deque[_Begun]()

    @abstractmethod
    def inputs(self, first: int, last: int) -> dict[str, Input]:
        """The graph's inputs for these frames."""

    def call(self, first: int, last: int) -> Call | None:
        """The (first) call of a piece; None where it is silent."""
        if self._clip is not None and self._clip.is_silent(*self.mel_range(first, last)):
            return None
        return Call(self.name, self.inputs(max(0, first - self.past), last + self.future))

    def following(self, call: Call, outputs: Outputs) -> Call | None:
        """The next call of a piece, made from the outputs of the one before it; None after the last."""
        return None

    def join(self, first: int, last: int, answered: tuple[Call, Outputs] | None) -> None:
        """Append the outputs of the next piece, given its last call and that call's outputs; None: silence."""
        skipped = (first - max(0, first - self.past)) * self.rate
        count = (last - first) * self.rate
        for index, track in enumerate(self._tracks):
            if answered is None:
                track.append_zeros(count)
            else:
                track.append(answered[1][index][0, skipped : skipped + count])

    def mel_range(self, first: int, last: int) -> tuple[int, int]:
        """Mel frames that these frames touch."""
        return first, last

    def plan(self, pieces: Iterable[tuple[int, int]]) -> "Stage":
        """Add pieces to be computed."""
        self._planned.extend(pieces)
        return self

    def pending(self) -> list[Call]:
        """Calls that were not taken yet; empty once all planned pieces are complete."""
        while True:
            calls = [begun.call for begun in self._begun if begun.call is not None]
            if not self._planned or len(calls) >= self._at_once:
                return calls
            piece = self._planned.popleft()
            self._begun.append(_Begun(piece, self.call(*piece)))
            self._join_complete()

    def take(self, call: Call, reply: Reply) -> None:
        """Go on with the outputs of a pending call."""
        self._timings_ms[self.name] += reply.ms
        begun = next(begun for begun in self._begun if begun.call is call)
        begun.call, begun.answered = self.following(call, reply.outputs), (call, reply.outputs)
        self._join_complete()

    def _join_complete(self) -> None:
        while self._begun and self._begun[0].call is None:
            begun = self._begun.popleft()
            self.join(*begun.piece, begun.answered)


class AudioStage(Stage):
    """A stage whose graph takes audio at 16 kHz, in frames of `hop` samples."""

    hop: int
    spec: AudioSpec
    at_16k: Track

    def inputs(self, first: int, last: int) -> dict[str, Input]:
        return {"audio": self.at_16k.read_padded(first * self.hop, last * self.hop)[None]}

    def mel_range(self, first: int, last: int) -> tuple[int, int]:
        return mel_range(first * self.hop, last * self.hop, self.spec.content_sample_rate, self.spec)

    def is_ready(self, first: int, last: int) -> bool:
        """Whether all audio that a piece can depend on has come."""
        assert self._clip is not None
        has_frames = self._clip.has_frame(self.mel_range(first, last)[1])
        return has_frames and self.at_16k.end >= (last + self.future) * self.hop


Stages = Generator[Stage, None, T]
"""The stages of a conversion, in order, and its result."""


class Clip(Generic[T]):
    """A conversion under way. `computed` is called with each call that was answered, and may raise."""

    def __init__(self, stages: Stages[T], computed: Callable[[Call], object] | None = None) -> None:
        self._stages, self._computed = stages, computed
        self._stage: Stage | None = None
        self._result: T | None = None
        self.ended = False
        self.error: Exception | None = None
        self.busy_ms = 0.0
        """Time of the clip's code and calls, without waiting for other clips."""

    @property
    def result(self) -> T:
        """The result. Raises the error of a clip that failed."""
        if self.error is not None:
            raise self.error
        return cast(T, self._result)

    def pending(self) -> list[Call]:
        """Go on to the next calls; none once the clip has ended."""
        start, calls = time.perf_counter(), list[Call]()
        try:
            while not self.ended and not (calls := self._stage.pending() if self._stage else []):
                self._advance()
        except Exception as error:
            self._fail(error)
        self.busy_ms += 1e3 * (time.perf_counter() - start)
        return calls

    def take(self, call: Call, reply: Reply | Exception) -> None:
        """Continue with the reply to a pending call."""
        if self.ended:
            return  # by an error of another call
        start = time.perf_counter()
        try:
            if isinstance(reply, Exception):
                raise reply
            assert self._stage is not None
            self.busy_ms += reply.ms
            self._stage.take(call, reply)
            if self._computed is not None:
                self._computed(call)
        except Exception as error:
            self._fail(error)
        self.busy_ms += 1e3 * (time.perf_counter() - start)

    def close(self) -> None:
        """Release open files."""
        self.ended = True
        self._stages.close()

    def _advance(self) -> None:
        try:
            self._stage = next(self._stages)
        except StopIteration as stop:
            self._result, self.ended = stop.value, True

    def _fail(self, error: Exception) -> None:
        """End with this error, raised where the conversion waits: it cleans up, and the trace names the stage."""
        self.ended = True
        try:
            self._stages.throw(error)
        except Exception as raised:
            self.error = raised


def run_clips(clips: Iterable[Clip[T]], runner: Runner, width: int) -> Iterator[Clip[T]]:
    """Drive conversions `width` at a time, their calls together; yields each when it has ended.

    An error of one conversion, or of its graphs, ends that one only.
    """
    waiting, active = iter(clips), list[Clip[T]]()
    try:
        while True:
            while len(active) < width and (clip := next(waiting, None)) is not None:
                active.append(clip)
            asked = [(clip, call) for clip in active for call in clip.pending()]
            if not active:
                return
            ended = [clip for clip in active if clip.ended]
            for clip in ended:
                active.remove(clip)
                yield clip
            if not ended:
                for index, reply in runner.run_some([call for _, call in asked]).items():
                    clip, call = asked[index]
                    clip.take(call, reply)
    finally:
        for clip in active:
            clip.close()


def run(clip: Clip[T], runner: Runner) -> T:
    """Drive one conversion to its end and return its result."""
    [clip] = run_clips([clip], runner, 1)
    return clip.result
