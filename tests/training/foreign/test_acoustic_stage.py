"""The authors' teacher and student in a run: distilled here, trained on, and refused where they do not belong."""

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from foreign_files import TINY, comosvc_weights, write_comosvc, write_contentvec, write_m4singer_vocoder
from typer.testing import CliRunner

from comosvc.export.bundle.statements import Statements
from comosvc.export.bundle.voice import load_voice
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END, COMOSVC_24K, FrontEnd
from comosvc.runtime.providers.self_test import vowel
from comosvc.training.cli import app
from comosvc.training.data.datasets import open_dataset
from comosvc.training.data.prepare import PrepareConfig, prepare
from comosvc.training.foreign.stages import take_content, take_vocoder
from comosvc.training.loop.checkpoint import load_tensors, read_metadata, require_checkpoint
from comosvc.training.run.fine_tune import load_acoustic

RECIPE = """
[audio]
{audio}
[acoustic]
mel_range = [-6.0, 1.5]
[teacher]
crop_frames = 32
[teacher.loop]
{loop}
[student]
crop_frames = 32
[student.loop]
{loop}
"""
LOOP = "steps = 2\nbatch_size = 2\nlearning_rate = 1e-3\nfinal_learning_rate = 1e-3\nwarmup_steps = 0\n"
LOOP += "checkpoint_every = 2\nprecision = 'fp32'"
SINGERS = ("Singer-2", "Singer-0")


def command(folder: Path, stage: str, *options: object):
    arguments = [stage, "-c", folder / "recipe.toml", "-o", folder / "run", "--device", "cpu", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "2000"})


def write_run(folder: Path, config: PrepareConfig, singers=SINGERS) -> Path:
    """A folder with a recipe, and a run of recordings of two of the teacher's three singers."""
    glide, _ = vowel(COMOSVC_24K)
    for number, singer in enumerate(singers):
        (folder / "recordings" / singer).mkdir(parents=True)
        for part in range(2):
            clip = glide[5_000 * part : 20_000 + 77 * number]
            soundfile.write(folder / "recordings" / singer / f"{part}.wav", clip, 24_000, "FLOAT")
    audio = "\n".join(f"{name} = {value}" for name, value in vars(COMOSVC_24K).items())
    (folder / "recipe.toml").write_text(RECIPE.format(audio=audio, loop=LOOP))
    prepare(open_dataset("folder", folder / "recordings"), COMOSVC_24K, folder / "run" / "features", 1, config=config)
    return folder


AUTHORS = PrepareConfig(f0="dio", front_end=AUTHORS_FRONT_END)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A prepared run with ContentVec and a vocoder, and beside it the authors' teacher and student."""
    folder = write_run(tmp_path_factory.mktemp("distilled"), AUTHORS)
    take_content(str(write_contentvec(folder / "vec.pt", TINY)), COMOSVC_24K, AUTHORS_FRONT_END, folder / "run")
    take_vocoder(str(write_m4singer_vocoder(folder / "vocoder", TINY)), None, "auto", COMOSVC_24K, folder / "run")
    write_comosvc(folder / "logs" / "teacher", TINY, student=False)
    write_comosvc(folder / "logs" / "como", TINY)
    return folder


@pytest.fixture(scope="module")
def distilled(folder) -> Path:
    done = command(folder, "student", "--teacher", folder / "logs" / "teacher" / "model_800000.pt")
    assert done.exit_code == 0, done.output
    return folder


def test_the_teacher_is_the_authors(distilled):
    """Every weight of it, its step, and the rows of the recordings' singers."""
    path = require_checkpoint(distilled / "run" / "teacher")
    step, config = read_metadata(path)
    assert (step, config["singers"]) == (800_000, sorted(SINGERS))
    assert config["taken_from"]["file"] == "model_800000.pt"
    model, weights = load_acoustic(path, "ema"), comosvc_weights(TINY, student=False)
    assert torch.equal(model.singer_embed.weight, weights["spk_embed.weight"][[0, 2]])
    assert torch.equal(model.content_embed.weight, weights["unit_embed.weight"])
    assert torch.equal(model.key_shift_embed.weight, weights["aug_shift_embed.weight"])
    last = weights["decoder.denoise_fn.output_projection.weight"]
    assert torch.equal(model.denoiser.output_projection.weight.reshape(last.shape), last)
    assert (model.mel_mean[0].item(), model.mel_scale.item()) == (-2.25, 3.75)


def test_it_is_distilled_into_a_student_that_can_be_exported(distilled):
    path = require_checkpoint(distilled / "run" / "student")
    step, config = read_metadata(path)
    assert (step, config["f0"], config["front_end"]["loudness"]) == (2, "dio", "hop")
    student, teacher = (load_tensors(require_checkpoint(distilled / "run" / s), "ema") for s in ("student", "teacher"))
    assert all(torch.isfinite(value).all() for value in student.values())
    moved = {name for name, value in student.items() if not torch.equal(value, teacher[name])}
    assert moved
    assert all(name.startswith("denoiser.") for name in moved)
    voice = load_voice(distilled / "run", Statements(consent="signed form"))
    assert (set(voice.singers), voice.f0_extractor, voice.default_steps) == (set(SINGERS), "dio", 1)
    assert not [line for line in voice.departures if line.startswith("teacher")]
    credits = {entry.part: entry.credit for entry in voice.licences}
    assert credits["acoustic graph"] == "imported from model_800000.pt"


def test_the_same_command_again_is_done(distilled, caplog):
    caplog.set_level("INFO")
    done = command(distilled, "student", "--teacher", distilled / "logs" / "teacher" / "model_800000.pt", "--resume")
    assert done.exit_code == 0, done.output
    assert "holds model_800000.pt already" in caplog.text


def test_a_teacher_goes_on_from_the_authors(folder, tmp_path):
    """With a new singer, whose vector begins at the mean of theirs."""
    other = write_run(tmp_path, AUTHORS, ("Singer-1", "newcomer"))
    take_content(str(folder / "vec.pt"), COMOSVC_24K, AUTHORS_FRONT_END, other / "run")
    start = folder / "logs" / "teacher" / "model_800000.pt"
    done = command(other, "teacher", "--init-from", start, "--train", "embedding")
    assert done.exit_code == 0, done.output
    path = require_checkpoint(other / "run" / "teacher")
    found, weights = load_tensors(path, "model"), comosvc_weights(TINY, student=False)
    assert torch.equal(found["content_embed.weight"], weights["unit_embed.weight"])
    table = weights["spk_embed.weight"]
    near = torch.stack([table[1], table.mean(dim=0)])
    assert 0 < (found["singer_embed.weight"] - near).abs().max() < 0.02
    assert read_metadata(path)[1]["init_from"]["taken_from"]["file"] == "model_800000.pt"


def test_a_student_goes_on_from_the_authors(distilled, tmp_path):
    start = distilled / "logs" / "como" / "model_800000.pt"
    done = command(distilled, "student", "--published", "--init-from", start)
    assert done.exit_code == 0, done.output
    found = load_tensors(require_checkpoint(distilled / "run" / "student-published"), "model")
    theirs = comosvc_weights(TINY, student=True)["decoder.denoise_fn.skip_projection.weight"]
    own = load_tensors(require_checkpoint(distilled / "run" / "teacher"), "ema")["denoiser.skip_projection.weight"]
    moved = found["denoiser.skip_projection.weight"]
    assert (moved - theirs.reshape(moved.shape)).abs().max() < 0.02
    assert torch.equal(own.reshape(theirs.shape), theirs)  # the same seed made both


def broken(folder: Path, tmp_path: Path, change) -> Path:
    """The teacher's files, changed by `change(model, config)`."""
    source = folder / "logs" / "teacher"
    content, config = torch.load(source / "model_800000.pt"), yaml.safe_load((source / "config.yaml").read_text())
    change(content["model"], config)
    torch.save(content, tmp_path / "model_1.pt")
    (tmp_path / "config.yaml").write_text(yaml.dump(config))
    return tmp_path / "model_1.pt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model, _: model.pop("volume_embed.bias"), "volume_embed.bias is missing"),
        (lambda model, _: model.update(extra=torch.zeros(3)), "weights that nothing here takes: extra"),
        (lambda _, config: config["data"].update(hop_length=256), "hop_length is 256, the run's is 128"),
        (lambda _, config: config["spk"].pop("Singer-2"), "does not have the singers Singer-2 of the recordings"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_and_nothing_is_written(folder, tmp_path, change, words):
    kept = sorted(path for path in (folder / "run").rglob("*"))
    done = command(folder, "student", "--teacher", broken(folder, tmp_path, change))
    assert done.exit_code == 1
    assert words in done.output
    assert sorted(path for path in (folder / "run").rglob("*")) == kept


def test_runs_and_files_that_do_not_belong_together(folder, tmp_path, caplog):
    teacher, student = (folder / "logs" / name / "model_800000.pt" for name in ("teacher", "como"))
    for options, words in (
        (
            ("--teacher", student),
            "model_800000.pt is a student, not a teacher\nhint: give logs/teacher/model_<step>.pt",
        ),
        (("--teacher-config", teacher), "--teacher-config is about a teacher from a file"),
        (("--teacher", folder / "run"), "a teacher that comosvc-train trained is distilled in its own run folder"),
    ):
        done = command(folder, "student", *options)
        assert done.exit_code == 1
        assert words in done.output
    ours = write_run(tmp_path / "ours", replace(AUTHORS, front_end=FrontEnd()))
    done = command(ours, "student", "--teacher", teacher)
    assert done.exit_code == 1
    assert "'loudness': 'hop'" in done.output
    assert "hint: prepare into a new run folder: comosvc-train prepare" in done.output
    bare = write_run(tmp_path / "bare", replace(AUTHORS, f0="swift-f0"))
    done = command(bare, "student", "--teacher", teacher)
    assert "has no content encoder; model_800000.pt was trained on ContentVec" in done.output
    assert 'set f0 = "dio" under [prepare]' in caplog.text
    narrow = write_contentvec(tmp_path / "narrow.pt", replace(TINY, n_content=16))
    take_content(str(narrow), COMOSVC_24K, AUTHORS_FRONT_END, bare / "run")
    done = command(bare, "student", "--teacher", teacher)
    assert "gives 16 channels; model_800000.pt was trained with 32" in done.output
    assert not (bare / "run" / "teacher").exists()
