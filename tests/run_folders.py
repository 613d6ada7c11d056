"""Run folders that are filled without recordings."""

import numpy as np

from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, save_arrays


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
