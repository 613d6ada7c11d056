"""`make demo` in the environment of the tests: it converts, and its table says what a listener should expect."""

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from comosvc.benchmarks import demo
from comosvc.benchmarks.demo_clips import read_clips, shipped_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, *demo.run_demo(folder)


def test_two_targets_and_a_recorded_voice(made):
    _, lines, _ = made
    clips = read_clips(shipped_folder())
    assert [(line.clip, line.target) for line in lines] == [
        *((clips.source.singer, entry.singer) for entry in clips.targets),
        (clips.recorded.singer, clips.targets[0].singer),
    ]


def test_the_result_is_nearer_to_the_truth_than_the_source_is(made):
    _, lines, _ = made
    for line in lines[:2]:
        assert line.distance < 0.8 * line.unconverted


def test_every_target_is_recognised_and_keeps_the_melody(made):
    _, lines, _ = made
    for line in lines:
        assert line.identified == line.target
        assert line.f0.gross < 0.05
        assert line.f0.rmse_cents < 20
        assert line.f0.voicing < 0.06
        assert 0 < line.rtf < 0.5


def test_it_writes_sound_and_a_picture(made):
    folder, lines, _ = made
    clips = read_clips(shipped_folder())
    source, _ = soundfile.read(folder / f"{clips.source.file.removesuffix('.flac')}.wav")
    for line in lines[:2]:
        audio, _ = soundfile.read(folder / f"{clips.source.file.removesuffix('.flac')}_to_{line.target}.wav")
        assert len(audio) == len(source)
        assert np.abs(audio).max() > 0.05
    assert (folder / demo.PICTURE).stat().st_size > 50_000


def test_the_table_fits_a_terminal(made, tmp_path, monkeypatch):
    _, lines, warnings = made
    monkeypatch.setattr(demo, "run_demo", lambda out: (lines, warnings))
    done = CliRunner().invoke(demo.app, ["-o", str(tmp_path)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    for line in lines:
        row = next(text for text in done.stdout.splitlines() if f"{line.clip} → {line.target} {line.key:+.0f}" in text)
        assert line.identified in row
        assert f"{line.rtf:.3f}" in row
