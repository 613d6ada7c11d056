"""Warnings about the source and the result of a conversion."""

import numpy as np
from numpy.typing import NDArray

from ..audio.gate import OPEN_LOUDNESS
from ..audio.pitch import PitchStatistics
from ..voice.singers import SingerMix

QUIET_PEAK = 0.03  # -30 dB: below this, pitch trackers start to miss voiced frames
_GOOD_PEAK = 0.3
_SILENT_PEAK = 1e-8  # -160 dB: the rounding error of the mean of a constant
SHORT_S = 0.2
FULL_SCALE = 0.9999
_BEYOND_PEAK = 4.0  # 12 dB above full scale: a wrong scale rather than a loud take
CLIPPED_SAMPLES = 10  # fewer at full scale are peaks, not clipping
RANGE_MARGIN = 2.0 ** (2 / 12)  # a voice's range is a statistic: two semitones beyond it are still sung well


class SourceSurvey:
    """Peak, clipping and length of a source, added up block by block."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._sample_rate, self._channels = sample_rate, channels
        self._lowest, self._highest, self._sum = 0.0, 0.0, 0.0
        self._at_full_scale, self._n_samples = 0, 0

    def add(self, audio: NDArray[np.float32]) -> None:
        if not len(audio):
            return
        if self._n_samples == 0:
            self._lowest = self._highest = float(audio[0])
        self._lowest, self._highest = min(self._lowest, float(audio.min())), max(self._highest, float(audio.max()))
        self._sum += float(audio.sum(dtype=np.float64))
        self._at_full_scale += int(np.count_nonzero(np.abs(audio) >= FULL_SCALE))
        self._n_samples += len(audio)

    @property
    def _peak(self) -> float:
        """Largest deviation from the mean, so that an offset does not count."""
        mean = self._sum / max(1, self._n_samples)
        return max(self._highest - mean, mean - self._lowest)

    @property
    def silent(self) -> bool:
        return self._peak < _SILENT_PEAK

    @property
    def quiet(self) -> bool:
        return self._peak < QUIET_PEAK

    def warnings(self, has_pitch: bool = True) -> list[str]:
        """`has_pitch`: whether a voiced frame was found."""
        found = []
        seconds = self._n_samples / self._sample_rate
        if self._channels > 1:
            found.append(f"{self._channels} channels were mixed to mono")
        if self.silent:
            found.append("the source is silent: so is the result")
        elif self.quiet:
            level = f"the source is very quiet (peak {_db(self._peak):.0f} dB)"
            floor = f"audio below {_db(OPEN_LOUDNESS):.0f} dB becomes silence"
            why = "its pitch may be missed" if has_pitch else floor
            found.append(f"{level}: {why}; amplify it by {_db(_GOOD_PEAK / self._peak):.0f} dB")
        if self._peak > _BEYOND_PEAK:
            found.append(
                f"the source is far beyond full scale, which is 1 (peak {_db(self._peak):+.0f} dB): divide it by "
                f"{self._peak / _GOOD_PEAK:.3g}, or 16-bit integers by 2**15"
            )
        elif self._at_full_scale >= CLIPPED_SAMPLES:
            found.append(f"the source clips: {self._at_full_scale} samples at full scale")
        if seconds < SHORT_S:
            found.append(f"the source is very short ({1e3 * seconds:.0f} ms): hardly a syllable")
        return found


def pitch_warnings(song: PitchStatistics, semitones: float, voice: SingerMix) -> list[str]:
    """Warnings about the song's pitch, moved by `semitones`, against the voice's range."""
    if not song.voiced_frames:
        return ["no pitch was found: is somebody singing in it?"]
    if voice.f0_range_hz is None:
        return []
    low, high = (song.percentile_hz(share) * 2.0 ** (semitones / 12.0) for share in (0.05, 0.95))
    voice_low, voice_high = voice.f0_range_hz
    if low >= voice_low / RANGE_MARGIN and high <= voice_high * RANGE_MARGIN:
        return []
    return [
        f"at key {semitones:+g} the song lies at {low:.0f}-{high:.0f} Hz; the voice was trained on "
        f"{voice_low:.0f}-{voice_high:.0f} Hz (key 'auto' brings their medians together)"
    ]


def key_warnings(semitones: float, found: bool) -> list[str]:
    """A warning for a found key that is not in tune with the backing track."""
    if not found or semitones % 12.0 == 0.0:
        return []
    return [
        f"key 'auto' moved the song by {semitones:+g} semitones against its backing track: move that as well, or take "
        "key 'octave', the nearest multiple of 12"
    ]


def output_warnings(clipped_samples: int) -> list[str]:
    """A warning if the result had to be cut at full scale."""
    if not clipped_samples:
        return []
    return [f"{clipped_samples} samples of the result were beyond full scale and cut; lower the source's level"]


def _db(amplitude: float) -> float:
    return 20.0 * float(np.log10(amplitude))
