"""The held-out parallel set: unseen songs, sung in step by unseen singers and by the demo voices.

Rendered once into a cache, as the 16-bit audio that a corpus of the same configuration holds.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ..runtime.spec import AudioSpec
from ..runtime.storage import replacing, sha256
from ..training.corpus import CorpusConfig, Labels, ParallelSong, held_out_set
from ..training.corpus.config import RENDER_VERSION

_LABELS = ("f0_hz", "phone_start_s", "phone")


@dataclass(frozen=True)
class HeldOutSong:
    """One performance: each singer's audio (L,) at 24 kHz, equally long, and the labels that hold for all of them."""

    song: str
    sources: dict[str, NDArray[np.float32]]
    """Held-out singers."""
    targets: dict[str, NDArray[np.float32]]
    """Demo voices: the ground truth of a conversion to them."""
    labels: Labels

    def f0_at_frames(self, spec: AudioSpec) -> NDArray[np.float32]:
        """True F0 at each mel frame, (T,) in Hz, 0 = unvoiced."""
        n_frames = spec.frames(len(next(iter(self.sources.values()))))
        return self.labels.f0_at((np.arange(n_frames) + 0.5) * spec.hop_length / spec.sample_rate)


@dataclass(frozen=True)
class Pair:
    """One conversion to make and what it should give."""

    song: HeldOutSong
    source: str
    target: str

    @property
    def source_audio(self) -> NDArray[np.float32]:
        return self.song.sources[self.source]

    @property
    def target_audio(self) -> NDArray[np.float32]:
        return self.song.targets[self.target]

    @property
    def name(self) -> str:
        return f"{self.song.song} {self.source} -> {self.target}"


def pairs(songs: list[HeldOutSong]) -> Iterator[Pair]:
    """Every held-out song by every held-out singer to every demo voice."""
    for song in songs:
        for source in song.sources:
            for target in song.targets:
                yield Pair(song, source, target)


def load_held_out(
    config: CorpusConfig, cache: Path, progress: Callable[[str], None] | None = None
) -> list[HeldOutSong]:
    """The held-out songs of `config`, rendered into `cache` unless they are there.

    `progress` is called with the name of each song that was rendered.
    """
    key = json.dumps({"render_version": RENDER_VERSION, **asdict(config)}, sort_keys=True)
    folder = cache / f"heldout-{sha256(key.encode())[:12]}"
    index = folder / "songs.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        for song in held_out_set(config):
            _save(song, folder / f"{song.song}.safetensors")
            names.append(song.song)
            if progress:
                progress(song.song)
        index.write_text(json.dumps(names), "utf-8")  # last: its presence says that all songs are there
    return [_load(folder / f"{name}.safetensors") for name in json.loads(index.read_text("utf-8"))]


def _save(song: ParallelSong, path: Path) -> None:
    performance = song.performance
    tensors: dict[str, NDArray] = {
        "f0_hz": performance.f0_hz.astype(np.float32),
        "phone_start_s": performance.phone_start_s,
        "phone": performance.phone,
    }
    for kind, names in (("source", song.sources), ("target", song.targets)):
        tensors |= {f"{kind}/{name}": np.round(song.audio[name] * 32767).astype(np.int16) for name in names}
    with replacing(path) as partial:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, partial)


def _load(path: Path) -> HeldOutSong:
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    labels = Labels(**{name: tensors.pop(name) for name in _LABELS})
    voices = {name: tensor / np.float32(32768) for name, tensor in tensors.items()}
    sources = {name.removeprefix("source/"): audio for name, audio in voices.items() if name.startswith("source/")}
    targets = {name.removeprefix("target/"): audio for name, audio in voices.items() if name.startswith("target/")}
    return HeldOutSong(path.stem, sources, targets, labels)
