from dataclasses import replace

import pytest
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app


def test_a_voice_without_the_demo_singers_is_refused_in_words(tiny_path, tmp_path, monkeypatch, songs):
    monkeypatch.setattr("comosvc.benchmarks.quality.table.load_held_out", lambda *arguments: songs_with_soprano(songs))
    result = CliRunner().invoke(app, ["quality", "-m", str(tiny_path)])
    assert result.exit_code == 1
    assert "this voice lacks soprano" in result.stderr


def test_a_readme_that_cannot_be_renewed_is_told_before_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "comosvc.benchmarks.quality.table.measure_quality", lambda *arguments: pytest.fail("it measured")
    )
    (tmp_path / "empty.md").write_text("no markers")
    for name, message in (("none.md", "cannot be read"), ("empty.md", "must hold the line")):
        result = CliRunner().invoke(app, ["quality", "--readme", str(tmp_path / name)])
        assert result.exit_code == 1
        assert f"{name} {message}" in result.stderr


def test_provider_and_precision_are_those_of_the_conversions(monkeypatch, songs):
    monkeypatch.setattr("comosvc.benchmarks.quality.table.load_held_out", lambda *arguments: songs)
    for options, message in (
        (["--provider", "cuda"], "provider 'cuda'"),
        (["--precision", "int8"], "int8"),
        (["--precision", "fp31"], "fp31"),
    ):
        result = CliRunner().invoke(app, ["quality", *options])
        assert result.exit_code == 1, options
        assert message in result.stderr


@pytest.mark.parametrize("command", ["rtf", "latency", "train"])
def test_more_threads_than_a_process_can_have_are_refused_in_words(tiny_path, monkeypatch, command):
    for measure in ("rtf.measure_rtf", "training.measure_training"):
        monkeypatch.setattr(f"comosvc.benchmarks.speed.{measure}", lambda *arguments, **_: pytest.fail("it measured"))
    voice = ["-m", str(tiny_path)] if command != "train" else []
    result = CliRunner().invoke(app, [command, "--threads", "999999", *voice])
    assert result.exit_code == 1
    assert "threads is 999999; it must be a whole number from 1 to" in result.stderr


def songs_with_soprano(songs):
    (song,) = songs
    return [replace(song, targets={**song.targets, "soprano": song.targets["alto"]})]


def test_an_unknown_voice_is_refused_in_words(tmp_path, monkeypatch, songs):
    monkeypatch.setattr("comosvc.benchmarks.quality.table.load_held_out", lambda *arguments: songs)
    result = CliRunner().invoke(app, ["quality", "-m", str(tmp_path / "none.comosvc")])
    assert result.exit_code == 1
    assert "none.comosvc" in result.stderr
    assert "Traceback" not in result.output
