from dataclasses import replace

from typer.testing import CliRunner

from comosvc.benchmarks.cli import app


def test_a_voice_without_the_demo_singers_is_refused_in_words(tiny_path, tmp_path, monkeypatch, songs):
    monkeypatch.setattr("comosvc.benchmarks.quality.load_held_out", lambda *arguments: songs_with_soprano(songs))
    result = CliRunner().invoke(app, ["quality", "-m", str(tiny_path)])
    assert result.exit_code == 1
    assert "this voice lacks soprano" in result.stderr


def songs_with_soprano(songs):
    (song,) = songs
    return [replace(song, targets={**song.targets, "soprano": song.targets["alto"]})]


def test_an_unknown_voice_is_refused_in_words(tmp_path, monkeypatch, songs):
    monkeypatch.setattr("comosvc.benchmarks.quality.load_held_out", lambda *arguments: songs)
    result = CliRunner().invoke(app, ["quality", "-m", str(tmp_path / "none.comosvc")])
    assert result.exit_code == 1
    assert "none.comosvc" in result.stderr
    assert "Traceback" not in result.output
