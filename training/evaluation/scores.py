"""Measures as formulas, and scores of systems on pairs. Nothing is aligned in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.files import write_audio
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import COMOSVC_24K, FrontEnd
from ..data.prepared import swift_f0
from .converters import ConverterUnderTest, EvaluationClip, Pair, Unconverted, file_name
from .outside import MEASURE_RATE, Compare, Embed, Missing, Recogniser

SPEC = COMOSVC_24K
"""Where mel and F0 of every system are taken, whatever its own front end is."""


CEPSTRAL_COEFFICIENTS = 13


def f0_pearson(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """FPC: Pearson correlation of two F0 curves (T,) in Hz over all frames, 0 = unvoiced counted as it stands.

    As Amphion computes it, whose code the paper's figures come from. NaN where one curve is constant.
    """
    a, b = _same_length(estimate, truth)
    return _pearson(a, b)


def voiced_pearson(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """`f0_pearson` over the frames voiced in both: the melody alone, without what voicing contributes."""
    a, b = _same_length(estimate, truth)
    both = (a > 0) & (b > 0)
    return _pearson(a[both], b[both])


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if len(a) < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def f0_rmse_cents(estimate: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Root mean square error of F0 in cents over the frames voiced in both, octave errors and all. NaN without any."""
    a, b = _same_length(estimate, truth)
    both = (a > 0) & (b > 0)
    if not both.any():
        return float("nan")
    return float(np.sqrt(np.mean(np.square(1200.0 * np.log2(a[both] / b[both])))))


def mel_l1(estimate: NDArray[np.floating], truth: NDArray[np.floating], log_base: float) -> float:
    """Mean absolute difference of two log-mels (T, M) of base `log_base`, in nepers."""
    a, b = _same_length(estimate, truth)
    return float(np.mean(np.abs(a - b)) * np.log(log_base))


def mel_cepstral_distortion(
    estimate: NDArray[np.floating],
    truth: NDArray[np.floating],
    log_base: float,
    coefficients: int = CEPSTRAL_COEFFICIENTS,
) -> float:
    """MCD in dB of two log-mels (T, M): 10 / ln 10 * sqrt(2 sum_{d=1..D} (c_d - c'_d)^2), mean over frames.

    c are the cosine coefficients of the log magnitude in nepers along the mel axis; c_0, the level, is left out.
    Figures from WORLD or SPTK cepstra are on another warping of frequency and do not compare.
    """
    a, b = _same_length(estimate, truth)
    n_mels = a.shape[1]
    cepstra = dct((a - b) * np.log(log_base), type=2, norm="ortho", axis=1) * np.sqrt(2.0 / n_mels)
    distance = np.sqrt(2.0 * np.square(cepstra[:, 1 : coefficients + 1]).sum(axis=1))
    return float(10.0 / np.log(10.0) * distance.mean())


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine of the angle between two vectors (D,)."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _same_length(
    estimate: NDArray[np.floating], truth: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both over the frames that both have, in float64: one system may keep a last, partial frame."""
    n_frames = min(len(estimate), len(truth))
    return estimate[:n_frames].astype(np.float64), truth[:n_frames].astype(np.float64)


@dataclass(frozen=True)
class Tools:
    """Measures that need more than numpy; each may be missing."""

    pesq: Compare | Missing
    stoi: Compare | Missing
    embed: Embed | Missing
    character_errors: Callable[[str, str], float] | Missing
    recogniser: Recogniser | None = None

    def missing(self) -> dict[str, str]:
        """By the measure's name, why it is not taken."""
        named = {"PESQ": self.pesq, "STOI": self.stoi, "SIM": self.embed}
        found = {name: tool.why for name, tool in named.items() if isinstance(tool, Missing)}
        if self.recogniser is None:
            found["CER"] = "not measured: give a speech recogniser: --recogniser 'program {wav}'"
        elif isinstance(self.character_errors, Missing):
            found["CER"] = self.character_errors.why
        return found


@dataclass(frozen=True)
class ClipScore:
    """One system on one pair; a figure that is missing or cannot be had is not in `figures`."""

    system: str
    clip: str
    target: str
    key: float
    figures: Mapping[str, float]


@dataclass
class Scorer:
    """Measures what comes out of systems. `voices` are the targets' own mean embeddings (D,) by name."""

    tools: Tools
    voices: Mapping[str, NDArray[np.float32]]
    referenced: bool
    """Whether the clip is what should come out."""
    _heard: dict[str, str] = field(default_factory=dict)

    def score(self, system: ConverterUnderTest, pair: Pair, keep: Path | None = None) -> ClipScore | None:
        """Convert and measure; `keep` is a folder to write the audio to. None where the system has nothing."""
        converted = system.convert(pair)
        if converted is None:
            return None
        audio, rate = converted
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            write_audio(keep / file_name(pair), np.clip(audio, -1.0, 1.0), rate, overwrite=True)
        melody = self._melody(audio, rate, pair)
        if isinstance(system, Unconverted):
            del melody["F0 RMSE"]  # without conversion it is the asked key
        figures = {**melody, **self._voice(audio, rate, pair.target)}
        if self.referenced:
            figures |= self._against_reference(audio, rate, pair.clip)
        if self.tools.recogniser is not None and not isinstance(self.tools.character_errors, Missing):
            heard = self.tools.recogniser(resample(audio, rate, MEASURE_RATE))
            figures["CER"] = self.tools.character_errors(heard, self._sung(pair.clip))
        present = {name: value for name, value in figures.items() if np.isfinite(value)}
        return ClipScore(system.name, pair.clip.id, pair.target, pair.key, present)

    def _melody(self, audio: NDArray[np.float32], rate: int, pair: Pair) -> dict[str, float]:
        wanted = f0(pair.clip.audio, pair.clip.rate) * 2.0 ** (pair.key / 12.0)
        found = f0(audio, rate)
        return {
            "FPC": f0_pearson(found, wanted),
            "FPC voiced": voiced_pearson(found, wanted),
            "F0 RMSE": f0_rmse_cents(found, wanted),
        }

    def _voice(self, audio: NDArray[np.float32], rate: int, target: str) -> dict[str, float]:
        if isinstance(self.tools.embed, Missing) or target not in self.voices:
            return {}
        voice = self.tools.embed(resample(audio, rate, MEASURE_RATE))
        likeness = {name: cosine(voice, centre) for name, centre in self.voices.items()}
        return {"SIM": likeness[target], "ID": float(max(likeness, key=likeness.__getitem__) == target)}

    def _against_reference(self, audio: NDArray[np.float32], rate: int, clip: EvaluationClip) -> dict[str, float]:
        estimate, truth = (
            mel_spectrogram(resample(a, r, SPEC.sample_rate), SPEC) for a, r in ((audio, rate), (clip.audio, clip.rate))
        )
        base = SPEC.mel_log_base
        figures = {
            "MCD": mel_cepstral_distortion(estimate, truth, base),
            "mel L1": mel_l1(estimate, truth, base),
        }
        ours, theirs = (resample(a, r, MEASURE_RATE) for a, r in ((audio, rate), (clip.audio, clip.rate)))
        n_samples = min(len(ours), len(theirs))
        for name, compare in (("PESQ", self.tools.pesq), ("STOI", self.tools.stoi)):
            if not isinstance(compare, Missing):
                figures[name] = compare(ours[:n_samples], theirs[:n_samples])
        return figures

    def _sung(self, clip: EvaluationClip) -> str:
        """The clip's text; what the recogniser hears in the clip itself where that is not known."""
        if clip.text:
            return clip.text
        assert self.tools.recogniser is not None
        if clip.id not in self._heard:
            self._heard[clip.id] = self.tools.recogniser(resample(clip.audio, clip.rate, MEASURE_RATE))
        return self._heard[clip.id]


def f0(audio: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """F0 in Hz at the frames of `SPEC`, (T,), 0 = unvoiced."""
    return swift_f0(resample(audio, rate, SPEC.sample_rate), SPEC, FrontEnd())


def f0_median_hz(clips: Sequence[EvaluationClip]) -> float:
    """Median F0 of the voiced frames; NaN without any."""
    curve = np.concatenate([f0(clip.audio, clip.rate) for clip in clips])
    return float(np.median(curve[curve > 0])) if (curve > 0).any() else float("nan")


def mean_voice(clips: Sequence[EvaluationClip], embed: Embed) -> NDArray[np.float32]:
    """Mean of the embeddings of a singer's own clips, each of unit length, (D,)."""
    vectors = [embed(resample(clip.audio, clip.rate, MEASURE_RATE)) for clip in clips]
    return np.mean([vector / np.linalg.norm(vector) for vector in vectors], axis=0)
