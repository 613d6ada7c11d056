"""A fallback speaker embedding for likeness: a singer classifier, trained on the evaluated data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from rich.console import Console

from ...runtime.audio import resample
from ...runtime.mel import mel_spectrogram
from ...runtime.spec import COMOSVC_24K
from ..checkpoint import load_module
from ..loop import fit
from ..singer_id import SingerClassifier, SingerCrops, SingerIdConfig, SingerIdObjective
from .clips import Clip
from .outside import Embed, Missing, hidden_layer

LEARNING_CLIPS = 12
"""Training clips of each singer."""
LEARNING_STEPS = 150
_SHORTEST_FRAMES = 60


def learn_embedding(clips: Mapping[str, Sequence[Clip]]) -> tuple[str, Embed] | Missing:
    """Train a small singer classifier on `clips` by singer, for seconds; its name and its last hidden layer.

    `Missing` where fewer than two singers have a clip of a third of a second.
    """
    spec = COMOSVC_24K
    mels = {
        singer: [mel_spectrogram(resample(clip.audio, clip.rate, spec.sample_rate), spec) for clip in own]
        for singer, own in clips.items()
    }
    longest = {singer: max(map(len, own), default=0) for singer, own in mels.items()}
    usable = [singer for singer in mels if longest[singer] >= _SHORTEST_FRAMES]
    if len(usable) < 2:
        return Missing(
            "not measured: likeness is learned from the recordings of two singers or more; with --target-data give "
            "those of others too, or --embedding FILE.onnx"
        )
    usual = SingerIdConfig()
    loop = replace(
        usual.loop, steps=LEARNING_STEPS, batch_size=16, checkpoint_every=LEARNING_STEPS, log_every=LEARNING_STEPS
    )
    config = replace(usual, loop=loop, crop_frames=min(usual.crop_frames, *(longest[singer] for singer in usable)))
    torch.manual_seed(0)
    model = SingerClassifier(spec.n_mels, len(usable), config.channels)
    with TemporaryDirectory(prefix="comosvc-singer-id-") as folder:
        checkpoint = fit(
            SingerIdObjective(model),
            SingerCrops([mels[singer] for singer in usable], config),
            config.loop,
            Path(folder),
            seed=0,
            resolved_config={"loop": config.loop},
            resume=False,
            device="cpu",
            console=Console(quiet=True),
        )
        load_module(checkpoint, "ema", model)
    name = f"a singer classifier trained on recordings of {len(usable)} singers of this data"
    return name, hidden_layer(cast(SingerClassifier, model.eval()), spec)
