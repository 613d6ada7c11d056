"""Graph calls as values: driven alone or together, a conversion sees the same."""

import numpy as np
import pytest

from comosvc.runtime.conversion.calls import Batches, Call, gather, run, run_together, timed


class Doubler:
    """A graph that doubles, remembers its batches, and fails on negative input."""

    def __init__(self):
        self.batches = []

    def run(self, inputs):
        self.batches.append(inputs["x"].shape)
        if inputs["x"].min() < 0:
            raise ArithmeticError("negative")
        return (2.0 * inputs["x"],)


def work(values, calls=2):
    x = np.array([values], np.float64)
    for _ in range(calls):
        [reply] = yield [Call("double", {"x": x})]
        x = reply.outputs[0][:, : x.shape[1]]
    return x[0].tolist()


def failed(_, error):
    return str(error)


def test_one_alone():
    assert run(work([1, 2]), Batches({"double": Doubler()}, 8)) == [4, 8]


def test_together_is_alone_in_padded_batches():
    graph = Doubler()
    results = list(run_together([work([1, 2, 3, 4]), work([5, 6, 7])], Batches({"double": graph}, 8), 8, failed))
    assert sorted(results) == [[4, 8, 12, 16], [20, 24, 28]]
    assert graph.batches == [(2, 4), (2, 4)]


def test_a_short_call_does_not_join_a_long_one():
    graph = Doubler()
    results = list(run_together([work([1] * 10), work([2])], Batches({"double": graph}, 8), 8, failed))
    assert sorted(results, key=len) == [[8], [4] * 10]
    assert {shape[0] for shape in graph.batches} == {1}


def test_no_more_than_width_at_a_time():
    graph, begun = Doubler(), []

    def counted(number):
        begun.append(number)
        return (yield from work([number]))

    results = run_together((counted(number) for number in range(5)), Batches({"double": graph}, 8), 2, failed)
    next(results)
    assert len(begun) <= 3
    assert len(list(results)) == 4
    assert max(shape[0] for shape in graph.batches) == 2


def test_scalars_that_differ_are_not_batched():
    class Adder:
        def run(self, inputs):
            return (inputs["x"] + inputs["step"],)

    def step(number):
        [reply] = yield [Call("add", {"x": np.zeros((1, 2)), "step": np.array(number)})]
        return reply.outputs[0][0, 0]

    assert sorted(run_together([step(1), step(2)], Batches({"add": Adder()}, 8), 8, failed)) == [1, 2]


def test_an_error_ends_its_own_conversion_only():
    def broken():
        yield [Call("double", {"x": np.ones((1, 1))})]
        raise ValueError("mine")

    results = list(run_together([broken(), work([3]), work([4])], Batches({"double": Doubler()}, 8), 8, failed))
    assert sorted(results, key=str) == sorted(["mine", [12], [16]], key=str)


def test_a_graphs_error_reaches_the_conversion_which_cleans_up():
    cleaned = []

    def careful():
        try:
            yield [Call("double", {"x": -np.ones((1, 1))})]
        finally:
            cleaned.append(True)

    assert list(run_together([careful()], Batches({"double": Doubler()}, 8), 8, failed)) == ["negative"]
    with pytest.raises(ArithmeticError):
        run(careful(), Batches({"double": Doubler()}, 8))
    with pytest.raises(ArithmeticError):
        run(timed(careful()), Batches({"double": Doubler()}, 8))
    assert len(cleaned) == 3


def test_leaving_early_closes_what_is_under_way():
    closed = []

    def long():
        try:
            for _ in range(100):
                yield [Call("double", {"x": np.ones((1, 1))})]
        finally:
            closed.append(True)

    results = run_together([work([1]), timed(long()), long()], Batches({"double": Doubler()}, 8), 8, failed)
    next(results)
    results.close()
    assert len(closed) == 2


def test_timed_counts_its_own_time():
    result, ms = run(timed(work([1])), Batches({"double": Doubler()}, 8))
    assert result == [4]
    assert 0.0 < ms < 1_000.0


def test_an_interrupt_closes_every_conversion_though_others_hold_them():
    class Interrupted:
        def run(self, inputs):
            raise KeyboardInterrupt

    closed = []

    def held(number):
        try:
            yield [Call("double", {"x": np.ones((1, 1))})]
        finally:
            closed.append(number)

    works = [held(number) for number in range(3)]
    with pytest.raises(KeyboardInterrupt):
        list(run_together(works, Batches({"double": Interrupted()}, 8), 3, failed))
    assert sorted(closed) == [0, 1, 2]


def test_works_gathered_are_those_works_one_after_the_other():
    graph = Doubler()
    works = [work([1, 2]), work([3, 4, 5], calls=3), work([6], calls=0), work([7, 8])]
    assert run(gather(works, 2), Batches({"double": graph}, 8)) == [[4, 8], [24, 32, 40], [6], [28, 32]]
    assert run(gather([], 2), Batches({})) == []


def test_no_more_are_gathered_at_once_than_asked_for():
    graph = Doubler()
    run(gather([work([number]) for number in range(5)], 3), Batches({"double": graph}, 8))
    assert graph.batches == [(3, 1), (3, 1), (2, 1), (2, 1)]


def test_an_error_in_one_of_those_gathered_is_that_of_the_whole():
    with pytest.raises(ArithmeticError):
        run(gather([work([1]), work([-1])], 2), Batches({"double": Doubler()}))
