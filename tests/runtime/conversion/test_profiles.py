"""Shapes of engines: every call that a conversion makes fits, is padded a little, and to few lengths."""

from dataclasses import replace

import numpy as np
import pytest
from gpu_cases import NAMES, cases, future_of, inputs_of
from opened import graphs_of, recorded

from comosvc.export.precision.variants import input_maker
from comosvc.runtime import Converter, OptionError
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END
from comosvc.runtime.conversion.request import PIECE_S
from comosvc.runtime.conversion.shapes import USES, bucket, grid_of, input_shapes, length_of, parse_uses, profile
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.graphs import GRAPHS


@pytest.mark.parametrize(("voice", "steps"), [("demo", 8), ("tiny", 4)])
def test_every_call_of_long_and_short_clips_fits_the_clip_profile(bundle_path, voice, steps):
    rng = np.random.default_rng(0)
    with Converter("demo" if voice == "demo" else bundle_path, provider="cpu", threads=1) as converter:
        every = recorded(converter)
        for seconds in (0.01, 17.0):  # a second piece has context on both sides
            converter.convert(0.1 * rng.standard_normal(round(24_000 * seconds)), 24_000, steps=steps)
        for name in converter.manifest.graphs:
            shapes = [shapes for graph, shapes in every if graph == name]
            assert shapes or name == "content_low"
            entry, ranges = converter.manifest.graphs[name], profile(converter.manifest, name, "clip")
            allowed, grid = input_shapes(entry, ranges), grid_of(converter.manifest, name)
            if shapes:  # a piece with context on both sides is as long as the grid says, to the frame
                assert max(map(grid.frames_for, shapes)) == length_of(converter.manifest, name, "clip").usual, name
            for call in shapes:
                sizes = grid.sizes(1, bucket(grid.frames_for(call)))
                padded = {n: tuple(sizes[d] if isinstance(d, str) else d for d in dims) for n, _, dims in entry.inputs}
                for tensor, (least, _, most) in allowed.items():
                    assert np.all(np.array(call[tensor]) <= padded[tensor])
                    assert np.all(np.array(least) <= padded[tensor])
                    assert np.all(np.array(padded[tensor]) <= most), (name, tensor, padded[tensor], most)


def test_the_longest_call_is_not_far_below_the_largest_shape():
    """Engines that could take much longer calls than there are would be slower and larger for nothing."""
    manifest = open_bundle("demo").manifest
    for name in manifest.graphs:
        length, grid = length_of(manifest, name, "clip"), grid_of(manifest, name)
        piece = length.usual - grid.context
        rate = 16_000 if grid.takes_audio else manifest.audio.sample_rate
        assert piece == round(PIECE_S * rate / grid.hop)
        assert length.most <= 1.125 * length.usual


def holds(ranges, sizes):
    return all(found.least <= sizes[letter] <= found.most for letter, found in ranges.items())


@pytest.mark.parametrize("graph", NAMES)
def test_what_is_run_on_a_gpu_is_what_engines_are_built_for(graph):
    """The cases of `test_on_gpu` come from every use, reach the longest, and none is outside of all."""
    bundle = open_bundle("demo")
    maker, entry = input_maker(bundle.manifest, bundle.embeddings), bundle.manifest.graphs[graph]
    grid, used = grid_of(bundle.manifest, graph), []
    profiles = {use: profile(bundle.manifest, graph, use) for use in USES}
    for _, frames, batch in (case for case in cases() if case[0] == graph):
        shapes = {name: array.shape for name, array in inputs_of(maker, bundle.manifest, graph, frames, batch).items()}
        sizes = grid.sizes(bucket(batch), bucket(grid.frames_for(shapes)))
        for name, _, dims in entry.inputs:
            assert all(size <= sizes.get(dim, dim) for size, dim in zip(shapes[name], dims, strict=True)), name
        used += [next((use for use in USES if holds(profiles[use], sizes)), f"none holds {frames} x {batch}: {sizes}")]
    assert {*used} == {*USES}
    assert max(frames for name, frames, _ in cases() if name == graph) == length_of(bundle.manifest, graph, "clip").most


def test_what_is_run_on_a_gpu_is_no_matter_of_chance():
    """Where an input that differs by 1e-6 gives another F0, no two devices agree, and neither is wrong."""
    rng = np.random.default_rng(5)
    with Converter("demo", provider="cpu", threads=1) as converter:
        bundle = converter._bundle
        maker = input_maker(bundle.manifest, bundle.embeddings)
        for graph, frames, batch in cases():
            inputs = inputs_of(maker, bundle.manifest, graph, frames, batch)
            moved = {
                name: (value * (1 + 1e-6 * rng.standard_normal(value.shape))).astype(value.dtype)
                if value.dtype == np.float32
                else value
                for name, value in inputs.items()
            }
            for wanted, got in zip(*(graphs_of(converter)[graph].run(each) for each in (inputs, moved)), strict=True):
                heard = wanted.shape[1] * (frames - 1 - future_of(bundle.manifest, graph)) // frames
                error = np.linalg.norm((got - wanted)[:, :heard]) / np.linalg.norm(wanted[:, :heard])
                assert error < 1e-5, (graph, frames, batch)


@pytest.mark.parametrize("graph", ["content", "pitch", "acoustic", "acoustic_n", "vocoder"])
@pytest.mark.parametrize("use", list(USES))
def test_ranges_are_ordered_and_lengths_agree(bundle_path, graph, use):
    manifest = open_bundle(bundle_path).manifest
    ranges = profile(manifest, graph, use)
    assert set(ranges) == {d for t in GRAPHS[graph].inputs for d in t.dims} & set("BNTLS")
    for found in ranges.values():
        assert 1 <= found.least <= found.usual <= found.most
    if "L" in ranges:
        hop = manifest.audio.hop_length
        assert [ranges["L"].least, ranges["L"].usual, ranges["L"].most] == [
            hop * n for n in (ranges["T"].least, ranges["T"].usual, ranges["T"].most)
        ]
    assert ranges["B"].most == USES[use].batch[2]


def test_a_whole_window_fits_as_it_is(bundle_path):
    """ContentVec is given 20 s and no sample more."""
    manifest = replace(open_bundle(bundle_path).manifest, front_end=AUTHORS_FRONT_END)
    ranges = profile(manifest, "content", "clip")
    assert ranges["N"].least == 400
    assert 320_000 <= ranges["N"].most <= 1.125 * 320_000 + 320
    assert grid_of(manifest, "content").sees_all


def test_buckets_add_an_eighth_at_most_and_there_are_few():
    lengths = np.arange(1, 5_000)
    buckets = np.array([bucket(int(n)) for n in lengths])
    assert np.all(buckets >= lengths)
    assert np.all(buckets <= np.maximum(1.125 * lengths + 1e-9, lengths))
    assert len(set(buckets[(lengths >= 1_024) & (lengths < 2_048)])) <= 9
    assert all(bucket(int(n)) == n for n in set(buckets.tolist()))


def test_uses_are_read_in_one_order():
    assert parse_uses(["batch", "stream"]) == ("stream", "batch")
    with pytest.raises(OptionError, match="unknown profile 'live'; known: stream, clip, batch"):
        parse_uses(["live"])
