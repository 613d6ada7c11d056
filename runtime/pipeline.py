"""One clip through the whole chain, block by block."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .advice import SourceSurvey, output_warnings, pitch_warnings
from .analysis import Analysis, reach_frames
from .calls import Work
from .manifest import Manifest
from .pitch_statistics import PitchStatistics
from .request import Request
from .synthesis import Synthesis, Target, horizon_frames
from .voices import auto_key

Blocks = Iterator[tuple[NDArray[np.float32], bool]]
"""Mono samples, and whether they are the last."""
BLOCK_S = 4.0
"""How much audio is read at a time."""


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
) -> Work[Outcome]:
    """Convert what `blocks()` gives and pass the result to `sink` as it gets ready.

    `blocks` is called once, or twice where the key has to be found first. `keep` collects mel and F0, which grow with
    the clip.
    """
    timings: defaultdict[str, float] = defaultdict(float)
    key = request.key
    if key is None:
        key = auto_key((yield from _song_pitch(manifest, request, blocks(), sample_rate, timings)), request.voice)
    target = Target(request.voice.embedding, key, request.seed, request.schedule, request.noise)
    analysis = _analysis(manifest, request, sample_rate, timings, pitch_only=False)
    synthesis = Synthesis(analysis, manifest, target, request.piece_s)
    survey, kept = SourceSurvey(sample_rate, channels), _Kept()
    for block, last in blocks():
        survey.add(block)
        analysis.push(block, last)
        yield from analysis.advance()
        sink((yield from synthesis.advance()))
        if keep:
            kept.add(analysis, synthesis)
        analysis.forget(min(analysis.position, synthesis.position))
        synthesis.forget()
    warnings = survey.warnings()
    if not survey.silent:
        warnings += pitch_warnings(analysis.pitch_statistics, key, request.voice)
    warnings += output_warnings(synthesis.clipped_samples)
    outcome = Outcome(key, analysis.n_samples, warnings, timings)
    if keep:
        outcome.mel, outcome.f0_hz = kept.mel(analysis), kept.f0_hz(analysis) * np.float32(2.0 ** (key / 12.0))
    return outcome


def _song_pitch(
    manifest: Manifest, request: Request, blocks: Blocks, sample_rate: int, timings: defaultdict[str, float]
) -> Work[PitchStatistics]:
    """The F0 statistics of a whole song: the only thing that needs it whole."""
    analysis = _analysis(manifest, request, sample_rate, timings, pitch_only=True)
    for block, last in blocks:
        analysis.push(block, last)
        yield from analysis.advance()
        analysis.forget(analysis.position)
    return analysis.pitch_statistics


def track_f0(manifest: Manifest, request: Request, blocks: Blocks, sample_rate: int) -> Work[NDArray[np.float32]]:
    """F0 of a clip at mel frames, (T,), 0 where unvoiced or silent."""
    analysis = _analysis(manifest, request, sample_rate, defaultdict(float), pitch_only=True)
    pieces = []
    for block, last in blocks:
        analysis.push(block, last)
        start = analysis.f0_hz.end
        yield from analysis.advance()
        pieces.append(analysis.f0_hz.read(start, analysis.f0_hz.end))
        analysis.forget(analysis.position)
    return np.concatenate(pieces)[: analysis.n_frames]


def _analysis(
    manifest: Manifest, request: Request, sample_rate: int, timings: defaultdict[str, float], pitch_only: bool
) -> Analysis:
    return Analysis(
        manifest,
        sample_rate,
        timings,
        horizon=horizon_frames(manifest, request.steps),
        reach=reach_frames(manifest, request.steps),
        piece_s=request.piece_s,
        f0_hz=request.f0_hz,
        pitch_only=pitch_only,
    )


class _Kept:
    """Mel and source F0 of the whole clip."""

    def __init__(self) -> None:
        self._mel: list[NDArray[np.float32]] = []
        self._f0_hz: list[NDArray[np.float32]] = []
        self._mel_end = self._f0_end = 0

    def add(self, analysis: Analysis, synthesis: Synthesis) -> None:
        self._mel.append(synthesis.mel.read(self._mel_end, synthesis.mel.end).copy())
        self._f0_hz.append(analysis.f0_hz.read(self._f0_end, analysis.f0_hz.end).copy())
        self._mel_end, self._f0_end = synthesis.mel.end, analysis.f0_hz.end

    def mel(self, analysis: Analysis) -> NDArray[np.float32]:
        return np.concatenate(self._mel)[: analysis.n_frames]

    def f0_hz(self, analysis: Analysis) -> NDArray[np.float32]:
        return np.concatenate(self._f0_hz)[: analysis.n_frames]
