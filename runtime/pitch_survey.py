"""Reliability of the pitch of a clip: frames of the second opinion, and signs of a mix with instruments."""

import numpy as np
from numpy.typing import NDArray

from .gate import OPEN_LOUDNESS
from .pitch import PITCH_HOP_LENGTH, PITCH_SAMPLE_RATE, VOICED_CONFIDENCE

_WINDOW, _AFTER = 1024, 256  # samples of a frame's spectrum, and those of them behind its centre
WINDOW_HOPS_BEFORE = (_WINDOW - _AFTER) // PITCH_HOP_LENGTH
"""Hops of audio before its centre that the survey of a frame uses."""
_LOUD_HZ, _TONAL_HZ = 60.0, (100.0, 1000.0)
_UNSURE_CONFIDENCE = (0.1, 0.9)
_TONAL_DB, _TONAL_FLATNESS = 15, 0.3
_FLOOR_DB, _BINS = -150, 200  # of the histograms, a bin for each dB
_LEAST_S = 2.0
"""Shortest clip, in seconds, that can be called a mix."""
MIX_UNSURE, MIX_TONAL = 0.2, 0.12
"""Shares of sounding frames from which on a clip is called a mix, both together: those with a confidence of 0.1 to 0.9,
and those without pitch that have tones, not noise, at 100 to 1000 Hz, within 15 dB of the voiced frames' median there.

Measured on eleven isolated clips (sung, rendered, one spoken) and the same with chords, or chords and clicks, under
them at a level relative to the voice's:

    alone               unsure 0.04 to 0.20   tonal 0.00 to 0.05
    6 and 0 dB          0.43 to 0.95          0.19 to 0.59
    -6 dB               0.26 to 0.70          0.16 to 0.34
    -9 dB               0.21 to 0.59          0.14 to 0.33
    -12 dB              0.18 to 0.51          0.11 to 0.26
    -20 dB              0.10 to 0.35          0.01 to 0.11

All were found down to -9 dB, most at -12 dB. White or pink noise stays below 0.06, and so does reverberation of
most clips. Clicks alone are not found, and do not move F0. The pitch of `latency="low"`, from bounded windows, is
voiced more often; there fewer mixes are found.
"""
_DOUBTFUL_S, _DOUBTFUL_SHARE = 0.15, 0.02


class PitchSurvey:
    """Counts over the pitch frames of a clip, piece by piece in constant memory."""

    def __init__(self) -> None:
        self._sounding, self._unsure, self._voiced, self._doubtful = 0, 0, 0, 0
        self._tonal_db = np.zeros((2, _BINS), np.int64)
        """Sounding frames by their energy at 100 to 1000 Hz: unvoiced ones with tones there, and voiced ones."""

    def add(
        self,
        audio: NDArray[np.float32],
        frames: NDArray[np.int64],
        confidence: NDArray[np.float32],
        doubtful: NDArray[np.bool_],
    ) -> None:
        """Count pitch frames, (P,) each, which are centred on the samples 256 `frames` of `audio` (N,) at 16 kHz."""
        padded = np.pad(audio, (_WINDOW - _AFTER, _WINDOW))
        views = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[frames * PITCH_HOP_LENGTH]
        power = np.square(np.abs(np.fft.rfft(views * _WINDOW_FUNCTION))) * _SCALE
        voiced = confidence >= VOICED_CONFIDENCE
        sounding = power[:, _FREQUENCIES_HZ > _LOUD_HZ].sum(axis=1) > OPEN_LOUDNESS**2
        (low, high), (lowest_hz, highest_hz) = _UNSURE_CONFIDENCE, _TONAL_HZ
        self._sounding += int(sounding.sum())
        self._unsure += int((sounding & (confidence > low) & (confidence < high)).sum())
        self._voiced += int(voiced.sum())
        self._doubtful += int(doubtful.sum())
        band = power[:, (lowest_hz < _FREQUENCIES_HZ) & (highest_hz > _FREQUENCIES_HZ)] + 1e-17
        tonal = np.exp(np.log(band).mean(axis=1)) < _TONAL_FLATNESS * band.mean(axis=1)
        band_db = 10.0 * np.log10(band.sum(axis=1))
        bins = np.clip(np.round(band_db) - _FLOOR_DB, 0, _BINS - 1).astype(int)
        for counts, kind in zip(self._tonal_db, (sounding & tonal & ~voiced, sounding & voiced), strict=True):
            counts += np.bincount(bins[kind], minlength=_BINS)

    @property
    def is_mix(self) -> bool:
        """True if instruments or other voices seem to sound with the voice."""
        unvoiced, voiced = self._tonal_db
        if self._sounding * PITCH_HOP_LENGTH < _LEAST_S * PITCH_SAMPLE_RATE or not voiced.any():
            return False
        median = int(np.searchsorted(np.cumsum(voiced), 0.5 * voiced.sum()))
        tonal = int(unvoiced[max(0, median - _TONAL_DB) :].sum())
        return self._unsure >= MIX_UNSURE * self._sounding and tonal >= MIX_TONAL * self._sounding

    def warnings(self) -> list[str]:
        found = []
        if self.is_mix:
            found.append(
                "instruments or other voices seem to sound with the voice, so that its pitch is unsure: separate the "
                "vocals first (with Demucs, for instance), convert them, and mix the result with the rest"
            )
        seconds = self._doubtful * PITCH_HOP_LENGTH / PITCH_SAMPLE_RATE
        if seconds >= _DOUBTFUL_S and self._doubtful >= _DOUBTFUL_SHARE * self._voiced:
            found.append(
                f"the pitch of {seconds:.1f} s was unsure, very low or in a fast vibrato, and was taken from the "
                "envelope of the waveform: check those places"
            )
        return found


_WINDOW_FUNCTION = np.hanning(_WINDOW)
_SCALE = 2.0 / (_WINDOW * np.square(_WINDOW_FUNCTION).sum())
"""Factor from a power spectrum to mean squares of the samples."""
_FREQUENCIES_HZ = np.fft.rfftfreq(_WINDOW, 1.0 / PITCH_SAMPLE_RATE)
