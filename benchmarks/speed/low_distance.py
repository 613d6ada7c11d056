"""Distance of `latency="low"` from the default and from the truth, on the held-out set."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...runtime import Converter
from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import AudioSpec
from ...runtime.voice.bundle import comosvc_home
from ...training.corpus import CorpusConfig
from ..held_out import SAMPLE_RATE, load_held_out, pairs
from ..metrics import PitchMeter, f0_errors, log_mel_l1
from .latency_results import LowDistance

Audio = NDArray[np.float32]
_STREAMS = ((24_000, 20.0), (44_100, 40.0), (48_000, 333.0), (16_000, 10.0))
"""Rates, and lengths of blocks in ms."""


def measure_low_distance(converter: Converter, say: Callable[[str], None], every: int = 3) -> LowDistance:
    """Each `every`th conversion of the held-out set, both ways, and as a stream, at varying rates and blocks."""
    songs = load_held_out(CorpusConfig(), comosvc_home() / "benchmarks", say)
    spec, pitch = converter.spec, PitchMeter()
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
        both = (_stream_and_whole(converter, audio, rate, block_ms, pair.target, f0) for f0 in (None, f0_hz))
        streamed.append([_stream_distance(stream, whole, rate, spec, pitch) for stream, whole in both])
    mel_l1, truth_l1, low_truth_l1, unconverted = np.mean(distances, axis=0)
    (own_snr_db, _, _), (given_snr_db, _, _) = np.min(streamed, axis=0)
    (_, own_l1, own_cents), (_, given_l1, given_cents) = np.max(streamed, axis=0)
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
        stream_snr_db=(float(own_snr_db), float(given_snr_db)),
        stream_mel_l1=(float(own_l1), float(given_l1)),
        stream_f0_cents=(float(own_cents), float(given_cents)),
    )


def _stream_and_whole(
    converter: Converter, audio: Audio, rate: int, block_ms: float, singer: str, f0_hz: Audio | None
) -> tuple[Audio, Audio]:
    """The output of a stream in blocks, and that of low latency of the whole."""
    whole = converter.convert(audio, rate, singer, latency="low", f0_hz=f0_hz).audio
    block = round(1e-3 * block_ms * rate)
    with converter.stream(rate, singer=singer, f0_hz=f0_hz, block_ms=block_ms) as stream:
        out = [stream.process(audio[at : at + block]) for at in range(0, len(audio), block)]
        return np.concatenate((*out, stream.flush()))[stream.latency_samples :], whole


def _stream_distance(
    stream: Audio, whole: Audio, rate: int, spec: AudioSpec, pitch: PitchMeter
) -> tuple[float, float, float]:
    """Waveform SNR in dB, L1 of the log mels in nepers, root mean square of F0 in cents where both have one."""
    noise = float(np.square(stream - whole, dtype=np.float64).sum())
    snr_db = 10.0 * np.log10(np.square(whole, dtype=np.float64).sum() / max(noise, 1e-20))
    mels = [mel_spectrogram(resample(audio, rate, spec.sample_rate), spec) for audio in (stream, whole)]
    f0_hz = np.array([pitch(audio, rate, spec) for audio in (stream, whole)], np.float64)
    cents = 1200.0 * np.diff(np.log2(f0_hz[:, (f0_hz > 0.0).all(axis=0)]), axis=0)
    return float(snr_db), log_mel_l1(mels[0], mels[1], spec.mel_log_base), float(np.sqrt(np.mean(cents**2)))
