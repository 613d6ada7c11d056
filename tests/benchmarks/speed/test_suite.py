"""The suite of pytest-benchmark over what `comosvc-bench rtf` times.

    pytest tests/benchmarks/speed/test_suite.py --benchmark-histogram=speed
    pytest tests/benchmarks/speed/test_suite.py --device cuda --systems comosvc-authors,sovits-flow

Toys and the shipped voice, in a few rounds; `--systems` adds full-size ones.
"""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from toy_systems import TOYS

from comosvc.benchmarks.baselines import BASELINES
from comosvc.benchmarks.speed import ceilings
from comosvc.benchmarks.speed.ceilings import measure_ceilings, the_better
from comosvc.benchmarks.speed.engines import open_onnx, open_torch
from comosvc.benchmarks.speed.exported import export_system
from comosvc.benchmarks.speed.options import check_device, parse_systems
from comosvc.benchmarks.speed.voices import VoiceChain
from comosvc.benchmarks.speed.worker import LocalSession

SECONDS, ROUNDS = 1.0, 3


@pytest.fixture(scope="module")
def device(request):
    return check_device(request.config.getoption("--device"))


def pytest_generate_tests(metafunc):
    if "make" in metafunc.fixturenames:
        named = metafunc.config.getoption("--systems")
        makers = {**TOYS, **{name: BASELINES[name] for name in (parse_systems(named) if named else ())}}
        metafunc.parametrize("make", makers.values(), ids=makers)


def timed(benchmark, opener, group):
    benchmark.group = group
    session = LocalSession(opener, 1)
    session.prepare(SECONDS, 1)
    turn = benchmark.pedantic(session.turn, rounds=ROUNDS)
    benchmark.extra_info |= {stage: sample.wall_s for stage, sample in turn.items()}
    assert turn
    assert all(sample.wall_s >= 0.0 for sample in turn.values())


def test_torch(benchmark, make, device):
    timed(benchmark, lambda threads: open_torch(make, device, "fp32", None, None, threads), "networks")


def test_onnx(benchmark, make, tmp_path, monkeypatch):
    if make in TOYS.values():
        monkeypatch.setenv("COMOSVC_HOME", str(tmp_path))
    graphs = export_system(make)
    timed(benchmark, lambda threads: open_onnx(make, graphs, threads), "networks")


@pytest.mark.parametrize("batch", [1, 4])
def test_the_shipped_voice(benchmark, batch):
    benchmark.group = "the shipped voice"
    chain = VoiceChain("demo", 1, "cpu", "fp32")
    once = chain.prepare(SECONDS, batch)
    turn = benchmark.pedantic(once, args=(None,), rounds=ROUNDS, warmup_rounds=1)
    assert turn["vocoder"].wall_s > 0.0


def test_ceilings(benchmark, device):
    benchmark.group = "ceilings"
    found = benchmark.pedantic(measure_ceilings, args=(1, device, 256, 8), rounds=ROUNDS)
    assert found.copy_gb_s > 0.0


def test_ceilings_of_a_slow_processor_without_units(monkeypatch):
    """One product takes the whole budget there: it is the figure, and what would be imitated is left out."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(ceilings, "_LIMIT_S", 0.5)
    clock = count()
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    found = measure_ceilings(torch.get_num_threads(), "cpu", 64, 1)
    assert next(clock) == 2 * 3, "two readings for each of torch's product, ONNX Runtime's and the copy"
    assert found.fp32_torch_gflop_s == 2 * 64**3 / 1e9
    assert (found.bf16_torch_gflop_s, found.fp16_torch_gflop_s) == (None, None)
    assert [line.partition(":")[0] for line in found.left_out] == ["bf16", "fp16"]
    assert the_better(found, found) == found
