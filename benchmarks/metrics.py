"""Distances between mel spectrograms and between F0 curves; F0 and singer of audio. numpy only."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from ..runtime.audio.features import mel_spectrogram
from ..runtime.audio.pitch import PITCH_SAMPLE_RATE, f0_at_frames, track_pitch
from ..runtime.audio.spec import AudioSpec
from ..runtime.providers.sessions import open_session

Mel = NDArray[np.float32]
T = TypeVar("T")

SMOOTHING_FRAMES = 9
"""Width of the moving average that parts a mel into its course and its texture: 48 ms at hop 128 and 24 kHz."""
GROSS_ERROR_CENTS = 50.0
FLIP_TOLERANCE_S = 0.020
"""Frames this close to a change of voicing in the truth do not count as voicing errors: its instant is a convention."""


def log_mel_l1(estimate: Mel, truth: Mel, log_base: float) -> float:
    """Mean absolute difference of two log-mels (T, M) of base `log_base`, in nepers."""
    _require_same_shape(estimate, truth)
    return float(np.mean(np.abs(estimate.astype(np.float64) - truth)) * np.log(log_base))


def smoothed_l1(estimate: Mel, truth: Mel, log_base: float) -> float:
    """`log_mel_l1` of both mels averaged over `SMOOTHING_FRAMES` in time: the error without the texture."""
    return log_mel_l1(smoothed(estimate), smoothed(truth), log_base)


def texture(estimate: Mel, truth: Mel) -> float:
    """Standard deviation of the time-high-passed mel, estimate over truth: 1 right, below smoothed, above noisy."""
    _require_same_shape(estimate, truth)
    return float(np.std(estimate - smoothed(estimate)) / np.std(truth - smoothed(truth)))


def smoothed(mel: Mel, width: int = SMOOTHING_FRAMES) -> Mel:
    """Centred moving average over time of a mel (T, M); at the ends over the frames that exist."""
    if width % 2 == 0:
        raise ValueError(f"the width of a centred average must be odd, got {width}")
    sums = np.concatenate((np.zeros((1, mel.shape[1])), np.cumsum(mel, axis=0, dtype=np.float64)))
    index = np.arange(len(mel))
    first, last = np.maximum(index - width // 2, 0), np.minimum(index + width // 2 + 1, len(mel))
    return ((sums[last] - sums[first]) / (last - first)[:, None]).astype(mel.dtype)


@dataclass(frozen=True)
class MelScore:
    """An estimated mel against the true one: distances in nepers, and texture."""

    l1: float
    smoothed_l1: float
    texture: float


def score_mel(estimate: Mel, truth: Mel, log_base: float) -> MelScore:
    """Compare the frames that both (T, M) have; a last frame that only one of them covers does not count."""
    n_frames = min(len(estimate), len(truth))
    a, b = estimate[:n_frames], truth[:n_frames]
    return MelScore(log_mel_l1(a, b, log_base), smoothed_l1(a, b, log_base), texture(a, b))


def mean_of(items: Sequence[T]) -> T:
    """Dataclasses of numbers, averaged field by field."""
    names = [field.name for field in fields(items[0])]  # pyright: ignore[reportArgumentType]
    return type(items[0])(**{name: float(np.mean([getattr(item, name) for item in items])) for name in names})


@dataclass(frozen=True)
class F0Errors:
    """Errors of F0 curves against the truth."""

    gross: float
    """Share of the frames voiced in both that are more than `GROSS_ERROR_CENTS` off."""
    rmse_cents: float
    """Root mean square error over the other frames voiced in both."""
    voicing: float
    """Share of frames with the wrong voicing, of those farther than `FLIP_TOLERANCE_S` from a change in the truth."""
    n_frames: int


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


def f0_errors(curves: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]], frame_rate_hz: float) -> F0Errors:
    """Errors over clips, each a pair (estimate, truth) of (T,) in Hz, 0 = unvoiced, compared frame by frame."""
    cents, wrong = [], []
    for estimate, truth in curves:
        _require_same_shape(estimate, truth)
        both = (estimate > 0) & (truth > 0)
        cents.append(1200.0 * np.log2(estimate[both].astype(np.float64) / truth[both]))
        settled = ~_near_flip(truth > 0, frame_rate_hz)
        wrong.append(((estimate > 0) != (truth > 0))[settled])
    error, voicing = np.concatenate(cents), np.concatenate(wrong)
    gross = np.abs(error) > GROSS_ERROR_CENTS
    fine = error[~gross]
    return F0Errors(
        gross=float(gross.mean()) if len(gross) else float("nan"),
        rmse_cents=float(np.sqrt(np.mean(fine**2))) if len(fine) else float("nan"),
        voicing=float(voicing.mean()) if len(voicing) else float("nan"),
        n_frames=len(voicing),
    )


def _near_flip(voiced: NDArray[np.bool_], frame_rate_hz: float) -> NDArray[np.bool_]:
    flips = np.flatnonzero(np.diff(voiced)) + 0.5  # a change lies between two frames
    if len(flips) == 0:
        return np.zeros(len(voiced), bool)
    index = np.arange(len(voiced))
    after = np.searchsorted(flips, index)
    to_next = np.abs(flips[np.minimum(after, len(flips) - 1)] - index)
    to_last = np.abs(index - flips[np.maximum(after - 1, 0)])
    return np.minimum(to_next, to_last) <= FLIP_TOLERANCE_S * frame_rate_hz


def _require_same_shape(estimate: NDArray, truth: NDArray) -> None:
    if estimate.shape != truth.shape:
        raise ValueError(f"the two to compare must have one shape, got {estimate.shape} and {truth.shape}")


_SINGER_GRAPH = Path(__file__).with_name("data") / "singer_id.onnx"
_PITCH_GRAPH = Path(__file__).parents[1] / "runtime" / "data" / "pitch.onnx"


class PitchMeter:
    """F0 of any audio, by the pitch graph that the package carries."""

    def __init__(self) -> None:
        self.session = open_session(_PITCH_GRAPH.read_bytes(), "the pitch graph", 1)

    def __call__(self, audio: NDArray[np.float32], sample_rate: int, spec: AudioSpec) -> NDArray[np.float32]:
        """(T,) in Hz at the mel frames of `spec`, 0 = unvoiced."""
        at_16k = soxr.resample(audio, sample_rate, PITCH_SAMPLE_RATE)
        n_frames = spec.frames(int(len(audio) * spec.sample_rate / sample_rate))
        return f0_at_frames(*track_pitch(self.session, at_16k), n_frames, spec)


class SingerMeter:
    """Which demo voice a clip sounds like, by a small classifier of our own; "other" for none of them.

    Trained on real renderings, never on a conversion, by `comosvc.training.evaluation.singer_id`.
    """

    def __init__(self) -> None:
        self._session = open_session(_SINGER_GRAPH.read_bytes(), "the singer classifier", 1)
        facts = self._session.get_modelmeta().custom_metadata_map
        self.names: tuple[str, ...] = tuple(json.loads(facts["classes"]))
        self._spec = AudioSpec(**json.loads(facts["audio"]))

    def __call__(self, audio: NDArray[np.float32], sample_rate: int) -> str:
        """The name that is likeliest for the whole of `audio` (L,)."""
        mel = mel_spectrogram(soxr.resample(audio, sample_rate, self._spec.sample_rate), self._spec)
        (logits,) = self._session.run(None, {"mel": mel[None]})
        return self.names[int(np.argmax(logits[0]))]
