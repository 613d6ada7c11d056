"""How far `latency="low"` is from the default, on the held-out set, and what that costs against the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime import Converter
from ..runtime.audio import resample
from ..runtime.bundle import comosvc_home
from ..runtime.mel import mel_spectrogram
from ..training.corpus import CorpusConfig
from .conversions import SAMPLE_RATE
from .held_out import load_held_out, pairs
from .metrics import f0_errors, log_mel_l1

Audio = NDArray[np.float32]
_STREAMS = ((24_000, 20.0), (44_100, 40.0), (48_000, 333.0), (16_000, 10.0))
"""Rates, and lengths of blocks in ms."""


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
    stream_snr_db: tuple[float, float] | None = None
    """The least of a stream's against low latency of the whole: with its own F0, with the song's true F0 given."""


def measure_low_distance(converter: Converter, say: Callable[[str], None], every: int = 3) -> LowDistance:
    """Each `every`th conversion of the held-out set, both ways, and as a stream, at varying rates and blocks."""
    songs = load_held_out(CorpusConfig(), comosvc_home() / "benchmarks", say)
    spec = converter.spec
    mel, curves, distances, streamed = lambda audio: mel_spectrogram(audio, spec), [], [], []
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
        rate, block_ms = _STREAMS[len(curves) % len(_STREAMS)]
        audio = resample(pair.source_audio, SAMPLE_RATE, rate)
        f0_hz = np.zeros(converter.frames(len(audio), rate), np.float32)
        true_f0_hz = pair.song.f0_at_frames(spec)[: len(f0_hz)]
        f0_hz[: len(true_f0_hz)] = true_f0_hz
        streamed.append([_stream_snr_db(converter, audio, rate, block_ms, pair.target, f0) for f0 in (None, f0_hz)])
    mel_l1, truth_l1, low_truth_l1, unconverted = np.mean(distances, axis=0)
    own_snr_db, given_snr_db = map(float, np.min(streamed, axis=0))
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
        stream_snr_db=(own_snr_db, given_snr_db),
    )


def _stream_snr_db(
    converter: Converter, audio: Audio, rate: int, block_ms: float, singer: str, f0_hz: Audio | None
) -> float:
    """Of a stream in blocks, against low latency of the whole."""
    whole = converter.convert(audio, rate, singer, latency="low", f0_hz=f0_hz).audio
    block = round(1e-3 * block_ms * rate)
    with converter.stream(rate, singer=singer, f0_hz=f0_hz, block_ms=block_ms) as stream:
        out = [stream.process(audio[at : at + block]) for at in range(0, len(audio), block)]
        found = np.concatenate((*out, stream.flush()))[stream.latency_samples :]
    noise = float(np.square(found - whole, dtype=np.float64).sum())
    return float(10.0 * np.log10(np.square(whole, dtype=np.float64).sum() / max(noise, 1e-20)))
