"""A second estimate of F0, from the envelope of the waveform, for frames where the pitch graph may give a formant.

A low voice consists of single pulses, each of which rings at the formants. Below 47 Hz, the lower end of the graph's
range, and in a fast vibrato the graph gives the ringing, at 1200 Hz for instance. The envelope of such a voice has one
deep cycle per period. The envelope of a voice that is really as high does not.
"""

import numpy as np
from numpy.typing import NDArray

from .pitch import PITCH_HOP_LENGTH, PITCH_SAMPLE_RATE, VOICED_CONFIDENCE

WINDOW = 1024
"""Samples of one estimate, 64 ms: two periods at 35 Hz, and half a cycle of a fast vibrato."""
_DECIMATION = 8
_RATE_HZ = PITCH_SAMPLE_RATE / _DECIMATION
_LOWEST_HZ, _HIGHEST_HZ = 36.0, 400.0
_SUSPECT_HZ = 500.0
"""Lowest formant that was seen as F0."""
_LEAST_RATIO = 3.5
"""Least ratio of the graph's F0 to the envelope's frequency; errors of an octave or a twelfth are not corrected."""
_LEAST_PERIODIC = 0.5
"""Correlation of the envelope with itself a period later. Vowels at 38 to 250 Hz, steady or with 400 cents of vibrato
at 8 Hz, have 0.5 to 1 where a formant was found."""
_LEAST_DEPTH = 8.0
"""Deviation of the envelope as a share of its mean, times the root of its frequency. Those vowels have 9 to 15; vowels
that are sung at 500 to 1200 Hz with that vibrato up to 5."""
_RESCUED_BELOW_HZ, _RESCUE_PERIODIC, _RESCUE_CONFIDENCE = 60.0, 0.75, 0.1
"""Conditions for voicing a frame that the graph calls unvoiced: separate pulses up to this frequency, or higher ones if
the graph gives a formant with some confidence. Breath and consonants fulfil neither."""
_WINDOW_FUNCTION = np.hanning(WINDOW // _DECIMATION + 2)[1:-1]
_SMOOTHING = np.hanning(34)[1:-1] / np.hanning(34)[1:-1].sum()
_FFT = 512


def second_opinion(
    audio: NDArray[np.float32],
    f0_hz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    first_frame: int = 0,
    after: int = WINDOW // 2,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Corrected F0 in Hz and confidence (P,) of `audio` (N,) at 16 kHz, and a mask of the corrected frames (P,).

    Frame p is centred on sample 256 (first_frame + p); `after` samples behind that are used, and zeros beyond the ends.
    """
    f0_hz, confidence, changed = f0_hz.copy(), confidence.copy(), np.zeros(len(f0_hz), bool)
    voiced = confidence >= VOICED_CONFIDENCE
    asked = np.flatnonzero(~voiced | (f0_hz >= _SUSPECT_HZ))
    if not len(asked):
        return f0_hz, confidence, changed
    padded = np.pad(audio, (WINDOW - after, WINDOW))
    for frame in asked:
        suspect = f0_hz[frame] >= _SUSPECT_HZ and confidence[frame] >= _RESCUE_CONFIDENCE
        highest_hz = min(f0_hz[frame] / _LEAST_RATIO, _HIGHEST_HZ) if suspect else _RESCUED_BELOW_HZ
        least = _LEAST_PERIODIC if voiced[frame] else _RESCUE_PERIODIC
        envelope, depth = _envelope(padded[(first_frame + frame) * PITCH_HOP_LENGTH :][:WINDOW])
        if depth * np.sqrt(highest_hz) < _LEAST_DEPTH:
            continue
        found_hz, periodic = _pitch_of(envelope)
        if found_hz <= highest_hz and periodic >= least and depth * np.sqrt(found_hz) >= _LEAST_DEPTH:
            changed[frame] = True
            f0_hz[frame], confidence[frame] = found_hz, max(confidence[frame], VOICED_CONFIDENCE)
    return f0_hz, confidence, changed


def _envelope(audio: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Envelope (128,) of `audio` (1024,) at 2 kHz, and its depth: deviation as a share of the mean."""
    envelope = np.convolve(np.square(audio, dtype=np.float64), _SMOOTHING, "same")[::_DECIMATION]
    mean = float(envelope.mean())
    return envelope - mean, float(envelope.std()) / mean if mean > 1e-12 else 0.0


def _pitch_of(envelope: NDArray[np.float64]) -> tuple[float, float]:
    """Frequency of an envelope (128,) without its mean, in Hz, and how periodic it is (about 0 to 1).

    0 where there is no peak. Autocorrelation as Boersma's (1993): divided by that of the window.
    """
    correlation = _autocorrelation(envelope * _WINDOW_FUNCTION) / _WINDOW_CORRELATION
    correlation /= max(float(correlation[0]), 1e-20)
    lags = np.arange(round(_RATE_HZ / _HIGHEST_HZ), int(_RATE_HZ / _LOWEST_HZ) + 1)
    here, before, after = correlation[lags], correlation[lags - 1], correlation[lags + 1]
    # The first of the nearly highest peaks, because multiples of the period are as high.
    peaks = np.flatnonzero((here >= before) & (here >= after) & (here >= 0.85 * here.max()) & (here > 0.0))
    if not len(peaks):
        return _HIGHEST_HZ, 0.0
    peak = peaks[0]
    bend = before[peak] - 2.0 * here[peak] + after[peak]
    shift = 0.5 * (before[peak] - after[peak]) / bend if bend < 0.0 else 0.0
    return float(_RATE_HZ / (lags[peak] + shift)), float(here[peak])


def _autocorrelation(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Autocorrelation for lags 0 to half the window, (65,)."""
    return np.fft.irfft(np.abs(np.fft.rfft(signal, _FFT)) ** 2)[: len(signal) // 2 + 1]


_WINDOW_CORRELATION = _autocorrelation(_WINDOW_FUNCTION)
