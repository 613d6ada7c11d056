"""A conversion by the rules of a stream: whatever the future would have changed is decided by what is known so far.

The same code runs a whole clip (`latency="low"`) and a stream, which differ in nothing but the blocks that come in.
What is left of the future is bounded, and `latency_samples` counts it:

- content from `content_low` where the voice has it; from `content` if its context is finite; else (ContentVec) from
  windows on a fixed grid: 0.8 s of past, 0.16 s that are used, 0.08 s of future.
- F0 held: a mel frame has that of the newest pitch frame, which sees 16 ms ahead; in gaps, where the model wants none,
  the last value stays.
- the gate as for files, but F0 is 0 wherever the gate without its early opening is closed.
- a resampler that does not wait (`short_resampler`).

Graphs run only while the input sounds. Frames before an onset are computed then, as far as the onset needs them.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import cast

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
from ..voice.manifest import Manifest
from .analysis import Levels
from .calls import Call, Work, ask
from .generated import make_source_track
from .synthesis import Networks, Target

_WINDOW_PAST_S, _WINDOW_USED_S, _WINDOW_FUTURE_S = 0.8, 0.16, 0.08
WINDOW_AHEAD_S = _WINDOW_USED_S + _WINDOW_FUTURE_S
"""Look-ahead of an encoder without a finite context, live."""


@dataclass(frozen=True)
class _Needs:
    """What the graphs need around what they are asked for: content rows, mel frames."""

    content_graph: str
    content_past: int
    content_future: int
    content_grid: int
    """Rows that a call gives begin at multiples of this; 1: anywhere."""
    acoustic_past: int
    acoustic_future: int
    vocoder_past: int
    mel_future: int
    source_future: int
    """Frames after a frame of audio whose F0 and source it depends on, where those of mel are fewer."""


def _needs(manifest: Manifest, steps: int) -> _Needs:
    spec, context = manifest.audio, manifest.context
    hop_ms = 1e3 * spec.content_hop_length / spec.content_sample_rate
    graph = "content" if context.content_low is None else "content_low"
    content = context.content_low or context.content
    # From a frame's first sample to the centre of the last mel frame that it needs.
    mel_future = round(manifest.lookahead_ms.vocoder * 1e-3 * spec.frame_rate_hz - 0.5)
    past, future = content.around(hop_ms)
    needs = _Needs(
        content_graph=graph,
        content_past=past,
        content_future=future,
        content_grid=1,
        acoustic_past=steps * context.acoustic.past,
        acoustic_future=steps * context.acoustic.future,
        vocoder_past=context.vocoder.past,
        mel_future=min(max(0, mel_future), context.vocoder.future),
        source_future=context.vocoder.future,
    )
    if manifest.front_end.content_window_s and graph == "content":
        past, used, future = (round(1e3 * s / hop_ms) for s in (_WINDOW_PAST_S, _WINDOW_USED_S, _WINDOW_FUTURE_S))
        needs = replace(needs, content_past=past, content_grid=used, content_future=future)
    return needs


def latency_samples(manifest: Manifest, sample_rate: int, steps: int | None = None) -> int:
    """Samples at `sample_rate` by which a stream's output lags behind its input, in the worst place of all frames.

    `steps` None: the voice's own number.
    """
    steps = manifest.model.usual_steps if steps is None else steps
    spec, needs, front_end = manifest.audio, _needs(manifest, steps), manifest.front_end
    before, instant = Gate(spec).before, front_end.instant
    worst = 0
    for frame in range(200, 200 + round(10 * spec.frame_rate_hz)):  # their places among rows and pitch frames repeat
        reach = half_length(spec.sample_rate, sample_rate)
        asked = ceil_div((frame * spec.hop_length - reach) * sample_rate, spec.sample_rate)
        told = frame + 1 + needs.mel_future + needs.acoustic_future
        sung = max(told, frame + 1 + needs.source_future)
        rows = int(content_index(told - 1, 1, spec)[0]) + 1
        rows = ceil_div(rows, needs.content_grid) * needs.content_grid
        pitch = int(held_pitch_frames(sung - 1, 1, spec, instant)[0]) + 1
        heard = max(sung, mel_frames_held(pitch, spec, instant), frame + 2 + before)
        at_16k = max((rows + needs.content_future) * spec.content_hop_length, pitch * PITCH_HOP_LENGTH)
        at_model = heard * spec.hop_length + _loudness_tail(spec)
        pushed = max(_pushed(at_16k, sample_rate, PITCH_SAMPLE_RATE), _pushed(at_model, sample_rate, spec.sample_rate))
        worst = max(worst, pushed - asked)
    return worst + 1  # instants of a rate that has no common period with frames fall up to a sample later


def _pushed(count: int, from_rate: int, to_rate: int) -> int:
    """Samples that must have come in for `count` to be out."""
    return (count - 1) * from_rate // to_rate + 1 + half_length(from_rate, to_rate)


def _loudness_tail(spec: AudioSpec) -> int:
    """Samples after a mel frame's hop that its loudness is made from."""
    return ceil_div(spec.win_length - spec.hop_length, 2)


class LowLatency:
    """One clip or stream at `sample_rate`. A given `f0_hz` (T,) stands in for the pitch graph; beyond it F0 is 0."""

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        target: Target,
        timings_ms: defaultdict[str, float],
        *,
        piece_s: float,
        f0_hz: NDArray[np.float32] | None = None,
    ) -> None:
        spec = self._spec = manifest.audio
        self._front_end, self._rate, self._timings_ms = manifest.front_end, sample_rate, timings_ms
        self._needs, self._given_f0_hz = _needs(manifest, target.steps), f0_hz
        self._networks = Networks(manifest, target, timings_ms)
        source = manifest.model.source
        self._source = make_source_track(source.kind, source.channels, spec, target.seed)
        self._piece = max(1, round(piece_s * spec.frame_rate_hz))
        self._levels = Levels(manifest, sample_rate, ShortResampler)
        self._to_16k = ShortResampler(sample_rate, PITCH_SAMPLE_RATE)
        self._from_model = ShortResampler(spec.sample_rate, sample_rate)
        self._gate, self._early_gate = Gate(spec, open_before_s=0.0), Gate(spec)
        self._at_model, self._at_16k, self._pitch_hz = self._levels.audio, Track(), Track()
        self._loudness, self._singing, self.is_open = Track(), Track(dtype=np.bool_), Track(dtype=np.bool_)
        self.f0_hz, self._sung_f0_hz, self._last_f0_hz = Track(), Track(), 0.0
        self._content, self.mel = Track((manifest.model.content_channels,)), Track((spec.n_mels,))
        self._frames_made, self.n_samples, self.n_given = 0, 0, 0
        self.n_frames: int | None = None
        self._n_covering: int | None = None
        self.pitch_statistics, self.pitch_survey, self.clipped_samples = PitchStatistics(), PitchSurvey(), 0
        self.retarget(target)

    def retarget(self, target: Target) -> None:
        """Switch singer and key from the next frame on."""
        self._networks.target = target
        self._ratio = np.float32(2.0 ** (target.semitones / 12.0))

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

    def advance(self) -> Work[NDArray[np.float32]]:
        """Compute all that can be; returns the audio that became ready, at the caller's rate, within ±1."""
        self._measure_loudness()
        yield from self._track_pitch()
        self._align_f0()
        return (yield from self._sing())

    @property
    def _goal(self) -> int | None:
        """Mel frames that are computed in the end; None before the clip's end."""
        if self._n_covering is None:
            return None
        needs = self._needs
        return self._n_covering + max(needs.mel_future + needs.acoustic_future, needs.source_future) + 1

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

    def _track_pitch(self) -> Work[None]:
        """F0 at pitch frames, each from a window of its own; 0 where unvoiced or silent."""
        instant, first = self._front_end.instant, self._pitch_hz.end
        if self._goal is None:
            last = self._at_16k.end // PITCH_HOP_LENGTH
            while last > first and mel_frames_held(last, self._spec, instant) > self._singing.end:
                last -= 1
        else:
            last = int(held_pitch_frames(self._goal - 1, 1, self._spec, instant)[0]) + 1
        if last <= first:
            return
        found = np.zeros(last - first, np.float32)
        sung = np.array([n for n in range(first, last) if self._given_f0_hz is None and self._is_sung(n)], np.int64)
        sure, doubtful = np.zeros(len(sung), np.float32), np.zeros(len(sung), bool)
        for n, frame in enumerate(sung):
            # One by one: on a CPU a batch of windows takes several times as long as single windows.
            audio, newest = self._pitch_window(int(frame)), BOUNDED_WINDOW_HOPS - 1
            reply = yield from ask(Call("pitch", {"audio": audio[None]}))
            self._timings_ms["pitch"] += reply.ms
            f0_hz, confidence = (output[0, newest : newest + 1] for output in reply.outputs)
            f0_hz, sure[n : n + 1], doubtful[n : n + 1] = second_opinion(
                audio, f0_hz, confidence, newest, after=PITCH_HOP_LENGTH
            )
            found[frame - first] = f0_hz[0] if sure[n] >= VOICED_CONFIDENCE else 0.0
        if len(sung):
            start = max(0, first - WINDOW_HOPS_BEFORE)
            audio = self._at_16k.read_padded(start * PITCH_HOP_LENGTH, last * PITCH_HOP_LENGTH)
            self.pitch_survey.add(audio, sung - start, sure, doubtful)
        self._pitch_hz.append(found)

    def _is_sung(self, pitch_frame: int) -> bool:
        first, last = (mel_frames_held(n, self._spec, self._front_end.instant) for n in (pitch_frame, pitch_frame + 1))
        return bool(self._singing.read(min(first, self._singing.end), min(last, self._singing.end)).any())

    def _pitch_window(self, frame: int) -> NDArray[np.float32]:
        hop = PITCH_HOP_LENGTH
        first, last = (frame + 1 - BOUNDED_WINDOW_HOPS) * hop, (frame + 1) * hop
        audio = self._at_16k.read_padded(max(0, first), last)
        return np.pad(audio, (max(0, -first), BOUNDED_SILENCE_HOPS * hop))

    def _align_f0(self) -> None:
        """F0 at mel frames, as the source has it and as it shall be sung, and the excitation with it."""
        first, last = self.f0_hz.end, self._singing.end
        if self._given_f0_hz is not None:
            given = self._given_f0_hz[first:last]
            values = np.pad(given, (0, last - first - len(given)))
        else:
            if self._goal is None:
                last = min(last, mel_frames_held(self._pitch_hz.end, self._spec, self._front_end.instant))
            if last <= first:
                return
            held = held_pitch_frames(first, last - first, self._spec, self._front_end.instant)
            values = self._pitch_hz.read(int(held[0]), int(held[-1]) + 1)[held - held[0]]
        if last <= first:
            return
        values = np.where(self._singing.read(first, last), values, np.float32(0.0))
        self.f0_hz.append(values)
        self.pitch_statistics.add(values)
        sung = (self._without_gaps(values) if self._front_end.unvoiced_f0 == "interpolated" else values) * self._ratio
        self._sung_f0_hz.append(sung)
        if self._source is not None:
            self._source.extend(sung)

    def _without_gaps(self, f0_hz: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last voiced value where there is none; 0 before the first."""
        known = np.concatenate(([self._last_f0_hz], f0_hz))
        newest = np.maximum.accumulate(np.where(known > 0.0, np.arange(len(known)), 0))
        filled = known[newest].astype(np.float32)
        self._last_f0_hz = float(filled[-1])
        return filled[1:]

    def _sing(self) -> Work[NDArray[np.float32]]:
        needs, hop = self._needs, self._spec.hop_length
        end = self._n_covering
        if end is None:
            told = min(
                frames_within_content(self._rows_possible(), self._spec), self._sung_f0_hz.end, self._loudness.end
            )
            end = told - needs.acoustic_future - needs.mel_future
            end = min(end, self._sung_f0_hz.end - needs.source_future, self.is_open.end - 1)
        ready = [np.zeros(0, np.float32)]
        while self._frames_made < end:
            first, last = self._frames_made, min(self._frames_made + self._piece, end)
            audio = np.zeros((last - first) * hop, np.float32)
            if self.is_open.read(first, last).any():
                audio = yield from self._audio(first, last)
                from_frame, to_frame = max(0, first - 1), min(last + 1, self.is_open.end)
                flags = self.is_open.read(from_frame, to_frame)
                audio = audio * gains(flags, from_frame, first * hop, len(audio), self._spec.sample_rate, self._spec)
            self._frames_made = last
            start = time.perf_counter()
            ready.append(self._from_model.push(audio, last=last == self._n_covering))
            self._timings_ms["resample"] += 1e3 * (time.perf_counter() - start)
        audio = np.concatenate(ready)
        if self.n_frames is not None:
            audio = audio[: self.n_samples - self.n_given]
        self.n_given += len(audio)
        self.clipped_samples += int(np.count_nonzero(np.abs(audio) > 1.0))
        return np.clip(audio, -1.0, 1.0)

    def _audio(self, first: int, last: int) -> Work[NDArray[np.float32]]:
        """Audio of mel frames `first` to `last`, before the gate."""
        needs, hop = self._needs, self._spec.hop_length
        from_frame, to_frame = max(0, first - needs.vocoder_past), last + needs.source_future
        yield from self._make_mel(from_frame, last + needs.mel_future)
        # Mel reaches less far ahead than source and F0: beyond it, what is written there changes nothing.
        mel = self.mel.read_padded(from_frame, to_frame)
        source = None if self._source is None else self._source.read(from_frame, to_frame)
        audio = yield from self._networks.audio(from_frame, mel, self._sung_f0_hz.read(from_frame, to_frame), source)
        return audio[(first - from_frame) * hop : (last - from_frame) * hop]

    def _make_mel(self, first: int, last: int) -> Work[None]:
        """Have mel frames `first` to `last`; what is there already stays."""
        first = _missing(self.mel, first)
        from_frame, to_frame = max(0, first - self._needs.acoustic_past), last + self._needs.acoustic_future
        yield from self._make_content(from_frame, to_frame)
        index = content_index(from_frame, to_frame - from_frame, self._spec)
        rows = self._content.read(int(index[0]), int(index[-1]) + 1)
        f0_hz, level = (track.read(from_frame, to_frame) for track in (self._sung_f0_hz, self._loudness))
        content = rows, cast(NDArray[np.int32], (index - index[0]).astype(np.int32))
        mel = yield from self._networks.mel(from_frame, content, f0_hz, level)
        self.mel.append(mel[first - from_frame : last - from_frame])

    def _rows_possible(self) -> int:
        """Content rows whose audio is there."""
        rows = max(0, self._at_16k.end // self._spec.content_hop_length - self._needs.content_future)
        return rows // self._needs.content_grid * self._needs.content_grid

    def _make_content(self, first_frame: int, last_frame: int) -> Work[None]:
        """Have the content rows of these mel frames."""
        needs, hop, grid = self._needs, self._spec.content_hop_length, self._needs.content_grid
        index = content_index(first_frame, last_frame - first_frame, self._spec)
        goal = ceil_div(int(index[-1]) + 1, grid) * grid
        first = _missing(self._content, int(index[0]) // grid * grid)
        while first < goal:
            last = goal if grid == 1 else first + grid
            from_row = max(0, first - needs.content_past)
            audio = self._at_16k.read_padded(from_row * hop, (last + needs.content_future) * hop)
            reply = yield from ask(Call(needs.content_graph, {"audio": audio[None]}, whole=grid > 1))
            self._timings_ms["content"] += reply.ms
            self._content.append(reply.outputs[0][0, first - from_row : last - from_row])
            first = last

    def _forget(self) -> None:
        """Drop what nothing that is still to come depends on."""
        needs, made = self._needs, self._frames_made
        sung_from = made - needs.vocoder_past
        told_from = max(0, sung_from - needs.acoustic_past)
        self.mel.forget(sung_from)
        if self._source is not None:
            self._source.forget(sung_from)
        for track in (self._sung_f0_hz, self._loudness):
            track.forget(told_from)
        self.is_open.forget(made - 1)
        # The last pitch frame is still held by mel frames to come, and asked for by those that are not decided yet.
        pitch = self._pitch_hz.end - 1
        self._pitch_hz.forget(pitch)
        self._singing.forget(min(self.f0_hz.end, mel_frames_held(max(0, pitch), self._spec, self._front_end.instant)))
        self.f0_hz.forget(self.f0_hz.end)
        self._levels.forget(self._loudness.end)
        row = int(content_index(told_from, 1, self._spec)[0]) // needs.content_grid * needs.content_grid
        self._content.forget(row)
        heard_from = (row - needs.content_past) * self._spec.content_hop_length
        self._at_16k.forget(min(heard_from, (self._pitch_hz.end - BOUNDED_WINDOW_HOPS) * PITCH_HOP_LENGTH))


def _missing(track: Track, first: int) -> int:
    """Where what `track` lacks begins, if positions from `first` on are wanted; what does not join is dropped."""
    if not track.start <= first <= track.end:
        track.restart(first)
    return track.end
