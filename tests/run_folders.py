"""Run folders that are filled without recordings."""

import numpy as np
import torch

from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.training.config import to_mapping
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, save_arrays
from comosvc.training.loop.checkpoint import save_checkpoint
from comosvc.training.loop.loop import LoopConfig

HOW = {"seed": 0, "resume": False, "device": "cpu"}
"""Arguments of the functions that train a stage."""


def short_loop(steps=2, **changes):
    """A loop of few steps with a checkpoint at its end."""
    usual = {
        "batch_size": 2,
        "learning_rate": 1e-2,
        "final_learning_rate": 1e-3,
        "warmup_steps": 1,
        "precision": "fp32",
    }
    return LoopConfig(**{"steps": steps, "checkpoint_every": steps, **usual, **changes})


def save_stage(run, stage, module, network, spec=SPEC, step=1):
    """Save `module`, of the configuration `network`, as the trained network of a stage."""
    (run / stage).mkdir(parents=True, exist_ok=True)
    config = {"audio": to_mapping(spec), "network": to_mapping(network)}
    modules, unused = {"model": module, "ema": module}, torch.optim.AdamW(module.parameters())
    save_checkpoint(run / stage, step, modules, unused, config)


def noise_features(run, *singers, songs=2, spec=SPEC):
    """Features of noise in `run`, a clip of 60 frames for each song of each singer; returns `run`."""
    rng = np.random.default_rng(len(run.name))
    folder = run / "features"
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for singer in singers:
        for n in range(songs):
            key = f"{run.name}-{singer}-{n}"
            arrays = {
                "mel": rng.normal(-3.0, 1.0, (60, spec.n_mels)).astype(np.float32),
                "f0_hz": np.full(60, 200.0, np.float32),
                "loudness": np.full(60, 0.1, np.float32),
                "audio": rng.integers(-3000, 3000, spec.samples(60)).astype(np.int16),
            }
            save_arrays(folder / f"{key}.safetensors", arrays)
            clips.append(PreparedClip(key, key, singer, f"song {n}", "train", 60))
    entries = {
        name: PreparedSinger("recorded", "train", True, i, 0.1, 200.0, (150.0, 250.0)) for i, name in enumerate(singers)
    }
    FeatureIndex(folder, spec, entries, tuple(clips)).save()
    return run
