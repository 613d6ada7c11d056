"""F0 at mel frames from the pitch graph, a second estimate for doubtful frames, and statistics of a clip's F0."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .frames import ceil_div
from .gate import OPEN_LOUDNESS
from .spec import AudioSpec, FrontEnd

PITCH_SAMPLE_RATE = 16_000
PITCH_HOP_LENGTH = 256
MAX_GAP_S = 20.0
"""As long as the piece that the authors interpolate in."""
VOICED_CONFIDENCE = 0.5
"""swift-f0 calibrates its confidence so that a frame is voiced from here on."""
BOUNDED_WINDOW_HOPS = 12
"""Window of a pitch frame of a live conversion: 192 ms, of which 176 lie before the frame's centre."""
BOUNDED_SILENCE_HOPS = 6
"""Zeros behind that window: at the very end of an array, where the network pads its features, the confidence is near 0.
Followed by silence it is nearly that of the whole clip."""


class PitchSession(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def run(self, output_names: list[str], input_feed: dict[str, NDArray], /) -> Any: ...


def track_pitch(session: PitchSession, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in Hz and confidence of `audio` (N,) at 16 kHz, each (P,); frame p is centred on sample 256 p."""
    f0_hz, confidence = session.run(["f0_hz", "confidence"], {"audio": audio[None]})
    return f0_hz[0], confidence[0]


def f0_at_frames(
    f0_hz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    n_frames: int,
    spec: AudioSpec,
    first_frame: int = 0,
    first_pitch_frame: int = 0,
    instant: float = 0.5,
) -> NDArray[np.float32]:
    """F0 in Hz at each mel frame, (T,), 0 where unvoiced, from pitch frames 16 ms apart that begin at time 0.

    A mel frame is voiced where the confidence, interpolated in time, reaches `VOICED_CONFIDENCE`. Its F0 is
    interpolated in log frequency between the voiced pitch frames around it. For a piece of a clip, `first_frame` and
    `first_pitch_frame` say where in the clip the mel frames and the pitch frames begin (see `pitch_frames_around`).
    `instant` is where in its hop a mel frame's F0 is taken.
    """
    times = _pitch_times(first_frame, n_frames, spec, instant) - first_pitch_frame
    voiced = np.flatnonzero(confidence >= VOICED_CONFIDENCE)
    if len(voiced) == 0:
        return np.zeros(n_frames, np.float32)
    sure = np.interp(times, np.arange(len(confidence)), confidence) >= VOICED_CONFIDENCE
    # The nearest voiced frame may lie across an unvoiced gap; interpolate only inside a voiced run, hold at its ends.
    log_f0 = _log_f0_held(np.log(np.maximum(f0_hz, 1.0)), confidence >= VOICED_CONFIDENCE, times)
    return np.where(sure, np.exp(log_f0), 0.0).astype(np.float32)


def held_pitch_frames(first_frame: int, n_frames: int, spec: AudioSpec, instant: float = 0.5) -> NDArray[np.int64]:
    """For mel frames `first_frame` on, the newest pitch frame that is not later, (T,): live, its F0 is held."""
    twice = 2 * np.arange(first_frame, first_frame + n_frames, dtype=np.int64) + round(2 * instant)
    return twice * (spec.hop_length * PITCH_SAMPLE_RATE) // (2 * PITCH_HOP_LENGTH * spec.sample_rate)


def mel_frames_held(n_pitch_frames: int, spec: AudioSpec, instant: float = 0.5) -> int:
    """Mel frames whose newest pitch frame (`held_pitch_frames`) is among the first `n_pitch_frames`."""
    twice = ceil_div(n_pitch_frames * 2 * PITCH_HOP_LENGTH * spec.sample_rate, spec.hop_length * PITCH_SAMPLE_RATE)
    return max(0, ceil_div(twice - round(2 * instant), 2))


def pitch_frames_around(first_frame: int, n_frames: int, spec: AudioSpec, instant: float = 0.5) -> tuple[int, int]:
    """First and last (exclusive) pitch frame that `f0_at_frames` interpolates between for these mel frames."""
    times = _pitch_times(first_frame, n_frames, spec, instant)
    return int(times[0]), int(times[-1]) + 2


def _pitch_times(first_frame: int, n_frames: int, spec: AudioSpec, instant: float) -> NDArray[np.float64]:
    """Instants of mel frames, counted in pitch frames."""
    seconds = (np.arange(first_frame, first_frame + n_frames) + instant) * spec.hop_length / spec.sample_rate
    return seconds * PITCH_SAMPLE_RATE / PITCH_HOP_LENGTH


def _log_f0_held(log_f0: NDArray, voiced: NDArray[np.bool_], times: NDArray[np.float64]) -> NDArray[np.float64]:
    before = np.clip(np.floor(times).astype(int), 0, len(log_f0) - 1)
    after = np.minimum(before + 1, len(log_f0) - 1)
    weight = np.where(voiced[before] & voiced[after], np.clip(times - before, 0.0, 1.0), voiced[after].astype(float))
    return (1.0 - weight) * log_f0[before] + weight * log_f0[after]


def told_f0(f0_hz: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """F0 (T,) of a whole clip as input of a model with this front end; 0 where unvoiced."""
    return GapBridge(spec).push(f0_hz, last=True) if front_end.unvoiced_f0 == "interpolated" else f0_hz


class GapBridge:
    """F0 of a clip as its frames come, made continuous: a straight line through each unvoiced gap, the nearest voiced
    value before the first voiced frame and after the last. All 0 stays 0.

    A gap of more than `MAX_GAP_S` holds the value before it (0 if there is none), so that memory stays flat. Source:
    the authors' interpolate_f0, without that limit, of pieces of 20 s.
    """

    def __init__(self, spec: AudioSpec) -> None:
        self._limit = round(MAX_GAP_S * spec.frame_rate_hz)
        self._before = 0.0
        self._gap, self._gave_up = 0, False

    def push(self, f0_hz: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """The next frames in, as many as are certain out; with `last` all that remain."""
        done = [np.zeros(0, np.float32)]
        runs = np.split(f0_hz, np.flatnonzero(np.diff(f0_hz > 0.0)) + 1) if len(f0_hz) else []
        for run in runs:
            if run[0] > 0.0:
                done += [self._line_to(float(run[0])), run]
                self._before, self._gave_up = float(run[-1]), False
            else:
                self._gap += len(run)
                self._gave_up = self._gave_up or self._gap > self._limit
                if self._gave_up:
                    done.append(self._line_to(self._before))
        if last:
            done.append(self._line_to(self._before))
        return np.concatenate(done)

    def _line_to(self, value: float) -> NDArray[np.float32]:
        """The pending gap, ending before a frame of `value` Hz."""
        start = value if self._before == 0.0 and not self._gave_up else self._before
        line = np.linspace(start, value, self._gap + 2)[1:-1].astype(np.float32)
        self._gap = 0
        return line


_HISTOGRAM_FROM_HZ = 20.0
_BINS_PER_OCTAVE = 120  # 10 cents
_OCTAVES = 8


class PitchStatistics:
    """A histogram of log-F0 that frames are added to as they come."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS_PER_OCTAVE * _OCTAVES, np.int64)

    def add(self, f0_hz: NDArray[np.float32]) -> None:
        """Count the voiced frames (F0 above 0) of (T,)."""
        octaves = np.log2(np.maximum(f0_hz[f0_hz > 0.0], _HISTOGRAM_FROM_HZ).astype(np.float64) / _HISTOGRAM_FROM_HZ)
        bins = np.minimum((octaves * _BINS_PER_OCTAVE).astype(int), len(self._counts) - 1)
        self._counts += np.bincount(bins, minlength=len(self._counts))

    @property
    def voiced_frames(self) -> int:
        return int(self._counts.sum())

    def percentile_hz(self, share: float) -> float:
        """F0 below which `share` (0 to 1) of the voiced frames lie, to 5 cents. There must be voiced frames."""
        cumulative = np.cumsum(self._counts)
        index = int(np.searchsorted(cumulative, share * cumulative[-1]))
        return float(_HISTOGRAM_FROM_HZ * 2.0 ** ((index + 0.5) / _BINS_PER_OCTAVE))


WINDOW = 1024
"""Samples of one estimate, 64 ms: two periods at 35 Hz, and half a cycle of a fast vibrato."""
_DECIMATION = 8
_RATE_HZ = PITCH_SAMPLE_RATE / _DECIMATION
_LOWEST_HZ, _HIGHEST_HZ = 36.0, 400.0
_SUSPECT_HZ = 500.0
"""Lowest formant that the graph gave as F0."""
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


_FFT_WINDOW, _AFTER = 1024, 256  # samples of a frame's spectrum, and those of them behind its centre
WINDOW_HOPS_BEFORE = (_FFT_WINDOW - _AFTER) // PITCH_HOP_LENGTH
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

Eleven isolated clips have 0.04 to 0.20 and 0.00 to 0.05; with chords, or chords and clicks, at -9 dB under them 0.21 to
0.59 and 0.14 to 0.33. Noise stays below 0.06, and so does most reverberation. Clicks alone are not found, and do not
move F0. The pitch of `latency="low"`, from bounded windows, is voiced more often; there fewer mixes are found.
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
        padded = np.pad(audio, (_FFT_WINDOW - _AFTER, _FFT_WINDOW))
        views = np.lib.stride_tricks.sliding_window_view(padded, _FFT_WINDOW)[frames * PITCH_HOP_LENGTH]
        power = np.square(np.abs(np.fft.rfft(views * _HANN))) * _POWER_SCALE
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


_HANN = np.hanning(_FFT_WINDOW)
_POWER_SCALE = 2.0 / (_FFT_WINDOW * np.square(_HANN).sum())
"""Factor from a power spectrum to mean squares of the samples."""
_FREQUENCIES_HZ = np.fft.rfftfreq(_FFT_WINDOW, 1.0 / PITCH_SAMPLE_RATE)
