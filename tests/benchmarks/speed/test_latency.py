import pytest
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.speed.documents import read_document
from comosvc.benchmarks.speed.latency import ClipLatency, LatencyOptions, latency_grid, load_latency
from comosvc.benchmarks.speed.results import ResultError
from comosvc.runtime.errors import OptionError


def test_percentiles_and_deadlines():
    clip = ClipLatency(clip_ms=50.0, first_ms=400.0, calls_ms=tuple(map(float, range(1, 101))), others_cores=0.0)
    assert clip.percentile(50) == pytest.approx(50.5)
    assert clip.percentile(99) == pytest.approx(99.01)
    assert clip.in_time == pytest.approx(0.5)


def test_the_command(tiny_path, tmp_path):
    path = tmp_path / "latency.json"
    options = ["-m", str(tiny_path), "--clips", "50,100", "--calls", "20", "--json", str(path)]
    done = CliRunner().invoke(app, ["latency", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "has no streaming" in " ".join(done.output.split())
    report = load_latency(path)
    assert [clip.clip_ms for clip in report.clips] == [50.0, 100.0]
    assert all(len(clip.calls_ms) == 20 for clip in report.clips)
    assert not report.streaming
    assert str(tmp_path) not in path.read_text().partition('"voice"')[2]
    document = read_document(path)
    assert document.grids == (latency_grid(report),)
    assert not document.charts


def test_too_few_calls_for_a_percentile():
    with pytest.raises(OptionError, match="20 calls or more"):
        LatencyOptions(calls=19)


def test_a_damaged_file(tmp_path):
    (tmp_path / "a.json").write_text('{"format_version": 1, "kind": "latency", "clips": [{}]}')
    with pytest.raises(ResultError, match="damaged"):
        load_latency(tmp_path / "a.json")
