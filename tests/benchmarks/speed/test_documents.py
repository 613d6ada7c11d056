import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from speed_reports import facts, report, rich_report, timing
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.speed.charts import QualityPoint, rtf_against_length, speed_against_quality, stacked_stages
from comosvc.benchmarks.speed.documents import BEGIN, END, read_document
from comosvc.benchmarks.speed.paper import paper_grid
from comosvc.benchmarks.speed.results import save_speed
from comosvc.benchmarks.speed.scaling import find_scalings
from comosvc.benchmarks.speed.tables import all_grids, length_grid, loading_grid, noise_grid, stage_grid


def row_of(grid, start):
    (row,) = [row for row in grid.rows if row[0].startswith(start)]
    return row


def test_what_was_not_measured_is_an_empty_cell():
    grid = length_grid(rich_report(), 1, 1)
    assert grid.heads[1:3] == ("1 s", "10 s")
    ours, theirs = row_of(grid, "comosvc"), row_of(grid, "sovits-diff")
    assert ours[1].startswith("0.2 (")
    assert theirs[1] == "", "nobody timed it at 1 s"
    assert theirs[2].startswith("6 (")
    assert theirs[2].endswith("*"), "timed in part"
    loading = row_of(loading_grid(rich_report()), "sovits-diff")
    assert set(loading[2:9]) == {""}


def test_stages_with_their_share_of_the_ceiling():
    grid = stage_grid(rich_report(), (1, 1, 10.0))
    assert grid.heads == ("system", "acoustic", "vocoder", "total", "processor s per s", "GFLOP/s", "of the ceiling")
    assert row_of(grid, "comosvc")[1:] == ("0.05", "0.15", "0.2 (50%)", "0.2", "50", "50%")
    assert row_of(grid, "sovits-diff")[1:4] == ("5*", "1~", "6*")


def test_memory_is_that_above_the_libraries():
    row = row_of(loading_grid(rich_report()), "comosvc")
    assert row[1:] == ("1", "2", "10", "", "", "1.5", "900", "850", "the comosvc")


def test_a_disturbed_size_is_said():
    (row,) = noise_grid(rich_report()).rows
    assert row[:4] == ("10", "1", "1", "0.70")


def test_every_table_in_every_form():
    out = io.StringIO()
    for grid in all_grids(rich_report()):
        Console(file=out, width=200).print(grid.for_terminal())
        assert all(len(row) == len(grid.heads) for row in grid.rows), grid.title
        assert "<td>" in grid.as_html()
        assert grid.as_markdown().count("\n|") == len(grid.rows) + 1 + (1 if grid.rows else 0)
    for word in ("it broke", "+10.0%", "more than 5%", "disturbed", "GEMM"):
        assert word in out.getvalue(), word


@pytest.mark.parametrize(("power", "flag"), [(1.0, ""), (0.8, ""), (1.3, "worse than linear")])
def test_growth_with_the_length(power, flag):
    rows = [timing("a", seconds, 0.1 * seconds ** (power - 1)) for seconds in (1.0, 5.0, 30.0)]
    (found,) = find_scalings(report(rows))
    assert (found.against, found.flag) == ("length", flag)
    assert found.exponent == pytest.approx(power)


def test_growth_with_batch_threads_and_singers():
    rows = [timing("a", 10.0, 0.1), timing("a", 10.0, 0.1, batch=4), timing("a", 10.0, 0.2, threads=2)]
    rows += [timing("a", 10.0, 0.1, singers=n) for n in (1, 200)]
    found = {scaling.against: scaling for scaling in find_scalings(report(rows))}
    assert set(found) == {"batch", "threads", "singers"}
    assert found["batch"].exponent == pytest.approx(1.0)
    assert found["threads"].exponent == pytest.approx(1.0)
    assert found["threads"].flag == "more threads are slower"
    assert found["singers"].exponent == pytest.approx(0.0)


def paper_rows(seconds=10.0):
    return [
        timing("comosvc-authors", seconds, 0.2, "acoustic"),
        timing("comosvc-teacher", seconds, 0.1, "condition"),
        timing("comosvc-teacher", seconds, 8.0, "acoustic", evaluations=50, timed=50),
        timing("sovits-diff-1000", seconds, 60.0, "acoustic", evaluations=1000, timed=10),
        timing("diffsvc-20x512", seconds, 18.0, "acoustic", evaluations=101, timed=10),
        timing("comosvc", seconds, 0.1, "acoustic"),
    ]


def test_the_papers_table_beside_ours():
    grid = paper_grid(report(paper_rows()), "onnx", "fp32", (1, 1, 10.0))
    assert grid is not None
    assert "embeddings to mel only" in grid.note
    cells = {row[0]: row[1:] for row in grid.rows}
    assert cells["CoMoSVC"] == ("1", "0.006", "1", "1", "0.2", "1", "1", "0.2", "1")
    assert cells["Teacher"] == ("50", "0.148", "24.7", "50", "8.1", "40.5", "50", "8.1", "40.5")
    assert cells["SoVITS-Diff"] == ("1000", "2.978", "496", "1000", "60*", "300", "", "", ""), "no figure is made up"
    assert cells["DiffSVC"] == ("100", "0.278", "46.3", "", "", "", "101", "18*", "90")
    assert cells["SoVITS-Flow"] == ("1", "0.008", "1.33", "", "", "", "", "", "")
    assert cells["CoMoSVC, this SDK"] == ("", "", "", "1", "0.1", "0.5", "1", "0.1", "0.5")


def test_no_paper_table_without_its_systems():
    assert paper_grid(rich_report(), "torch", "fp32", (1, 1, 10.0)) is None


def test_charts_show_what_was_measured():
    figure = rtf_against_length(rich_report(), 1, 1)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["comosvc (onnx fp32)"].get_xdata()) == [1.0, 10.0]
    assert list(lines["sovits-diff (onnx fp32)"].get_xdata()) == [10.0]
    bars = stacked_stages(rich_report(), (1, 1, 10.0)).axes[0].patches
    assert sorted(bar.get_width() for bar in bars) == pytest.approx([0.05, 0.15, 1.0, 5.0])


def test_speed_against_quality_is_charted():
    shipped = Path(__file__).parents[3] / "benchmarks" / "results" / "quality-systems.json"
    document = read_document(shipped)
    assert list(document.charts) == ["speed against quality"]
    assert document.charts["speed against quality"].startswith(b"\x89PNG")
    titles = [row[0] for row in document.grids[0].rows]
    assert titles[0] == "unconverted"
    assert "comosvc-bench systems-quality" in document.note
    found = [QualityPoint("a", 0.1, 0.9), QualityPoint("b", 0.2, 0.5)]
    assert [text.get_text() for text in speed_against_quality(found, "L1").axes[0].texts] == ["a", "b"]


def test_the_command_writes_documents(tmp_path):
    save_speed(rich_report(), tmp_path / "cpu.json")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n{BEGIN}\nold\n{END}\nrest\n")
    options = ["-o", str(tmp_path / "out"), "--readme", str(readme)]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "cpu.json"), *options])
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    html = (out / "speed.html").read_text("utf-8")
    pictures = list(out.glob("*.png"))
    assert len(pictures) == html.count("<img") == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert 'src="http' not in html
    assert "`comosvc-bench rtf` at commit abc, on Test 9000" in (out / "speed.md").read_text("utf-8")
    text = readme.read_text("utf-8")
    assert text.startswith(f"# Title\n{BEGIN}\n**whole chain, RTF")
    assert text.endswith(f"{END}\nrest\n")
    assert "old" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.json"], "no result of comosvc-bench"),
        (["cpu.json", "--readme", "cpu.json"], "must hold the line"),
    ],
)
def test_what_cannot_be_reported_is_said(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    save_speed(rich_report(), tmp_path / "cpu.json")
    done = CliRunner().invoke(app, ["report", *options])
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_titles_come_from_the_facts():
    found = replace(report([timing("a", 1.0, 0.1)]), systems=(facts("a"),))
    assert "the a" in loading_grid(found).rows[0]
