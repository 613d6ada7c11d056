"""Batches for the teacher and the student, cut from the features of a run that lie in memory."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ...runtime.audio.frames import content_index, stretched_index
from ...runtime.audio.resampling import resample
from ..content.stage import Encode
from ..data.prepared import FeatureIndex, PreparedClip, load_arrays, save_arrays
from ..loop.batches import Crops, Draws
from ..loop.log import tracked
from .model import AcousticConfig, AcousticModel, Condition

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipFeatures:
    """What a clip gives the acoustic model, all (T, …) except the singer's row."""

    mel: NDArray[np.float32]
    contents: tuple[NDArray[np.float16], ...]
    """What each content encoder makes of it: the model must understand them all."""
    f0_hz: NDArray[np.float32]
    loudness: NDArray[np.float32]
    singer: int
    varied: "VariedCopy | None" = None


@dataclass(frozen=True)
class VariedCopy:
    """The same clip at another pitch and level: what differs."""

    mel: NDArray[np.float32]
    key_shift: float
    """Semitones."""
    gain: float


def encode_content(
    features: FeatureIndex, clips: list[PreparedClip], encode: Encode, encoder_hash: str, console: Console | None = None
) -> None:
    """Run the content encoder over every clip that has no content from this encoder yet, each clip as a whole."""
    spec = features.audio
    todo = [clip for clip in clips if not features.content_path(clip, encoder_hash).is_file()]
    for clip in tracked(todo, "content features", console):
        audio = features.load(clip)["audio"].astype(np.float32) / np.float32(32768)
        content = encode(resample(audio, spec.sample_rate, spec.content_sample_rate)).astype(np.float16)
        save_arrays(features.content_path(clip, encoder_hash), {"content": content})


def load_clip(features: FeatureIndex, clip: PreparedClip, encoder_hashes: Sequence[str]) -> ClipFeatures:
    """The features of a clip, its content brought to the mel's frames."""
    arrays = features.load(clip)
    again = "delete it and run the same command again, which makes it anew"
    contents = [load_arrays(features.content_path(clip, name), again)["content"] for name in encoder_hashes]
    index = index_into_content(features, len(contents[0]), len(arrays["mel"]))
    singer = features.singers[clip.singer].index
    varied = features.load_varied(clip) if clip.split == "train" else None
    return ClipFeatures(
        arrays["mel"],
        tuple(content[index] for content in contents),
        arrays["f0_hz"],
        arrays["loudness"],
        -1 if singer is None else singer,
        None if varied is None else VariedCopy(varied["mel"], varied["key_shift"].item(), varied["gain"].item()),
    )


def index_into_content(features: FeatureIndex, n_content: int, n_frames: int) -> NDArray[np.int64]:
    """For each of a clip's mel frames its content frame, (T,), as the front end of `features` lays them."""
    if features.front_end.content_index == "stretched":
        return stretched_index(n_content, n_frames)
    return content_index(0, n_frames, features.audio).clip(max=n_content - 1)


class AcousticData:
    """Random crops of equal length from all training clips, each frame equally likely, each content encoder in turn.

    `vary` is the probability that a crop comes from the varied copy of its clip.
    """

    def __init__(self, clips: list[ClipFeatures], crop_frames: int, vary: float = 0.0) -> None:
        self.clips, self.vary = clips, vary
        self.crops = Crops([len(clip.mel) for clip in clips], crop_frames)

    def batch(self, draws: Draws) -> dict[str, Tensor]:
        """mel (B, T, M), content (B, T, C), f0_hz (B, T), loudness (B, T), singer (B,); key_shift (B,) if they vary."""
        chosen = [self.crops.draw(rng) for _, rng in draws]
        crops = [(self.clips[clip], frames) for clip, frames in chosen]
        varied = [
            clip.varied if self.vary and rng.random() < self.vary else None
            for (clip, _), (_, rng) in zip(crops, draws, strict=True)
        ]
        parts = [_conditions(clip, frames, copy) for (clip, frames), copy in zip(crops, varied, strict=True)]
        contents = [
            clip.contents[number % len(clip.contents)][crop]
            for number, (clip, crop) in zip(draws.numbers, crops, strict=True)
        ]
        shifts = {"key_shift": torch.tensor([copy.key_shift if copy else 0.0 for copy in varied])} if self.vary else {}
        return {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in parts[0]} | {
            **shifts,
            "content": torch.from_numpy(np.stack(contents).astype(np.float32)),
            "singer": torch.tensor([clip.singer for clip, _ in crops]),
        }


def _conditions(clip: ClipFeatures, frames: slice, copy: VariedCopy | None) -> dict[str, NDArray[np.float32]]:
    """mel, f0_hz and loudness of a crop, or of the same crop of the varied copy."""
    if copy is None:
        return {name: getattr(clip, name)[frames] for name in ("mel", "f0_hz", "loudness")}
    return {
        "mel": copy.mel[frames],
        "f0_hz": clip.f0_hz[frames] * np.float32(2.0 ** (copy.key_shift / 12.0)),
        "loudness": clip.loudness[frames] * np.float32(copy.gain),
    }


def batch_condition(model: AcousticModel, batch: Mapping[str, Tensor]) -> Condition:
    """The condition of a batch whose content is already at the mel's frames."""
    index = torch.arange(batch["content"].shape[1], device=batch["content"].device, dtype=torch.int32)
    return Condition(
        batch["content"],
        index.expand(len(batch["content"]), -1),
        batch["f0_hz"],
        batch["loudness"],
        model.singer_embed(batch["singer"]),
        batch.get("key_shift"),
    )


def build_acoustic(
    config: AcousticConfig, features: FeatureIndex, n_content: int, clips: list[ClipFeatures] | None = None
) -> AcousticModel:
    """A new acoustic model for the singers of a run; `clips` sets the mel's mean and scale where the configuration
    does not, a checkpoint loaded later may too.

    Mean per band, one scale for all bands, so that the normalised mel has standard deviation sigma_data and an error
    in any band counts alike.
    """
    model = AcousticModel(config, features.audio, n_content, len(features.trained_singers))
    if clips and config.mel_range is None:
        mel = np.concatenate([clip.mel for clip in clips])
        mean = mel.mean(axis=0)
        model.mel_mean.copy_(torch.from_numpy(mean))
        model.mel_scale.fill_(float((mel - mean).std()) / config.sigma.sigma_data)
    return model
