"""Second half of a conversion: mel frames, audio at the model's rate, and the result at the caller's rate."""

import time
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track, mel_range, pieces, samples_before
from ..audio.gate import gains
from ..audio.resampling import Resampler
from ..voice.manifest import Manifest
from .analysis import make_analysis
from .calls import Call
from .content import ContentReader
from .generated import Generated, Input, Normals, StepNoise, make_source_track, make_step_noise
from .request import Request
from .source import frame_noise, sample_noise
from .stages import AnalysedClip, Outputs, Stage, Stages, Timings


class AcousticStage(Stage):
    """Mel frames by the acoustic model, for content, loudness, and the F0 of the result.

    One step, or several: x0 from noise, then noise put back and x0 once more, down the schedule.
    """

    name = "acoustic"

    def __init__(
        self,
        manifest: Manifest,
        request: Request,
        conditions: tuple[ContentReader, Track, Track],
        timings_ms: Timings,
        clip: AnalysedClip | None = None,
    ) -> None:
        self.mel = Track((manifest.audio.n_mels,))
        context = manifest.context_of("acoustic", request.steps)
        super().__init__(timings_ms, [self.mel], context, clip, request.at_once)
        self.request, self._model, self._n_mels = request, manifest.model, manifest.audio.n_mels
        self._content, self._f0_hz, self._loudness = conditions
        self._steps: dict[Call, tuple[int, StepNoise]] = {}

    def inputs(self, first: int, last: int) -> dict[str, Input]:
        rows, index = self._content.read(first, last)
        return {
            "content": rows[None],
            "content_index": index[None],
            "f0_hz": self._f0_hz.read(first, last)[None],
            "loudness": self._loudness.read(first, last)[None],
            "singer": self.request.voice.embedding[None],
            "noise": self._noise(first, last - first, step=0),
        }

    def call(self, first: int, last: int) -> Call | None:
        call = super().call(first, last)
        if call is not None and self.request.schedule:
            start, noise = max(0, first - self.past), call.inputs["noise"]
            draw = partial(self._noise, start, noise.shape[1])
            self._steps[call] = 0, make_step_noise(self._model, self.request.schedule, noise, draw)
        return call

    def following(self, call: Call, outputs: Outputs) -> Call | None:
        step, noise = self._steps.pop(call, (0, None))
        schedule = self.request.schedule
        if noise is None or step == len(schedule):
            return None
        mel = outputs[0][:, : call.inputs["f0_hz"].shape[1]]
        more = {"mel": mel, "noise": noise(step + 1, mel), "step_index": np.array(schedule[step], np.int32)}
        following = Call("acoustic_n", {**call.inputs, **more})
        self._steps[following] = step + 1, noise
        return following

    def _noise(self, first: int, n_frames: int, step: int) -> Input:
        given, n_mels = self.request.noise, self._n_mels
        if step or given is None:
            return Generated([Normals(frame_noise(self.request.seed, first, n_mels, step), (n_frames, n_mels))])
        noise = np.zeros((1, n_frames, n_mels), np.float32)
        inside = given[first : first + n_frames]
        noise[0, : len(inside)] = inside
        return noise


class VocoderStage(Stage):
    """Audio at the model's rate, in pieces of mel frames."""

    name = "vocoder"

    def __init__(
        self,
        manifest: Manifest,
        request: Request,
        mel: Track,
        f0_hz: Track,
        timings_ms: Timings,
        clip: AnalysedClip | None = None,
    ) -> None:
        self.audio, source = Track(), manifest.model.source
        super().__init__(timings_ms, [self.audio], manifest.context_of("vocoder"), clip, request.at_once)
        self.rate, self._seed, self._mel, self._f0_hz = manifest.audio.hop_length, request.seed, mel, f0_hz
        self.source = make_source_track(source.kind, source.channels, manifest.audio, request.seed)

    def call(self, first: int, last: int) -> Call | None:
        end = last + self.future
        if self.source is not None and end > self.source.end:  # its phase goes on in silence
            self.source.extend(self._f0_hz.read(self.source.end, end))
        return super().call(first, last)

    def inputs(self, first: int, last: int) -> dict[str, Input]:
        noise = Normals(sample_noise(self._seed, first * self.rate), ((last - first) * self.rate,))
        # Mel may end before F0 and source do: the vocoder depends on less of it.
        mel, f0_hz = self._mel.read_padded(first, last), self._f0_hz.read(first, last)
        source = {} if self.source is None else {"source": self.source.read(first, last)}
        return {"mel": mel[None], "f0_hz": f0_hz[None], **source, "noise": Generated([noise])}

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """Samples of these mel frames; discards those before."""
        self.audio.forget(first * self.rate)
        return self.audio.read(first * self.rate, last * self.rate)

    def forget(self, frame: int) -> None:
        """Discard the source before mel frame `frame`."""
        if self.source is not None:
            self.source.forget(frame)


class FullContext:
    """One clip, every graph with its full context on either side, so that pieces give what the whole clip gives."""

    def __init__(self, manifest: Manifest, request: Request, sample_rate: int, timings_ms: Timings) -> None:
        spec = self._spec = manifest.audio
        self._timings_ms, self._piece = timings_ms, max(1, round(request.piece_s * spec.frame_rate_hz))
        analysis = self._analysis = make_analysis(manifest, request, sample_rate, timings_ms)
        assert analysis.content is not None
        clip = analysis.clip
        self._ratio, self._result_f0_hz = request.f0_ratio, Track()
        conditions = analysis.content, self._result_f0_hz, clip.loudness
        self._acoustic = AcousticStage(manifest, request, conditions, timings_ms, clip)
        self._vocoder = VocoderStage(manifest, request, self._acoustic.mel, self._result_f0_hz, timings_ms, clip)
        self.mel, self.f0_hz = self._acoustic.mel, analysis.f0_hz
        self.pitch_statistics, self.pitch_survey = analysis.pitch_statistics, analysis.pitch_survey
        self._from_model = Resampler(spec.sample_rate, sample_rate)
        self._sung = Track()  # at the caller's rate, before the gate
        self._frames_sung, self._emitted, self.clipped_samples = 0, 0, 0

    @property
    def n_samples(self) -> int:
        return self._analysis.clip.n_samples

    @property
    def n_frames(self) -> int | None:
        return self._analysis.clip.n_frames

    def listen(self, audio: NDArray[np.float32], last: bool) -> None:
        """The next samples, mono at the caller's rate; `last` with the final ones. No graph runs."""
        self._analysis.forget(min(self._analysis.position, self._frames_sung))
        frame = self._frames_sung - self._vocoder.past
        self._result_f0_hz.forget(min(frame, self.mel.end - self._acoustic.past))
        self.mel.forget(frame)
        self._vocoder.forget(frame)
        self._analysis.push(audio, last)

    def stages(self) -> Stages[None]:
        """Stages that compute all whole pieces the audio so far allows; after the last block, everything."""
        analysis, clip, acoustic, vocoder = self._analysis, self._analysis.clip, self._acoustic, self._vocoder
        yield from analysis.stages()
        new = analysis.model_f0_hz.read(self._result_f0_hz.end, analysis.model_f0_hz.end)
        self._result_f0_hz.append(new * self._ratio)
        goal = None if clip.n_covering is None else clip.n_covering + vocoder.future

        def has_condition(_: int, last: int) -> bool:
            return clip.has_frame(last) and analysis.position >= last + acoustic.future

        def has_mel(_: int, last: int) -> bool:
            return clip.has_frame(last) and self.mel.end >= last + vocoder.future

        yield acoustic.plan(pieces(self.mel.end, self._piece, goal, has_condition))
        audio_pieces = list(pieces(self._frames_sung, self._piece, clip.n_covering, has_mel))
        yield vocoder.plan(audio_pieces)
        start = time.perf_counter()
        for first, last in audio_pieces:
            self._sung.append(self._from_model.push(vocoder.read(first, last), last=last == clip.n_covering))
            self._frames_sung = last
        self._timings_ms["resample"] += 1e3 * (time.perf_counter() - start)

    def emit(self) -> NDArray[np.float32]:
        """The new samples at the caller's rate, gated, within ±1; in the end exactly as many samples as came in."""
        clip, rate = self._analysis.clip, self._analysis.clip.sample_rate
        if clip.n_frames is None:
            end = min(self._sung.end, samples_before(self._frames_sung, rate, self._spec))
        else:
            end = clip.n_samples
        first = self._emitted
        if end <= first:
            return np.zeros(0, np.float32)
        first_frame, last_frame = mel_range(first, end, rate, self._spec)
        from_frame, to_frame = max(0, first_frame - 1), min(last_frame + 1, clip.is_open.end)
        gain = gains(clip.is_open.read(from_frame, to_frame), from_frame, first, end - first, rate, self._spec)
        audio = self._sung.read(first, end) * gain
        self.clipped_samples += int(np.count_nonzero(np.abs(audio) > 1.0))
        self._sung.forget(end)
        self._emitted = end
        return np.clip(audio, -1.0, 1.0)
