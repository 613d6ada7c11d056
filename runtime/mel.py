"""The mel spectrogram, in numpy. Training and inference share it."""

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec

# Slaney's mel scale (Auditory Toolbox, 1998): linear to 1 kHz, logarithmic above.
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(f_hz: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """Slaney mel of a frequency in Hz."""
    f = np.asarray(f_hz, np.float64)
    return np.where(
        f < _BREAK_HZ, f / _HZ_PER_MEL, _BREAK_MEL + np.log(np.maximum(f, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    )


def mel_to_hz(mel: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """Frequency in Hz of a Slaney mel; the inverse of `hz_to_mel`."""
    m = np.asarray(mel, np.float64)
    return np.where(m < _BREAK_MEL, m * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (m - _BREAK_MEL)))


def mel_centres_hz(spec: AudioSpec) -> NDArray[np.float64]:
    """Centre frequency of each mel band, (M,) in Hz."""
    return mel_to_hz(np.linspace(hz_to_mel(spec.f_min_hz), hz_to_mel(spec.f_max_hz), spec.n_mels + 2))[1:-1]


def mel_filterbank(spec: AudioSpec) -> NDArray[np.float32]:
    """Triangular filters of unit area (Slaney), (M, n_fft / 2 + 1): `librosa.filters.mel` to the digit."""
    fft_hz = np.linspace(0.0, spec.sample_rate / 2, spec.n_fft // 2 + 1)
    edges = mel_to_hz(np.linspace(hz_to_mel(spec.f_min_hz), hz_to_mel(spec.f_max_hz), spec.n_mels + 2))
    slopes = edges[:, None] - fft_hz
    widths = np.diff(edges)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    weights = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return weights.astype(np.float32)


def hann(length: int) -> NDArray[np.float64]:
    """Periodic Hann window, as `torch.hann_window`."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


def frames(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """Overlapping frames of a signal at the model's rate, (T, win_length), frame n centred on hop_length * (n + 1/2).

    The ends are mirrored, or zero-padded where the signal is shorter than the padding, as the authors do.
    """
    n_frames = spec.frames(len(audio))
    pad = (spec.win_length - spec.hop_length) // 2
    padded = np.pad(audio, pad, mode="reflect" if pad < len(audio) else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, spec.win_length)
    return windows[:: spec.hop_length][:n_frames]


def mel_spectrogram(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """Log-mel spectrogram of `audio` (L,) at `spec.sample_rate`: (T, M), logarithm to base `spec.mel_log_base`.

    Magnitude, not power; `sqrt(re^2 + im^2 + 1e-9)`; floor `spec.mel_floor`. Source: CoMoSVC mel_processing.py.
    """
    basis = mel_filterbank(spec).T
    window = hann(spec.win_length).astype(np.float32)
    mel = np.empty((spec.frames(len(audio)), spec.n_mels), np.float32)
    views = frames(audio, spec)
    for start in range(0, len(mel), 4096):  # bounds the memory of the complex spectrum
        spectrum = np.fft.rfft(views[start : start + 4096] * window, spec.n_fft)
        magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        mel[start : start + 4096] = magnitude @ basis
    np.log(np.maximum(mel, spec.mel_floor), out=mel)
    mel /= np.float32(np.log(spec.mel_log_base))
    return mel
