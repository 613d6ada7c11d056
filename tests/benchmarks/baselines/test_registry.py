"""The baselines' sizes and costs are the originals', and naming the systems costs nothing."""

import subprocess
import sys

import numpy as np
import pytest

from comosvc.benchmarks.baselines import BASELINES, comosvc
from comosvc.benchmarks.baselines.parts import NetworkSize, count_gflop_per_s, sampler_stage
from comosvc.benchmarks.baselines.sampler import Sampler
from comosvc.benchmarks.baselines.steps import STAGES, HostStage, TimedStep
from comosvc.runtime.audio.spec import COMOSVC_24K

MILLIONS = {
    "comosvc-authors": {"content": 94.37, "acoustic": 55.15, "vocoder": 13.9},
    "comosvc-teacher": {"acoustic": 54.95, "condition": 0.203},
    "sovits-flow": {"acoustic+vocoder": 33.9},
    "sovits-diff": {"condition+acoustic": 55.2, "vocoder": 14.2},
    "diffsvc": {"acoustic": 15.1, "vocoder": 13.9},
    "diffsvc-20x512": {"acoustic": 54.95, "vocoder": 13.9},
}
GFLOP_PER_S = {
    # 13.9 as measured on the originals, whose counter did not see the attention, and the attention of 10 s: 0.92
    "comosvc-authors": {"content": 13.9 + 0.92, "acoustic": 17.9, "vocoder": 70.5, "all": 103},
    "comosvc-teacher": {"acoustic": 893},
    "sovits-flow": {"acoustic+vocoder": 59.5},
    "sovits-diff": {"acoustic": 100 * 8.2, "vocoder": 56},
    "sovits-diff-1000": {"acoustic": 1000 * 8.2},
    "sovits-diff-shallow": {"acoustic": 10 * 8.2, "first_acoustic+first_vocoder": 59.5},
    "diffsvc": {"acoustic": 101 * 5.0},
    "diffsvc-1000": {"acoustic": 1000 * 5.0},
    "sovits-diff-1000-20x512": {"acoustic": 1000 * 17.82},
    "diffsvc-20x512": {"acoustic": 101 * 17.82},
}
WITHIN = 0.02  # what two figures of rounding, and another counter, leave

_ONES = np.ones(3)


@pytest.fixture(scope="module")
def systems():
    return {id: make() for id, make in BASELINES.items()}


def test_ids_are_listed_without_torch():
    script = (
        "import sys; import comosvc.benchmarks.baselines as b; print(*b.BASELINES); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"sovits-flow", "sovits-diff", "diffsvc", "comosvc-authors", "comosvc-teacher"} <= {*done.stdout.split()}


def test_systems_are_what_they_are_called(systems):
    for id, system in systems.items():
        assert system.id == id
        names = [stage.name for stage in system.stages]
        assert names == [name for name in STAGES if name in names]
        assert [type(stage) for stage in system.stages if stage.name == "f0"] == [HostStage]
        networks = {stage.name for stage in system.stages if isinstance(stage, TimedStep)}
        assert networks == set(system.parameters) == set(system.gflop_per_s)
        assert (system.overhead is not None) == id.startswith("comosvc")
    assert len({system.title for system in systems.values()}) == len(systems)


def total(values, names):
    return sum(values.values()) if names == "all" else sum(values[name] for name in names.split("+"))


@pytest.mark.parametrize("id", MILLIONS)
def test_sizes_are_the_originals(systems, id):
    for names, millions in MILLIONS[id].items():
        assert total(systems[id].parameters, names) / 1e6 == pytest.approx(millions, rel=WITHIN)


@pytest.mark.parametrize("id", GFLOP_PER_S)
def test_costs_are_the_originals(systems, id):
    for names, gflop in GFLOP_PER_S[id].items():
        assert total(systems[id].gflop_per_s, names) == pytest.approx(gflop, rel=WITHIN)


@pytest.mark.parametrize(
    ("id", "evaluations"),
    [
        ("comosvc-authors", 1),
        ("comosvc-teacher", 50),
        ("sovits-diff", 100),
        ("sovits-diff-1000", 1000),
        ("sovits-diff-shallow", 10),
        ("diffsvc", 101),
        ("diffsvc-1000", 1000),
        ("sovits-diff-20x512", 100),
        ("diffsvc-20x512", 101),
    ],
)
def test_evaluations_are_the_published(systems, id, evaluations):
    (acoustic,) = [stage for stage in systems[id].stages if stage.name == "acoustic"]
    assert acoustic.evaluations == evaluations
    assert str(evaluations) in systems[id].title or evaluations == 1


def test_the_counter_counts_a_multiplication_and_an_addition():
    """The step path once for a clip, everything else for each frame."""
    size = NetworkSize(layers=1, channels=4, hidden=3, n_mels=2)
    sampler = Sampler(**{name: _ONES for name in ("time", "c_in", "u", "v", "a", "s")}, b=_ONES[:, None])
    found = count_gflop_per_s(sampler_stage(sampler, size, COMOSVC_24K), seconds=2.0)
    frame = 2 * 4 + 4 * 8 * 3 + 3 * 8 + 4 * 8 + 4 * 4 + 4 * 2
    assert found * 1e9 * 2.0 == 3 * 2 * (375 * frame + 4 * 16 + 16 * 4 + 4 * 4)


def test_stages_are_the_same_at_each_call():
    stage = comosvc.student_stage(NetworkSize(layers=1, channels=4, hidden=3, n_mels=4), COMOSVC_24K)
    first, second = stage.build(), stage.build()
    assert all(bool((first.state_dict()[name] == value).all()) for name, value in second.state_dict().items())
    assert all(bool((array == stage.inputs(1.0, 2)[name]).all()) for name, array in stage.inputs(1.0, 2).items())
