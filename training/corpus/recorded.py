"""Phoneme-timed clips of recorded voices, from synthesisers that Debian packages: flite and festival."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..errors import DataError
from .performance import CONTROL_RATE_HZ
from .phones import DIPHTHONGS, PHONE_INDEX, SILENCE, VOWELS
from .plan import CorpusConfig, stable_seed
from .reader import Labels
from .render import SAMPLE_RATE, hiss
from .songs import few_words, sentence

_FLITE_PHONE = re.compile(r"(\S+):(\d+\.\d+)")
_FESTIVAL_HEAP = "500000"  # cells; the default of ten million takes half a second to clear

INSTALL = "apt-get install flite festival festvox-kdlpc16k"


class Speech(NamedTuple):
    """Spoken text."""

    audio: NDArray[np.float32]
    """(L,) at the corpus's sample rate."""
    phone_ends: list[tuple[str, float]]
    """The synthesiser's own names of phones, and when each ends in seconds."""


class Pitch(NamedTuple):
    """What the intonation is centred on and how far it strays, in Hz."""

    mean_hz: float
    deviation_hz: float


def require_voices(flite: Sequence[str], festival: Sequence[str]) -> None:
    """Raise DataError unless both synthesisers can be run and have these voices."""
    if missing := [program for program in ("flite", "festival") if shutil.which(program) is None]:
        raise DataError(
            f"{' and '.join(missing)} cannot be run; the corpus takes its recorded voices from them\n"
            f"hint: {INSTALL}    (or give --synthetic-only for a voice that knows synthetic singers only)"
        )
    known = {
        "flite": _output(["flite", "-lv"]).split(),
        "festival": re.findall(r"\w+", _output(["festival", "--heap", _FESTIVAL_HEAP, "-b", "(print (voice.list))"])),
    }
    for program, wanted in (("flite", flite), ("festival", festival)):
        if missing := [voice for voice in wanted if voice not in known[program]]:
            raise DataError(
                f"{program} lacks the voices {', '.join(missing)} (it lists: {' '.join(known[program])})\n"
                f"hint: {INSTALL}    (or give --synthetic-only)"
            )


def speak_with_flite(voice: str, text: str, stretch: float, pitch: Pitch | None) -> Speech:
    """`text` by a flite voice, `stretch` times as slow; `pitch` None leaves the voice's own."""
    options = ["--setf", f"duration_stretch={stretch:.3f}"]
    if pitch:
        options += ["--seti", f"int_f0_target_mean={pitch.mean_hz:.0f}"]
        options += ["--seti", f"int_f0_target_stddev={pitch.deviation_hz:.0f}"]
    with tempfile.TemporaryDirectory(prefix="comosvc-flite-") as folder:
        path = Path(folder) / "speech.wav"
        printed = _run(["flite", "-voice", voice, *options, "-psdur", "-t", text, "-o", str(path)], path)
        return Speech(_read(path), _ends(_FLITE_PHONE.findall(printed), text))


def speak_with_festival(voice: str, text: str, stretch: float, pitch: Pitch | None) -> Speech:
    """`text` by a Festival diphone voice, `stretch` times as slow; `pitch` None leaves the voice's own."""
    with tempfile.TemporaryDirectory(prefix="comosvc-festival-") as folder:
        audio, phones = Path(folder) / "speech.wav", Path(folder) / "speech.lab"
        commands = [f"(voice_{voice})", f"(Parameter.set 'Duration_Stretch {stretch:.3f})"]
        if pitch:
            commands.append(
                f"(set! int_lr_params (append '((target_f0_mean {pitch.mean_hz:.0f}) "
                f"(target_f0_std {pitch.deviation_hz:.0f})) int_lr_params))"
            )
        commands += [
            f'(set! spoken (utt.synth (Utterance Text "{text}")))',
            f'(utt.save.wave spoken "{audio}" \'riff)',
            f'(utt.save.segs spoken "{phones}")',
        ]
        _run(["festival", "--heap", _FESTIVAL_HEAP, "-b", *commands], phones)
        rows = [line.split() for line in phones.read_text("ascii").splitlines()]
        return Speech(_read(audio), _ends([(row[2], row[0]) for row in rows if len(row) == 3], text))


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _run(command: list[str], result: Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DataError(f"{command[0]} cannot be run: it is not installed\nhint: {INSTALL}") from None
    if done.returncode or not result.is_file():
        raise DataError(f"{' '.join(command)} failed with code {done.returncode}: {done.stderr.strip()[:200]}")
    return done.stdout


def _ends(found: list[tuple[str, str]], text: str) -> list[tuple[str, float]]:
    if not found:
        raise DataError(f"the synthesiser told of no phones in {text!r}")
    return [(name, float(end)) for name, end in found]


def _read(path: Path) -> NDArray[np.float32]:
    audio, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(audio, rate, SAMPLE_RATE)


@dataclass(frozen=True)
class Speaker:
    """A voice of a synthesiser."""

    name: str
    """As the synthesiser calls it."""
    tract_scale: float
    """Rough factor on a neutral voice's resonances, in the sense of `Singer.tract_scale`."""
    festival: bool = False
    """Of Festival instead of flite."""
    range_hz: tuple[float, float] | None = None
    """Where it may be asked to sing; None: it ignores a given F0."""

    @property
    def singer(self) -> str:
        """The voice's name in the corpus."""
        return f"{'festival' if self.festival else 'flite'}-{self.name}"

    def speak(self, text: str, stretch: float, pitch: Pitch | None) -> Speech:
        """`text`, `stretch` times as slow as the voice's own pace."""
        speak = speak_with_festival if self.festival else speak_with_flite
        return speak(self.name, text, stretch, pitch)


_MAN, _WOMAN = 0.92, 1.08
_TRAINING_VOICES = (
    Speaker("slt", _WOMAN, range_hz=(140.0, 420.0)),
    Speaker("awb", _MAN, range_hz=(95.0, 300.0)),
    Speaker("kal16", _MAN, range_hz=(85.0, 300.0)),
    Speaker("ked_diphone", _MAN, festival=True, range_hz=(85.0, 300.0)),
)
_TEST_VOICE = Speaker("rms", _MAN)
_CLIP_SECONDS = (8.0, 13.0)
_LEVEL_DB = -22.0
_DIPHTHONG_SPLIT = 0.55
_AFFRICATES = {"ch": ("t", "sh"), "jh": ("d", "zh")}
_AFFRICATE_SPLIT = 0.45
_RENAMED = {
    "pau": SILENCE, "ax": "ah", "hh": "h", "axr": "er", "ix": "ih", "el": "l", "em": "m", "en": "n", "dx": "d",
    "nx": "n", "hv": "h",
}  # fmt: skip


@dataclass(frozen=True)
class SpokenPlan:
    """A clip of a recorded voice."""

    id: str
    voice: Speaker
    split: str
    sung: bool
    """Each few words on one note, drawn out."""


def require_recorded_voices() -> None:
    """Raise DataError unless the programs and voices used here are installed."""
    voices = (*_TRAINING_VOICES, _TEST_VOICE)
    require_voices(*([voice.name for voice in voices if voice.festival is festival] for festival in (False, True)))


def spoken_clips(config: CorpusConfig) -> tuple[SpokenPlan, ...]:
    """The clips of recorded voices: half spoken, half sung on notes (the held-out voice only drawn out)."""
    mean_s = 0.5 * sum(_CLIP_SECONDS) + 1.0
    per_voice = max(2, round(config.recorded_minutes * 60 / mean_s / len(_TRAINING_VOICES)))
    plans = [
        SpokenPlan(f"{voice.singer}-{n + 1:03d}", voice, "train", n % 2 == 1)
        for voice in _TRAINING_VOICES
        for n in range(per_voice)
    ]
    count = max(2, round(config.recorded_test_minutes * 60 / mean_s))
    plans += [SpokenPlan(f"{_TEST_VOICE.singer}-{n + 1:03d}", _TEST_VOICE, "test", n % 2 == 1) for n in range(count)]
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
        slowness, pitch = stretch * rng.uniform(0.92, 1.08), _pitch(rng, plan)
        audio, ends = plan.voice.speak(few_words(rng) if plan.sung else sentence(rng), slowness, pitch)
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


def _pitch(rng: np.random.Generator, plan: SpokenPlan) -> Pitch | None:
    if plan.voice.range_hz is None:
        return None
    low, high = plan.voice.range_hz
    if plan.sung:
        return Pitch(low * (high / low) ** rng.random(), 2.0)
    mean_hz = low * 1.1 * 1.5 ** rng.random()
    return Pitch(mean_hz, mean_hz * rng.uniform(0.06, 0.16))


def _segments(ends: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """(phone of PHONES, start in s) from a synthesiser's phones and ends; diphthongs and affricates fall into two."""
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
    # After a vowel American r is the sound of er; synthesisers write one or the other by spelling.
    following = [name for name, _ in segments[1:]] + [SILENCE]
    segments = [
        ("er" if name == "r" and after not in VOWELS else name, start)
        for (name, start), after in zip(segments, following, strict=True)
    ]
    unknown = sorted({name for name, _ in segments} - PHONE_INDEX.keys())
    if unknown:
        raise DataError(f"the synthesiser speaks phones without a place in PHONES: {', '.join(unknown)}")
    return segments


def _merged(starts: list[float], phones: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Neighbouring silences become one."""
    keep = [n for n in range(len(phones)) if n == 0 or phones[n] != phones[n - 1] or phones[n] != PHONE_INDEX[SILENCE]]
    return np.asarray(starts)[keep], np.asarray(phones, dtype=np.int32)[keep]
