"""Mel spectrogram and loudness, in numpy, shared by training and inference."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec, FrontEnd

_BLOCK, _BLOCKS = 128, 16
"""Samples of a row of a matrix product, and rows of a product."""


class HighPass:
    """A stream of mono float32 through a Chebyshev filter of type II; block sizes do not matter.

    Up to `stop_hz` the gain is at most -`stop_db` and 0 at 0 Hz. With an order of 5 and 30 dB, or 7 and 45 dB, it is
    -3 dB at 1.37, -0.3 dB at 1.7 and 0 from 2.5 times `stop_hz` on. `order` is odd, so that one of the zeros lies at
    0 Hz. The first sample counts as having lasted for ever, so that a constant gives zeros from the start.
    """

    def __init__(self, rate: int, stop_hz: float, order: int = 5, stop_db: float = 30.0) -> None:
        self._of_samples, self._of_state, self._states = _responses(rate, stop_hz, order, stop_db)
        self._state = np.zeros(order + 1)
        self._held, self._given = np.zeros(0), 0  # samples of the incomplete product; of them, those that were returned
        self._offset: np.float64 | None = None

    def push(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter the next samples (n,); (n,) float32."""
        if not len(audio):
            return audio
        if self._offset is None:
            self._offset = np.float64(audio[0])
        size = _BLOCK * _BLOCKS
        signal = np.concatenate((self._held, audio - self._offset))
        out = np.empty(len(signal), np.float32)
        for start in range(0, len(signal), size):
            # Always a product of one shape, padded with zeros: in other shapes its sums may differ in the last bit.
            piece = np.zeros(size)
            count = min(size, len(signal) - start)
            piece[:count] = signal[start : start + count]
            filtered, state = self._filter(piece)
            out[start : start + count] = filtered[:count]
            if count == size:
                self._state = state
        given, left = self._given, len(signal) % size
        self._held, self._given = signal[len(signal) - left :], left
        return out[given:]

    def _filter(self, signal: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`signal` (2048,) filtered from the current state on, and the state after it."""
        found = signal.reshape(_BLOCKS, _BLOCK) @ self._of_samples
        added = np.concatenate((self._state, found[:, _BLOCK:].ravel()))
        states = (added @ self._states).reshape(_BLOCKS + 1, len(self._state))
        return (found[:, :_BLOCK] + states[:-1] @ self._of_state).ravel(), states[-1]


@cache
def _responses(rate: int, stop_hz: float, order: int, stop_db: float) -> tuple[NDArray[np.float64], ...]:
    """Matrices (to be multiplied from the left by rows) for blocks of 128 samples; a state has n = order + 1 numbers.

    From the samples of a block to its output and the state behind it, (128, 128 + n); from the state before it to its
    output, (n, 128); and from a first state and 16 blocks to the states before, between and behind the blocks,
    (n + 16 n, 17 n).
    """
    b, a = _sections(rate, stop_hz, order, stop_db)
    n_states = order + 1
    cases = _BLOCK + n_states
    signal, states = np.zeros((cases, _BLOCK)), np.zeros((cases, len(b), 2))
    signal[:_BLOCK] = np.eye(_BLOCK)
    states[_BLOCK:] = np.eye(n_states).reshape(n_states, len(b), 2)
    for n in range(_BLOCK):
        for k in range(len(b)):
            x = signal[:, n].copy()
            y = b[k, 0] * x + states[:, k, 0]
            states[:, k, 0] = b[k, 1] * x - a[k, 1] * y + states[:, k, 1]
            states[:, k, 1] = b[k, 2] * x - a[k, 2] * y
            signal[:, n] = y
    found = np.concatenate((signal, states.reshape(cases, n_states)), axis=1)
    step = found[_BLOCK:, _BLOCK:]
    powers = [np.linalg.matrix_power(step, k) for k in range(_BLOCKS + 1)]
    passed = np.zeros((_BLOCKS + 1, n_states, _BLOCKS + 1, n_states))
    for start in range(_BLOCKS + 1):
        for end in range(start, _BLOCKS + 1):
            passed[start, :, end] = powers[end - start]
    return found[:_BLOCK], found[_BLOCK:, :_BLOCK], passed.reshape((_BLOCKS + 1) * n_states, -1)


def _sections(rate: int, stop_hz: float, order: int, stop_db: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators, (n / 2, 3) each, of the filter as sections of second order, by the bilinear
    transform. `scipy.signal.cheby2(order, stop_db, stop_hz, "high", fs=rate)` is the same filter.
    """
    angles = np.pi * np.arange(1, order + 1, 2) / (2 * order)  # of one pole in each pair
    mu = np.arcsinh(np.sqrt(10.0 ** (stop_db / 10.0) - 1.0)) / order
    edge = np.tan(np.pi * stop_hz / rate)
    poles = edge * (-np.sinh(mu) * np.sin(angles) + 1j * np.cosh(mu) * np.cos(angles))
    zeros = 1j * edge * np.cos(angles)
    b, a = np.zeros((len(angles), 3)), np.zeros((len(angles), 3))
    for k in range(len(angles)):
        for out, root in ((b, zeros[k]), (a, poles[k])):
            root = (1.0 + root) / (1.0 - root)
            last = 2 * k + 1 == order  # the pole and the zero that have no twin
            out[k] = [1.0, -root.real, 0.0] if last else [1.0, -2.0 * root.real, abs(root) ** 2]
        b[k] *= (a[k] @ [1, -1, 1]) / (b[k] @ [1, -1, 1])  # gain 1 at the Nyquist frequency
    return b, a


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


RUMBLE_HZ = 33.0
"""Offset and energy up to this frequency are excluded from loudness; the lowest voices begin an octave above."""
HUM_HZ = 125.0
"""Energy up to this frequency, at -20 dB and less, opens no gate: mains hum and its first harmonic. Sung sounds have
energy above."""


def loudness(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """`frame_rms` (T,) of a clip (L,) above `RUMBLE_HZ`, the loudness condition of our own models.

    Limited by `frame_rms` of the unfiltered clip, because the filter rings on after an abrupt end.
    """
    return np.minimum(frame_rms(HighPass(spec.sample_rate, RUMBLE_HZ).push(audio), spec), frame_rms(audio, spec))


def without_hum(rate: int) -> HighPass:
    """A filter that removes energy below `HUM_HZ`."""
    return HighPass(rate, HUM_HZ, order=7, stop_db=45.0)


def voice_band(audio: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A clip (L,) without offset, rumble and hum, the signal that gates and slicing are decided on."""
    return without_hum(rate).push(HighPass(rate, RUMBLE_HZ).push(audio))


def gate_loudness(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """Loudness (T,) of a whole clip for its gate: as `loudness`, for energy above `HUM_HZ`."""
    return np.minimum(frame_rms(voice_band(audio, spec.sample_rate), spec), frame_rms(audio, spec))


def frame_rms(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """Root mean square of each mel frame under its Hann window, (T,), linear amplitude; a full-scale sine gives 0.707.

    The authors take 128 samples without a window; at 24 kHz that is shorter than one period of a voice below 190 Hz,
    and the result beats with the pulses. The mel's own frame does not.
    """
    window = hann(spec.win_length)
    weight = (window / window.sum()).astype(np.float32)
    views = frames(audio, spec)
    power = np.empty(len(views), np.float32)
    for start in range(0, len(views), 4096):
        power[start : start + 4096] = np.square(views[start : start + 4096]) @ weight
    return np.sqrt(power)


def hop_loudness(audio: NDArray[np.float32], spec: AudioSpec, instant: float = 0.0) -> NDArray[np.float32]:
    """Root mean square of `hop_length` samples for each mel frame, (T,), linear amplitude, without a window.

    Frame n's samples are centred `instant` hops after sample hop_length * n. At 0, the authors' place, the squares are
    mirrored at the clip's start. Source: CoMoSVC's Volume_Extractor.
    """
    hop, n_frames = spec.hop_length, spec.frames(len(audio))
    before = hop // 2 - round(instant * hop)
    squares = np.square(audio)
    if before > 0:
        squares = np.pad(squares, (before, 0), mode="reflect" if before < len(audio) else "constant")
    return np.sqrt(squares[: n_frames * hop].reshape(n_frames, hop).mean(axis=1))


def condition_loudness(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """Loudness (T,) of a whole clip, as a model with this front end takes it."""
    if front_end.loudness == "hann":
        return loudness(audio, spec)
    return hop_loudness(audio, spec, front_end.instant)
