"""How far `latency="low"` is from the default, on the held-out set, and what that costs against the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime import Converter
from ..runtime.bundle import comosvc_home
from ..runtime.mel import mel_spectrogram
from ..training.corpus import CorpusConfig
from .conversions import SAMPLE_RATE
from .held_out import load_held_out, pairs
from .metrics import f0_errors, log_mel_l1


@dataclass(frozen=True, kw_only=True)
class LowDistance:
    """Means over conversions. Mel distances are of the audio's log mels, in nepers; F0 is that told to the model."""

    n: int
    mel_l1: float
    """Between the two."""
    f0_cents: float
    """Root mean square between the two, frames that are more than half a semitone apart left out."""
    f0_gross: float
    """Share of those."""
    f0_voicing: float
    truth_l1: float
    """From the default to the true singer."""
    low_truth_l1: float
    """From low latency to the true singer."""
    unconverted_l1: float


def measure_low_distance(converter: Converter, say: Callable[[str], None], every: int = 3) -> LowDistance:
    """Each `every`th conversion of the held-out set, both ways."""
    songs = load_held_out(CorpusConfig(), comosvc_home() / "benchmarks", say)
    spec = converter.spec
    mel, curves, distances = lambda audio: mel_spectrogram(audio, spec), [], []
    for seed, pair in enumerate(list(pairs(songs))[::every]):
        say(f"low latency against the default: {pair.name}")
        default, low = (
            converter.convert(pair.source_audio, SAMPLE_RATE, pair.target, seed=seed, latency=latency)
            for latency in ("default", "low")
        )
        truth = mel(pair.target_audio)
        compared = ((low, default), (default, None), (low, None))
        row: Sequence[float] = [
            log_mel_l1(mel(a.audio), truth if b is None else mel(b.audio), spec.mel_log_base) for a, b in compared
        ]
        distances.append([*row, log_mel_l1(mel(pair.source_audio), truth, spec.mel_log_base)])
        curves.append((low.f0_hz, default.f0_hz))
    mel_l1, truth_l1, low_truth_l1, unconverted = np.mean(distances, axis=0)
    errors = f0_errors(curves, spec.frame_rate_hz)
    return LowDistance(
        n=len(distances),
        mel_l1=mel_l1,
        f0_cents=errors.rmse_cents,
        f0_gross=errors.gross,
        f0_voicing=errors.voicing,
        truth_l1=truth_l1,
        low_truth_l1=low_truth_l1,
        unconverted_l1=unconverted,
    )
