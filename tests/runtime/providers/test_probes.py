"""Which part of an output depends on the input's end, and which files of probes are refused."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import load, save
from tiny_bundle import edited, write_folder

from comosvc.export.precision.variants import input_maker
from comosvc.runtime import BundleError, Converter
from comosvc.runtime.conversion.shapes import grid_of
from comosvc.runtime.providers.self_test import PROBES_FILE, read_probes, steps_at_end
from comosvc.runtime.providers.sessions import open_graph
from comosvc.runtime.providers.transfers import padded
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.graphs import GRAPHS


@pytest.mark.parametrize("graph", ["content", "content_low", "pitch", "acoustic", "acoustic_n", "vocoder"])
@pytest.mark.parametrize("voice", ["demo", "tiny"])
def test_what_is_compared_does_not_hear_the_padding(bundle_path, voice, graph):
    """Content of the tiny voice is seen through a window."""
    bundle = open_bundle("demo" if voice == "demo" else bundle_path)
    manifest = bundle.manifest
    if graph not in manifest.graphs:
        pytest.skip(f"this voice has no {graph} graph")
    entry, grid = manifest.graphs[graph], grid_of(manifest, graph)
    frames = 60
    length = frames * grid.hop - grid.hop // 3 if grid.takes_audio else frames
    inputs = input_maker(manifest, bundle.embeddings).make(GRAPHS[graph], 1, length, seed=1)
    sizes, longer = grid.sizes(1, 2 * frames), {}
    for name, dtype, dims in entry.inputs:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
        longer[name] = padded(inputs[name], shape, np.dtype(dtype)).reshape(shape)
    run = open_graph(bundle, graph, entry, 1).run
    at_end = steps_at_end(manifest, graph)
    for alone, followed in zip(run(inputs), run(longer), strict=True):
        compared = alone.shape[1] - at_end
        apart = np.abs(alone[:, :compared] - followed[:, :compared])
        assert apart.max() < 1e-5 * np.abs(alone).max()


PROBES = {
    "of an unknown graph": lambda t: {**t, "9.evil.in.audio": np.zeros((1, 10), np.float32)},
    "of another name": lambda t: {**t, "audio": np.zeros((1, 10), np.float32)},
    "with a further input": lambda t: {**t, "0.content.in.mel": np.zeros((1, 10), np.float32)},
    "without inputs": lambda t: {key: value for key, value in t.items() if ".in." not in key},
    "without outputs": lambda t: {key: value for key, value in t.items() if ".out." not in key},
    "of no length": lambda t: {key: value[:, :0] if value.ndim > 1 else value for key, value in t.items()},
    "of another type": lambda t: {key: value.astype(np.float64) for key, value in t.items()},
    "of another rank": lambda t: {key: value[None] for key, value in t.items()},
    "of other lengths": lambda t: {key: value[:, :-1] if key.endswith("f0_hz") else value for key, value in t.items()},
    "of longer outputs": lambda t: {
        key: np.repeat(value, 2, 1) if ".out." in key else value for key, value in t.items()
    },
    "with NaN": lambda t: {key: value * np.float32(np.nan) if ".out." in key else value for key, value in t.items()},
    "with indices beyond": lambda t: {
        key: value + np.int32(10**6) if "content_index" in key else value for key, value in t.items()
    },
    "of one graph alone": lambda t: {key: value for key, value in t.items() if ".content." in key},
    "of nothing": lambda t: {},
}


def with_probes(folder, data, *, hashed=True):
    """The unpacked demo with other probes and, if `hashed`, their hash."""
    files = open_bundle("demo").all_files() | {PROBES_FILE: data}
    digest = hashlib.sha256(data).hexdigest()
    if hashed:
        files = edited(files, lambda m: m["provenance"]["files"].update({PROBES_FILE: digest}))
    return write_folder(folder, files)


@pytest.fixture(scope="module")
def demo_probes():
    return load(open_bundle("demo").read(PROBES_FILE))


@pytest.mark.parametrize("what", PROBES)
def test_probes_that_do_not_fit_are_refused(demo_probes, tmp_path, what):
    tensors = {key: np.ascontiguousarray(value) for key, value in PROBES[what](demo_probes).items()}
    with pytest.raises(BundleError, match=r"probes.safetensors"):
        read_probes(open_bundle(with_probes(tmp_path / "voice", save(tensors))))


def test_a_self_test_refuses_changed_probes_and_whatever_is_no_file_of_them(tmp_path):
    for name, data, hashed in (("other", save({}), False), ("empty", save({}), True), ("garbage", b"garbage", True)):
        with (
            Converter(with_probes(tmp_path / name, data, hashed=hashed), provider="cpu", threads=1) as converter,
            pytest.raises(BundleError, match=r"probes.safetensors"),
        ):
            converter.self_test()


def test_the_probes_of_the_demo_are_of_every_graph():
    found = read_probes(open_bundle("demo"))
    assert {probe.graph for probe in found} == set(GRAPHS)
    assert sum(probe.graph == "acoustic_n" for probe in found) == 7  # one for each noise level
