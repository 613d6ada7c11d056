"""Phoneme-timed speech of voices that rest on recordings of people, from synthesisers that a system packages: flite
(`flite`) and Festival (`festival`, and a voice such as `festvox-kdlpc16k`).
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..errors import DataError
from .render import SAMPLE_RATE

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
