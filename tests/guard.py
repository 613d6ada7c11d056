"""Prints the SHA-256 of what voices make, their manifests and the help of every command, to compare two commits.

python tests/guard.py demo more.comosvc --json before.json; after the change: --against before.json

Sums hold on one processor and one version of ONNX Runtime only, so that they are not kept in the repository.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile

from comosvc.runtime import ComosvcError, Converter

ROOT = Path(__file__).parents[1]
RATE = 44_100
COMMANDS = {
    "comosvc": [],
    "comosvc-convert": [],
    "comosvc-doctor": [],
    "comosvc-train": ["corpus", "prepare", "content", "vocoder", "teacher", "student", "evaluate"],
    "comosvc-export": ["bundle", "import", "engines", "verify", "inspect", "precision"],
    "comosvc-bench": ["rtf", "latency", "quality", "train", "compare", "report"],
}


def clips() -> list[np.ndarray]:
    """A song of the demo with a rest in it, and an unharmonic tone that glides, in stereo."""
    song, rate = soundfile.read(next((ROOT / "benchmarks" / "data").glob("source_*.flac")), dtype="float32")
    rest = np.zeros(rate, np.float32)
    t = np.arange(int(2.3 * RATE)) / RATE
    tone = np.sin(2 * np.pi * (180 * t + 30 * t**2)) * np.minimum(1, 4 * t)
    stereo = np.stack([0.3 * tone, 0.2 * np.roll(tone, 9)], axis=1).astype(np.float32)
    return [np.concatenate([song[: 3 * rate], rest, song[3 * rate : 5 * rate]]), stereo]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def or_error(make) -> str:
    """The sum of what `make` returns, or the error's first line."""
    try:
        return sha256(make())
    except ComosvcError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def conversions(model: str, folder: Path) -> Iterator[tuple[str, str]]:
    converter = Converter(model, provider="cpu", precision="fp32", threads=1)
    key = "auto" if next(iter(converter.singers.values())).f0_median_hz else 5
    rates = [24_000, RATE]
    sources = [folder / f"clip{index}.wav" for index in range(2)]
    for path, clip, rate in zip(sources, clips(), rates, strict=True):
        soundfile.write(path, clip, rate, subtype="FLOAT")
    for index, (path, clip, rate) in enumerate(zip(sources, clips(), rates, strict=True)):
        for steps in (1, 8):
            for latency in ("default", "low"):
                options = {"steps": steps, "latency": latency, "key": key, "seed": 3}
                label = f"{Path(model).name} clip{index} steps={steps} latency={latency}"

                def converted(clip=clip, rate=rate, options=options) -> bytes:
                    return converter.convert(clip, rate, **options).audio.tobytes()

                def from_file(path=path, options=options) -> bytes:
                    converter.convert_file(path, folder / "out.wav", overwrite=True, **options)
                    return (folder / "out.wav").read_bytes()

                def from_many(options=options) -> bytes:
                    done = list(converter.convert_many(sources, folder / "many", overwrite=True, **options))
                    for conversion in done:
                        if conversion.error:
                            raise conversion.error
                    return b"".join(conversion.output.read_bytes() for conversion in done)

                yield f"{label} convert", or_error(converted)
                yield f"{label} convert_file", or_error(from_file)
                if index == 0:
                    yield f"{label} convert_many", or_error(from_many)

            def streamed(clip=clip, rate=rate, steps=steps) -> bytes:
                stream = converter.stream(rate, steps=steps, seed=3)
                mono = clip.mean(axis=1) if clip.ndim == 2 else clip
                blocks = [stream.process(mono[start : start + 480]) for start in range(0, len(mono), 480)]
                return np.concatenate([*blocks, stream.flush()]).tobytes()

            yield f"{Path(model).name} clip{index} steps={steps} stream", or_error(streamed)
    yield f"{Path(model).name} manifest", sha256(str(asdict(converter.manifest)).encode())


def helps() -> Iterator[tuple[str, str]]:
    """The help of every command; the sum of its words, since only lines break differently."""
    env = {**os.environ, "COLUMNS": "300", "TERM": "dumb"}
    for command, parts in COMMANDS.items():
        for part in ["", *parts]:
            line = [str(Path(sys.executable).with_name(command)), *part.split(), "--help"]
            done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
            yield (
                f"help {command} {part}".rstrip(),
                f"{done.returncode} {sha256(' '.join(done.stdout.split()).encode())}",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voices", nargs="+", help="names of shipped voices or .comosvc files")
    parser.add_argument("--json", type=Path, help="write the sums")
    parser.add_argument("--against", type=Path, help="compare with the sums of another commit; differences exit with 1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sums = dict(pair for voice in options.voices for pair in conversions(voice, Path(folder)))
    sums |= dict(helps())
    if options.json:
        options.json.write_text(json.dumps(sums, indent=1) + "\n")
    before = json.loads(options.against.read_text()) if options.against else sums
    different = [name for name in before | sums if before.get(name) != sums.get(name)]
    for name in different:
        sys.stdout.write(f"{name}: {before.get(name)} -> {sums.get(name)}\n")
    sys.stdout.write(f"{len(sums)} sums, {len(different)} different\n")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
