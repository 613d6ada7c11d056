"""Phoneme-timed audio that rests on recorded human voices, from the flite speech synthesiser (a package of the system).

A content encoder that heard synthetic singers only fails on people. flite's voices are built from recordings, and flite
tells when each phone ends. One voice is never trained on: it measures how far the encoder reaches.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..errors import DataError
from .config import CorpusConfig
from .performance import CONTROL_RATE_HZ
from .phones import DIPHTHONGS, PHONE_INDEX, SILENCE, VOWELS
from .plan import stable_seed
from .reader import Labels
from .render import SAMPLE_RATE, hiss
from .sentences import few_words, sentence

SINGER_PREFIX = "flite-"
_TRAINING_VOICES = ("slt", "awb", "kal16")
_TEST_VOICE = "rms"
_SUNG_RANGE_HZ = {"slt": (140.0, 420.0), "awb": (95.0, 300.0), "kal16": (85.0, 300.0)}  # rms ignores a given F0
_CLIP_SECONDS = (8.0, 13.0)
_LEVEL_DB = -22.0
_DIPHTHONG_SPLIT = 0.55
_AFFRICATES = {"ch": ("t", "sh"), "jh": ("d", "zh")}
_AFFRICATE_SPLIT = 0.45
_RENAMED = {"pau": SILENCE, "ax": "ah", "hh": "h", "axr": "er", "ix": "ih", "el": "l", "em": "m", "en": "n"}
_PHONE_END = re.compile(r"(\S+):(\d+\.\d+)")


@dataclass(frozen=True)
class SpokenPlan:
    """A clip of a recorded voice."""

    id: str
    voice: str
    split: str
    sung: bool
    """Each few words on one note, drawn out."""

    @property
    def singer(self) -> str:
        """The voice's name in the corpus."""
        return SINGER_PREFIX + self.voice


def require_flite() -> None:
    """Raise DataError unless the flite program with the voices used here can be run."""
    if shutil.which("flite") is None:
        raise DataError(
            "the flite speech synthesiser is not installed; the corpus takes its recorded voices from it\n"
            "hint: apt-get install flite    (or give --synthetic-only for a voice that knows synthetic singers only)"
        )
    known = subprocess.run(["flite", "-lv"], capture_output=True, text=True, check=False).stdout.split()
    if missing := [voice for voice in (*_TRAINING_VOICES, _TEST_VOICE) if voice not in known]:
        raise DataError(
            f"this flite lacks the voices {', '.join(missing)} (it lists: {' '.join(known)})\n"
            "hint: install the distribution's flite package, built with all voices, or give --synthetic-only"
        )


def spoken_clips(config: CorpusConfig) -> tuple[SpokenPlan, ...]:
    """The clips of recorded voices: half spoken, half sung on notes (the held-out voice only drawn out)."""
    mean_s = 0.5 * sum(_CLIP_SECONDS) + 1.0
    per_voice = max(2, round(config.recorded_minutes * 60 / mean_s / len(_TRAINING_VOICES)))
    plans = [
        SpokenPlan(f"{SINGER_PREFIX}{voice}-{n + 1:03d}", voice, "train", n % 2 == 1)
        for voice in _TRAINING_VOICES
        for n in range(per_voice)
    ]
    count = max(2, round(config.recorded_test_minutes * 60 / mean_s))
    plans += [
        SpokenPlan(f"{SINGER_PREFIX}{_TEST_VOICE}-{n + 1:03d}", _TEST_VOICE, "test", n % 2 == 1) for n in range(count)
    ]
    return tuple(plans)


def speak_plan(config: CorpusConfig, plan: SpokenPlan) -> tuple[NDArray[np.float32], Labels]:
    """Audio (L,) at 24 kHz and its labels, with F0 unknown (NaN)."""
    rng = np.random.default_rng(stable_seed(config, "spoken", plan.id))
    wanted = rng.uniform(*_CLIP_SECONDS)
    pieces: list[NDArray[np.float32]] = []
    starts: list[float] = []
    phones: list[int] = []
    elapsed = 0.0
    stretch = float(rng.uniform(1.2, 2.0) if plan.sung else rng.uniform(0.9, 1.25))
    while elapsed < wanted:
        options = _options(rng, plan, stretch)
        text = few_words(rng) if plan.sung else sentence(rng)
        audio, ends = _flite(plan.voice, text, options)
        for name, start_s in _segments(ends):
            starts.append(elapsed + start_s)
            phones.append(PHONE_INDEX[name])
        pieces.append(audio)
        elapsed += len(audio) / SAMPLE_RATE
    audio = np.concatenate(pieces)
    loud = audio[np.abs(audio) > 0.02 * np.abs(audio).max()]
    audio *= min(10 ** (_LEVEL_DB / 20) / np.sqrt(np.mean(loud**2)), 0.9 / np.abs(audio).max())
    audio += hiss(len(audio), rng).astype(np.float32)
    f0_hz = np.full(round(len(audio) / SAMPLE_RATE * CONTROL_RATE_HZ), np.nan, dtype=np.float32)
    return audio, Labels(f0_hz, *_merged(starts, phones))


def _options(rng: np.random.Generator, plan: SpokenPlan, stretch: float) -> list[str]:
    options = ["--setf", f"duration_stretch={stretch * rng.uniform(0.92, 1.08):.3f}"]
    if plan.voice not in _SUNG_RANGE_HZ:
        return options
    low, high = _SUNG_RANGE_HZ[plan.voice]
    if plan.sung:
        note_hz = low * (high / low) ** rng.random()
        return [*options, "--seti", f"int_f0_target_mean={note_hz:.0f}", "--seti", "int_f0_target_stddev=2"]
    mean_hz = low * 1.1 * 1.5 ** rng.random()
    deviation = mean_hz * rng.uniform(0.06, 0.16)
    return [*options, "--seti", f"int_f0_target_mean={mean_hz:.0f}", "--seti", f"int_f0_target_stddev={deviation:.0f}"]


def _flite(voice: str, text: str, options: list[str]) -> tuple[NDArray[np.float32], list[tuple[str, float]]]:
    with tempfile.TemporaryDirectory(prefix="comosvc-flite-") as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, *options, "-psdur", "-t", text, "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():
            raise DataError(f"{' '.join(command)} failed with code {done.returncode}: {done.stderr.strip()[:200]}")
        audio, rate = soundfile.read(path, dtype="float32")
    ends = [(name, float(end)) for name, end in _PHONE_END.findall(done.stdout)]
    if not ends:
        raise DataError(f"flite -psdur printed no phones for {text!r}: {done.stdout.strip()[:200]!r}")
    return soxr.resample(audio, rate, SAMPLE_RATE), ends


def _segments(ends: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """(phone of PHONES, start in s) from flite's phones and ends; diphthongs and affricates fall into two."""
    segments = []
    start = 0.0
    for name, end in ends:
        if name in DIPHTHONGS or name in _AFFRICATES:
            first, second = DIPHTHONGS.get(name) or _AFFRICATES[name]
            split = _DIPHTHONG_SPLIT if name in DIPHTHONGS else _AFFRICATE_SPLIT
            segments += [(first, start), (second, start + split * (end - start))]
        else:
            segments.append((_RENAMED.get(name, name), start))
        start = end
    # After a vowel American r is the sound of er; flite writes one or the other by spelling.
    following = [name for name, _ in segments[1:]] + [SILENCE]
    segments = [
        ("er" if name == "r" and after not in VOWELS else name, start)
        for (name, start), after in zip(segments, following, strict=True)
    ]
    unknown = sorted({name for name, _ in segments} - PHONE_INDEX.keys())
    if unknown:
        raise DataError(f"flite speaks phones without a place in PHONES: {', '.join(unknown)}")
    return segments


def _merged(starts: list[float], phones: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Neighbouring silences become one."""
    keep = [n for n in range(len(phones)) if n == 0 or phones[n] != phones[n - 1] or phones[n] != PHONE_INDEX[SILENCE]]
    return np.asarray(starts)[keep], np.asarray(phones, dtype=np.int32)[keep]
