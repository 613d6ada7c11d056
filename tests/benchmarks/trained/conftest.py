"""A run folder with two songs to train on, and every system trained there for a step or two."""

from dataclasses import replace

import pytest

from comosvc.benchmarks.trained import equal_compute as training
from comosvc.benchmarks.trained.equal_compute import make_plan, train_stage
from comosvc.benchmarks.trained.objectives import BUDGET_SHARES, load_material
from comosvc.training.acoustic.model import DenoiserConfig
from comosvc.training.config import load_config
from comosvc.training.data.prepare import analyse
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, feature_path, save_arrays
from comosvc.training.loop.loop import LoopConfig
from comosvc.training.recipe import Recipe

BUDGET_CPU_S = 10.0
PILOT_CPU_S = {"flow": 5.0, "student": 3.0}
"""What a step is said to cost; the others 2."""


@pytest.fixture(scope="session")
def recipe():
    demo = load_config(Recipe, "demo")
    loop = LoopConfig(steps=1, batch_size=2, learning_rate=1e-3, final_learning_rate=1e-4, precision="fp32")
    denoiser = DenoiserConfig(channels=16, hidden=16, layers=2, input_skip=True)
    return replace(
        demo,
        acoustic=replace(demo.acoustic, denoiser=denoiser),
        teacher=replace(demo.teacher, loop=loop, crop_frames=24),
        student=replace(demo.student, loop=loop, crop_frames=24),
    )


@pytest.fixture(scope="session")
def run(recipe, songs, tmp_path_factory):
    """With features of the demo voices' side of the held-out set."""
    run = tmp_path_factory.mktemp("run")
    (run / "features").mkdir()
    clips = []
    for name, audio in songs[0].targets.items():
        save_arrays(feature_path(run / "features", name), arrays := analyse(audio, recipe.audio))
        clips += [PreparedClip(name, f"{name}-{s}", name, s, s, len(arrays["mel"])) for s in ("train", "valid")]
    singers = {
        name: PreparedSinger("synthetic", "train", True, index, 0.03, 220.0, (110.0, 440.0))
        for index, name in enumerate(sorted(songs[0].targets))
    }
    FeatureIndex(run / "features", recipe.audio, singers, tuple(clips)).save()
    return run


@pytest.fixture(scope="session")
def material(run):
    return load_material(run)


@pytest.fixture(scope="session")
def trained_run(run, recipe, material):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_stage", lambda name, *arguments: name)
        patch.setattr(training, "step_cost", lambda name, *arguments: PILOT_CPU_S.get(name, 2.0))
        plan = make_plan(run, recipe, material, BUDGET_CPU_S)
    for name in BUDGET_SHARES:
        train_stage(name, run, recipe, material, plan)
    return run
