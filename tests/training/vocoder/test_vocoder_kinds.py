"""Each kind of vocoder: trained by the command, resumed to the bit, loaded again; and what is refused."""

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from comosvc import training as training_package
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.conversion.source import pulse_source
from comosvc.training.cli import app
from comosvc.training.config import from_mapping, load_config
from comosvc.training.data.prepare import analyse
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, feature_path, save_arrays
from comosvc.training.errors import ConfigError, TrainingError
from comosvc.training.loop.checkpoint import latest_checkpoint, read_metadata
from comosvc.training.recipe import Recipe
from comosvc.training.run.rendering import load_vocoder
from comosvc.training.vocoder.hifigan import NsfHifiGan
from comosvc.training.vocoder.light import KINDS, LIGHT_24K, build_vocoder, vocoder_config
from comosvc.training.vocoder.losses import AdversaryConfig
from comosvc.training.vocoder.stage import VocoderData, VocoderTraining, train_vocoder

SPEC = replace(COMOSVC_24K, content_hop_length=160)
TINY = {
    "matching": {"channels": 16, "dilations": [1]},
    "light": {"channels": 16, "dilations": [1], "lookahead_frames": 1},
    "nsf-hifigan": {"upsample_initial_channel": 16},
}
ADVERSARY = {"periods": [2, 3], "period_channels": [2, 4], "resolutions": [512], "resolution_channels": 2}
LOOP = {
    "steps": 5, "batch_size": 2, "learning_rate": 1e-3, "final_learning_rate": 1e-5, "warmup_steps": 2,
    "checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run folder with the features of one short clip."""
    folder = tmp_path / "run"
    (folder / "features").mkdir(parents=True)
    source, _ = pulse_source(np.geomspace(150.0, 300.0, 200).astype(np.float32), SPEC)
    audio = (0.02 * source[:, 0] + 1e-3 * np.random.default_rng(0).standard_normal(len(source))).astype(np.float32)
    save_arrays(feature_path(folder / "features", "clip"), arrays := analyse(audio, SPEC))
    clip = PreparedClip("clip", "clip", "alto", "song", "train", len(arrays["mel"]))
    singer = PreparedSinger("synthetic", "train", True, 0, 0.03, 220.0, (110.0, 440.0))
    FeatureIndex(folder / "features", SPEC, {"alto": singer}, (clip,)).save()
    return folder


def training(kind, adversary=True):
    table = {"kind": kind, "network": TINY[kind], "crop_frames": 24, "loop": LOOP}
    return from_mapping(VocoderTraining, {**table, **({"adversary": ADVERSARY} if adversary else {})}, "vocoder")


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_trains_every_kind(run, tmp_path, kind):
    smoke = files(training_package).joinpath("recipes/smoke.toml").read_text("utf-8")
    tables = {"adversary": ADVERSARY, "network": TINY[kind]}
    lines = [
        f"[vocoder.{name}]\n" + "".join(f"{k} = {v}\n" for k, v in table.items()) for name, table in tables.items()
    ]
    recipe = tmp_path / "recipe.toml"
    text = smoke.replace("[vocoder.network]\nchannels = 32\n", "\n".join(lines))
    recipe.write_text(text.replace("[vocoder]\n", f'[vocoder]\nkind = "{kind}"\n'), "utf-8")
    done = CliRunner().invoke(app, ["vocoder", "-c", str(recipe), "-o", str(run), "--device", "cpu", "--threads", "1"])
    assert done.exit_code == 0, done.output
    vocoder, spec = load_vocoder(run)
    assert spec == SPEC
    assert vocoder.config == vocoder_config(kind, TINY[kind], "here")
    assert all(torch.isfinite(weight).all() for weight in vocoder.parameters())


class Killed(Exception):
    """What stands for a signal."""


@pytest.mark.parametrize("kind", ["light", "nsf-hifigan"])
def test_killed_and_resumed_equals_uninterrupted(run, tmp_path, monkeypatch, kind):
    how = {"seed": 3, "device": "cpu"}
    config = training(kind)
    whole = load_file(train_vocoder(config, run, resume=False, **how))
    (run / "vocoder").rename(tmp_path / "whole")
    batch = VocoderData.batch

    wanted = iter(range(3))

    def until_killed(self, draws):
        if next(wanted, None) is None:
            raise Killed
        return batch(self, draws)

    with monkeypatch.context() as patch:
        patch.setattr(VocoderData, "batch", until_killed)
        with pytest.raises(Killed):
            train_vocoder(config, run, resume=False, **how)
    assert read_metadata(latest_checkpoint(run / "vocoder"))[0] == 2
    resumed = load_file(train_vocoder(config, run, resume=True, **how))
    assert resumed.keys() == whole.keys()
    assert any(name.startswith("adversary.") for name in whole)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_another_kind_or_adversary_does_not_go_on(run):
    how = {"seed": 3, "device": "cpu"}
    train_vocoder(training("light"), run, resume=False, **how)
    with pytest.raises(TrainingError, match="differs in: adversary"):
        train_vocoder(training("light", adversary=False), run, resume=True, **how)
    with pytest.raises(TrainingError, match="differs in: kind, network"):
        train_vocoder(training("nsf-hifigan"), run, resume=True, **how)


def test_an_unknown_kind_or_size_is_named():
    with pytest.raises(ConfigError, match=r"no vocoder 'vocos'\nhint: kind is one of matching, light, nsf-hifigan"):
        from_mapping(VocoderTraining, {"kind": "vocos", "loop": LOOP}, "vocoder")
    with pytest.raises(ConfigError, match=r"vocoder\.network has unknown keys: chanels"):
        from_mapping(VocoderTraining, {"network": {"chanels": 3}, "loop": LOOP}, "vocoder")


def test_a_hifigan_for_other_mels_is_refused():
    with pytest.raises(ConfigError, match="n_mels 128, the audio settings 80"):
        build_vocoder(vocoder_config("nsf-hifigan", {"n_mels": 128}, "here"), SPEC)
    assert isinstance(build_vocoder(KINDS["nsf-hifigan"], SPEC), NsfHifiGan)


def test_the_published_recipe_trains_the_light_one_with_the_published_adversary():
    vocoder = load_config(Recipe, "authors").vocoder
    assert vocoder is not None
    assert vocoder.sizes == LIGHT_24K
    assert vocoder.adversary == AdversaryConfig()
