from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.metrics import PitchMeter
from comosvc.benchmarks.report import ResultError, load, save
from comosvc.benchmarks.speed.chain import sung_clip
from comosvc.benchmarks.speed.documents import read_document
from comosvc.benchmarks.speed.latency import LatencyOptions
from comosvc.benchmarks.speed.latency_results import LatencyReport, Waits, latency_tables
from comosvc.benchmarks.speed.low_distance import _stream_and_whole, _stream_distance
from comosvc.runtime import Converter
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.errors import OptionError

RESULTS = Path(__file__).parents[3] / "benchmarks/results"


def test_percentiles_and_deadlines():
    clip = Waits(what="clip", length_ms=50.0, taken_ms=tuple(map(float, range(1, 101))), others_cores=0.0)
    assert clip.percentile(50) == pytest.approx(50.5)
    assert clip.percentile(99) == pytest.approx(99.01)
    assert clip.in_time == pytest.approx(0.5)


def test_the_total_of_a_stream_is_its_latency_and_a_late_block():
    published = load(RESULTS / "latency.json", [LatencyReport])
    block = Waits(
        what="block",
        length_ms=20.0,
        latency_ms=55.0,
        taken_ms=tuple(map(float, range(1, 101))),
        processor_ms=(1.0,),
        others_cores=0.0,
    )
    (row,) = latency_tables(replace(published, rows=(block,), start_up=None))[0].rows
    assert row == ("20 ms", "55.0", "50.5", "95.0", "99.0", "1.0", "20.0%", "154.0")


def test_the_command(tiny_path, tmp_path):
    path = tmp_path / "latency.json"
    options = ["-m", str(tiny_path), "--clips", "50,100", "--calls", "20", "--blocks", "20,33", "--seconds", "0.66"]
    options += ["--start-up", "--soak", "0.05", "--long-files", "0.05,0.1", "--json", str(path)]
    done = CliRunner().invoke(app, ["latency", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    report = load(path, [LatencyReport])
    blocks = report.waits("block")
    assert [clip.length_ms for clip in report.waits("clip")] == [50.0, 100.0]
    assert all(len(clip.taken_ms) == 20 for clip in report.waits("clip"))
    assert [(block.length_ms, len(block.taken_ms)) for block in blocks] == [(20.0, 33), (33.0, 20)]
    assert all(0 < block.percentile(50) <= block.percentile(99) for block in blocks)
    assert 40 < blocks[0].latency_ms < 80
    assert report.start_up.total_ms > report.start_up.load_ms > 0
    assert len(report.soak.median_ms) == 1
    assert [file.minutes for file in report.long_files] == [0.05, 0.1]
    assert str(tmp_path) not in path.read_text().partition('"voice"')[2]
    document = read_document(path)
    assert document.tables == latency_tables(report)
    for word in ("20 ms", "100 ms", "start-up", "in one stream", "a file of 0.1 min"):
        assert word in done.output
    assert not document.charts


def test_streams_against_the_whole(tiny_path):
    with Converter(tiny_path, threads=1) as converter:
        spec, audio = converter.spec, sung_clip(0.5, 44_100).astype(np.float32)
        f0_hz = np.full(converter.frames(len(audio), 44_100), 220.0, np.float32)
        both = [_stream_and_whole(converter, audio, 44_100, 20.0, "alto", f0) for f0 in (None, f0_hz)]
    for stream, whole in both:
        snr_db, mel_l1, cents = _stream_distance(stream, whole, 44_100, spec, PitchMeter())
        assert 90.0 < snr_db < 200.0
        assert mel_l1 < 1e-3
        assert cents < 0.01


def test_how_far_a_stream_is_from_the_whole():
    tone = 0.2 * np.sin(np.cumsum(2.0 * np.pi * np.full(44_100, 220.0) / 44_100)).astype(np.float32)
    sharp = 0.2 * np.sin(np.cumsum(2.0 * np.pi * np.full(44_100, 220.0 * 2 ** (10 / 1200)) / 44_100)).astype(np.float32)
    snr_db, mel_l1, _ = _stream_distance(0.9 * tone, tone, 44_100, COMOSVC_24K, PitchMeter())
    assert snr_db == pytest.approx(20.0, abs=0.01)
    assert 0.0 < mel_l1 <= -np.log(0.9) + 1e-6
    assert _stream_distance(sharp, tone, 44_100, COMOSVC_24K, PitchMeter())[2] == pytest.approx(10.0, abs=1.0)


def test_the_distances_of_streams_are_kept_and_shown(tmp_path):
    published = load(RESULTS / "latency-distance.json", [LatencyReport])
    assert published.distance is not None
    far = replace(
        published.distance, stream_snr_db=(101.5, 99.0), stream_mel_l1=(0.02, 0.01), stream_f0_cents=(3.0, 0.2)
    )
    report = replace(published, distance=far)
    save(report, tmp_path / "a.json")
    assert load(tmp_path / "a.json", [LatencyReport]) == report
    shown = " ".join(cell for grid in latency_tables(report) for row in grid.rows for cell in row)
    assert "101.5 dB, 0.02 nepers, 3 cents with its own F0; 99.0 dB, 0.01 nepers, 0.2 cents with F0 given" in shown


def test_too_few_calls_for_a_percentile():
    with pytest.raises(OptionError, match="20 calls or more"):
        LatencyOptions(calls=19)


def test_a_damaged_file(tmp_path):
    (tmp_path / "a.json").write_text('{"format": 2, "kind": "latency", "rows": [{}]}')
    with pytest.raises(ResultError, match="damaged"):
        load(tmp_path / "a.json", [LatencyReport])
