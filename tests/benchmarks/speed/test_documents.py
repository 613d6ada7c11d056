import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from speed_reports import facts, report, rich_report, timing
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.quality.goals import GOALS
from comosvc.benchmarks.report import SPEED, SUMMARY, Figures, Provenance, Row, save, show
from comosvc.benchmarks.speed.charts import QualityPoint, rtf_against_length, speed_against_quality, stacked_stages
from comosvc.benchmarks.speed.documents import read_document, read_documents, write_documents
from comosvc.benchmarks.speed.paper import find_scalings, paper_table
from comosvc.benchmarks.speed.tables import (
    REFERENCE,
    all_tables,
    length_table,
    loading_table,
    noise_table,
    stage_table,
    summary_table,
)

BEGIN, END = SPEED


def row_of(grid, start):
    (row,) = [row for row in grid.rows if row[0].startswith(start)]
    return row


def test_what_was_not_measured_is_an_empty_cell():
    grid = length_table(rich_report(), 1, 1)
    assert grid.heads[1:3] == ("1 s", "10 s")
    ours, theirs = row_of(grid, "comosvc"), row_of(grid, "sovits-diff")
    assert ours[1].startswith("0.2 (")
    assert theirs[1] == "", "nobody timed it at 1 s"
    assert theirs[2].startswith("6 (")
    assert theirs[2].endswith("*"), "timed in part"
    loading = row_of(loading_table(rich_report()), "sovits-diff")
    assert set(loading[2:9]) == {""}


def test_stages_with_their_share_of_the_ceiling():
    grid = stage_table(rich_report(), (1, 1, 10.0))
    assert grid.heads == ("system", "acoustic", "vocoder", "total", "processor s per s", "GFLOP/s", "of the ceiling")
    assert row_of(grid, "comosvc")[1:] == ("0.05", "0.15", "0.2 (50%)", "0.2", "50", "50%")
    assert row_of(grid, "sovits-diff")[1:4] == ("5*", "1~", "6*")


def test_memory_is_that_above_the_libraries():
    row = row_of(loading_table(rich_report()), "comosvc")
    assert row[1:] == ("1", "2", "10", "", "", "1.5", "900", "850", "the comosvc")


def test_a_disturbed_size_is_said():
    (row,) = noise_table(rich_report()).rows
    assert row[:4] == ("10", "1", "1", "0.70")


def test_every_table_in_every_form():
    out = io.StringIO()
    for grid in all_tables(rich_report()):
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
    grid = paper_table(report(paper_rows()), "onnx", "fp32", (1, 1, 10.0))
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
    assert paper_table(rich_report(), "torch", "fp32", (1, 1, 10.0)) is None


def test_charts_show_what_was_measured():
    figure = rtf_against_length(rich_report(), 1, 1)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["comosvc (onnx fp32)"].get_xdata()) == [1.0, 10.0]
    assert list(lines["sovits-diff (onnx fp32)"].get_xdata()) == [10.0]
    bars = stacked_stages(rich_report(), (1, 1, 10.0)).axes[0].patches
    assert sorted(bar.get_width() for bar in bars) == pytest.approx([0.05, 0.15, 1.0, 5.0])


def test_one_step_is_readable_beside_a_thousand():
    rows = []
    for system, evaluations, acoustic in (("a", 1, 0.1), ("b", 1000, 99.9)):
        rows += [timing(system, 10.0, acoustic + 0.1, evaluations=evaluations)]
        rows += [timing(system, 10.0, 0.1, "vocoder"), timing(system, 10.0, acoustic, "acoustic")]
    near, whole = stacked_stages(report(rows), (1, 1, 10.0)).axes
    assert near.get_xlim() == pytest.approx((0.0, 0.6)), "three times the slowest of one step"
    assert [text.get_text() for text in near.texts] == ["0.2", "▸ 100*"]
    assert whole.get_xlim()[1] > 100.0
    assert near.get_legend_handles_labels()[1] == ["acoustic", "vocoder"], "in the order of the chain"
    alike = [row for row in rows if row.system == "a"]
    assert len(stacked_stages(report(alike), (1, 1, 10.0)).axes) == 1


def test_lines_of_many_systems_look_different():
    rows = [timing(f"s{n}", seconds, 0.1 * (n + 1)) for n in range(13) for seconds in (1.0, 10.0)]
    lines = [line for line in rtf_against_length(report(rows), 1, 1).axes[0].lines if len(line.get_xdata()) == 2]
    assert len({(line.get_color(), line.get_marker()) for line in lines if line.get_marker() != "None"}) == 13


def test_speed_against_quality_is_charted():
    shipped = Path(__file__).parents[3] / "benchmarks" / "results" / "quality-systems.json"
    document = read_document(shipped)
    assert list(document.charts) == ["speed against quality"]
    assert document.charts["speed against quality"].startswith(b"\x89PNG")
    titles = [row[0] for row in document.tables[0].rows]
    assert titles[0] == "unconverted"
    assert "comosvc-bench systems-quality" in document.note
    found = [QualityPoint("a", 4, 0.2, 0.8), QualityPoint("a", 1, 0.1, 0.9), QualityPoint("b", 2, 0.2, 0.5)]
    axes = speed_against_quality(found, "L1").axes[0]
    assert [text.get_text() for text in axes.texts] == ["4", "1", "2"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.1, 0.2], [0.2]]


def test_the_command_writes_documents(tmp_path):
    save(rich_report(), tmp_path / "cpu.json")
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


def test_a_file_may_ask_for_the_summary_only(tmp_path):
    save(rich_report(), tmp_path / "cpu.json")
    readme = tmp_path / "README.md"
    readme.write_text(f"{SUMMARY[0]}\nold\n{SUMMARY[1]}\n")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "cpu.json"), "--readme", str(readme)])
    assert done.exit_code == 0, done.output
    text = readme.read_text("utf-8")
    assert text.count("**whole chain, RTF") == 1
    assert "comosvc-bench rtf` at commit" in text
    assert "old" not in text


def test_the_summary_compares_with_the_authors_in_the_same_column():
    rows = [
        timing(name, 10.0, rtf, threads=threads)
        for threads, factor in ((1, 1.0), (2, 0.5))
        for name, rtf in (("comosvc", 0.2 * factor), (REFERENCE.system, 0.8 * factor))
    ]
    alone = timing("comosvc-light", 10.0, 0.1, threads=2)
    grid = summary_table(report([*(replace(row, engine="torch") for row in rows), alone]))
    assert grid.heads == ("system", "1 thread", "faster", "2 threads", "faster")
    assert [cell for cell in row_of(grid, "comosvc (")[2::2]] == ["4 ×", "4 ×"]
    assert row_of(grid, "comosvc-light")[1:3] == ("", "")
    assert row_of(grid, "comosvc-light")[4] == "4 ×"
    assert row_of(grid, REFERENCE.system)[2] == "1 ×"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.json"], "no result of comosvc-bench"),
        (["cpu.json", "--readme", "cpu.json"], "must hold the line"),
        (["cpu.json", "--readme", "nope.md"], "nope.md cannot be read: No such file"),
        (["notes.json"], "notes.json is of another kind (some notes); results of comosvc-bench wanted here: rtf"),
        (["words.json"], "words.json is no result of comosvc-bench: it is not JSON"),
        (["table.json", "--readme", "README.md"], "none of these results has a table for the README"),
        (["cpu.json", "-o", "notes.json"], "notes.json cannot be written to"),
    ],
)
def test_what_cannot_be_reported_is_said(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    save(rich_report(), tmp_path / "cpu.json")
    save(table_of(), tmp_path / "table.json")
    (tmp_path / "notes.json").write_text('{"what": "some notes"}')
    (tmp_path / "words.json").write_text("words")
    (tmp_path / "README.md").write_text(f"{BEGIN}\nold\n{END}\n")
    extra = [] if "-o" in options else ["-o", "out"]
    done = CliRunner().invoke(app, ["report", *options, *extra])
    assert done.exit_code == 1
    assert not (tmp_path / "out").exists(), "nothing is left half-written"
    assert "old" in (tmp_path / "README.md").read_text()
    assert message in done.stderr
    assert "Traceback" not in done.output


def table_of(**voice):
    """A table of `comosvc-bench train`, or, with the facts of a voice, of `quality`."""
    rows = (Row(what="steps a second", value=1.5), Row(what=GOALS["rtf"].what, value=0.02))
    f0 = {"gross": 0.002, "rmse_cents": 7.5}
    score = {"relative_l1": 0.5, "relative_l1_audio": 0.6, "texture": 0.9, "identified": 1.0, "f0": f0}
    details = {"one_step": score} if voice else {}
    return Figures(provenance=Provenance.here("comosvc-bench"), rows=rows, voice=voice, details=details)


def test_every_kind_that_can_be_shown_is_shown(tmp_path):
    save(rich_report(), tmp_path / "cpu.json")
    save(table_of(), tmp_path / "train.json")
    (tmp_path / "notes.json").write_text('{"what": "some notes"}')
    done = CliRunner().invoke(app, ["report", *(str(tmp_path / f"{name}.json") for name in ("cpu", "notes", "train"))])
    assert done.exit_code == 0, done.output
    assert "steps a second" in done.stdout
    assert "whole chain, RTF" in done.stdout
    assert "notes.json is of another kind (some notes)" in done.stderr


def test_quality_by_provider_and_precision(tmp_path):
    for name in ("fp32", "bf16"):
        save(table_of(name="demo", provider="cpu", precision=name, bundle_id="abc"), tmp_path / f"{name}.json")
    (one,), _ = read_documents([tmp_path / "fp32.json"])
    assert one.tables[0].title == "quality of demo, cpu fp32"
    *_, table = read_documents([tmp_path / "fp32.json", tmp_path / "bf16.json"])[0]
    assert table.for_readme == table.tables
    assert table.tables[0].rows == tuple(
        (name, "cpu", name, "abc", "0.500", "0.600", "0.900", "0.20 %", "7.5 cents", "100 %", "0.02")
        for name in ("fp32", "bf16")
    )


def test_results_of_one_name_keep_their_charts_apart(tmp_path):
    for folder in ("a", "b"):
        save(rich_report(), tmp_path / folder / "rtf.json")
    documents, _ = read_documents([tmp_path / folder / "rtf.json" for folder in ("a", "b")])
    written = write_documents(documents, tmp_path / "out")
    assert [document.name for document in documents] == ["rtf", "rtf-2"]
    assert len(written) == len(list((tmp_path / "out").iterdir())) == 6


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_figure_is_cut_on_a_narrow_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    grid = stage_table(rich_report(), (1, 1, 10.0))
    show(grid)
    shown = capsys.readouterr().out
    words = [word for row in (grid.heads, *grid.rows) for cell in row for word in cell.split()]
    assert all(word in shown for word in words)
    assert "…" not in shown


def test_titles_come_from_the_facts():
    found = replace(report([timing("a", 1.0, 0.1)]), systems=(facts("a"),))
    assert "the a" in loading_table(found).rows[0]
