import json

import pytest
from speed_reports import rich_report, timing

from comosvc.benchmarks.speed.results import ResultError, check_writable, load_speed, save_speed


def test_a_report_comes_back_as_it_was(tmp_path):
    save_speed(rich_report(), tmp_path / "deep" / "a.json")
    assert load_speed(tmp_path / "deep" / "a.json") == rich_report()


def test_the_file_says_what_readers_need_not_compute(tmp_path):
    save_speed(rich_report(), tmp_path / "a.json")
    body = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert (body["format_version"], body["kind"]) == (1, "rtf")
    whole = body["rows"][0]
    assert whole["rtf"] == pytest.approx(0.2)
    assert whole["gflop_s"] == pytest.approx(50.0)
    assert whole["ceiling_share"] == pytest.approx(0.5)
    assert body["rows"][1]["gflop_s"] is None
    assert [row["extrapolated"] for row in body["rows"]] == [False] * 6 + [True, True, False]
    assert [row["noisy"] for row in body["rows"]] == [False] * 8 + [True]


def test_figures_of_a_row():
    row = timing("a", 10.0, 0.5, batch=4, n=5, scatter=0.1)
    assert row.median_s == pytest.approx(20.0)
    assert row.rtf == pytest.approx(0.5)
    assert row.p95_s == pytest.approx(20.0 * 1.18)
    assert row.p95_s < row.derived()["p99_s"] < max(row.wall_s)
    assert timing("a", 1.0, 1.0, n=2).is_noisy, "two repetitions do not tell"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no result of comosvc-bench"),
        ("[]", "no result of comosvc-bench"),
        ('{"rows": []}', "no result of comosvc-bench"),
        ('{"format_version": 9, "kind": "rtf"}', "format_version 9; this reads 1"),
        ('{"format_version": 1, "kind": "latency"}', "a file of comosvc-bench rtf is wanted"),
        ('{"format_version": 1, "kind": "rtf"}', "damaged"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ResultError, match=message):
        load_speed(tmp_path / "a.json")


def test_whether_results_can_be_written_is_known_before(tmp_path):
    check_writable(tmp_path / "new" / "a.json")
    assert not (tmp_path / "new" / "a.json").exists()
    (tmp_path / "old.json").write_text("kept")
    check_writable(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"
    with pytest.raises(ResultError, match="cannot be written"):
        check_writable(tmp_path / "old.json" / "a.json")
