"""One clip through the whole chain, block by block, with its progress."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import Track
from ..audio.pitch import PITCH_SAMPLE_RATE
from ..audio.spec import AudioSpec
from ..audio.world_f0 import f0_warnings
from ..errors import CancelledError, check_progress
from ..voice.manifest import Manifest
from ..voice.singers import auto_key
from .analysis import make_analysis
from .calls import Call
from .findings import SourceSurvey, key_warnings, output_warnings, pitch_warnings
from .low_latency import LowLatency
from .request import Request, check_f0
from .stages import Stages, Timings
from .synthesis import FullContext

Blocks = Iterator[tuple[NDArray[np.float32], bool]]
"""Mono samples, and whether they are the last."""
BLOCK_S = 4.0
"""How much audio is read at a time, for each piece that is to be computed at a time."""


@dataclass(eq=False)
class Outcome:
    """What is left of a clip whose audio has gone to the sink. `mel` (T, M) and `f0_hz` (T,) only if kept."""

    key: float
    n_samples: int
    warnings: list[str]
    timings_ms: Mapping[str, float]
    mel: NDArray[np.float32] | None = None
    f0_hz: NDArray[np.float32] | None = None


def convert_blocks(
    manifest: Manifest,
    request: Request,
    blocks: Callable[[], Blocks],
    sample_rate: int,
    channels: int,
    sink: Callable[[NDArray[np.float32]], object],
    keep: bool,
) -> Stages[Outcome]:
    """Convert the audio of `blocks()` and pass the result to `sink` piece by piece.

    `blocks` is called once, or twice where the key has to be found first. `keep` collects mel and F0, which grow with
    the clip.
    """
    request = yield from with_key(manifest, request, blocks, sample_rate)
    timings, key = Timings(float, request.found_in_ms or {}), request.key
    assert key is not None
    chain = (LowLatency if request.low_latency else FullContext)(manifest, request, sample_rate, timings)
    survey = SourceSurvey(sample_rate, channels)
    mel, f0_hz = _Kept((manifest.audio.n_mels,)), _Kept()
    for block, last in blocks():
        survey.add(block)
        chain.listen(block, last)
        yield from chain.stages()
        sink(chain.emit())
        if keep:
            mel.add(chain.mel)
            f0_hz.add(chain.f0_hz)
    has_pitch = chain.pitch_statistics.voiced_frames > 0
    warnings = survey.warnings(has_pitch)
    if request.f0_hz is None:
        warnings += f0_warnings(manifest.model.f0_extractor, live=request.low_latency)
    if has_pitch or not survey.quiet:
        warnings += pitch_warnings(chain.pitch_statistics, key, request.voice) + chain.pitch_survey.warnings()
    warnings += key_warnings(key, request.found_in_ms is not None) + output_warnings(chain.clipped_samples)
    outcome = Outcome(key, chain.n_samples, warnings, timings)
    if keep:
        assert chain.n_frames is not None
        outcome.mel = mel.read(chain.n_frames)
        outcome.f0_hz = f0_hz.read(chain.n_frames) * request.f0_ratio
    return outcome


def with_key(manifest: Manifest, request: Request, blocks: Callable[[], Blocks], sample_rate: int) -> Stages[Request]:
    """`request` with its key. A key that is not given is found in an additional pass over the song."""
    if request.key is not None:
        return request
    timings = Timings(float)
    analysis = make_analysis(manifest, request, sample_rate, timings, pitch_only=True)
    for block, last in blocks():
        analysis.forget(analysis.position)
        analysis.push(block, last)
        yield from analysis.stages()
    assert request.voice.f0_median_hz is not None  # check_key
    key = auto_key(analysis.pitch_statistics, request.voice.f0_median_hz, request.key_step)
    if request.f0_hz is not None:
        check_f0(request.f0_hz, key, manifest.audio.sample_rate)
    return replace(request, key=key, found_in_ms=timings)


def track_f0(manifest: Manifest, request: Request, blocks: Blocks, sample_rate: int) -> Stages[NDArray[np.float32]]:
    """F0 of a clip at mel frames, (T,), 0 where unvoiced or silent."""
    analysis = make_analysis(manifest, request, sample_rate, Timings(float), pitch_only=True)
    f0_hz = _Kept()
    for block, last in blocks:
        analysis.forget(analysis.position)
        analysis.push(block, last)
        yield from analysis.stages()
        f0_hz.add(analysis.f0_hz)
    assert analysis.clip.n_frames is not None
    return f0_hz.read(analysis.clip.n_frames)


class _Kept:
    """A track of the whole clip; 0 where a live conversion left it out."""

    def __init__(self, width: tuple[int, ...] = ()) -> None:
        self._all = Track(width)

    def add(self, track: Track) -> None:
        self._all.append_zeros(max(0, track.start - self._all.end))
        self._all.append(track.read(min(self._all.end, track.end), track.end))

    def read(self, n_frames: int) -> NDArray[np.float32]:
        self._all.append_zeros(max(0, n_frames - self._all.end))
        return self._all.read(0, n_frames)


Progress = Callable[[float], Any]
"""Called with the share that is done, 0 to 1, never less than before; returning False cancels (`CancelledError`)."""
_WEIGHTS = {"pitch": 1.0, "content": 1.0, "acoustic": 1.0, "vocoder": 3.0}
"""About how long a second of audio takes in each graph, relative to each other."""
_BEFORE_THE_END = 0.99


class Meter:
    """Progress of one clip. `pitch_passes`: 2 where the key is found first. Raises `OptionError`."""

    def __init__(self, report: Progress | None, spec: AudioSpec, steps: int, pitch_passes: int) -> None:
        check_progress(report)
        self._report, self._frame_rate_hz = report, spec.frame_rate_hz
        calls = {"pitch": pitch_passes, "content": 1, "acoustic": steps, "vocoder": 1}
        self._expected_per_s = sum(_WEIGHTS[graph] * count for graph, count in calls.items())
        self._n_samples: int | None = None
        self._seconds, self._computed, self._written, self._share = 0.0, 0.0, 0, 0.0

    def expect(self, n_samples: int | None, sample_rate: int) -> None:
        """Set the length of the clip. None: unknown; then 0 is reported until the end."""
        self._n_samples, self._seconds = n_samples or None, (n_samples or 0) / sample_rate

    def computed(self, call: Call) -> None:
        """Count a finished call of a graph. Raises `CancelledError`."""
        name = "audio" if "audio" in call.inputs else "f0_hz"
        seconds = call.inputs[name].shape[1] / (PITCH_SAMPLE_RATE if name == "audio" else self._frame_rate_hz)
        self._computed += seconds * _WEIGHTS[call.graph.split("_")[0]]
        self._report_share()

    def written(self, n_samples: int) -> None:
        """Count finished samples of the result. Raises `CancelledError`."""
        self._written += n_samples
        self._report_share()

    def finish(self) -> None:
        """Report the end. Raises `CancelledError`."""
        self._share = 1.0
        self._report_share()

    def _report_share(self) -> None:
        if self._n_samples is not None:
            share = max(self._computed / (self._seconds * self._expected_per_s), self._written / self._n_samples)
            self._share = max(self._share, min(share, _BEFORE_THE_END))
        answer = None if self._report is None else self._report(self._share)
        if isinstance(answer, bool | np.bool_) and not answer:
            raise CancelledError(f"cancelled at {self._share:.0%} by the progress function")
