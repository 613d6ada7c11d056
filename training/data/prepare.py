"""From recordings to features: cuts recordings at silences, computes and checks, reports on the material."""

import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ...runtime.audio.features import condition_loudness, loudness, mel_spectrogram, voice_band
from ...runtime.audio.files import read_with_notes
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import AudioSpec, F0Name, FrontEnd
from ...runtime.errors import AudioError
from ...runtime.storage import remove_stale
from ..errors import DataError
from ..loop.log import tracked
from .augmentation import AugmentationConfig, variation_path, vary
from .datasets import Dropped, Material, Recording, held_out_songs
from .material import Measured, singer_entry, write_report
from .prepared import EXTRACTORS, FeatureIndex, PreparedClip, feature_key, feature_path, load_arrays, save_arrays
from .record import source_of

SILENCE = 1e-4
"""Highest peak, in the voice's band, of a file that counts as silent."""
_HUM_SHARE = 0.25
"""Below this share of power in the voice's band, only that power of a frame counts; the rest is offset, rumble or
hum."""


@dataclass(frozen=True, kw_only=True)
class SlicingConfig:
    """How files are cut."""

    min_seconds: float = 0.5
    """Shorter pieces are dropped. The authors take 0.3."""
    max_seconds: float = 15.0
    """Longer phrases are divided."""
    silence_db: float = 40.0
    """Frames this far below a file's loudest frame are silence."""
    rest_seconds: float = 1.0
    """Rests shorter than this stay inside a piece."""


def slice_at_silences(signal: NDArray[np.float32], rate: int, config: SlicingConfig) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) sample of each piece of `signal` (L,); none where it is silent throughout.

    An offset, rumble and mains hum are silence. Pieces are joined up to the longest allowed, so that phrases keep their
    short rests.
    """
    if np.abs(voice_band(signal, rate)).max(initial=0.0) < SILENCE:
        return
    longest = config.max_seconds * rate
    joined: list[list[int]] = []
    for start, stop in _sounding(signal, rate, config.silence_db):
        fits = joined and stop - joined[-1][0] <= longest and start - joined[-1][1] < config.rest_seconds * rate
        if fits:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    for start, stop in joined:
        n = max(1, round((stop - start) / longest))
        yield from pairwise(np.linspace(start, stop, n + 1).astype(int).tolist())


def _sounding(signal: NDArray[np.float32], rate: int, silence_db: float) -> list[list[int]]:
    """Stretches within `silence_db` of the loudest frame; frames of 100 ms, every 25 ms. As `librosa.effects.split`."""
    width, hop = rate // 10, rate // 40
    centres = np.arange(len(signal) // hop + 1) * hop
    first, last = (np.clip(centres + shift, 0, len(signal)) for shift in (-(width // 2), width - width // 2))

    def power_of(audio: NDArray[np.float32]) -> NDArray[np.float64]:
        energy = np.concatenate(([0.0], np.cumsum(np.square(audio, dtype=np.float64))))
        return (energy[last] - energy[first]) / width

    whole, voice = power_of(signal), power_of(voice_band(signal, rate))
    power = np.where(voice < _HUM_SHARE * whole, voice, whole)
    sounds = power > power.max() * 10.0 ** (-silence_db / 10.0)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], sounds, [False]))))
    return np.minimum(edges.reshape(-1, 2) * hop, len(signal)).tolist()


logger = logging.getLogger(__name__)
_SPARE_BYTES = 50_000_000


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Settings for making features from recordings."""

    slicing: SlicingConfig = field(default_factory=SlicingConfig)
    peak: float | None = None
    """Peak that every clip is brought to; None leaves levels alone. The authors take 0.95."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    f0: F0Name = "swift-f0"
    """Extractor. "dio", the authors', and "harvest" need the f0 extra, for the voice too: without it, and live, the
    voice uses swift-f0, with a warning."""
    front_end: FrontEnd = field(default_factory=FrontEnd)
    """The model's F0, loudness and content conditions; part of the voice."""

    @property
    def feature_settings(self) -> bytes:
        """Settings that the features of a clip depend on, besides its audio; empty for the defaults."""
        usual = PrepareConfig()
        facts = (self.f0, self.front_end.loudness, self.front_end.condition_at)
        same = facts == (usual.f0, usual.front_end.loudness, usual.front_end.condition_at)
        return b"" if same else repr(facts).encode()


def analyse(
    audio: NDArray[np.float32], spec: AudioSpec, f0: F0Name = "swift-f0", front_end: FrontEnd | None = None
) -> dict[str, NDArray]:
    """mel (T, M), f0_hz (T,) with 0 = unvoiced, loudness (T,) and audio (L,) int16 of a signal (L,) at the model's
    rate.

    T is `spec.frames(L)`; the last frames see the rest of less than a hop too, before the end is mirrored.
    """
    front_end = front_end or FrontEnd()
    return {
        "mel": mel_spectrogram(audio, spec),
        "f0_hz": EXTRACTORS[f0](audio, spec, front_end),
        "loudness": condition_loudness(audio, spec, front_end),
        "audio": np.round(np.clip(audio, -1.0, 1.0) * 32767).astype(np.int16),
    }


@dataclass(frozen=True)
class _Task:
    """The work of a process on one recording."""

    config: PrepareConfig
    spec: AudioSpec
    folder: Path
    crop_frames: int

    def __call__(self, recording: Recording) -> list[Measured | Dropped]:
        """Cut a recording and write the features of each piece that has none yet."""
        if (free := shutil.disk_usage(self.folder).free) < _SPARE_BYTES:
            raise DataError(
                f"the disk of {self.folder} is full: {free / 1e6:.0f} MB free\n"
                "hint: free some space and run the same command again; it goes on where it stopped"
            )
        try:
            signal, rate, notes = read_with_notes(recording.path)
            if (peak := float(np.abs(signal).max(initial=0.0))) > 1.0:
                signal = signal / np.float32(peak)
                notes.append(f"beyond full scale (its peak is {20.0 * math.log10(peak):.1f} dB), brought down to it")
            whole = not recording.cut or len(signal) < self.config.slicing.min_seconds * rate
            pieces = [(0, len(signal))] if whole else list(slice_at_silences(signal, rate, self.config.slicing))
            ids = [f"{recording.id}#{k}" if recording.cut else recording.id for k in range(len(pieces))]
            text = recording.text if len(pieces) == 1 else ""
            found = [
                self._measure(resample(signal[slice(*piece)], rate, self.spec.sample_rate), name, recording, text)
                for name, piece in zip(ids, pieces, strict=True)
            ]
        except AudioError as error:
            return [Dropped(recording.id, f"cannot be read: {error}")]
        in_part = any(isinstance(result, Measured) for result in found)
        noted = [Dropped(recording.id, note, in_part=in_part) for note in notes]
        return noted + (found or [Dropped(recording.id, "silent")])

    def _measure(self, signal: NDArray[np.float32], name: str, of: Recording, text: str) -> Measured | Dropped:
        shortest = self.config.slicing.min_seconds
        if len(signal) < shortest * self.spec.sample_rate:
            return Dropped(name, f"shorter than {shortest:g} s ({len(signal) / self.spec.sample_rate:.2f} s)")
        if (frames := self.spec.frames(len(signal))) < self.crop_frames:
            seconds, needed = (n / self.spec.frame_rate_hz for n in (frames, self.crop_frames))
            return Dropped(
                name, f"too short to train on: {seconds:.2f} s, and the recipe's crop_frames are {needed:.2f} s"
            )
        peak = float(np.abs(signal).max())
        if self.config.peak is not None:
            signal = signal * np.float32(self.config.peak / (1e-5 + peak))
        key = feature_key(signal.tobytes() + self.config.feature_settings, self.spec)
        path = feature_path(self.folder, key)
        features = _kept(path, lambda: analyse(signal, self.spec, self.config.f0, self.config.front_end))
        if self.config.augmentation.probability:
            varied = variation_path(self.folder, key, self.config.augmentation)
            _kept(varied, lambda: vary(signal, key, self.config.augmentation, self.spec))
        voiced = features["f0_hz"] > 0
        if not voiced.any():
            return Dropped(name, "no voiced frame: silence, noise, or not a voice")
        entry = PreparedClip(key, name, of.singer, of.song, of.split, len(voiced), text)
        loudness_db = 20.0 * np.log10(np.maximum(loudness(signal, self.spec)[voiced], 1e-6))
        return Measured(entry, features["f0_hz"][voiced], loudness_db.astype(np.float32), peak)


def _kept(path: Path, make: Callable[[], dict[str, NDArray]]) -> dict[str, NDArray]:
    """Arrays at `path`; where the file is missing or damaged, those of `make`, saved to `path`."""
    try:
        return load_arrays(path)
    except DataError:
        save_arrays(path, make())
        return load_arrays(path)


def prepare(
    material: Material,
    spec: AudioSpec,
    folder: Path,
    jobs: int,
    console: Console | None = None,
    config: PrepareConfig | None = None,
    *,
    crop_frames: int = 0,
    recipe: str = "",
) -> FeatureIndex:
    """Compute the features of every recording into `folder`, in `jobs` processes, then write the index and
    `report.json`.

    Finished clips are kept: the same command goes on where a killed one stopped. `crop_frames`: mel frames that
    training takes of a clip at a time, shorter clips are dropped. `recipe`: the -c of this command, kept for hints.

    Raises `DataError` where a singer has no clip to train on.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}\nhint: give another -o folder") from None
    remove_stale(folder)
    task = _Task(config or PrepareConfig(), spec, folder, crop_frames)
    measured: list[Measured] = []
    dropped = list(material.dropped)
    for recording, found in zip(material.recordings, _run(task, material.recordings, jobs, console), strict=True):
        measured += [result for result in found if isinstance(result, Measured)]
        dropped += [replace(result, singer=recording.singer) for result in found if isinstance(result, Dropped)]
    if material.by_song:
        measured = hold_out(measured)
    _require_all(material.trained, measured, dropped)
    entries = {}
    for name, facts in material.singers.items():
        if own := [m for m in measured if m.entry.singer == name]:
            index = material.trained.index(name) if name in material.trained else None
            entries[name] = singer_entry(facts, own, index, spec)
    clips = tuple(m.entry for m in measured)
    used = task.config
    features = FeatureIndex(
        folder, spec, entries, clips, used.augmentation, used.front_end, used.f0, source_of(material), recipe
    )
    features.save()
    write_report(features, measured, dropped, material)
    return features


def hold_out(measured: Sequence[Measured]) -> list[Measured]:
    """`measured` with songs held out as `split_by_song` does. Titles that share a recording count as one song."""
    title = _one_title(measured)
    songs: dict[str, set[str]] = {}
    for clip in measured:
        songs.setdefault(clip.entry.singer, set()).add(title[clip.entry.song])
    held_out = held_out_songs(songs)
    return [
        replace(
            m, entry=replace(m.entry, split="valid" if title[m.entry.song] in held_out[m.entry.singer] else "train")
        )
        for m in measured
    ]


def _one_title(measured: Sequence[Measured]) -> dict[str, str]:
    """Song to the first, by name, of the songs that it shares a recording with, directly or through others."""
    parent = {clip.entry.song: clip.entry.song for clip in measured}

    def first(song: str) -> str:
        while parent[song] != song:
            song = parent[song]
        return song

    holder: dict[str, str] = {}
    for clip in measured:
        low, high = sorted((first(holder.setdefault(clip.entry.key, clip.entry.song)), first(clip.entry.song)))
        parent[high] = low
    return {song: first(song) for song in parent}


def _require_all(trained: Sequence[str], measured: Sequence[Measured], dropped: Sequence[Dropped]) -> None:
    """Raise `DataError` where one of the singers `trained` has no clip to train on."""
    usable = {clip.entry.singer for clip in measured if clip.entry.split == "train"}
    if not (missing := [name for name in trained if name not in usable]):
        return
    lines = []
    for name in missing:
        own = [d for d in dropped if d.singer == name]
        lines.append(f"{name}, {len(own)} dropped: {'; '.join(f'{d.id}: {d.reason}' for d in own[:3])}")
    raise DataError(
        f"no usable clip of {' | '.join(lines)}\n"
        "hint: give longer or other recordings of that singer, or take the folder away; where clips are too short to "
        "train on, lower crop_frames in [vocoder], [teacher] and [student]"
    )


def _run(
    task: Callable[[Recording], list[Measured | Dropped]],
    recordings: Iterable[Recording],
    jobs: int,
    console: Console | None,
) -> Iterator[list[Measured | Dropped]]:
    recordings = list(recordings)
    progress = partial(tracked, what="features", console=console, total=len(recordings))
    if jobs == 1:
        yield from progress(map(task, recordings))
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        futures = [pool.submit(task, recording) for recording in recordings]
        for future in progress(futures):
            yield future.result()
    except BrokenProcessPool:
        raise DataError(
            f"one of {jobs} processes was killed, most likely for want of memory\n"
            "hint: run the same command again with a smaller -n; it goes on where it stopped"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
