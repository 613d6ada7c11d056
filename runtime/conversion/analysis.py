"""First half of a conversion: content, F0 and loudness of the source, fed in blocks, computed in pieces."""

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..audio.features import RUMBLE_HZ, HighPass, condition_loudness, frame_rms, without_hum
from ..audio.frames import Track, ceil_div, clip_frames, frames_to_cover, mel_range, next_piece, samples_before
from ..audio.gate import Gate
from ..audio.pitch import (
    PITCH_HOP_LENGTH,
    PITCH_SAMPLE_RATE,
    GapBridge,
    PitchStatistics,
    PitchSurvey,
    f0_at_frames,
    pitch_frames_around,
    second_opinion,
)
from ..audio.resampling import Resampler, ShortResampler
from ..audio.world_f0 import make_world_f0
from ..voice.manifest import Manifest
from .calls import Call, Work, ask, gather
from .content import make_content_track


class Levels:
    """A clip at `sample_rate`, filtered and resampled to the model's rate by `resampler`; held until forgotten."""

    def __init__(
        self, manifest: Manifest, sample_rate: int, resampler: Callable[[int, int], Resampler | ShortResampler]
    ) -> None:
        spec = self._spec = manifest.audio
        self._front_end, self._margin = manifest.front_end, ceil_div(spec.win_length, 2 * spec.hop_length)
        # Rumble is removed before the resampler, which would make a step of an offset at the clip's ends.
        self._without_rumble = HighPass(sample_rate, RUMBLE_HZ)
        self._to_model, self._filtered_to_model = (resampler(sample_rate, spec.sample_rate) for _ in range(2))
        self._without_hum = without_hum(spec.sample_rate)
        self.audio, self._filtered, self._voice = Track(), Track(), Track()
        """The audio so far at the model's rate: unfiltered, without rumble, and without hum."""

    def push(self, audio: NDArray[np.float32], last: bool) -> None:
        """The clip's next samples, mono; `last` with the final ones."""
        self.audio.append(self._to_model.push(audio, last))
        filtered = self._filtered_to_model.push(self._without_rumble.push(audio), last)
        self._filtered.append(filtered)
        self._voice.append(self._without_hum.push(filtered))

    def measure(self, first: int, last: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mel frames `first` to `last`: loudness as the model's condition, and as the gate's. (T,) each.

        Beyond the samples so far there is silence.
        """
        from_frame, hop = max(0, first - self._margin), self._spec.hop_length
        samples, piece = (from_frame * hop, (last + self._margin) * hop), slice(first - from_frame, last - from_frame)
        tracks = self.audio, self._filtered, self._voice
        unfiltered, filtered, voice = (frame_rms(track.read_padded(*samples), self._spec)[piece] for track in tracks)
        condition = np.minimum(filtered, unfiltered)
        if self._front_end.loudness != "hann":
            audio = self.audio.read_padded(*samples)
            condition = condition_loudness(audio, self._spec, self._front_end)[piece]
        return condition, np.minimum(voice, unfiltered)

    def forget(self, frame: int) -> None:
        """Discard audio that mel frames from `frame` on do not depend on."""
        for track in (self.audio, self._filtered, self._voice):
            track.forget((frame - self._margin) * self._spec.hop_length)


_LOUDNESS_FRAMES = 128  # a fixed grid here too: a sum in another order would change the last bit


def reach_frames(manifest: Manifest, steps: int) -> int:
    """Mel frames over which an output frame can depend on what was sung before or after it, all graphs together.

    A content encoder that is given windows is left out: it has its own account of what it needs.
    """
    spec, context = manifest.audio, manifest.context
    framed = not manifest.front_end.content_window_s
    content = (context.content.past + context.content.future + 2) * spec.content_hop_length if framed else 0
    pitch = (context.pitch.past + context.pitch.future + 2) * PITCH_HOP_LENGTH
    acoustic, vocoder = context.acoustic, context.vocoder
    windows = ceil_div(round(context.content.window_ms * spec.sample_rate), 1000 * spec.hop_length)
    upstream = mel_range(0, max(content, pitch), spec.content_sample_rate, spec)[1] + windows
    return upstream + steps * (acoustic.past + acoustic.future) + vocoder.past + vocoder.future


class Analysis:
    """Tracks of one clip at `sample_rate`, by absolute position, kept until they are forgotten.

    `horizon`: mel frames beyond the clip's end that are computed too. `reach`: see `reach_frames`. A given `f0_hz`
    (T,) stands in for the pitch graph. With `pitch_only` the content is left out.
    """

    def __init__(
        self,
        manifest: Manifest,
        sample_rate: int,
        timings_ms: defaultdict[str, float],
        *,
        horizon: int,
        reach: int,
        piece_s: float,
        at_once: int,
        f0_hz: NDArray[np.float32] | None = None,
        pitch_only: bool = False,
    ) -> None:
        spec = self.spec = manifest.audio
        self.sample_rate, self.timings_ms, self.reach = sample_rate, timings_ms, reach
        self._horizon, self._given_f0_hz, self._pitch_only = horizon, f0_hz, pitch_only
        self._at_once = at_once
        self._front_end = manifest.front_end
        self._pitch_context = manifest.context.pitch
        self._pitch_piece = max(1, round(piece_s * PITCH_SAMPLE_RATE / PITCH_HOP_LENGTH))
        self._to_16k = Resampler(sample_rate, PITCH_SAMPLE_RATE)
        self._levels = Levels(manifest, sample_rate, Resampler)
        self._gate = Gate(spec)
        self.n_samples = 0
        self.n_frames: int | None = None
        """Number of mel frames of the clip (`framing.clip_frames`); None before its end."""
        self.n_covering: int | None = None
        """Number of mel frames that cover the clip, for which audio is made; None before its end."""
        self.at_16k, self._pitch_hz, self._confidence = Track(), Track(), Track()
        self._world_f0 = None if f0_hz is not None else make_world_f0(manifest.model.f0_extractor, spec)
        self.loudness, self.is_open, self.f0_hz = Track(), Track(dtype=np.bool_), Track()
        self._bridge = GapBridge(spec) if self._front_end.unvoiced_f0 == "interpolated" else None
        self.sung_f0_hz = self.f0_hz if self._bridge is None else Track()
        """F0 as the model is told it: `f0_hz`, with its gaps bridged where the front end says so."""
        self.content = make_content_track(manifest, piece_s, at_once)
        self.pitch_statistics, self.pitch_survey = PitchStatistics(), PitchSurvey()

    def push(self, audio: NDArray[np.float32], last: bool) -> None:
        """The clip's next samples, mono at `sample_rate`; `last` with the final ones."""
        start = time.perf_counter()
        self.n_samples += len(audio)
        self._levels.push(audio, last)
        self.at_16k.append(self._to_16k.push(audio, last))
        if last:
            self.n_covering = frames_to_cover(self.n_samples, self.sample_rate, self.spec)
            self.n_frames = clip_frames(self.n_samples, self.sample_rate, self.spec, self._front_end)
        self.timings_ms["resample"] += 1e3 * (time.perf_counter() - start)

    @property
    def position(self) -> int:
        """Mel frame up to which everything is computed."""
        return self.f0_hz.end if self._pitch_only else min(self.sung_f0_hz.end, self.content.position)

    @property
    def goal(self) -> int | None:
        """Mel frames that will be there in the end, the horizon included; None while the clip goes on."""
        return None if self.n_covering is None else self.n_covering + self._horizon

    def advance(self) -> Work[None]:
        """Compute all whole pieces that the audio so far allows; after the last block, everything."""
        self._measure_loudness()
        if self._world_f0 is None:
            yield from self._track_pitch()
        else:
            start = time.perf_counter()
            self._world_f0.advance(self, self._levels.audio)
            self.timings_ms["pitch"] += 1e3 * (time.perf_counter() - start)
        self._align_f0()
        if not self._pitch_only:
            yield from self.content.advance(self)

    def knows(self, frame: int) -> bool:
        """Whether all audio that mel frames up to `frame` can depend on has come."""
        return self.n_frames is not None or self.is_open.end >= frame + self.reach

    def is_silent(self, first: int, last: int) -> bool:
        """Whether no open frame can depend on mel frames `first` to `last`, so that they need not be computed."""
        return not self.is_open.read_padded(max(self.is_open.start, first - self.reach), last + self.reach).any()

    def forget(self, before: int) -> None:
        """Discard data before mel frame `before` minus `reach`."""
        frame = max(0, before - self.reach)
        for track in (self.loudness, self.is_open, self.f0_hz, self.sung_f0_hz):
            track.forget(frame)
        levels_from = self.loudness.end
        if self._world_f0 is not None:
            levels_from = min(levels_from, self._world_f0.first_sample // self.spec.hop_length)
            self._world_f0.f0_hz.forget(self.f0_hz.end)
        self._levels.forget(levels_from)
        audio_16k = samples_before(frame, PITCH_SAMPLE_RATE, self.spec)
        self.at_16k.forget(audio_16k if self._pitch_only else min(audio_16k, self.content.first_sample))
        self.content.forget(frame)
        for track in (self._pitch_hz, self._confidence):
            track.forget(audio_16k // PITCH_HOP_LENGTH - 1)

    def _measure_loudness(self) -> None:
        margin, levels = ceil_div(self.spec.win_length, 2 * self.spec.hop_length), [np.zeros(0, np.float32)]
        while self.goal is None or self.loudness.end < self.goal:
            first, last = next_piece(self.loudness.end, _LOUDNESS_FRAMES, self.goal)
            if self.goal is None and self._levels.audio.end < (last + margin) * self.spec.hop_length:
                break
            condition, voice = self._levels.measure(first, last)
            self.loudness.append(condition)
            levels.append(voice)
        if self.is_open.end != self.goal:
            self.is_open.append(self._gate.push(np.concatenate(levels), last=self.goal is not None))

    def _track_pitch(self) -> Work[None]:
        goal = (
            None if self.goal is None else pitch_frames_around(self.goal - 1, 1, self.spec, self._front_end.instant)[1]
        )
        pieces, end = [], self._pitch_hz.end
        while goal is None or end < goal:
            first, end = next_piece(end, self._pitch_piece, goal)
            audio_end = (end + self._pitch_context.future) * PITCH_HOP_LENGTH
            if goal is None and not (self.knows(self._sung_over(first, end)[1]) and self.at_16k.end >= audio_end):
                break
            pieces.append(self._pitch_of(first, end))
        for found in (yield from gather(pieces, self._at_once)):
            for track, output in zip((self._pitch_hz, self._confidence), found, strict=True):
                track.append(output)

    def _pitch_of(self, first: int, last: int) -> Work[tuple[NDArray[np.float32], ...]]:
        """F0 and confidence at these pitch frames; zeros where no output depends on them."""
        if self._given_f0_hz is not None or self.is_silent(*self._sung_over(first, last)):
            return (np.zeros(last - first, np.float32),) * 2
        from_frame = max(0, first - self._pitch_context.past)
        audio_end = (last + self._pitch_context.future) * PITCH_HOP_LENGTH
        audio = self.at_16k.read_padded(from_frame * PITCH_HOP_LENGTH, audio_end)
        reply = yield from ask(Call("pitch", {"audio": audio[None]}))
        self.timings_ms["pitch"] += reply.ms
        f0_hz, confidence = (output[0, first - from_frame : last - from_frame] for output in reply.outputs)
        f0_hz, confidence, doubtful = second_opinion(audio, f0_hz, confidence, first - from_frame)
        self.pitch_survey.add(audio, np.arange(first, last) - from_frame, confidence, doubtful)
        return f0_hz, confidence

    def _sung_over(self, first: int, last: int) -> tuple[int, int]:
        """Mel frames that pitch frames `first` to `last` touch."""
        return mel_range(first * PITCH_HOP_LENGTH, last * PITCH_HOP_LENGTH, PITCH_SAMPLE_RATE, self.spec)

    def _align_f0(self) -> None:
        """F0 at mel frames; 0 where the gate is closed, so that it does not depend on which pieces were skipped."""
        first, last = self.f0_hz.end, self._aligned_end()
        if last <= first:
            return
        if self._given_f0_hz is not None:
            values = self._given_f0_hz[first:last]
            values = np.concatenate((values, np.zeros(last - first - len(values), np.float32)))
        elif self._world_f0 is not None:
            values = self._world_f0.f0_hz.read(first, last)
        else:
            instant = self._front_end.instant
            from_pitch, to_pitch = pitch_frames_around(first, last - first, self.spec, instant)
            pitch = self._pitch_hz.read(from_pitch, to_pitch), self._confidence.read(from_pitch, to_pitch)
            values = f0_at_frames(*pitch, last - first, self.spec, first, from_pitch, instant)
        values = np.where(self.is_open.read(first, last), values, np.float32(0.0))
        self.f0_hz.append(values)
        self.pitch_statistics.add(values)
        if self._bridge is not None:
            self.sung_f0_hz.append(self._bridge.push(values, last=self.goal is not None))

    def _aligned_end(self) -> int:
        if self.goal is not None:
            return self.goal
        if self._world_f0 is not None:
            return min(self._world_f0.f0_hz.end, self.is_open.end)
        samples = max(0, self._pitch_hz.end - 2) * PITCH_HOP_LENGTH
        return min(mel_range(samples, samples, PITCH_SAMPLE_RATE, self.spec)[0], self.is_open.end)
