"""The back half of a conversion: from what was sung to the same in another voice, at the caller's rate."""

import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track, mel_range, next_piece, samples_before
from ..audio.gate import gains
from ..audio.resampling import Resampler
from ..voice.manifest import Manifest
from .analysis import Analysis
from .calls import Call, Work, ask, gather
from .generated import Drawn, Input, Normals, make_source_track, make_step_noise
from .source import frame_noise, sample_noise


@dataclass(frozen=True, eq=False)
class Target:
    """What to convert to: the singer's embedding (D,), semitones up, seed, step indices after the first step."""

    embedding: NDArray[np.float32]
    semitones: float
    seed: int
    schedule: tuple[int, ...] = ()
    noise: NDArray[np.float32] | None = None
    """Noise of the first step, (T, M), in place of what `seed` gives."""

    @property
    def steps(self) -> int:
        return 1 + len(self.schedule)


def horizon_frames(manifest: Manifest, steps: int) -> int:
    """Mel frames beyond a clip's end that its last frame depends on."""
    return manifest.context.vocoder.future + steps * manifest.context.acoustic.future


class Networks:
    """The acoustic model and the vocoder, run for stretches of mel frames with one target."""

    def __init__(self, manifest: Manifest, target: Target, timings_ms: defaultdict[str, float]) -> None:
        self.target = target
        self._spec, self._model, self._timings_ms = manifest.audio, manifest.model, timings_ms

    def mel(
        self,
        first: int,
        content: tuple[NDArray[np.float32], NDArray[np.int32]],
        f0_hz: NDArray[np.float32],
        loudness: NDArray[np.float32],
    ) -> Work[NDArray[np.float32]]:
        """Mel (T, M) of frames `first` on, for content (S, C) with its row of each frame (T,), F0 as it shall be sung.

        One step, or several: x0 from noise, then noise put back and x0 once more, down the schedule.
        """
        rows, index = content
        n_frames = len(f0_hz)
        condition = {
            "content": rows[None],
            "content_index": index[None],
            "f0_hz": f0_hz[None],
            "loudness": loudness[None],
            "singer": self.target.embedding[None],
        }
        noise = self._noise(first, n_frames, step=0)
        reply = yield from ask(Call("acoustic", {**condition, "noise": noise}))
        self._timings_ms["acoustic"] += reply.ms
        further = make_step_noise(self._model, self.target.schedule, noise, partial(self._noise, first, n_frames))
        for step, level in enumerate(self.target.schedule, start=1):
            mel = reply.outputs[0][:, :n_frames]
            again = {"mel": mel, "noise": further.next(step, mel), "step_index": np.array(level, np.int32)}
            reply = yield from ask(Call("acoustic_n", {**condition, **again}))
            self._timings_ms["acoustic"] += reply.ms
        return reply.outputs[0][0, :n_frames]

    def _noise(self, first: int, n_frames: int, step: int) -> Input:
        given, n_mels = self.target.noise, self._spec.n_mels
        if step or given is None:
            return Drawn([Normals(frame_noise(self.target.seed, first, n_mels, step), (n_frames, n_mels))])
        noise = np.zeros((1, n_frames, n_mels), np.float32)
        inside = given[first : first + n_frames]
        noise[0, : len(inside)] = inside
        return noise

    def audio(
        self, first: int, mel: NDArray[np.float32], f0_hz: NDArray[np.float32], source: Drawn | None
    ) -> Work[NDArray[np.float32]]:
        """Samples (L,) at the model's rate of mel frames `first` on."""
        hop = self._spec.hop_length
        inputs: dict[str, Input] = {"mel": mel[None], "f0_hz": f0_hz[None]}
        if source is not None:
            inputs["source"] = source
        inputs["noise"] = Drawn([Normals(sample_noise(self.target.seed, first * hop), (len(mel) * hop,))])
        reply = yield from ask(Call("vocoder", inputs))
        self._timings_ms["vocoder"] += reply.ms
        return reply.outputs[0][0, : len(mel) * hop]


class Synthesis:
    """Follows an `Analysis` through the acoustic model and the vocoder."""

    def __init__(self, analysis: Analysis, manifest: Manifest, target: Target, piece_s: float, at_once: int) -> None:
        self._analysis, self._spec = analysis, manifest.audio
        self._timings_ms = analysis.timings_ms
        self._networks, self._steps = Networks(manifest, target, analysis.timings_ms), target.steps
        self._acoustic_context, self._vocoder_context = manifest.context.acoustic, manifest.context.vocoder
        source = manifest.model.source
        self._source = make_source_track(source.kind, source.channels, self._spec, target.seed)
        self._piece, self._at_once = max(1, round(piece_s * self._spec.frame_rate_hz)), at_once
        self._ratio = np.float32(2.0 ** (target.semitones / 12.0))
        self.mel = Track((self._spec.n_mels,))
        self._frames_sung = 0
        self._from_model = Resampler(self._spec.sample_rate, analysis.sample_rate)
        self._sung = Track()  # at the caller's rate, before the gate
        self._emitted = 0
        self.clipped_samples = 0

    @property
    def position(self) -> int:
        """Mel frame up to which there is audio."""
        return self._frames_sung

    def advance(self) -> Work[NDArray[np.float32]]:
        """Compute all whole pieces that the analysis allows; returns the audio that became ready."""
        yield from self._make_mel()
        yield from self._make_audio()
        return self._emit()

    def forget(self) -> None:
        """Drop what no later piece reads."""
        frame = self.position - self._vocoder_context.past
        self.mel.forget(frame)
        if self._source is not None:
            self._source.forget(frame)

    def _make_mel(self) -> Work[None]:
        analysis = self._analysis
        goal = None if analysis.n_covering is None else analysis.n_covering + self._vocoder_context.future
        pieces, end = [], self.mel.end
        while goal is None or end < goal:
            first, end = next_piece(end, self._piece, goal)
            to_frame = end + self._steps * self._acoustic_context.future
            if goal is None and not (analysis.knows(end) and analysis.position >= to_frame):
                break
            pieces.append(self._mel_of(first, end))
        for mel in (yield from gather(pieces, self._at_once)):
            self.mel.append(mel)

    def _mel_of(self, first: int, last: int) -> Work[NDArray[np.float32]]:
        analysis, steps, context = self._analysis, self._steps, self._acoustic_context
        if analysis.is_silent(first, last):
            return np.zeros((last - first, self._spec.n_mels), np.float32)
        from_frame, to_frame = max(0, first - steps * context.past), last + steps * context.future
        content, f0_hz = analysis.content.read(from_frame, to_frame), self._f0_hz(from_frame, to_frame)
        level = analysis.loudness.read(from_frame, to_frame)
        mel = yield from self._networks.mel(from_frame, content, f0_hz, level)
        return mel[first - from_frame : last - from_frame]

    def _f0_hz(self, first: int, last: int) -> NDArray[np.float32]:
        return self._analysis.sung_f0_hz.read(first, last) * self._ratio

    def _make_audio(self) -> Work[None]:
        analysis, goal = self._analysis, self._analysis.n_covering
        pieces, end = [], self._frames_sung
        while goal is None or end < goal:
            first, last = next_piece(end, self._piece, goal)
            to_frame = last + self._vocoder_context.future
            if goal is None and not (analysis.knows(last) and self.mel.end >= to_frame):
                break
            self._extend_source(to_frame)
            pieces.append(self._audio_of(first, last))
            end = last
        for audio in (yield from gather(pieces, self._at_once)):
            self._frames_sung += len(audio) // self._spec.hop_length
            start = time.perf_counter()
            self._sung.append(self._from_model.push(audio, last=self._frames_sung == goal))
            self._timings_ms["resample"] += 1e3 * (time.perf_counter() - start)

    def _audio_of(self, first: int, last: int) -> Work[NDArray[np.float32]]:
        """Samples (L,) of these mel frames."""
        hop = self._spec.hop_length
        if self._analysis.is_silent(first, last):
            return np.zeros((last - first) * hop, np.float32)
        from_frame, to_frame = max(0, first - self._vocoder_context.past), last + self._vocoder_context.future
        source = None if self._source is None else self._source.read(from_frame, to_frame)
        mel, f0_hz = self.mel.read(from_frame, to_frame), self._f0_hz(from_frame, to_frame)
        audio = yield from self._networks.audio(from_frame, mel, f0_hz, source)
        return audio[(first - from_frame) * hop : (last - from_frame) * hop]

    def _extend_source(self, to_frame: int) -> None:
        """The source up to `to_frame`, its phase carried on from the clip's start."""
        if self._source is not None and to_frame > self._source.end:
            self._source.extend(self._f0_hz(self._source.end, to_frame))

    def _emit(self) -> NDArray[np.float32]:
        """What is ready at the caller's rate, gated, within ±1; in the end exactly as many samples as came in."""
        analysis, rate = self._analysis, self._analysis.sample_rate
        if analysis.n_frames is None:
            end = min(self._sung.end, samples_before(self._frames_sung, rate, self._spec))
        else:
            end = analysis.n_samples
        first = self._emitted
        if end <= first:
            return np.zeros(0, np.float32)
        first_frame, last_frame = mel_range(first, end, rate, self._spec)
        from_frame, to_frame = max(0, first_frame - 1), min(last_frame + 1, analysis.is_open.end)
        gain = gains(analysis.is_open.read(from_frame, to_frame), from_frame, first, end - first, rate, self._spec)
        audio = self._sung.read(first, end) * gain
        self.clipped_samples += int(np.count_nonzero(np.abs(audio) > 1.0))
        self._sung.forget(end)
        self._emitted = end
        return np.clip(audio, -1.0, 1.0)
