"""Copies of clips at another pitch and another level, as the authors augment their data.

The pitch is moved by taking the spectrum through a window that is longer by 2^(k/12) and reading its bins as if it were
not: everything moves, formants too. Where the content of a clip is what is sung and not how high, it stays the same.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.audio.features import hann, mel_filterbank
from ...runtime.audio.spec import AudioSpec
from ...runtime.storage import sha256
from ..errors import ConfigError

_FRAMES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How clips are varied for the teacher and the student; not at all by default. CoMoSVC's authors take one copy of
    each clip, with probability 0.5 (preprocessing3_feature.py, data_loaders.py).
    """

    probability: float = 0.0
    """How likely a sample is taken from the varied copy of its clip instead of from the clip."""
    key_shift: float = 5.0
    """Largest shift, in semitones up or down."""
    quietest: float = -1.0
    """Smallest gain, log10."""
    loudest: float = 1.0
    """Largest gain, log10, unless the peak would go beyond full scale before that."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ConfigError(f"augmentation probability is {self.probability}; it must be between 0 and 1")
        if not 0.0 <= self.key_shift <= 12.0:
            raise ConfigError(f"augmentation key_shift is {self.key_shift}; it must be between 0 and 12 semitones")
        if self.quietest > self.loudest:
            raise ConfigError(f"augmentation quietest ({self.quietest}) is above loudest ({self.loudest})")


@dataclass(frozen=True)
class Variation:
    """What one copy is varied by."""

    key_shift: float
    """Semitones."""
    gain: float


def draw_variation(key: str, peak: float, config: AugmentationConfig) -> Variation:
    """The variation of the clip whose feature file is `key`: always the same one.

    Key shift uniform, gain log-uniform, with no peak above 1.
    """
    seed = int(sha256(f"variation of {key}".encode())[:16], 16)
    rng = np.random.default_rng(seed)
    headroom = min(config.loudest, float(np.log10(1.0 / (peak + 1e-5))))
    exponent = rng.uniform(min(config.quietest, headroom), headroom)
    return Variation(float(rng.uniform(-config.key_shift, config.key_shift)), float(10.0**exponent))


def vary(audio: NDArray[np.float32], key: str, config: AugmentationConfig, spec: AudioSpec) -> dict[str, NDArray]:
    """mel (T, M) of the copy of a clip (L,), and its key_shift () in semitones and gain ().

    F0 and loudness of the copy are those of the clip times 2^(key_shift / 12) and times gain.
    """
    variation = draw_variation(key, float(np.abs(audio).max(initial=0.0)), config)
    return {
        "mel": key_shifted_mel(audio * np.float32(variation.gain), variation.key_shift, spec),
        "key_shift": np.array(variation.key_shift, np.float32),
        "gain": np.array(variation.gain, np.float32),
    }


def key_shifted_mel(audio: NDArray[np.float32], semitones: float, spec: AudioSpec) -> NDArray[np.float32]:
    """Log-mel of `audio` (L,) as if everything in it were `semitones` higher, (T, M). From CoMoSVC's mel_processing.py.

    Window and transform are longer by 2^(semitones / 12), rounded; bins beyond the usual ones are left out, missing
    ones are zero, and the magnitudes are scaled by the usual window's length over the longer one's.
    """
    n_fft, win_length = (round(n * 2.0 ** (semitones / 12.0)) for n in (spec.n_fft, spec.win_length))
    left = (win_length - spec.hop_length) // 2
    right = max((win_length - spec.hop_length + 1) // 2, win_length - len(audio) - left)
    padded = np.pad(audio, (left, right), mode="reflect" if right < len(audio) else "constant")
    views = np.lib.stride_tricks.sliding_window_view(padded, win_length)[:: spec.hop_length][: spec.frames(len(audio))]
    window = hann(win_length).astype(np.float32)
    basis = mel_filterbank(spec)
    n_bins = min(n_fft // 2 + 1, basis.shape[1])
    mel = np.empty((len(views), spec.n_mels), np.float32)
    for start in range(0, len(mel), _FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(views[start : start + _FRAMES_AT_ONCE] * window, n_fft)[:, :n_bins]
        magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9) * (spec.win_length / win_length)
        mel[start : start + _FRAMES_AT_ONCE] = magnitude @ basis.T[:n_bins]
    return (np.log(np.maximum(mel, spec.mel_floor)) / np.log(spec.mel_log_base)).astype(np.float32)


def variation_path(folder: Path, key: str, config: AugmentationConfig) -> Path:
    """Where the varied copy of the clip `key` is kept. Its name does not depend on the probability."""
    decisive = {name: value for name, value in asdict(config).items() if name != "probability"}
    digest = sha256(json.dumps(decisive, sort_keys=True).encode())[:8]
    return folder / f"{key}.varied-{digest}.safetensors"
