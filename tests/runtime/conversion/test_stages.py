"""Stages of several clips, driven alone or together: each conversion gets the same outputs."""

import traceback

import numpy as np
import pytest

from comosvc.runtime.audio.frames import Track
from comosvc.runtime.conversion.calls import Batches, Call
from comosvc.runtime.conversion.stages import Clip, Stage, Timings, run, run_clips
from comosvc.runtime.voice.manifest import Context


class Doubler:
    """A graph that doubles, records its batches, and fails on negative input."""

    def __init__(self, raised=ArithmeticError):
        self.batches, self.raised = [], raised

    def run(self, inputs):
        self.batches.append(inputs["x"].shape)
        if inputs["x"].min() < 0:
            raise self.raised("negative")
        return (2.0 * inputs["x"],)


class Doubling(Stage):
    """Doubles values `calls` times, in pieces that see `context` values on either side; zeros are silent."""

    name = "double"

    def __init__(self, values, calls=1, at_once=1, context=0, timings=None):
        self.values, self.calls, self.doubled = np.array(values, np.float64), calls, Track(dtype=np.float64)
        around = Context(past=context, future=0)
        super().__init__(Timings(float) if timings is None else timings, [self.doubled], around, None, at_once)
        self.left = {}

    def inputs(self, first, last):
        return {"x": self.values[None, first:last]}

    def call(self, first, last):
        call = super().call(first, last) if self.calls and self.values[first:last].any() else None
        self.left[call] = self.calls - 1
        return call

    def following(self, call, outputs):
        if not (left := self.left[call]):
            return None
        following = Call("double", {"x": outputs[0][:, : call.inputs["x"].shape[1]]})
        self.left[following] = left - 1
        return following


def doubled(values, calls=2, closed=None):
    stage = Doubling(values, calls)
    try:
        yield stage.plan([(0, len(values))])
    finally:
        if closed is not None:
            closed.append(values)
    return stage.doubled.read(0, len(values)).tolist()


def together(stages, graph, width=8):
    """Results, or the errors' texts, in the order in which the clips ended."""
    clips = run_clips(map(Clip, stages), Batches({"double": graph}, 8), width)
    return [str(clip.error) if clip.error else clip.result for clip in clips]


def test_one_alone():
    clip = Clip(doubled([1, 2]))
    assert run(clip, Batches({"double": Doubler()}, 8)) == [4, 8]
    assert 0.0 < clip.busy_ms < 1_000.0


def test_together_is_alone_in_padded_batches():
    graph = Doubler()
    results = together([doubled([1, 2, 3, 4]), doubled([5, 6, 7])], graph)
    assert sorted(results) == [[4, 8, 12, 16], [20, 24, 28]]
    assert graph.batches == [(2, 4), (2, 4)]


def test_a_short_call_does_not_join_a_long_one():
    graph = Doubler()
    assert sorted(together([doubled([1] * 10), doubled([2])], graph), key=len) == [[8], [4] * 10]
    assert {shape[0] for shape in graph.batches} == {1}


def test_no_more_than_width_at_a_time():
    graph, begun = Doubler(), []

    def counted(number):
        begun.append(number)
        return (yield from doubled([number]))

    clips = run_clips((Clip(counted(number)) for number in range(1, 6)), Batches({"double": graph}, 8), 2)
    next(clips)
    assert len(begun) <= 3
    assert len(list(clips)) == 4
    assert max(shape[0] for shape in graph.batches) == 2


def test_scalars_that_differ_are_not_batched():
    sizes = []

    class Adder:
        def run(self, inputs):
            sizes.append(len(inputs["x"]))
            return (inputs["x"] + inputs["step"],)

    calls = [Call("add", {"x": np.zeros((1, 2)), "step": np.array(number)}) for number in (1, 2, 1)]
    replies = Batches({"add": Adder()}, 8).run_some(calls)
    assert {index: reply.outputs[0][0, 0] for index, reply in replies.items()} == {0: 1, 2: 1}
    assert sizes == [2]


def test_an_error_ends_its_own_conversion_only():
    def broken():
        yield Doubling([1]).plan([(0, 1)])
        raise ValueError("mine")

    results = together([broken(), doubled([3]), doubled([4])], Doubler())
    assert sorted(results, key=str) == sorted(["mine", [12], [16]], key=str)


def test_a_graphs_error_cleans_up_and_its_trace_names_the_stage():
    closed = []
    assert together([doubled([-1], closed=closed)], Doubler()) == ["negative"]
    with pytest.raises(ArithmeticError) as caught:
        run(Clip(doubled([-1], closed=closed)), Batches({"double": Doubler()}, 8))
    assert len(closed) == 2
    assert "yield stage.plan(" in "".join(traceback.format_exception(caught.value))


def test_an_error_of_computed_ends_its_clip_and_is_called_for_every_reply():
    seen = []

    def cancelled(call):
        seen.append(call)
        if len(seen) == 2:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run(Clip(doubled([1], calls=5), cancelled), Batches({"double": Doubler()}))
    assert len(seen) == 2


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_leaving_early_closes_every_conversion_under_way(raised):
    closed = []
    graph = Doubler() if raised is None else Doubler(raised)
    stages = [doubled([1]), doubled([-1 if raised else 1] * 2, 100, closed), doubled([1] * 4, 100, closed)]
    results = run_clips(map(Clip, stages), Batches({"double": graph}), 8)
    if raised is None:
        next(results)
        results.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(results)
    assert sorted(map(len, closed)) == [2, 4]


def test_pieces_are_joined_in_order_and_no_more_run_at_once_than_asked_for():
    graph, timings = Doubler(), Timings(float)
    stage = Doubling([1, 2, 0, 0, 0, 3, 4, 5], calls=2, at_once=2, timings=timings)

    def stages():
        yield stage.plan([(0, 2), (2, 4), (4, 6), (6, 7), (7, 8)])
        yield stage.plan([])

    run(Clip(stages()), Batches({"double": graph}, 8))
    assert stage.doubled.read(0, 8).tolist() == [4, 8, 0, 0, 0, 12, 16, 20]
    assert graph.batches == [(2, 2)] * 2 + [(2, 1)] * 2
    assert timings["double"] > 0.0


def test_context_is_given_and_cut_off():
    graph = Doubler()
    stage = Doubling([1, 2, 3, 4], context=2)

    def stages():
        yield stage.plan([(0, 1), (1, 2), (2, 4)])

    run(Clip(stages()), Batches({"double": graph}))
    assert stage.doubled.read(0, 4).tolist() == [2, 4, 6, 8]
    assert graph.batches == [(1, 1), (1, 2), (1, 4)]


def test_an_error_in_one_piece_is_that_of_the_clip():
    def stages():
        yield Doubling([1, -1], at_once=2).plan([(0, 1), (1, 2)])

    with pytest.raises(ArithmeticError):
        run(Clip(stages()), Batches({"double": Doubler()}))
