"""First half of a conversion: content, F0 and loudness of the source, fed in blocks, computed in pieces."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..audio.features import RUMBLE_HZ, HighPass, condition_loudness, frame_rms, without_hum
from ..audio.frames import Track, ceil_div, clip_frames, frames_to_cover, mel_range, pieces, samples_before
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
from ..voice.manifest import Context, Manifest
from .calls import Call
from .content import make_content_track
from .request import Request
from .stages import AudioStage, Outputs, Stage, Stages, Timings


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

        Samples that have not come yet count as silence.
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
    """Mel frames before and after an output frame on which it can depend, all graphs together.

    Content encoders that run in windows are left out: `WindowedContent.first_sample` keeps their audio.
    """
    spec, context = manifest.audio, manifest.context
    framed = not manifest.front_end.content_window_s
    content = (context.content.past + context.content.future + 2) * spec.content_hop_length if framed else 0
    pitch = (context.pitch.past + context.pitch.future + 2) * PITCH_HOP_LENGTH
    acoustic, vocoder = context.acoustic, context.vocoder
    windows = ceil_div(round(context.content.window_ms * spec.sample_rate), 1000 * spec.hop_length)
    upstream = mel_range(0, max(content, pitch), spec.content_sample_rate, spec)[1] + windows
    return upstream + steps * (acoustic.past + acoustic.future) + vocoder.past + vocoder.future


def make_analysis(
    manifest: Manifest, request: Request, sample_rate: int, timings_ms: Timings, *, pitch_only: bool = False
) -> "Analysis":
    """The analysis of a new clip."""
    context, steps = manifest.context, request.steps
    horizon = context.vocoder.future + steps * context.acoustic.future
    clip = SourceClip(manifest, sample_rate, horizon, reach_frames(manifest, steps))
    return Analysis(manifest, clip, request, timings_ms, pitch_only)


class SourceClip:
    """The audio of one clip at `sample_rate` so far, its loudness and gate, by absolute position until forgotten.

    `horizon`: mel frames that are computed beyond the clip's end. `reach`: see `reach_frames`.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, horizon: int, reach: int) -> None:
        spec = self.spec = manifest.audio
        self.sample_rate, self.reach, self.front_end = sample_rate, reach, manifest.front_end
        self._horizon = horizon
        self._to_16k = Resampler(sample_rate, PITCH_SAMPLE_RATE)
        self._levels = Levels(manifest, sample_rate, Resampler)
        self._gate = Gate(spec)
        self.n_samples = 0
        self.n_frames: int | None = None
        """Number of mel frames of the clip (`frames.clip_frames`); None before its end."""
        self.n_covering: int | None = None
        """Number of mel frames that cover the clip, for which audio is made; None before its end."""
        self.at_16k, self.at_model = Track(), self._levels.audio
        self.loudness, self.is_open = Track(), Track(dtype=np.bool_)

    def push(self, audio: NDArray[np.float32], last: bool) -> None:
        """The clip's next samples, mono at `sample_rate`; `last` with the final ones."""
        self.n_samples += len(audio)
        self._levels.push(audio, last)
        self.at_16k.append(self._to_16k.push(audio, last))
        if last:
            self.n_covering = frames_to_cover(self.n_samples, self.sample_rate, self.spec)
            self.n_frames = clip_frames(self.n_samples, self.sample_rate, self.spec, self.front_end)

    @property
    def goal(self) -> int | None:
        """Mel frames that will be there in the end, the horizon included; None while the clip goes on."""
        return None if self.n_covering is None else self.n_covering + self._horizon

    def has_frame(self, frame: int) -> bool:
        """Whether all audio that mel frames up to `frame` can depend on has come."""
        return self.n_frames is not None or self.is_open.end >= frame + self.reach

    def is_silent(self, first: int, last: int) -> bool:
        """Whether no open frame can depend on mel frames `first` to `last`, so that they need not be computed."""
        return not self.is_open.read_padded(max(self.is_open.start, first - self.reach), last + self.reach).any()

    def measure(self) -> None:
        """Loudness and gate of all frames that the audio so far allows."""
        margin, levels = ceil_div(self.spec.win_length, 2 * self.spec.hop_length), [np.zeros(0, np.float32)]
        n_complete = self.at_model.end // self.spec.hop_length - margin
        for first, last in pieces(self.loudness.end, _LOUDNESS_FRAMES, self.goal, lambda _, last: last <= n_complete):
            condition, voice = self._levels.measure(first, last)
            self.loudness.append(condition)
            levels.append(voice)
        if self.is_open.end != self.goal:
            self.is_open.append(self._gate.push(np.concatenate(levels), last=self.goal is not None))

    def forget(self, frame: int, frame_at_model: int, sample_at_16k: int) -> None:
        """Discard data before mel frame `frame`, and the audio of which later frames and samples do not depend on."""
        self.loudness.forget(frame)
        self.is_open.forget(frame)
        self._levels.forget(min(self.loudness.end, frame_at_model))
        self.at_16k.forget(sample_at_16k)


class PitchStage(AudioStage):
    """F0 and confidence of a clip at pitch frames; zeros where no output depends on them, or where F0 is `given`."""

    name, hop = "pitch", PITCH_HOP_LENGTH

    def __init__(self, clip: SourceClip, context: Context, timings_ms: Timings, request: Request) -> None:
        self.f0_hz, self.confidence = Track(), Track()
        super().__init__(timings_ms, [], context, clip, request.at_once)
        self._arrived, self.at_16k, self.spec, self._given = clip, clip.at_16k, clip.spec, request.f0_hz is not None
        self._piece = max(1, round(request.piece_s * PITCH_SAMPLE_RATE / PITCH_HOP_LENGTH))
        self.survey = PitchSurvey()

    def plan_ready(self) -> Stage:
        """Plan all whole pieces that the audio so far allows."""
        goal, instant = self._arrived.goal, self._arrived.front_end.instant
        end = None if goal is None else pitch_frames_around(goal - 1, 1, self.spec, instant)[1]
        return self.plan(pieces(self.f0_hz.end, self._piece, end, self.is_ready))

    def call(self, first: int, last: int) -> Call | None:
        return None if self._given else super().call(first, last)

    def join(self, first: int, last: int, answered: tuple[Call, Outputs] | None) -> None:
        f0_hz = confidence = np.zeros(last - first, np.float32)
        if answered is not None:
            (call, outputs), start = answered, max(0, first - self.past)
            audio = np.asarray(call.inputs["audio"])[0]
            f0_hz, confidence = (output[0, first - start : last - start] for output in outputs)
            f0_hz, confidence, doubtful = second_opinion(audio, f0_hz, confidence, first - start)
            self.survey.add(audio, np.arange(first, last) - start, confidence, doubtful)
        self.f0_hz.append(f0_hz)
        self.confidence.append(confidence)


class Analysis:
    """Content, F0 and loudness of one clip, by absolute position, kept until they are forgotten.

    The request's F0, if any, replaces the pitch graph's. With `pitch_only` the content is left out.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: SourceClip,
        request: Request,
        timings_ms: Timings,
        pitch_only: bool,
    ) -> None:
        self.clip, self._timings_ms, self._given_f0_hz = clip, timings_ms, request.f0_hz
        given = request.f0_hz is not None
        self._world_f0 = None if given else make_world_f0(manifest.model.f0_extractor, clip.spec)
        self._pitch = PitchStage(clip, manifest.context_of("pitch"), timings_ms, request)
        content = make_content_track(manifest, clip, timings_ms, request.piece_s, request.at_once)
        self.content = None if pitch_only else content
        self.f0_hz = Track()
        self._bridge = GapBridge(clip.spec) if clip.front_end.unvoiced_f0 == "interpolated" else None
        self.model_f0_hz = self.f0_hz if self._bridge is None else Track()
        """F0 as input of the model: `f0_hz`, with its gaps bridged where the front end says so."""
        self.pitch_statistics, self.pitch_survey = PitchStatistics(), self._pitch.survey

    def push(self, audio: NDArray[np.float32], last: bool) -> None:
        """The clip's next samples, mono at its sample rate; `last` with the final ones."""
        start = time.perf_counter()
        self.clip.push(audio, last)
        self._timings_ms["resample"] += 1e3 * (time.perf_counter() - start)

    @property
    def position(self) -> int:
        """Mel frame up to which everything is computed."""
        return self.f0_hz.end if self.content is None else min(self.model_f0_hz.end, self.content.position)

    def stages(self) -> Stages[None]:
        """Stages that compute all whole pieces the audio so far allows; after the last block, everything."""
        self.clip.measure()
        if self._world_f0 is None:
            yield self._pitch.plan_ready()
        else:
            start = time.perf_counter()
            self._world_f0.advance(self.clip, self.clip.at_model)
            self._timings_ms["pitch"] += 1e3 * (time.perf_counter() - start)
        self._align_f0()
        if self.content is not None:
            yield self.content.plan_ready()

    def forget(self, before: int) -> None:
        """Discard data before mel frame `before` minus `reach`."""
        clip = self.clip
        frame = max(0, before - clip.reach)
        sample_at_16k = samples_before(frame, PITCH_SAMPLE_RATE, clip.spec)
        pitch_frame, frame_at_model = sample_at_16k // PITCH_HOP_LENGTH - 1, clip.loudness.end
        for track in (self.f0_hz, self.model_f0_hz):
            track.forget(frame)
        for track in (self._pitch.f0_hz, self._pitch.confidence):
            track.forget(pitch_frame)
        if self._world_f0 is not None:
            frame_at_model = self._world_f0.first_sample // clip.spec.hop_length
            self._world_f0.f0_hz.forget(self.f0_hz.end)
        if self.content is not None:
            self.content.forget(frame)
            sample_at_16k = min(sample_at_16k, self.content.first_sample)
        clip.forget(frame, frame_at_model, sample_at_16k)

    def _align_f0(self) -> None:
        """F0 at mel frames; 0 where the gate is closed, so that it does not depend on which pieces were skipped."""
        clip, first, last = self.clip, self.f0_hz.end, self._aligned_end()
        if last <= first:
            return
        if self._given_f0_hz is not None:
            values = self._given_f0_hz[first:last]
            values = np.concatenate((values, np.zeros(last - first - len(values), np.float32)))
        elif self._world_f0 is not None:
            values = self._world_f0.f0_hz.read(first, last)
        else:
            instant = clip.front_end.instant
            from_pitch, to_pitch = pitch_frames_around(first, last - first, clip.spec, instant)
            f0_hz, confidence = (t.read(from_pitch, to_pitch) for t in (self._pitch.f0_hz, self._pitch.confidence))
            values = f0_at_frames(f0_hz, confidence, last - first, clip.spec, first, from_pitch, instant)
        values = np.where(clip.is_open.read(first, last), values, np.float32(0.0))
        self.f0_hz.append(values)
        self.pitch_statistics.add(values)
        if self._bridge is not None:
            self.model_f0_hz.append(self._bridge.push(values, last=clip.goal is not None))

    def _aligned_end(self) -> int:
        clip = self.clip
        if clip.goal is not None:
            return clip.goal
        if self._world_f0 is not None:
            return min(self._world_f0.f0_hz.end, clip.is_open.end)
        samples = max(0, self._pitch.f0_hz.end - 2) * PITCH_HOP_LENGTH
        return min(mel_range(samples, samples, PITCH_SAMPLE_RATE, clip.spec)[0], clip.is_open.end)
