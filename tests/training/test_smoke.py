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
