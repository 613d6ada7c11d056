"""The whole table on the voice of a smoke run. The voice is of no use; that the table says so is part of the test."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from comosvc.benchmarks.quality.goals import GOALS
from comosvc.benchmarks.quality.table import QualityOptions, measure_quality
from comosvc.benchmarks.report import Figures, load, save
from comosvc.training.config import load_config
from comosvc.training.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(smoke_run, smoke_bundle, tmp_path_factory):
    options = QualityOptions(
        model=str(smoke_bundle),
        run=smoke_run,
        corpus=replace(load_config(Recipe, "smoke").corpus, held_out_seconds=2.0),
        cache=tmp_path_factory.mktemp("cache"),
    )
    return measure_quality(options, "comosvc-bench quality", lambda what: None)


def row(report, key):
    return report.rows[list(GOALS).index(key)]


def test_every_row_has_a_value_or_says_how_to_get_one(report):
    assert len(report.rows) == len(GOALS)
    may_be_empty = {"size", "import", "content_recorded", "content_low_recorded"}  # not asked for; need flite
    for key in GOALS:
        assert row(report, key).value is not None or key in may_be_empty, key
        assert row(report, key).note, key
    assert "--install" in row(report, "size").note


def test_an_untrained_voice_misses(report):
    for key in ("student", "teacher", "published", "texture", "content_synthetic", "identified"):
        assert row(report, key).verdict == "miss", key
    assert row(report, "f0_gross").value < 20  # the vocoder needs no training to sing in tune
    assert row(report, "parity").verdict == "pass"


def test_the_exported_student_is_the_trained_one(report):
    """The same conversions through ONNX and the converter, and through torch: two independent ways to one figure."""
    torch_student = report.details["distillation"]["samplers"]["student"]
    mels = [entry["mel"] for entry in report.details["conversions_1"]]
    assert len(mels) == report.details["distillation"]["n"]
    mean_l1 = sum(mel["l1"] for mel in mels) / len(mels)
    assert mean_l1 == pytest.approx(torch_student["l1"], rel=0.03)  # other noise, and F0 resampled once more


def test_it_prints_and_keeps(report, tmp_path):
    out = io.StringIO()
    Console(file=out, width=200).print(report.table().for_terminal())
    assert "miss" in out.getvalue()
    save(report, tmp_path / "quality.json")
    assert load(tmp_path / "quality.json", [Figures]).rows == report.rows
