"""What was trained, on conversions of a tiny held-out set: of no use as voices, but every figure is there."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.report import load, save
from comosvc.benchmarks.trained import evaluation
from comosvc.benchmarks.trained.evaluation import Judge, evaluate
from comosvc.benchmarks.trained.objectives import DIFFSVC, STUDENT
from comosvc.benchmarks.trained.rendered import draw_with, load_systems, song_batch
from comosvc.benchmarks.trained.table import SystemsTable
from comosvc.runtime.errors import ComosvcError
from comosvc.training.run.rendering import Renderer


@pytest.fixture(scope="session")
def judge(trained_run, held_out_config, tmp_path_factory):
    return Judge(trained_run, "demo", held_out_config, tmp_path_factory.mktemp("cache"), lambda what: None)


@pytest.fixture(scope="session")
def table(judge):
    return evaluate(judge, "comosvc-bench systems-quality", few=0)


def test_every_system_is_there_and_the_thousand_steps_only_where_asked_for(table):
    found = [(row.title, row.evaluations) for row in table.rows]
    assert found[:2] == [("unconverted", None), ("copy-synthesis of the target", None)]
    assert [evaluations for title, evaluations in found if title == "our student"] == [1, 2, 4]
    assert ("flow-shaped", 1) in found
    assert ("DiffSVC-shaped, PNDM", 101) in found
    assert 1000 not in [evaluations for _, evaluations in found]


def test_the_references_say_what_the_figures_mean(table):
    unconverted, copied = table.rows[:2]
    assert unconverted.quality.relative_l1 == pytest.approx(1.0, abs=1e-3)  # the last frames differ
    assert copied.quality.relative_l1 < 0.01  # the true mel itself
    assert copied.quality.relative_l1_audio < 0.5
    assert unconverted.quality.n == copied.quality.n == 4


def test_the_chain_is_timed_with_the_acoustic_stage_in_it(table):
    assert all(row.chain_rtf > row.acoustic_rtf > 0 for row in table.rows[2:])


def test_parameters_and_training_are_those_of_each_system(table):
    rows = {row.title: row for row in table.rows[2:]}
    assert rows["our student"].parameters == rows["DiffSVC-shaped, PNDM"].parameters
    assert rows["our student"].training_cpu_s == 11.0  # its teacher's 8 and its own 3: see conftest.py
    assert rows["our student"].spent_cpu_s > rows["our student's own teacher, Euler"].spent_cpu_s > 0


def test_a_table_survives_json_and_shows_its_figures(table, tmp_path):
    save(table, tmp_path / "table.json")
    save(load(tmp_path / "table.json", [SystemsTable]), tmp_path / "again.json")
    # As text: an untrained voice has no voiced frame, and its F0 errors are NaN.
    assert (tmp_path / "again.json").read_text() == (tmp_path / "table.json").read_text()
    assert load(tmp_path / "table.json", [SystemsTable]).rows[:2] == table.rows[:2]
    console = Console(width=250, record=True, file=(tmp_path / "table.txt").open("w"))
    console.print(table.table().for_terminal())
    shown = console.export_text()
    for figure in (f"{table.rows[2].quality.relative_l1:.3f}", "copy-synthesis", "101"):
        assert figure in shown
        assert figure in table.table().as_markdown()
    assert len({line.count("|") for line in table.table().as_markdown().splitlines() if line.startswith("|")}) == 1


def test_systems_heed_the_singer_and_the_noise(trained_run, songs):
    renderer = Renderer(trained_run)
    song = renderer.listen(next(iter(songs[0].sources.values())), 24_000)
    one, other = (song_batch(song, renderer.features, name) for name in songs[0].targets)
    for system in load_systems(trained_run):
        if system.stage in (DIFFSVC, STUDENT) and system.evaluations > 4:
            continue  # the same networks as elsewhere
        with torch.inference_mode():
            mel = system.paint(one, draw_with(0, len(song.mel)))
            assert mel.shape == (1, *song.mel.shape)
            assert torch.equal(mel, system.paint(one, draw_with(0, len(song.mel))))
            assert not torch.equal(mel, system.paint(other, draw_with(0, len(song.mel)))), system.title
            assert not torch.equal(mel, system.paint(one, draw_with(1, len(song.mel)))), system.title


def test_targets_that_were_not_trained_on_are_refused_in_words(judge, songs, monkeypatch):
    foreign = [replace(songs[0], targets={"soprano": next(iter(songs[0].targets.values()))})]
    monkeypatch.setattr(evaluation, "load_held_out", lambda *arguments: foreign)
    with pytest.raises(ComosvcError, match="did not train on soprano"):
        evaluate(judge, "")


def test_a_half_trained_system_is_refused_in_words(judge, monkeypatch):
    plan = evaluation.read_plan(judge.run)
    longer = replace(plan, steps={**plan.steps, DIFFSVC: 9})
    monkeypatch.setattr(evaluation, "read_plan", lambda run: longer)
    with pytest.raises(ComosvcError, match="has 5 of 9 steps"):
        evaluate(judge, "")


def test_a_vocoder_for_other_mels_is_refused_in_words(trained_run, tiny_path, tmp_path, held_out_config):
    with pytest.raises(ComosvcError, match=r"the vocoder of .* sings"):
        _ = Judge(trained_run, str(tiny_path), held_out_config, tmp_path, print).bundle


@pytest.mark.parametrize("command", ["systems-train", "systems-quality"])
def test_a_run_without_features_or_systems_is_refused_in_words(command, tmp_path):
    result = CliRunner().invoke(app, [command, "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "hint:" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_stage_is_refused_in_words(tmp_path):
    result = CliRunner().invoke(app, ["systems-train", "-o", str(tmp_path), "--only", "tango"])
    assert result.exit_code == 1
    assert "there is no stage tango" in result.stderr
