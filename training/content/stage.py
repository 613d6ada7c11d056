"""The command `content`: trains the content encoder on the phones of the corpus, and scores it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from ...runtime.audio.spec import AudioSpec
from ..config import to_mapping
from ..corpus import PHONES, Corpus, CorpusClip
from ..data.record import DataRecord, require_same_data
from ..errors import DataError
from ..loop.batches import Batch
from ..loop.loop import LoopConfig, Objective, fit
from .encoder import ContentConfig, ContentEncoder, content_loss, log_mel
from .labelled_audio import Augmentation, CropSampler, LabelledClip

Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Audio (N,) within ±1 at the content rate -> posteriorgram (S, C)."""


@dataclass(frozen=True)
class FrameScore:
    """Share of frames whose most probable phone is the right one."""

    accuracy: float
    """Over all frames, silence included."""
    accuracy_sounding: float
    """Over the frames that are not silence."""
    cross_entropy_nats: float
    """Mean -ln p of the right phone: it sees a posteriorgram that is wrong with confidence."""
    n_frames: int


def score_frames(encode: Encode, clips: Sequence[LabelledClip], hop: int, sample_rate: int) -> FrameScore:
    """Compare the posteriorgrams of `clips` with their labels at the centres of the content frames."""
    probability, right, truth = [], [], []
    for clip in clips:
        posterior = encode(clip.waveform)
        phones = clip.frame_phones(hop, sample_rate)
        probability.append(posterior[np.arange(len(phones)), phones])
        right.append(posterior.argmax(axis=1) == phones)
        truth.append(phones)
    hits, sounding = np.concatenate(right), np.concatenate(truth) != PHONES.index("sil")
    nats = -np.log(np.maximum(np.concatenate(probability), 1e-9))
    return FrameScore(float(hits.mean()), float(hits[sounding].mean()), float(nats.mean()), len(hits))


CONTENT, CONTENT_LOW = "content", "content-low"
_VALIDATION_CLIPS = 8


@dataclass(frozen=True, kw_only=True)
class ContentTraining:
    """How the content encoder is trained."""

    loop: LoopConfig
    network: ContentConfig = field(default_factory=ContentConfig)
    low: ContentConfig | None = None
    """A second encoder of short look-ahead, for live use; None: the first one serves for that too."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    crop_frames: int = 200


class ContentObjective(Objective[ContentEncoder]):
    """Cross-entropy of each frame's phone."""

    def __init__(self, model: ContentEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        audio, target = batch["audio"], batch["target"]
        with (
            torch.no_grad(),
            torch.autocast(audio.device.type, enabled=False),
        ):  # bf16 would drown quiet bands in loud ones
            features = log_mel(self.model.power(audio), batch["filters"])
        logits = self.model.classify(features)
        accuracy = (logits.argmax(dim=-1) == target.argmax(dim=-1)).float().mean()
        return content_loss(logits, target), {"accuracy": accuracy}


def load_clips(corpus: Corpus, split: str, spec: AudioSpec, kind: str | None = None) -> list[LabelledClip]:
    """The clips of a split ("train", "valid", "test") and a kind (None: all) at the content rate, with labels."""
    return [
        LabelledClip(
            clip.singer,
            clip.song,
            clip.kind == "recorded",
            corpus.singers[clip.singer].parameters["tract_scale"],
            _at_content_rate(clip, corpus, spec),
            clip.labels(),
        )
        for clip in corpus.clips(split=split, kind=kind)
    ]


def corpus_record(corpus: Corpus) -> DataRecord:
    """The record of a corpus; the key of a clip is its length with the sizes of its files."""
    clips = {}
    for clip in corpus.all_clips:
        sizes = [path.stat().st_size if path.is_file() else 0 for path in (clip.audio_path, clip.label_path)]
        clips[clip.id] = [clip.singer, clip.split, f"{clip.seconds} s, {sizes}"]
    return DataRecord({"sample_rate": corpus.sample_rate, "recipe": corpus.recipe}, sorted(corpus.singers), clips)


def _at_content_rate(clip: CorpusClip, corpus: Corpus, spec: AudioSpec) -> NDArray[np.int16]:
    audio = soxr.resample(clip.audio(), corpus.sample_rate, spec.content_sample_rate)
    return np.clip(np.rint(audio * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)


def encode_with(encoder: nn.Module) -> Encode:
    """The encoder as a function from audio (N,) to its posteriorgram (S, C), both numpy, without gradients."""

    def encode(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        device = next(encoder.parameters()).device
        with torch.no_grad():
            return encoder(torch.from_numpy(audio)[None].to(device))[0].cpu().numpy()

    return encode


def train_content(
    config: ContentTraining,
    audio: AudioSpec,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train the content encoders on the corpus in `run / "corpus"` and return the first one's last checkpoint."""
    how = {"seed": seed, "resume": resume, "device": device, "console": console}
    path = train_encoder(config, config.network, audio, run / CONTENT, **how)
    if config.low is not None:
        train_encoder(config, config.low, audio, run / CONTENT_LOW, **how)
    return path


def train_encoder(
    config: ContentTraining,
    network: ContentConfig,
    audio: AudioSpec,
    folder: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train one encoder into `folder` and return its last checkpoint."""
    corpus = Corpus.open(folder.parent / "corpus")
    record = corpus_record(corpus)
    require_same_data(folder, record, corpus.folder)
    clips = load_clips(corpus, "train", audio)
    if not clips:
        raise DataError(f"{corpus.folder} has no training clips\nhint: write it again with more minutes per singer")
    valid = load_clips(corpus, "valid", audio)[:: max(1, len(corpus.clips(split="valid")) // _VALIDATION_CLIPS)]
    torch.manual_seed(seed)
    encoder = ContentEncoder(network, audio)
    sampler = CropSampler(
        clips,
        network,
        encoder.bins_hz,
        audio.content_hop_length,
        config.crop_frames,
        config.augmentation,
    )
    resolved = {
        "audio": to_mapping(audio),
        "network": to_mapping(network),
        "augmentation": to_mapping(config.augmentation),
        "crop_frames": config.crop_frames,
        "loop": to_mapping(config.loop),
        "seed": seed,
        "corpus": {"recipe": corpus.recipe, "singers": sorted({clip.singer for clip in clips})},
        "data": record.write(folder),
    }

    def validate(model: ContentEncoder) -> dict[str, float]:
        score = score_frames(encode_with(model.eval()), valid, model.hop, model.sample_rate)
        return {name: float(value) for name, value in asdict(score).items()}

    return fit(
        ContentObjective(encoder),
        sampler,
        config.loop,
        folder,
        seed=seed,
        resolved_config=resolved,
        resume=resume,
        device=device,
        validate=validate if valid else None,
        console=console,
    )
