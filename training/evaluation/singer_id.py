"""A classifier that names the demo voice in a recording, to judge conversions by more than a spectral distance.

Its training has real renderings only, no conversion, and makes it ignore what is not timbre: level, slow changes of
gain, a microphone's colour, noise and the blur of a vocoder.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import to_mapping
from ..data.prepared import FeatureIndex, PreparedClip
from ..errors import DataError
from ..loop.batches import Batch, Draws
from ..loop.checkpoint import load_module
from ..loop.loop import LoopConfig, Objective, fit

logger = logging.getLogger(__name__)

SINGER_ID = "singer_id"
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class SingerIdConfig:
    """Size of the classifier, 0.1 M parameters, and how it is trained. It is small because it is shipped."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=600,
            batch_size=32,
            learning_rate=2e-3,
            final_learning_rate=5e-5,
            warmup_steps=50,
            weight_decay=0.01,
            ema_decay=0.99,
        )
    )
    channels: int = 64
    crop_frames: int = 300
    """1.6 s at the demo voice's rate."""
    gain: float = 0.5
    """Largest change of level, in log10 units: 0.5 is 10 dB."""
    tilt: float = 0.15
    """Largest change at either end of the mel axis, in log10 units: 3 dB."""
    equaliser: float = 0.1
    """Standard deviation of the gain at each of eight points along the mel axis, in log10 units: 2 dB."""
    noise: float = 0.15
    """Largest standard deviation of what is added to each mel value, in log10 units."""


class SingerClassifier(nn.Module):
    """Log10-mel (B, T, M) -> logits (B, K) over the demo voices and, last, everyone else.

    The mean level of the clip is taken out first. Frames are described by three convolutions and pooled by their mean
    and standard deviation over time, so any length of 17 frames and more will do.
    """

    def __init__(self, n_mels: int, n_classes: int, channels: int) -> None:
        super().__init__()
        self.frames = nn.ModuleList(
            nn.Conv1d(n_in, channels, 5, stride=stride) for n_in, stride in ((n_mels, 1), (channels, 2), (channels, 2))
        )
        self.head = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, n_classes))

    def forward(self, mel: Tensor) -> Tensor:
        x = (mel - mel.mean(dim=(1, 2), keepdim=True)).transpose(1, 2)
        for convolution in self.frames:
            x = F.relu(convolution(x))
        mean = x.mean(dim=2)
        spread = ((x - mean[..., None]).square().mean(dim=2) + 1e-5).sqrt()
        return self.head(torch.cat([mean, spread], dim=1))


def classes(features: FeatureIndex) -> tuple[str, ...]:
    """Names of the classes: the voice's singers in order of their names, then everyone else, if there is anyone."""
    own = sorted(name for name, singer in features.singers.items() if singer.demo)
    return (*own, OTHER) if len(own) < len(features.singers) else tuple(own)


class SingerCrops:
    """Random crops `mel` (B, T, M) with their `label` (B,), each class equally likely, changed in all but timbre."""

    def __init__(self, mels: Sequence[Sequence[NDArray[np.float32]]], config: SingerIdConfig) -> None:
        self.mels = [[mel for mel in group if len(mel) >= config.crop_frames] for group in mels]
        if not all(self.mels):
            raise DataError(f"a singer has no clip of {config.crop_frames} frames\nhint: give longer recordings")
        self.config = config

    def __call__(self, draws: Draws) -> dict[str, Tensor]:
        labels = draws.integers(len(self.mels))
        crops = [self._crop(self.mels[label], rng) for label, (_, rng) in zip(labels.tolist(), draws, strict=True)]
        return {"mel": torch.from_numpy(np.stack(crops)), "label": labels}

    def _crop(self, group: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
        mel = group[int(rng.integers(len(group)))]
        start = rng.integers(len(mel) - self.config.crop_frames + 1)
        return disturbed(mel[start : start + self.config.crop_frames], self.config, rng)


def disturbed(mel: NDArray[np.float32], config: SingerIdConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """`mel` (T, M) at another level that drifts, in another colour, with noise, and sometimes blurred in time."""
    n_frames, n_mels = mel.shape
    if rng.random() < 0.5:
        width = int(rng.choice([3, 5, 9]))
        sums = np.cumsum(np.pad(mel, ((width // 2 + 1, width // 2), (0, 0)), mode="edge"), axis=0, dtype=np.float64)
        mel = ((sums[width:] - sums[:-width]) / width).astype(np.float32)
    gain = np.interp(np.linspace(0.0, 4.0, n_frames), np.arange(5), rng.uniform(-1.0, 1.0, 5)) * config.gain
    slope = rng.uniform(-1.0, 1.0) * config.tilt * np.linspace(-1.0, 1.0, n_mels)
    slope += np.interp(np.linspace(0.0, 7.0, n_mels), np.arange(8), rng.normal(0.0, config.equaliser, 8))
    noise = rng.uniform(0.0, config.noise) * rng.standard_normal(mel.shape)
    return (mel + gain[:, None] + slope + noise).astype(np.float32)


class SingerIdObjective(Objective[SingerClassifier]):
    """Cross-entropy of the class."""

    def __init__(self, model: SingerClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        logits = self.model(batch["mel"])
        accuracy = (logits.argmax(dim=1) == batch["label"]).float().mean()
        return F.cross_entropy(logits.float(), batch["label"]), {"accuracy": accuracy}


def train_singer_id(config: SingerIdConfig, run: Path, *, seed: int, resume: bool, device: str = "auto") -> Path:
    """Train on the training clips in `run / "features"`, into `run / "singer_id"`; returns the last checkpoint."""
    features = FeatureIndex.open(run / "features")
    torch.manual_seed(seed)
    model = SingerClassifier(features.audio.n_mels, len(classes(features)), config.channels)
    valid = [*features.select("valid"), *features.select("test")]
    return fit(
        SingerIdObjective(model),
        SingerCrops(mels_by_class(features, "train"), config),
        config.loop,
        run / SINGER_ID,
        seed=seed,
        resolved_config={**to_mapping(config), "classes": list(classes(features)), "seed": seed},
        resume=resume,
        device=device,
        validate=lambda average: {"accuracy": np.mean([named_right(average, features, clip) for clip in valid]).item()},
    )


def mels_by_class(features: FeatureIndex, split: str) -> list[list[NDArray[np.float32]]]:
    """The mels (T, M) of a split, in a list for each class."""
    groups: dict[str, list[NDArray[np.float32]]] = {name: [] for name in classes(features)}
    for clip in features.select(split):
        groups[clip.singer if clip.singer in groups else OTHER].append(features.load(clip)["mel"])
    return list(groups.values())


def named_right(model: SingerClassifier, features: FeatureIndex, clip: PreparedClip) -> bool:
    """Whether the class of a whole clip is the likeliest."""
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(features.load(clip)["mel"])[None].to(next(model.parameters()).device))
    names = classes(features)
    return names[int(logits.argmax())] == (clip.singer if clip.singer in names else OTHER)


def write_singer_id(run: Path, checkpoint: Path, config: SingerIdConfig, path: Path) -> None:
    """Write the averaged classifier as ONNX, `mel` (1, T, M) -> `logits` (1, K), with `classes` and `audio` inside."""
    features = FeatureIndex.open(run / "features")
    model = SingerClassifier(features.audio.n_mels, len(classes(features)), config.channels).eval()
    load_module(checkpoint, "ema", model)
    program = torch.onnx.export(
        model,
        (torch.zeros(1, 400, features.audio.n_mels),),
        dynamo=True,
        opset_version=20,
        input_names=["mel"],
        output_names=["logits"],
        dynamic_shapes={"mel": {1: "T"}},
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing back")
    program.model.metadata_props.update(
        classes=json.dumps(classes(features)), audio=json.dumps(asdict(features.audio), sort_keys=True)
    )
    for node in program.model.graph:
        node.metadata_props.clear()  # the exporter's notes on the machine and the source lines it ran on
    program.save(path)


def main(
    run: Annotated[Path, typer.Argument(help="A run folder with features.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    seed: int = 0,
) -> None:
    """Train the classifier on the features of RUN and write it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    config = SingerIdConfig()
    write_singer_id(run, train_singer_id(config, run, seed=seed, resume=True), config, output)


if __name__ == "__main__":
    typer.run(main)
