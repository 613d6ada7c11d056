"""A voice as the start of new singers: what its graphs hold comes back, and only what can be trained is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from run_folders import noise_features
from safetensors.torch import load_file
from tiny_bundle import edited, tiny_files, write_zip
from typer.testing import CliRunner

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.training.acoustic.model import AcousticConfig
from comosvc.training.acoustic.teaching import StudentConfig, TeacherConfig
from comosvc.training.cli import app
from comosvc.training.errors import TrainingError
from comosvc.training.loop.checkpoint import latest_checkpoint, read_metadata
from comosvc.training.loop.loop import LoopConfig
from comosvc.training.run import voice_run
from comosvc.training.run.acoustic_stages import load_content_encoders, train_student, train_teacher
from comosvc.training.run.fine_tune import Start
from comosvc.training.run.rendering import load_stage

SPEC = replace(COMOSVC_24K, content_hop_length=160)
LOOP = LoopConfig(
    steps=2, batch_size=2, learning_rate=1e-2, final_learning_rate=1e-3, warmup_steps=1, checkpoint_every=2,
    precision="fp32",
)  # fmt: skip
TEACHER, STUDENT = TeacherConfig(loop=LOOP, crop_frames=32), StudentConfig(loop=LOOP, crop_frames=32)
HOW = {"seed": 0, "resume": False, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """zoe, new on the shipped voice, trained to the end."""
    folder = noise_features(tmp_path_factory.mktemp("voice") / "run", "zoe", "bass", spec=SPEC)
    start = Start.of(Path("demo"), "embedding", folder)
    train_teacher(AcousticConfig(), TEACHER, folder, **HOW, start=start)
    train_student(STUDENT, folder, **HOW, start=Start.of(Path("demo"), "embedding", folder))
    return folder


def weights(folder, module="ema"):
    stored = load_file(latest_checkpoint(folder))
    return {name.removeprefix(f"{module}."): t for name, t in stored.items() if name.startswith(f"{module}.")}


def test_nothing_but_the_singers_is_trained_on_a_voice(run):
    before, after = weights(run / "voice" / "teacher"), weights(run / "student")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"singer_embed.weight"} | {
        name for name in before if before[name].shape != after[name].shape
    }
    assert before["singer_embed.weight"].shape[0] == len(open_bundle("demo").manifest.singers)
    assert read_metadata(latest_checkpoint(run / "student"))[1]["singers"] == ["zoe", "bass"]
    assert {path.name for path in run.iterdir()} >= {"content", "content-low", "vocoder", "teacher", "student", "voice"}


def test_the_encoder_that_comes_along_is_the_one_that_the_voice_was_trained_with(run):
    stored = open_bundle("demo").manifest.provenance["stages"]["student"]["config"]["content_encoders"]
    assert {name: found for name, (_, found) in load_content_encoders(run).items()} == stored


def test_a_voice_is_drawn_and_sung_at_its_own_noise_levels(run):
    path = latest_checkpoint(run / "teacher")
    sigmas = read_metadata(path)[1]["sigmas"]
    assert sigmas == sorted(sigmas, reverse=True)
    assert (sigmas[0], len(sigmas)) == (80.0, 8)
    assert load_stage(path).student is not None, "it samples as a student"
    with pytest.raises(TrainingError, match="no teacher to distil"):
        train_student(STUDENT, run, **HOW, folder="other")


class Altered:
    """A bundle whose further steps have another weight than its first one."""

    def __init__(self, bundle):
        self.bundle = bundle

    def __getattr__(self, name):
        return getattr(self.bundle, name)

    def graph_bytes(self, name):
        graph = onnx.load_from_string(self.bundle.graph_bytes(name))
        for tensor in graph.graph.initializer:
            if name == "acoustic_n" and tensor.name == "model.denoiser.output_projection.bias":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.1), tensor.name))
        return graph.SerializeToString()


def test_graphs_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"acoustic_n graph is another version's: torch differs from it by 0\."):
        voice_run.run_of_voice(Altered(open_bundle("demo")), tmp_path / "voice")


def test_what_cannot_be_meant_of_a_voice_is_refused(tmp_path):
    tiny = write_zip(tmp_path / "tiny.comosvc", tiny_files())
    with pytest.raises(TrainingError, match="was not exported from a run folder"):
        Start.of(tiny, "embedding", tmp_path)
    stage = {"step": 1, "config": {"kind": "contentvec"}}
    stages = dict.fromkeys(("content", "vocoder", "teacher", "student"), stage)
    files = edited(tiny_files(), lambda manifest: manifest["provenance"].update(stages=stages))
    vec = write_zip(tmp_path / "vec.comosvc", files)
    with pytest.raises(TrainingError, match="has ContentVec as its content encoder"):
        Start.of(vec, "embedding", tmp_path)
    run = noise_features(tmp_path / "run", "zoe", spec=SPEC)
    done = CliRunner().invoke(app, ["teacher", "-c", "fine-tune", "-o", str(run), "--init-from", "demo"])
    assert done.exit_code == 1
    assert "hint: add --train embedding" in " ".join(done.output.split())
    assert not (run / "voice").exists()
