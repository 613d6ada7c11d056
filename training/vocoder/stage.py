"""The command `vocoder`: crops of mel, F0 and audio, and the training run."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from ...runtime.audio.spec import AudioSpec
from ...runtime.conversion.source import pulse_source, sine_source
from ..config import to_mapping
from ..data.prepared import FeatureIndex
from ..data.record import begin_stage
from ..loop.batches import Batch, Crops, Draws
from ..loop.devices import full_precision
from ..loop.loop import LoopConfig, Objective, fit
from .frame_spectra import FrameSpectra
from .hifigan import HifiGanConfig, NsfHifiGan
from .light import MATCHING, AnyVocoder, Vocoder, VocoderConfig, build_vocoder, vocoder_config
from .losses import Adversary, AdversaryConfig, vocoder_loss, without_edges

VOCODER = "vocoder"


@dataclass(frozen=True, kw_only=True)
class VocoderTraining:
    loop: LoopConfig
    kind: str = MATCHING
    """One of `vocoder_kinds.KINDS`."""
    network: dict[str, Any] = field(default_factory=dict)
    """Sizes that are not the kind's usual ones."""
    crop_frames: int = 128
    draws: Literal[1, 2] = 2
    """Outputs for each crop. Two differ in noise and phase, which teaches the right amount of noise; one takes half the
    time and leaves that to the adversary.
    """
    adversary: AdversaryConfig | None = None
    """None: there is no adversary."""

    def __post_init__(self) -> None:
        _ = self.sizes  # or say now what is wrong with them

    @property
    def sizes(self) -> VocoderConfig | HifiGanConfig:
        """Those of the network."""
        return vocoder_config(self.kind, self.network, "vocoder")


@dataclass(frozen=True)
class VocoderClip:
    """mel (T, M) and f0_hz (T,) float32, audio (L,) int16."""

    mel: NDArray[np.float32]
    f0_hz: NDArray[np.float32]
    audio: NDArray[np.int16]


class VocoderData:
    """Random crops with the excitation that the runtime would make for them."""

    def __init__(
        self, clips: list[VocoderClip], spec: AudioSpec, crop_frames: int, source_kind: str = Vocoder.source_kind
    ) -> None:
        self.clips, self.spec, self.source_kind = clips, spec, source_kind
        self.crops = Crops([len(clip.mel) for clip in clips], crop_frames)

    def batch(self, draws: Draws) -> dict[str, Tensor]:
        """mel (B, T, M), f0_hz (B, T), audio (B, L), and two draws each of source (B, 2, L, H) and noise (B, 2, L)."""
        crops = [self._crop(rng) for _, rng in draws]
        return {name: torch.from_numpy(np.stack([crop[name] for crop in crops])) for name in crops[0]}

    def _crop(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        number, frames = self.crops.draw(rng)
        clip = self.clips[number]
        samples = slice(self.spec.samples(frames.start), self.spec.samples(frames.stop))
        audio = clip.audio[samples].astype(np.float32) / np.float32(32768)
        f0_hz = clip.f0_hz[frames]
        source = self._source(f0_hz, rng)
        noise = rng.standard_normal((2, len(audio)), np.float32)
        return {"mel": clip.mel[frames], "f0_hz": f0_hz, "audio": audio, "source": source, "noise": noise}

    def _source(self, f0_hz: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """(2, L, H)."""
        if self.source_kind == NsfHifiGan.source_kind:
            seeds, phases = rng.integers(2**63, size=2).tolist(), rng.integers(2**64, size=2, dtype=np.uint64).tolist()
            made = [sine_source(f0_hz, self.spec, seed, 0, phase) for seed, phase in zip(seeds, phases, strict=True)]
        else:
            made = [pulse_source(f0_hz, self.spec, phase) for phase in rng.random(2).tolist()]
        return np.stack([source for source, _ in made])


class VocoderObjective(Objective[AnyVocoder]):
    """Distance between the recording and what the vocoder makes of the recording's mel and F0, and what an adversary
    makes of the two.
    """

    def __init__(
        self, model: AnyVocoder, spec: AudioSpec, draws: int = 2, adversary: AdversaryConfig | None = None
    ) -> None:
        super().__init__()
        self.model, self.draws = model, draws
        self.inputs = tuple(signature(model.forward).parameters)
        self.spectra = FrameSpectra(spec)
        self.adversary = Adversary(adversary) if adversary else None
        # The light kind keeps its signal processing out of it; HiFi-GAN's samples in bf16 would hiss.
        self.autocast = isinstance(model, Vocoder) and model.config.per_bin

    def extra_modules(self) -> dict[str, nn.Module]:
        return {"adversary": self.adversary} if self.adversary else {}

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        mel, f0_hz, recording = batch["mel"], batch["f0_hz"], batch["audio"]
        drawn = {name: batch[name][:, : self.draws].transpose(0, 1).flatten(0, 1) for name in ("source", "noise")}
        given = {"mel": mel.repeat(self.draws, 1, 1), "f0_hz": f0_hz.repeat(self.draws, 1), **drawn}
        with nullcontext() if self.autocast else full_precision(mel.device):
            audio = self.model(**{name: given[name] for name in self.inputs}).unflatten(0, (self.draws, -1))
        with full_precision(mel.device):  # bf16 is a noise floor of -50 dB in a Fourier transform
            loss, figures = vocoder_loss(audio, recording, self.spectra)
            if self.adversary is None:
                return loss, figures
            duel, parts = self.adversary(*(without_edges(x, self.spectra) for x in (audio[0], recording)))
        return loss + duel, {**figures, **parts}


def train_vocoder(
    config: VocoderTraining,
    run: Path,
    *,
    seed: int,
    resume: bool,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train the vocoder on all training clips of the singers of `run` and return its last checkpoint."""
    features = FeatureIndex.open(run / "features")
    record = begin_stage(run, VOCODER, features)
    loaded = [features.load(clip) for clip in features.select("train", trained=True)]
    clips = [VocoderClip(c["mel"], c["f0_hz"], c["audio"]) for c in loaded]
    torch.manual_seed(seed)
    model = build_vocoder(config.sizes, features.audio)
    resolved = {
        "audio": to_mapping(features.audio),
        "kind": config.kind,
        "network": config.sizes,
        "crop_frames": config.crop_frames,
        "draws": config.draws,
        "adversary": config.adversary,
        "loop": to_mapping(config.loop),
        "seed": seed,
        "singers": features.trained_singers,
    }
    data = VocoderData(clips, features.audio, config.crop_frames, model.source_kind)
    return fit(
        VocoderObjective(model, features.audio, config.draws, config.adversary),
        data.batch,
        config.loop,
        run / VOCODER,
        seed=seed,
        resolved_config={**resolved, "data": record.write(run / VOCODER)},
        resume=resume,
        device=device,
        console=console,
    )
