"""The commands that make the demo voice, smoke-sized, from nothing to a bundle that converts."""

import json
from importlib.resources import files

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from comosvc import training as training_package
from comosvc.runtime import Converter
from comosvc.training.cli import app as train_app
from comosvc.training.corpus import Corpus, CorpusConfig, write_corpus
from comosvc.training.loop.checkpoint import latest_checkpoint, read_metadata

ONE_CLIP = CorpusConfig(
    demo_singers=1, demo_minutes=0.05, other_singers=0, held_out_singers=0, held_out_songs=0, clip_seconds=(2.0, 3.0)
)
STAGES = ("content", "vocoder", "teacher", "student")


def invoke(app, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
def test_bundle_of_a_smoke_run_converts(smoke_bundle):
    converter = Converter(smoke_bundle)
    assert {"alto", "bass"} <= set(converter.singers)
    rate = 44_100
    t = np.arange(rate) / rate
    audio = (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)
    out = converter.convert(audio, rate, singer="alto")
    assert out.audio.shape == audio.shape
    assert np.isfinite(out.audio).all()
    assert np.abs(out.audio).max() > 1e-3


@pytest.mark.slow
def test_report_names_singers_and_hours(smoke_run):
    report = json.loads((smoke_run / "features" / "report.json").read_text("utf-8"))
    assert report["hours"]["train"] > 0.01
    assert report["singers"]["alto"]["train_minutes"] > 0.2
    assert 60 < report["singers"]["alto"]["f0_median_hz"] < 700


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_finished_stage_does_nothing(smoke_run, stage):
    before = {path: path.stat().st_mtime_ns for path in (smoke_run / stage).glob("*.safetensors")}
    invoke(train_app, stage, "-c", "smoke", "-o", smoke_run, "--device", "cpu")
    assert {path: path.stat().st_mtime_ns for path in (smoke_run / stage).glob("*.safetensors")} == before


@pytest.fixture
def recordings(tmp_path):
    """Two singers' folders of tones, with files that cannot be used among them."""
    folder = tmp_path / "recordings"
    for singer, f0_hz, rate, suffix in (("Ána b.", 180.0, 44_100, "wav"), ("ben", 120.0, 16_000, "mp3")):
        (folder / singer).mkdir(parents=True)
        t = np.arange(3 * rate) / rate
        tone = sum(np.cos(2 * np.pi * f0_hz * k * t) / k for k in range(1, 12)) * 0.1
        for i in range(2):
            stereo = np.stack([tone, tone], axis=1) if suffix == "wav" else tone
            soundfile.write(folder / singer / f"song {i}.{suffix}", stereo, rate)
    soundfile.write(folder / "ben" / "tiny.wav", np.full(2000, 0.1), 16_000)
    soundfile.write(folder / "ben" / "silent.ogg", np.zeros(32_000), 16_000)
    (folder / "ben" / "broken.flac").write_bytes(b"not a flac")
    soundfile.write(folder / "ben" / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    return folder


def test_prepare_takes_a_folder_of_ones_own(recordings, tmp_path):
    folder = tmp_path / "run"
    invoke(train_app, "prepare", "-c", "smoke", "-o", folder, "--data", recordings, "-n", 1)
    report = json.loads((folder / "features" / "report.json").read_text("utf-8"))
    assert report["singers"]["Ána b."]["f0_median_hz"] == pytest.approx(180, rel=0.01)
    assert report["singers"]["ben"]["f0_median_hz"] == pytest.approx(120, rel=0.01)
    reasons = {item["clip"].split("#")[0]: item["reason"] for item in report["dropped"]}
    assert "shorter than 0.5 s" in reasons["ben/tiny.wav"]
    assert reasons["ben/silent.ogg"] == "silent"
    assert "cannot be read" in reasons["ben/broken.flac"]
    assert "NaN" in reasons["ben/nan.wav"]


def test_prepare_without_material_says_what_to_do(tmp_path):
    result = CliRunner().invoke(train_app, ["prepare", "-o", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "comosvc-train corpus" in result.output
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(train_app, ["prepare", "-o", str(tmp_path / "run"), "--data", str(tmp_path / "empty")])
    assert result.exit_code == 1
    assert "sub-folder" in result.output


def test_stage_without_features_names_the_command(tmp_path):
    result = CliRunner().invoke(train_app, ["teacher", "-o", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "comosvc-train prepare -o" in " ".join(result.output.split())


def test_the_hint_without_a_corpus_writes_one_where_it_is_looked_for(tmp_path):
    run = tmp_path / "my run"
    for stage in ("prepare", "content"):
        result = CliRunner().invoke(train_app, [stage, "-c", "smoke", "-o", str(run)], env={"COLUMNS": "500"})
        assert result.exit_code == 1
        assert f"comosvc-train corpus -c smoke -o '{run}'" in result.output
        assert "--data FOLDER" in result.output
    corpus = Corpus.open(write_corpus(ONE_CLIP, run / "corpus", synthetic_only=True).parent)
    assert corpus.folder == run / "corpus"
    again = CliRunner().invoke(train_app, ["corpus", "-c", "smoke", "-o", str(run)], env={"COLUMNS": "500"})
    assert again.exit_code == 1
    assert f"move {run / 'corpus'} away" in again.output or "--synthetic-only" in again.output


def test_audition_before_the_teacher_names_every_command_with_the_recipe(recordings, tmp_path):
    run, config = tmp_path / "run", tmp_path / "my.toml"
    config.write_text(files(training_package).joinpath("recipes/smoke.toml").read_text("utf-8"), "utf-8")
    song = str(recordings / "ben" / "song 0.mp3")
    page = ["audition", str(run), "--song", song, "-o", str(tmp_path / "page")]
    unprepared = CliRunner().invoke(train_app, page, env={"COLUMNS": "900"})
    assert f"hint: run comosvc-train prepare -o {run}, then comosvc-train vocoder -o {run}, then" in unprepared.output
    invoke(train_app, "prepare", "-c", config, "-o", run, "--data", recordings, "-n", 1)
    result = CliRunner().invoke(train_app, page, env={"COLUMNS": "900"})
    assert result.exit_code == 1
    wanted = ", then ".join(f"comosvc-train {stage} -c {config} -o {run}" for stage in ("vocoder", "teacher"))
    assert f"hint: run {wanted};" in result.output


def test_an_error_of_the_operating_system_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(train_app, ["corpus", "-c", "smoke", "-o", str(tmp_path / "file"), "--synthetic-only"])
    assert result.exit_code == 1
    assert "error: " in result.output
    assert "Not a directory" in result.output
    assert not isinstance(result.exception, OSError)


def test_a_shipped_recipe_is_printed_whole():
    text = files(training_package).joinpath("recipes/demo.toml").read_text("utf-8")
    assert invoke(train_app, "recipe", "demo").output == text
    unknown = CliRunner().invoke(train_app, ["recipe", "dmeo"])
    assert unknown.exit_code == 1
    assert "choose of demo, smoke" in unknown.output


def test_steps_of_the_command_line_go_before_the_recipe(recordings, tmp_path):
    run = tmp_path / "run"
    invoke(train_app, "prepare", "-c", "smoke", "-o", run, "--data", recordings, "-n", 1)
    invoke(train_app, "vocoder", "-c", "smoke", "-o", run, "--device", "cpu", "--steps", 1)
    step, config = read_metadata(latest_checkpoint(run / "vocoder"))
    assert (step, config["loop"]["steps"]) == (1, 1)


def test_a_hint_keeps_the_config_that_was_given_and_a_missing_teacher_is_found_first(recordings, tmp_path):
    run, config = tmp_path / "run", tmp_path / "my.toml"
    config.write_text(files(training_package).joinpath("recipes/smoke.toml").read_text("utf-8"), "utf-8")
    unprepared = CliRunner().invoke(train_app, ["student", "-c", str(config), "-o", str(run)])
    assert f"comosvc-train prepare -c {config} -o" in " ".join(unprepared.output.split())
    invoke(train_app, "prepare", "-c", config, "-o", run, "--data", recordings, "-n", 1)
    result = CliRunner().invoke(train_app, ["student", "-c", str(config), "-o", str(run)])
    assert result.exit_code == 1
    assert f"comosvc-train teacher -c {config} -o" in " ".join(result.output.split())
    assert not (run / "content").exists(), "nothing is computed before"
