"""Low-latency conversion of a stream, or of a whole clip (`latency="low"`), which differ only in the input's blocks.

Every decision depends on a bounded look-ahead, which `latency_samples` counts:

- content from `content_low` where the voice has it; from `content` if its context is finite; else (ContentVec) from
  windows on a fixed grid: 0.8 s of past, 0.16 s that are used, 0.08 s of future.
- F0 held: a mel frame has that of the newest pitch frame, with 16 ms of look-ahead; the last value fills gaps where
  the model needs F0 without gaps.
- the gate as for files, but F0 is 0 wherever the gate without its early opening is closed.
- a resampler of short look-ahead (`ShortResampler`).

Graphs run only while the gate is open. Frames before an onset are computed then, as far as the onset depends on them.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track, ceil_div, clip_frames, content_index, frames_to_cover, frames_within_content
from ..audio.gate import Gate, gains
from ..audio.pitch import (
    BOUNDED_SILENCE_HOPS,
    BOUNDED_WINDOW_HOPS,
    PITCH_HOP_LENGTH,
    PITCH_SAMPLE_RATE,
    VOICED_CONFIDENCE,
    WINDOW_HOPS_BEFORE,
    PitchStatistics,
    PitchSurvey,
    held_pitch_frames,
    mel_frames_held,
    second_opinion,
)
from ..audio.resampling import ShortResampler, half_length
from ..audio.spec import AudioSpec
from ..voice.manifest import Context, Manifest
from .analysis import Levels
from .calls import Call
from .content import ContentRows
from .request import Request
from .stages import AudioStage, Outputs, Stage, Stages, Timings
from .synthesis import AcousticStage, VocoderStage

_WINDOW_PAST_S, _WINDOW_USED_S, _WINDOW_FUTURE_S = 0.8, 0.16, 0.08
WINDOW_AHEAD_S = _WINDOW_USED_S + _WINDOW_FUTURE_S
"""Look-ahead of an encoder without a finite context, live."""


@dataclass(frozen=True)
class _Needs:
    """Context of the graphs in a live conversion."""

    content_graph: str
    content: Context
    content_grid: int
    """Rows that a call gives begin at multiples of this; 1: anywhere."""
    acoustic: Context
    vocoder: Context
    mel_future: int
    """Mel frames after a frame of audio that it depends on, where `vocoder.future` counts those of F0 and source."""


def _needs(manifest: Manifest, steps: int) -> _Needs:
    spec = manifest.audio
    graph = "content" if manifest.context.content_low is None else "content_low"
    content, grid = manifest.context_of(graph), 1
    if manifest.front_end.content_window_s and graph == "content":
        rows_per_s = spec.content_sample_rate / spec.content_hop_length
        past, grid, future = (round(rows_per_s * s) for s in (_WINDOW_PAST_S, _WINDOW_USED_S, _WINDOW_FUTURE_S))
        content = Context(past=past, future=future)
    # From a frame's first sample to the centre of the last mel frame that it needs.
    mel_future = round(manifest.lookahead_ms.vocoder * 1e-3 * spec.frame_rate_hz - 0.5)
    acoustic, vocoder = manifest.context_of("acoustic", steps), manifest.context_of("vocoder")
    return _Needs(graph, content, grid, acoustic, vocoder, min(max(0, mel_future), vocoder.future))


def latency_samples(manifest: Manifest, sample_rate: int, steps: int | None = None) -> int:
    """Samples at `sample_rate` by which a stream's output lags behind its input, in the worst place of all frames.

    `steps` None: the voice's own number.
    """
    steps = manifest.model.usual_steps if steps is None else steps
    spec, needs, front_end = manifest.audio, _needs(manifest, steps), manifest.front_end
    before, instant = Gate(spec).before, front_end.instant
    worst = 0
    for frame in range(200, 200 + round(10 * spec.frame_rate_hz)):  # alignments with rows and pitch frames repeat
        reach = half_length(spec.sample_rate, sample_rate)
        due = ceil_div((frame * spec.hop_length - reach) * sample_rate, spec.sample_rate)
        condition_end = frame + 1 + needs.mel_future + needs.acoustic.future
        f0_end = max(condition_end, frame + 1 + needs.vocoder.future)
        rows = int(content_index(condition_end - 1, 1, spec)[0]) + 1
        rows = ceil_div(rows, needs.content_grid) * needs.content_grid
        pitch = int(held_pitch_frames(f0_end - 1, 1, spec, instant)[0]) + 1
        gate_end = max(f0_end, mel_frames_held(pitch, spec, instant), frame + 2 + before)
        at_16k = max((rows + needs.content.future) * spec.content_hop_length, pitch * PITCH_HOP_LENGTH)
        at_model = gate_end * spec.hop_length + _loudness_tail(spec)
        pushed = max(_pushed(at_16k, sample_rate, PITCH_SAMPLE_RATE), _pushed(at_model, sample_rate, spec.sample_rate))
        worst = max(worst, pushed - due)
    return worst + 1  # instants of a rate that has no common period with frames fall up to a sample later


def _pushed(count: int, from_rate: int, to_rate: int) -> int:
    """Input samples needed for `count` resampled samples."""
    return (count - 1) * from_rate // to_rate + 1 + half_length(from_rate, to_rate)


def _loudness_tail(spec: AudioSpec) -> int:
    """Samples after a mel frame's hop that its loudness is made from."""
    return ceil_div(spec.win_length - spec.hop_length, 2)


class PitchWindows(AudioStage):
    """F0 at pitch frames, each from a window of its own; 0 where unvoiced or silent.

    One by one: on a CPU a batch of windows takes several times as long as single windows.
    """

    name, hop = "pitch", PITCH_HOP_LENGTH

    def __init__(self, at_16k: Track, timings_ms: Timings) -> None:
        self.f0_hz, self.at_16k, self.survey = Track(), at_16k, PitchSurvey()
        super().__init__(timings_ms, [self.f0_hz], Context(past=BOUNDED_WINDOW_HOPS - 1, future=0), None, at_once=1)
        self._singing = np.zeros(0, np.int64)
        self._found: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []

    def plan_frames(self, last: int, singing: list[int]) -> Stage:
        """Plan the pitch frames up to `last`, of which `singing` are computed."""
        self._singing, self._found = np.array(singing, np.int64), []
        return self.plan((frame, frame + 1) for frame in range(self.f0_hz.end, last))

    def call(self, first: int, last: int) -> Call | None:
        if first not in self._singing:
            return None
        missing = max(0, self.past - first) * self.hop
        audio = self.at_16k.read_padded(max(0, first - self.past) * self.hop, last * self.hop)
        return Call("pitch", {"audio": np.pad(audio, (missing, BOUNDED_SILENCE_HOPS * self.hop))[None]})

    def join(self, first: int, last: int, answered: tuple[Call, Outputs] | None) -> None:
        value = np.zeros(1, np.float32)
        if answered is not None:
            call, outputs = answered
            f0_hz, confidence = (output[0, self.past : self.past + 1] for output in outputs)
            audio = np.asarray(call.inputs["audio"])[0]
            f0_hz, sure, doubtful = second_opinion(audio, f0_hz, confidence, self.past, after=PITCH_HOP_LENGTH)
            self._found.append((sure, doubtful))
            value = np.where(sure >= VOICED_CONFIDENCE, f0_hz, value)
        self.f0_hz.append(value)

    def survey_frames(self, first: int) -> None:
        """Count the frames computed since `first` in the survey."""
        if self._found:
            start = max(0, first - WINDOW_HOPS_BEFORE)
            audio = self.at_16k.read_padded(start * self.hop, self.f0_hz.end * self.hop)
            self.survey.add(
                audio, self._singing - start, *(np.concatenate(values) for values in zip(*self._found, strict=True))
            )


class LiveContent(ContentRows):
    """Content rows by the graph for live use, or in windows on a fixed grid."""

    def __init__(self, manifest: Manifest, at_16k: Track, timings_ms: Timings, needs: _Needs) -> None:
        super().__init__(manifest, at_16k, timings_ms, needs.content, None, at_once=1)
        self._graph, self._grid = needs.content_graph, needs.content_grid

    def call(self, first: int, last: int) -> Call | None:
        inputs = self.inputs(max(0, first - self.past), last + self.future)
        return Call(self._graph, inputs, whole=self._grid > 1)

    def first_row(self, frame: int) -> int:
        """The row at which the call for a mel frame begins."""
        return int(content_index(frame, 1, self.spec)[0]) // self._grid * self._grid

    def plan_frames(self, first: int, last: int) -> Stage:
        """Plan the rows of these mel frames that are missing."""
        row = _missing(self.rows, self.first_row(first))
        end = self.first_row(last - 1) + self._grid
        size = self._grid if self._grid > 1 else max(1, end - row)
        return self.plan((start, start + size) for start in range(row, end, size))


class LowLatency:
    """One clip or stream at `sample_rate`. A given F0 stands in for the pitch graph; beyond its end F0 is 0."""

    def __init__(self, manifest: Manifest, request: Request, sample_rate: int, timings_ms: Timings) -> None:
        spec = self._spec = manifest.audio
        self._front_end, self._rate, self._timings_ms = manifest.front_end, sample_rate, timings_ms
        needs = self._needs = _needs(manifest, request.steps)
        self._given_f0_hz = request.f0_hz
        self._piece = max(1, round(request.piece_s * spec.frame_rate_hz))
        self._levels = Levels(manifest, sample_rate, ShortResampler)
        self._to_16k = ShortResampler(sample_rate, PITCH_SAMPLE_RATE)
        self._from_model = ShortResampler(spec.sample_rate, sample_rate)
        self._gate, self._early_gate = Gate(spec, open_before_s=0.0), Gate(spec)
        self._at_model, self._at_16k = self._levels.audio, Track()
        self._loudness, self._singing, self.is_open = Track(), Track(dtype=np.bool_), Track(dtype=np.bool_)
        self.f0_hz, self._result_f0_hz, self._last_f0_hz = Track(), Track(), 0.0
        self._pitch = PitchWindows(self._at_16k, timings_ms)
        self._content = LiveContent(manifest, self._at_16k, timings_ms, needs)
        conditions = self._content, self._result_f0_hz, self._loudness
        self._acoustic = AcousticStage(manifest, request, conditions, timings_ms)
        self.mel = self._acoustic.mel
        self._vocoder = VocoderStage(manifest, request, self.mel, self._result_f0_hz, timings_ms)
        self._frames_made, self.n_samples, self.n_given = 0, 0, 0
        self._ready: list[NDArray[np.float32]] = []
        self.n_frames: int | None = None
        self._n_covering: int | None = None
        self.pitch_statistics, self.pitch_survey, self.clipped_samples = PitchStatistics(), self._pitch.survey, 0
        self.retarget(request)

    def retarget(self, request: Request) -> None:
        """Switch singer and key from the next frame on."""
        self._acoustic.request, self._ratio = request, request.f0_ratio

    def listen(self, audio: NDArray[np.float32], last: bool) -> None:
        """The next samples, mono at the caller's rate; `last` with the final ones. No graph runs."""
        self._forget()
        start = time.perf_counter()
        self.n_samples += len(audio)
        self._levels.push(audio, last)
        self._at_16k.append(self._to_16k.push(audio, last))
        if last:
            self._n_covering = frames_to_cover(self.n_samples, self._rate, self._spec)
            self.n_frames = clip_frames(self.n_samples, self._rate, self._spec, self._front_end)
            if self._given_f0_hz is not None:
                self._given_f0_hz = self._given_f0_hz[: self.n_frames]
        self._timings_ms["resample"] += 1e3 * (time.perf_counter() - start)

    def stages(self) -> Stages[None]:
        """Stages that compute all that the audio so far allows."""
        self._measure_loudness()
        first, last = self._pitch.f0_hz.end, self._pitch_end()
        if last > first:
            singing = [] if self._given_f0_hz is not None else [n for n in range(first, last) if self._is_sung(n)]
            yield self._pitch.plan_frames(last, singing)
            self._pitch.survey_frames(first)
        self._align_f0()
        end = self._audio_end()
        while self._frames_made < end:
            first, last = self._frames_made, min(self._frames_made + self._piece, end)
            audio = np.zeros((last - first) * self._spec.hop_length, np.float32)
            if self.is_open.read(first, last).any():
                yield from self._sound(first, last)
                audio = self._vocoder.read(first, last) * self._gains(first, last)
            self._frames_made = last
            start = time.perf_counter()
            self._ready.append(self._from_model.push(audio, last=last == self._n_covering))
            self._timings_ms["resample"] += 1e3 * (time.perf_counter() - start)

    def emit(self) -> NDArray[np.float32]:
        """The new samples at the caller's rate, within ±1."""
        audio = np.concatenate([np.zeros(0, np.float32), *self._ready])
        self._ready = []
        if self.n_frames is not None:
            audio = audio[: self.n_samples - self.n_given]
        self.n_given += len(audio)
        self.clipped_samples += int(np.count_nonzero(np.abs(audio) > 1.0))
        return np.clip(audio, -1.0, 1.0)

    @property
    def _goal(self) -> int | None:
        """Mel frames that are computed in the end; None before the clip's end."""
        if self._n_covering is None:
            return None
        needs = self._needs
        return self._n_covering + max(needs.mel_future + needs.acoustic.future, needs.vocoder.future) + 1

    def _measure_loudness(self) -> None:
        spec, hop, goal = self._spec, self._spec.hop_length, self._goal
        first = self._loudness.end
        last = goal if goal is not None else max(0, self._at_model.end - _loudness_tail(spec)) // hop
        if last <= first:
            return
        condition, voice = self._levels.measure(first, last)
        self._loudness.append(condition)
        self._singing.append(self._gate.push(voice, last=goal is not None))
        self.is_open.append(self._early_gate.push(voice, last=goal is not None))

    def _pitch_end(self) -> int:
        """Pitch frame up to which audio and gate are there."""
        instant = self._front_end.instant
        if self._goal is not None:
            return int(held_pitch_frames(self._goal - 1, 1, self._spec, instant)[0]) + 1
        last = self._at_16k.end // PITCH_HOP_LENGTH
        while last > self._pitch.f0_hz.end and mel_frames_held(last, self._spec, instant) > self._singing.end:
            last -= 1
        return last

    def _is_sung(self, pitch_frame: int) -> bool:
        first, last = (mel_frames_held(n, self._spec, self._front_end.instant) for n in (pitch_frame, pitch_frame + 1))
        return bool(self._singing.read(min(first, self._singing.end), min(last, self._singing.end)).any())

    def _align_f0(self) -> None:
        """F0 at mel frames, of the source and of the result, and the excitation."""
        first, last = self.f0_hz.end, self._singing.end
        if self._given_f0_hz is not None:
            given = self._given_f0_hz[first:last]
            values = np.pad(given, (0, last - first - len(given)))
        else:
            if self._goal is None:
                last = min(last, mel_frames_held(self._pitch.f0_hz.end, self._spec, self._front_end.instant))
            if last <= first:
                return
            held = held_pitch_frames(first, last - first, self._spec, self._front_end.instant)
            values = self._pitch.f0_hz.read(int(held[0]), int(held[-1]) + 1)[held - held[0]]
        if last <= first:
            return
        values = np.where(self._singing.read(first, last), values, np.float32(0.0))
        self.f0_hz.append(values)
        self.pitch_statistics.add(values)
        result = (self._without_gaps(values) if self._front_end.unvoiced_f0 == "interpolated" else values) * self._ratio
        self._result_f0_hz.append(result)
        if self._vocoder.source is not None:
            self._vocoder.source.extend(result)

    def _without_gaps(self, f0_hz: NDArray[np.float32]) -> NDArray[np.float32]:
        """`f0_hz` with unvoiced frames at the last voiced value; 0 before the first."""
        known = np.concatenate(([self._last_f0_hz], f0_hz))
        newest = np.maximum.accumulate(np.where(known > 0.0, np.arange(len(known)), 0))
        filled = known[newest].astype(np.float32)
        self._last_f0_hz = float(filled[-1])
        return filled[1:]

    def _audio_end(self) -> int:
        """Mel frame up to which audio can be computed."""
        needs = self._needs
        if self._n_covering is not None:
            return self._n_covering
        rows = max(0, self._at_16k.end // self._spec.content_hop_length - needs.content.future)
        rows = rows // needs.content_grid * needs.content_grid
        end = min(frames_within_content(rows, self._spec), self._result_f0_hz.end, self._loudness.end)
        end -= needs.acoustic.future + needs.mel_future
        return min(end, self._result_f0_hz.end - needs.vocoder.future, self.is_open.end - 1)

    def _sound(self, first: int, last: int) -> Stages[None]:
        """Stages for the audio of these mel frames before the gate. Mel and content that are there stay."""
        acoustic, mel_last = self._acoustic, last + self._needs.mel_future
        mel_first = _missing(self.mel, max(0, first - self._vocoder.past))
        yield self._content.plan_frames(max(0, mel_first - acoustic.past), mel_last + acoustic.future)
        yield acoustic.plan([(mel_first, mel_last)])
        self._vocoder.audio.restart(first * self._spec.hop_length)
        yield self._vocoder.plan([(first, last)])

    def _gains(self, first: int, last: int) -> NDArray[np.float32]:
        """The gate's gains of the samples of mel frames `first` to `last`."""
        from_frame, to_frame, hop = max(0, first - 1), min(last + 1, self.is_open.end), self._spec.hop_length
        flags = self.is_open.read(from_frame, to_frame)
        return gains(flags, from_frame, first * hop, (last - first) * hop, self._spec.sample_rate, self._spec)

    def _forget(self) -> None:
        """Discard data on which no later output depends."""
        made = self._frames_made
        mel_from = made - self._vocoder.past
        condition_from = max(0, mel_from - self._acoustic.past)
        self.mel.forget(mel_from)
        self._vocoder.forget(mel_from)
        for track in (self._result_f0_hz, self._loudness):
            track.forget(condition_from)
        self.is_open.forget(made - 1)
        # Later mel frames may hold the last pitch frame.
        pitch = self._pitch.f0_hz.end - 1
        self._pitch.f0_hz.forget(pitch)
        self._singing.forget(min(self.f0_hz.end, mel_frames_held(max(0, pitch), self._spec, self._front_end.instant)))
        self.f0_hz.forget(self.f0_hz.end)
        self._levels.forget(self._loudness.end)
        row = self._content.first_row(condition_from)
        self._content.rows.forget(row)
        content_from = (row - self._content.past) * self._spec.content_hop_length
        self._at_16k.forget(min(content_from, (self._pitch.f0_hz.end - BOUNDED_WINDOW_HOPS) * PITCH_HOP_LENGTH))


def _missing(track: Track, first: int) -> int:
    """First missing position of `track` from `first` on; values that do not adjoin `first` are discarded."""
    if not track.start <= first <= track.end:
        track.restart(first)
    return track.end
