import json

import pytest
from speed_reports import rich_report, timing

from comosvc.benchmarks.report import ResultError, check_writable, load, save
from comosvc.benchmarks.speed.results import SpeedReport


def test_a_report_comes_back_as_it_was(tmp_path):
    save(rich_report(), tmp_path / "deep" / "a.json")
    assert load(tmp_path / "deep" / "a.json", [SpeedReport]) == rich_report()


def test_the_file_says_what_readers_need_not_compute(tmp_path):
    save(rich_report(), tmp_path / "a.json")
    body = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert (body["format"], body["kind"], body["provenance"]["commit"]) == (2, "rtf", "abc")
    rows = [row["derived"] for row in body["rows"]]
    assert rows[0]["rtf"] == pytest.approx(0.2)
    assert rows[0]["gflop_s"] == pytest.approx(50.0)
    assert rows[0]["ceiling_share"] == pytest.approx(0.5)
    assert rows[1]["gflop_s"] is None
    assert [row["extrapolated"] for row in rows] == [False] * 6 + [True, True, False]
    assert [row["noisy"] for row in rows] == [False] * 8 + [True]


def test_figures_of_a_row():
    row = timing("a", 10.0, 0.5, batch=4, n=5, scatter=0.1)
    assert row.median_s == pytest.approx(20.0)
    assert row.rtf == pytest.approx(0.5)
    assert row.rtf_p95 == pytest.approx(0.5 * 1.18)
    found = row.derived()
    assert found["p95_s"] < found["p99_s"] < max(row.wall_s)
    assert timing("a", 1.0, 1.0, n=2).is_noisy, "two repetitions do not tell"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no result of comosvc-bench"),
        ("[]", r"another kind \(unknown\)"),
        ('{"rows": []}', "another kind"),
        ('{"format_version": 1, "kind": "rtf"}', "format None; this reads 2"),
        ('{"format": 9, "kind": "rtf"}', "format 9; this reads 2"),
        ('{"format": 2, "kind": "latency"}', r"another kind \(latency\); results of comosvc-bench wanted here: rtf"),
        ('{"format": 2, "kind": "rtf"}', "damaged: a.json lacks options, provenance"),
        ('{"format": 2, "kind": "rtf", "rows": [1]}', "damaged"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ResultError, match=message):
        load(tmp_path / "a.json", [SpeedReport])


def test_whether_results_can_be_written_is_known_before(tmp_path):
    check_writable(tmp_path / "new" / "a.json")
    assert not (tmp_path / "new" / "a.json").exists()
    (tmp_path / "old.json").write_text("kept")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"
    with pytest.raises(ResultError, match="cannot be written"):
        check_writable(tmp_path / "old.json" / "a.json")
