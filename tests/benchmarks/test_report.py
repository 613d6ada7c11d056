import io

import pytest
from rich.console import Console

from comosvc.benchmarks.report import QUALITY, Figures, Provenance, ResultError, Row, into_readme, load, save


@pytest.fixture
def report():
    rows = (
        Row(what="relative L1", value=0.5312, at_most=0.55, note="96 conversions"),
        Row(what="texture", value=0.8, at_least=0.9, at_most=1.1),
        Row(what="accuracy", value=0.93, at_least=0.92),
        Row(what="size", value=213.4, unit="MB", at_most=250),
        Row(what="recorded voice", at_least=0.7, note="apt-get install flite"),
        Row(what="for information", value=5.2e-7),
    )
    return Figures(provenance=Provenance.here("comosvc-bench quality"), rows=rows, voice={"name": "demo"})


def test_a_row_knows_whether_it_meets_its_goal(report):
    assert [row.verdict for row in report.rows] == ["pass", "miss", "pass", "pass", "", ""]
    assert [row.goal for row in report.rows] == ["≤ 0.55", "0.9–1.1", "≥ 0.92", "≤ 250 MB", "≥ 0.7", ""]
    assert [row.shown for row in report.rows] == ["0.531", "0.8", "0.93", "213 MB", "", "5.2e-07"]
    assert Row(what="at the limit", value=0.55, at_most=0.55).met
    assert Row(what="not a number", value=float("nan"), at_most=0.55).met is False


def test_json_round_trip_with_where_it_was_measured(report, tmp_path):
    save(report, tmp_path / "results" / "quality.json")
    back = load(tmp_path / "results" / "quality.json", [Figures])
    assert back == report
    assert back.provenance.machine["cores"] >= 1
    assert {"comosvc", "python", "numpy"} <= set(back.provenance.versions)


def test_the_table_shows_every_row(report):
    out = io.StringIO()
    Console(file=out, width=160).print(report.table().for_terminal())
    for row in report.rows:
        assert row.what in out.getvalue()
    assert "apt-get install flite" in out.getvalue()


def test_the_readme_gets_the_table_between_its_markers(report, tmp_path):
    readme = tmp_path / "README.md"
    begin, end = QUALITY
    assert (begin, end) == ("<!-- quality: written by comosvc-bench quality --readme -->", "<!-- /quality -->")
    readme.write_text(f"# Title\n{begin}\nold\n{end}\nrest\n", "utf-8")
    for _ in range(2):
        into_readme(readme, QUALITY, report.table().as_markdown())
    text = readme.read_text("utf-8")
    assert text == f"# Title\n{begin}\n{report.table().as_markdown()}\n{end}\nrest\n"
    assert "| texture | 0.8 | 0.9–1.1 | miss |  |" in text
    readme.write_text("no markers", "utf-8")
    with pytest.raises(ResultError, match="must hold"):
        into_readme(readme, QUALITY, "a table")
