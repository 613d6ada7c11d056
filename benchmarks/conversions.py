"""Conversions of the held-out set, each against the ground truth and against doing nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from ..runtime import Converter
from ..runtime.mel import mel_spectrogram
from ..runtime.spec import AudioSpec
from .held_out import Pair
from .meters import PitchMeter
from .metrics import F0Errors, Mel, MelScore, f0_errors, score_mel

SAMPLE_RATE = 24_000
Identify = Callable[[NDArray[np.float32], int], str]
"""Audio (L,) and its rate to the name of the demo voice that it sounds most like."""


@dataclass(frozen=True)
class Score:
    """One conversion."""

    pair: str
    target: str
    mel: MelScore
    """The student's mel."""
    audio: MelScore
    """The mel of the audio that comes out: the whole chain."""
    unconverted: MelScore
    """The source's mel."""
    identified: str
    f0_hz: NDArray[np.float32]
    """Tracked in the output, (T,)."""
    true_f0_hz: NDArray[np.float32]


def score_conversion(
    converter: Converter, pair: Pair, seed: int, steps: int, meter: PitchMeter, identify: Identify
) -> Score:
    """Convert `pair` at its own key and compare."""
    out = converter.convert(pair.source_audio, SAMPLE_RATE, singer=pair.target, key=0.0, seed=seed, steps=steps)
    return score_output(out.mel, out.audio, pair, converter.spec, meter, identify)


def score_output(
    mel: Mel, audio: NDArray[np.float32], pair: Pair, spec: AudioSpec, meter: PitchMeter, identify: Identify
) -> Score:
    """Compare a mel (T, M) and the audio (L,) at `SAMPLE_RATE` that a conversion of `pair` gave."""
    truth, before, after = (_mel(a, spec) for a in (pair.target_audio, pair.source_audio, audio))
    true_f0_hz = pair.song.f0_at_frames(spec)
    return Score(
        pair=pair.name,
        target=pair.target,
        mel=score_mel(mel, truth, spec.mel_log_base),
        audio=score_mel(after, truth, spec.mel_log_base),
        unconverted=score_mel(before, truth, spec.mel_log_base),
        identified=identify(audio, SAMPLE_RATE),
        f0_hz=meter(audio, SAMPLE_RATE, spec)[: len(true_f0_hz)],
        true_f0_hz=true_f0_hz,
    )


def _mel(audio: NDArray[np.float32], spec: AudioSpec) -> Mel:
    return mel_spectrogram(soxr.resample(audio, SAMPLE_RATE, spec.sample_rate), spec)


@dataclass(frozen=True)
class Pooled:
    """Averages over conversions."""

    n: int
    relative_l1: float
    """Of the student's mel, over that of the unconverted source."""
    relative_l1_audio: float
    relative_smoothed_l1: float
    texture: float
    texture_audio: float
    unconverted_l1: float
    identified: float
    """Share of clips whose target singer the classifier names."""
    f0: F0Errors


def pool(scores: Iterable[Score], spec: AudioSpec) -> Pooled:
    """Average distances first, then divide, so that no single clip's baseline weighs more."""
    scores = list(scores)
    unconverted = _mean(s.unconverted.l1 for s in scores)
    return Pooled(
        n=len(scores),
        relative_l1=_mean(s.mel.l1 for s in scores) / unconverted,
        relative_l1_audio=_mean(s.audio.l1 for s in scores) / unconverted,
        relative_smoothed_l1=_mean(s.mel.smoothed_l1 for s in scores)
        / _mean(s.unconverted.smoothed_l1 for s in scores),
        texture=_mean(s.mel.texture for s in scores),
        texture_audio=_mean(s.audio.texture for s in scores),
        unconverted_l1=unconverted,
        identified=_mean(s.identified == s.target for s in scores),
        f0=f0_errors(((s.f0_hz, s.true_f0_hz) for s in scores), spec.frame_rate_hz),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
