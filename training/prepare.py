"""From recordings to features: the corpus of the demo voice, or a folder of one's own with a sub-folder per singer."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.numpy import load_file

from ..runtime.audio import mono, resample
from ..runtime.errors import ComosvcError
from ..runtime.loudness import loudness
from ..runtime.mel import mel_spectrogram
from ..runtime.pitch import PITCH_SAMPLE_RATE, f0_at_frames, track_pitch
from ..runtime.spec import AudioSpec
from .corpus.reader import Corpus
from .errors import DataError
from .features import ClipEntry, FeatureIndex, SingerEntry, feature_key, feature_path, save_arrays

logger = logging.getLogger(__name__)
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
MIN_SECONDS, MAX_SECONDS = 0.5, 15.0
VALIDATION_SHARE = 0.05
SILENCE = 1e-4
"""Peak of a file in which nobody sings."""


@dataclass(frozen=True)
class Source:
    """A stretch of a file to take features from."""

    path: Path
    id: str
    singer: str
    song: str
    split: str
    start: int = 0  # samples at the file's rate
    stop: int | None = None


@dataclass(frozen=True)
class Dropped:
    """A stretch that was not used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """What is kept of a clip for the index."""

    entry: ClipEntry
    voiced_hz: NDArray[np.float32]


@dataclass(frozen=True)
class Material:
    """What `prepare` works on: stretches of audio, facts about their singers, and what cannot be used."""

    sources: list[Source]
    singers: dict[str, dict]
    """kind, split and demo of each, as in `SingerEntry`."""
    trained: list[str]
    """Singers that get an embedding, in its order."""
    dropped: list[Dropped]


def corpus_material(folder: Path) -> Material:
    """A corpus written by `comosvc-train corpus`. Its recorded voices serve the content encoder only."""
    corpus = Corpus.open(folder)
    sources = [Source(c.audio_path, c.id, c.singer, c.song, c.split) for c in corpus.clips()]
    singers = {name: {"kind": s.kind, "split": s.split, "demo": s.demo} for name, s in corpus.singers.items()}
    trained = [name for name, s in singers.items() if s["split"] == "train" and s["kind"] == "synthetic"]
    return Material(sources, singers, sorted(trained), [])


def folder_material(folder: Path) -> Material:
    """One sub-folder per singer, audio files anywhere below it; files are cut at silences.

    About one file in twenty of each singer is kept for validation, never a part of a file that is trained on.
    """
    singers = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {s.name: sorted(p for p in s.rglob("*") if p.suffix.lower() in SUFFIXES) for s in singers}
    files = {name: paths for name, paths in files.items() if paths}
    if not files:
        raise DataError(
            f"{folder} has no sub-folder with {', '.join(SUFFIXES)} files\n"
            "hint: put each singer's recordings into a folder of the singer's name, and give the folder above them"
        )
    sources, dropped = [], []
    for singer, paths in files.items():
        n_valid = round(len(paths) * VALIDATION_SHARE) or int(len(paths) >= 5)
        for i, path in enumerate(paths):
            try:
                slices = list(_slice_at_silences(path))
            except (soundfile.LibsndfileError, ComosvcError) as error:
                dropped.append(Dropped(str(path.relative_to(folder)), f"cannot be read: {error}"))
                continue
            name = str(path.relative_to(folder))
            split = "valid" if i >= len(paths) - n_valid else "train"
            sources += [Source(path, f"{name}#{k}", singer, name, split, *cut) for k, cut in enumerate(slices)]
            if not slices:
                dropped.append(Dropped(name, "silent"))
    singers = {name: {"kind": "recorded", "split": "train", "demo": True} for name in files}
    return Material(sources, singers, list(files), dropped)


def _slice_at_silences(path: Path) -> Iterator[tuple[int, int]]:
    import librosa

    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    signal = mono(audio)
    if np.abs(signal).max() < SILENCE:
        return
    pieces = librosa.effects.split(signal, top_db=40, frame_length=rate // 10, hop_length=rate // 40)
    # Neighbours are joined up to the longest clip, so that phrases keep their short rests.
    joined: list[list[int]] = []
    for start, stop in pieces.tolist():
        if joined and stop - joined[-1][0] <= MAX_SECONDS * rate and start - joined[-1][1] < rate:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    for start, stop in joined:
        n = max(1, round((stop - start) / (MAX_SECONDS * rate)))
        edges = np.linspace(start, stop, n + 1).astype(int).tolist()
        yield from pairwise(edges)


@cache
def _pitch_session() -> onnxruntime.InferenceSession:
    """One session a worker process: the shipped pitch graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = resources.files("comosvc.runtime").joinpath("data/pitch.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def analyse(audio: NDArray[np.float32], spec: AudioSpec) -> dict[str, NDArray]:
    """mel (T, M), f0_hz (T,), loudness (T,) and audio (128 T,) int16 of a signal at the model's rate."""
    audio = audio[: spec.samples(spec.frames(len(audio)))]
    at_16k = resample(audio, spec.sample_rate, PITCH_SAMPLE_RATE)
    f0_hz = f0_at_frames(*track_pitch(_pitch_session(), at_16k), spec.frames(len(audio)), spec)
    return {
        "mel": mel_spectrogram(audio, spec),
        "f0_hz": f0_hz,
        "loudness": loudness(audio, spec),
        "audio": np.round(np.clip(audio, -1.0, 1.0) * 32767).astype(np.int16),
    }


def _measure(source: Source, spec: AudioSpec, folder: Path) -> Measured | Dropped:
    audio, rate = soundfile.read(source.path, start=source.start, stop=source.stop, dtype="float32", always_2d=True)
    try:
        signal = resample(mono(audio), rate, spec.sample_rate)
    except ComosvcError as error:
        return Dropped(source.id, str(error))
    if len(signal) < MIN_SECONDS * spec.sample_rate:
        return Dropped(source.id, f"shorter than {MIN_SECONDS} s ({len(signal) / spec.sample_rate:.2f} s)")
    key = feature_key(signal.tobytes(), spec)
    path = feature_path(folder, key)
    if not path.is_file():
        save_arrays(path, analyse(signal, spec))
    f0_hz = load_file(path)["f0_hz"]
    if not f0_hz.any():
        return Dropped(source.id, "no voiced frame: silence, noise, or not a voice")
    entry = ClipEntry(key, source.id, source.singer, source.song, source.split, len(f0_hz))
    return Measured(entry, f0_hz[f0_hz > 0])


def prepare(
    material: Material, spec: AudioSpec, folder: Path, jobs: int, console: Console | None = None
) -> FeatureIndex:
    """Compute the features of every source into `folder`, then write the index and `report.json`.

    Finished clips are kept: the same command goes on where a killed one stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Measured | Dropped] = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_measure, source, spec, folder) for source in material.sources]
        results += [f.result() for f in track(futures, "features", console=console)]
    measured = [result for result in results if isinstance(result, Measured)]
    dropped = material.dropped + [result for result in results if isinstance(result, Dropped)]
    reasons = [f"{d.id}: {d.reason}" for d in dropped[:5]]
    entries = {}
    for name, facts in material.singers.items():
        own = [m for m in measured if m.entry.singer == name]
        if own:
            index = material.trained.index(name) if name in material.trained else None
            entries[name] = _singer_entry(facts, own, index, spec)
    if missing := [name for name in material.trained if name not in entries]:
        raise DataError(f"no usable clip of {', '.join(missing)}; dropped: {'; '.join(reasons)}")
    features = FeatureIndex(folder, spec, entries, tuple(m.entry for m in measured))
    features.save()
    write_report(features, dropped)
    return features


def _singer_entry(facts: dict, clips: list[Measured], index: int | None, spec: AudioSpec) -> SingerEntry:
    f0_hz = np.concatenate([clip.voiced_hz for clip in clips])
    low, median, high = np.percentile(f0_hz, (5, 50, 95)).tolist()
    minutes = sum(clip.entry.frames for clip in clips if clip.entry.split == "train") / spec.frame_rate_hz / 60
    return SingerEntry(**facts, index=index, minutes=minutes, f0_median_hz=median, f0_range_hz=(low, high))


def write_report(features: FeatureIndex, dropped: list[Dropped]) -> None:
    """`report.json`: hours, F0 and clips of each singer, and what was dropped and why."""
    seconds = {split: sum(c.frames for c in features.select(split)) for split in ("train", "valid", "test")}
    report = {
        "hours": {split: frames / features.audio.frame_rate_hz / 3600 for split, frames in seconds.items()},
        "singers": {
            name: {
                "train_minutes": round(singer.minutes, 2),
                "f0_median_hz": round(singer.f0_median_hz, 1),
                "f0_range_hz": [round(f, 1) for f in singer.f0_range_hz],
                "clips": sum(clip.singer == name for clip in features.clips),
            }
            for name, singer in features.singers.items()
        },
        "dropped": [{"clip": d.id, "reason": d.reason} for d in dropped],
    }
    (features.folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), "utf-8")
