import pytest

from comosvc.benchmarks.speed.timing import Clock, Rounds, Sample, Step, in_turns, median_error, spread, time_steps
from comosvc.runtime.errors import ComosvcError


class FakeTime:
    """Stands still unless work is done."""

    def __init__(self):
        self.now, self.cpu, self.log = 0.0, 0.0, []

    def clock(self):
        return Clock(wall=lambda: self.now, cpu=lambda: self.cpu, sync=self.sync)

    def sync(self):
        self.log.append("sync")
        self.now += 0.5  # what the device still had to do

    def work(self, name, seconds):
        def run(n):
            self.log.append((name, n))
            self.now += n * seconds
            self.cpu += 2 * n * seconds

        return run


def test_stages_are_timed_between_synchronisations():
    fake = FakeTime()
    steps = [Step("content", fake.work("content", 2.0)), Step("acoustic", fake.work("acoustic", 3.0), 4)]
    turn = time_steps(steps, fake.clock())
    assert fake.log == ["sync", ("content", 1), "sync", "sync", ("acoustic", 4), "sync"]
    assert turn["content"] == Sample(2.5, 4.0)  # the sync after it is part of it, the one before is not
    assert turn["acoustic"] == Sample(12.5, 24.0, evaluations=4, timed=4)


@pytest.mark.parametrize(("evaluations", "timed"), [(1, 1), (50, 50), (51, 10), (1000, 10)])
def test_samplers_of_many_evaluations_are_timed_in_part_and_scaled(evaluations, timed):
    fake = FakeTime()
    turn = time_steps([Step("acoustic", fake.work("a", 1.0), evaluations)], Clock(lambda: fake.now, lambda: fake.cpu))
    assert fake.log == [("a", timed)]
    sample = turn["acoustic"]
    assert (sample.wall_s, sample.cpu_s) == pytest.approx((evaluations, 2 * evaluations))
    assert (sample.evaluations, sample.timed) == (evaluations, timed)


def test_a_full_run_is_not_scaled():
    fake = FakeTime()
    turn = time_steps([Step("acoustic", fake.work("a", 1.0), 200)], fake.clock(), most=200)
    assert ("a", 200) in fake.log
    assert turn["acoustic"].timed == 200


def takers_of(log, names, broken=()):
    def taker(name):
        def turn():
            log.append(name)
            if name in broken:
                raise ComosvcError("broken")
            return {"total": Sample(1.0, 1.0)}

        return turn

    return {name: taker(name) for name in names}


def test_systems_take_turns_in_alternating_order():
    log = []
    taken = in_turns(takers_of(log, "abc"), Rounds(most=3, least=3), failed=pytest.fail)
    assert "".join(log) == "abc" + "cba" + "abc"
    assert {name: len(turns) for name, turns in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_rounds_end_when_time_is_up_but_not_before_the_least():
    now = iter([0.0, *[100.0] * 10])
    log = []
    in_turns(takers_of(log, "a"), Rounds(most=9, least=3, limit_s=50.0), pytest.fail, wall=lambda: next(now))
    assert len(log) == 3


def test_a_system_that_breaks_is_told_and_the_others_go_on():
    log, told = [], []
    taken = in_turns(takers_of(log, "abc", broken="b"), Rounds(2, 2), lambda key, error: told.append((key, str(error))))
    assert told == [("b", "broken")]
    assert "".join(log) == "abc" + "ca"
    assert set(taken) == {"a", "c"}


def test_noise_of_a_median():
    assert spread([1.0, 1.0, 1.0]) == 0.0
    assert spread([0.8, 0.9, 1.0, 1.1, 1.2]) == pytest.approx(0.2)
    assert spread([1.0, 2.0]) is None
    assert median_error([1.0]) is None
    few, many = [0.9, 1.0, 1.1], [0.9, 1.0, 1.1] * 40
    error_few, error_many = median_error(few), median_error(many)
    assert error_few is not None
    assert error_many is not None
    assert error_many < 0.5 * error_few
