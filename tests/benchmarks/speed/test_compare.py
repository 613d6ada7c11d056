from dataclasses import replace

import pytest
from speed_reports import MACHINE, faster, report, rich_report, timing
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.report import ResultError, save
from comosvc.benchmarks.speed.compare import compare_reports, parse_share
from comosvc.runtime.errors import OptionError


@pytest.fixture
def run(tmp_path):
    def run(before, after, *options):
        for name, found in (("before", before), ("after", after)):
            save(found, tmp_path / f"{name}.json")
        files = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
        return CliRunner().invoke(app, ["compare", *files, *options], env={"COLUMNS": "200"})

    return run


def test_the_same_is_not_slower(run):
    done = run(rich_report(), rich_report())
    assert done.exit_code == 0, done.output
    assert "1.000" in done.output


def test_slower_beyond_noise_fails(run):
    done = run(rich_report(), faster(rich_report(), 1 / 1.2), "--fail-over", "5%")
    assert done.exit_code == 1
    assert "3 of 3 slower by more than 5.0%" in done.output
    assert "1.200" in done.output
    assert run(rich_report(), faster(rich_report(), 1 / 1.2), "--fail-over", "0.3").exit_code == 0
    assert run(rich_report(), faster(rich_report(), 1.2)).exit_code == 0


def test_slower_within_noise_does_not_fail(run):
    loud = [report([timing("a", 10.0, rtf, scatter=0.2)]) for rtf in (0.5, 0.55)]
    quiet = [report([timing("a", 10.0, rtf, scatter=0.001)]) for rtf in (0.5, 0.55)]
    assert run(*quiet).exit_code == 1
    done = run(*loud)
    assert done.exit_code == 0
    assert "perhaps slower" in done.output


def test_two_repetitions_prove_nothing(run):
    done = run(*(report([timing("a", 10.0, rtf, n=2)]) for rtf in (0.5, 5.0)))
    assert done.exit_code == 0
    assert "unknown" in done.output


def test_a_slower_stage_counts_only_when_asked(run):
    before = rich_report()
    rows = tuple(
        replace(row, wall_s=tuple(2 * wall for wall in row.wall_s)) if row.stage == "acoustic" else row
        for row in before.rows
    )
    after = replace(before, rows=rows)
    assert run(before, after).exit_code == 0
    assert run(before, after, "--stages").exit_code == 1


def test_other_machines_are_refused_but_for_ratios(run):
    before = rich_report()
    elsewhere = replace(before.provenance, machine={**MACHINE, "cpu": "Another"})
    after = replace(faster(before, 1 / 3.0), provenance=elsewhere)
    done = run(before, after)
    assert done.exit_code == 1
    assert "different machines" in done.stderr
    assert "--relative-to" in done.stderr
    assert run(before, after, "--force").exit_code == 1, "three times slower"
    done = run(before, after, "--relative-to", "sovits-diff")
    assert done.exit_code == 0, done.output
    assert "relative to sovits-diff" in done.output


def test_a_ratio_to_the_reference_that_grew_is_seen():
    before = rich_report()
    rows = tuple(
        replace(row, wall_s=tuple(wall / 2 for wall in row.wall_s)) if row.system == "sovits-diff" else row
        for row in before.rows
    )
    found = compare_reports(before, replace(before, rows=rows), 0.05, reference="sovits-diff")
    (row,) = found.rows
    assert (row.after.system, row.after.seconds) == ("comosvc", 10.0)
    assert row.ratio == pytest.approx(2.0)
    assert row.slower


def test_what_only_one_has_is_said(run):
    before = rich_report()
    after = replace(before, rows=tuple(row for row in before.rows if row.system == "comosvc"))
    done = run(before, after)
    assert done.exit_code == 0
    assert "only in the first file: sovits-diff (onnx fp32), 10 s" in done.output


def test_nothing_in_common_is_an_error():
    with pytest.raises(ResultError, match="no row in common"):
        compare_reports(report([timing("a", 1.0, 0.5)]), report([timing("b", 1.0, 0.5)]), 0.05)
    with pytest.raises(ResultError, match="no row of another system"):
        compare_reports(rich_report(), rich_report(), 0.05, reference="nobody")


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0)])
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x", "-5%", "nan", "5000%"])
def test_no_shares(text):
    with pytest.raises(OptionError, match="--fail-over"):
        parse_share(text)
