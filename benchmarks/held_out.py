"""The held-out parallel set, and its conversions beside the ground truth."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ..runtime import Converter
from ..runtime.audio.features import mel_spectrogram
from ..runtime.audio.spec import AudioSpec
from ..runtime.storage import replacing, sha256
from ..training.corpus import CorpusConfig, Labels, ParallelSong, held_out_set
from ..training.corpus.plan import RENDER_VERSION
from .metrics import Mel, MelScore, PitchMeter, Pooled, f0_errors, score_mel

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
class HeldOutPair:
    """One conversion to make, and its true result."""

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


def pairs(songs: list[HeldOutSong]) -> Iterator[HeldOutPair]:
    """Every held-out song by every held-out singer to every demo voice."""
    for song in songs:
        for source in song.sources:
            for target in song.targets:
                yield HeldOutPair(song, source, target)


def rotated_pairs(songs: Sequence[HeldOutSong]) -> list[HeldOutPair]:
    """Every source to every target once, the songs taken in turn: a part of the set for slow measurements."""
    return [
        HeldOutPair(songs[(i + j) % len(songs)], source, target)
        for i, source in enumerate(songs[0].sources)
        for j, target in enumerate(songs[0].targets)
    ]


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


SAMPLE_RATE = 24_000
Identify = Callable[[NDArray[np.float32], int], str]
"""Audio (L,) and its rate to the name of the demo voice that it sounds most like."""


@dataclass(frozen=True)
class Score:
    """One conversion."""

    pair: str
    target: str
    mel: MelScore
    """The student's mel."""
    audio: MelScore
    """The mel of the audio that comes out: the whole chain."""
    unconverted: MelScore
    """The source's mel."""
    identified: str
    f0_hz: NDArray[np.float32]
    """Tracked in the output, (T,)."""
    true_f0_hz: NDArray[np.float32]


def score_conversion(
    converter: Converter, pair: HeldOutPair, seed: int, steps: int, meter: PitchMeter, identify: Identify
) -> Score:
    """Convert `pair` at its own key and compare."""
    out = converter.convert(pair.source_audio, SAMPLE_RATE, singer=pair.target, key=0.0, seed=seed, steps=steps)
    return score_output(out.mel, out.audio, pair, converter.spec, meter, identify)


def score_output(
    mel: Mel, audio: NDArray[np.float32], pair: HeldOutPair, spec: AudioSpec, meter: PitchMeter, identify: Identify
) -> Score:
    """Compare a mel (T, M) and the audio (L,) at `SAMPLE_RATE` that a conversion of `pair` gave."""
    truth, before, after = (_mel(a, spec) for a in (pair.target_audio, pair.source_audio, audio))
    true_f0_hz = pair.song.f0_at_frames(spec)
    return Score(
        pair=pair.name,
        target=pair.target,
        mel=score_mel(mel, truth, spec.mel_log_base),
        audio=score_mel(after, truth, spec.mel_log_base),
        unconverted=score_mel(before, truth, spec.mel_log_base),
        identified=identify(audio, SAMPLE_RATE),
        f0_hz=meter(audio, SAMPLE_RATE, spec)[: len(true_f0_hz)],
        true_f0_hz=true_f0_hz,
    )


def _mel(audio: NDArray[np.float32], spec: AudioSpec) -> Mel:
    return mel_spectrogram(soxr.resample(audio, SAMPLE_RATE, spec.sample_rate), spec)


def pool(scores: Iterable[Score], spec: AudioSpec) -> Pooled:
    """Average distances first, then divide, so that no single clip's baseline weighs more."""
    scores = list(scores)
    unconverted = _mean(s.unconverted.l1 for s in scores)
    return Pooled(
        n=len(scores),
        relative_l1=_mean(s.mel.l1 for s in scores) / unconverted,
        relative_l1_audio=_mean(s.audio.l1 for s in scores) / unconverted,
        relative_smoothed_l1=_mean(s.mel.smoothed_l1 for s in scores)
        / _mean(s.unconverted.smoothed_l1 for s in scores),
        texture=_mean(s.mel.texture for s in scores),
        texture_audio=_mean(s.audio.texture for s in scores),
        unconverted_l1=unconverted,
        identified=_mean(s.identified == s.target for s in scores),
        f0=f0_errors(((s.f0_hz, s.true_f0_hz) for s in scores), spec.frame_rate_hz),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
