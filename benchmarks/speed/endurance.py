"""What only a fresh process can tell: how long it takes to start, and what long files take in memory."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from ...runtime.errors import ComosvcError
from .clips import sung_clip

_STARTS = 5
_FILE_RATE = 44_100

_START = """
import time; start = time.perf_counter()
import json, sys
from comosvc.runtime import Converter
imported = time.perf_counter()
options = json.loads(sys.argv[1])
converter = Converter(**options)
loaded = time.perf_counter()
from comosvc.benchmarks.speed.memory import resident_mb
resident = resident_mb()
from comosvc.runtime.self_test import vowel
audio, _ = vowel(converter.spec)
audio = audio[: converter.spec.sample_rate]
begun = time.perf_counter()
converter.convert(audio, converter.spec.sample_rate)
first = time.perf_counter() - begun
print(json.dumps([1e3 * (imported - start), 1e3 * (loaded - imported), 1e3 * first, resident]))
"""
_LONG = """
import json, sys, time
from comosvc.runtime import Converter
from comosvc.benchmarks.speed.memory import high_water_mb
options, source, output = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
converter = Converter(**options)
start = time.perf_counter()
converter.convert_file(source, output)
print(json.dumps([time.perf_counter() - start, high_water_mb()]))
"""


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """Medians of several fresh processes: `import comosvc.runtime`, `Converter(...)`, a first second of audio."""

    import_ms: float
    load_ms: float
    first_second_ms: float
    resident_mb: float | None
    """After loading."""

    @property
    def total_ms(self) -> float:
        return self.import_ms + self.load_ms + self.first_second_ms


@dataclass(frozen=True, kw_only=True)
class LongFile:
    """`convert_file` in a process of its own; `peak_mb` is all that it ever had."""

    minutes: float
    seconds: float
    peak_mb: float | None


def measure_start_up(options: dict[str, Any]) -> StartUp:
    """`options` are those of `Converter`."""
    found = np.array([_fresh(_START, [json.dumps(options)]) for _ in range(_STARTS)], float)
    imported, load, first, resident = np.median(found, axis=0)
    memory = None if np.isnan(resident) else float(resident)
    return StartUp(import_ms=imported, load_ms=load, first_second_ms=first, resident_mb=memory)


def measure_long_files(
    options: dict[str, Any], minutes: Sequence[float], folder: Path | None, say: Callable[[str], None]
) -> tuple[LongFile, ...]:
    """Files of these lengths, written and converted in `folder` (None: the system's for temporary files)."""
    found = []
    for length in minutes:
        with TemporaryDirectory(dir=folder) as place:
            say(f"a file of {length:g} minutes")
            source, output = Path(place) / "long.flac", Path(place) / "out.flac"
            _write(source, length)
            seconds, peak = _fresh(_LONG, [json.dumps(options), str(source), str(output)])
            if soundfile.info(output).frames != soundfile.info(source).frames:
                raise ComosvcError(f"the conversion of {length:g} minutes is not as long as its source")
        found.append(LongFile(minutes=length, seconds=seconds, peak_mb=peak))
    return tuple(found)


def _write(path: Path, minutes: float) -> None:
    clip = sung_clip(20.0, _FILE_RATE)
    with soundfile.SoundFile(path, "w", _FILE_RATE, 1) as file:
        left = round(60.0 * minutes * _FILE_RATE)
        while left:
            file.write(clip[:left])
            left -= min(left, len(clip))


def _fresh(code: str, arguments: list[str]) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ComosvcError(f"a process of its own failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)
