"""The TensorRT runner on a GPU double: order of calls, buckets, memory, and that a conversion stays what it is."""

import re
from dataclasses import replace

import numpy as np
import pytest
from gpu_double import Context, HostDevice, engine_graph

from comosvc.runtime import ComosvcError, ProviderError
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END
from comosvc.runtime.conversion.shapes import bucket
from comosvc.runtime.converter import Converter
from comosvc.runtime.providers import self_test as probes
from comosvc.runtime.providers.self_test import probe_errors, read_probes
from comosvc.runtime.voice.bundle import open_bundle


@pytest.fixture(scope="module")
def bundle(bundle_path):
    return open_bundle(bundle_path)


@pytest.fixture
def device():
    return HostDevice()


def vocoder_inputs(bundle, batch, frames, seed=0):
    rng, spec = np.random.default_rng(seed), bundle.manifest.audio
    return {
        "mel": rng.normal(size=(batch, frames, spec.n_mels)).astype(np.float32),
        "f0_hz": rng.uniform(80, 400, (batch, frames)).astype(np.float32),
        "source": rng.normal(size=(batch, frames * spec.hop_length, 1)).astype(np.float32),
        "noise": rng.normal(size=(batch, frames * spec.hop_length)).astype(np.float32),
    }


def test_a_conversion_through_the_runner_is_that_of_the_cpu(bundle_path, bundle, device, song):
    """Padding to buckets, captured graphs and parts of batches do not change the result."""
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = converter.convert(song, 24_000, steps=2)
        converter._graphs = {name: engine_graph(bundle, name, device)[0] for name in bundle.manifest.graphs}
        found = converter.convert(song, 24_000, steps=2)
        assert device.launches > 0
        # Float32 sums in another order, because lengths differ; 2e-6 was seen.
        np.testing.assert_allclose(found.mel, wanted.mel, atol=1e-4)
        np.testing.assert_allclose(found.audio, wanted.audio, atol=1e-4)
        before = device.allocations
        again = converter.convert(song, 24_000, steps=2)
        assert device.allocations == before, "memory was allocated after the warm-up"
        np.testing.assert_array_equal(again.audio, found.audio)


def test_the_self_test_knows_that_calls_are_padded(device):
    demo = open_bundle("demo")
    with Converter("demo", provider="cpu", threads=1) as converter:
        converter._graphs = {name: engine_graph(demo, name, device)[0] for name in demo.manifest.graphs}
        errors = converter.self_test().probe_errors
        assert set(errors) == set(demo.manifest.graphs)
        assert 0.0 < max(errors.values()) < 1e-4
        run = converter._graphs["content"].run
        converter._graphs["content"].run = lambda inputs: tuple(1.01 * output for output in run(inputs))
        with pytest.raises(
            ComosvcError, match=r"content of the content graph in fp32 is 1\.0e-02 from what the CPU gives"
        ):
            converter.self_test()


@pytest.mark.parametrize("name", ["content", "vocoder"])
def test_a_probe_that_torch_did_not_give_is_found_in_what_it_is_compared_with(device, monkeypatch, name):
    """A probe too short for the engine is compared with the CPU's graph, which must agree with the probe."""
    demo = open_bundle("demo")

    def wrong(bundle):
        for probe in read_probes(bundle):
            off = 1.01 if probe.graph == name else 1.0
            yield replace(probe, outputs={tensor: off * output for tensor, output in probe.outputs.items()})

    monkeypatch.setattr(probes, "read_probes", wrong)
    graphs = {graph: engine_graph(demo, graph, device)[0] for graph in demo.manifest.graphs}
    with pytest.raises(ComosvcError, match=rf"of the {name} graph in fp32 is 9\.9e-03 from what torch gave at export"):
        probe_errors(demo, graphs, "fp32")


def test_engines_of_a_stream_run_streams(bundle_path, bundle, device, song):
    """And nothing else: their longest call is a block of a second."""
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = converted_in_blocks(converter, song)
        entries = bundle.manifest.graphs
        converter._graphs = {name: engine_graph(bundle, name, device, uses=("stream",))[0] for name in entries}
        np.testing.assert_allclose(converted_in_blocks(converter, song), wanted, atol=1e-4)
        with pytest.raises(ProviderError, match="there is none for clip, batch"):
            converter.convert(song, 24_000)


def converted_in_blocks(converter, song):
    with converter.stream(24_000, block_ms=100) as stream:
        heard = [stream.process(song[first : first + 2_400]) for first in range(0, len(song), 2_400)]
        return np.concatenate([*heard, stream.flush()])


def test_nothing_of_one_call_is_left_in_the_next_and_bytes_are_counted(bundle, device):
    graph, contexts = engine_graph(bundle, "vocoder", device)
    long, short = vocoder_inputs(bundle, 1, 36), vocoder_inputs(bundle, 1, 33)
    alone = engine_graph(bundle, "vocoder", HostDevice())[0].run(short)[0]
    outputs = graph.run(long)
    assert graph.transfers.to_device_bytes == sum(array.nbytes for array in long.values())
    assert graph.transfers.to_host_bytes == outputs[0].nbytes
    assert graph.transfers.ms > 0.0
    np.testing.assert_array_equal(graph.run(short)[0], alone)
    assert graph.transfers.calls == 2
    assert [context.executed for context in contexts] == [3]  # one bucket: warm-up and two calls


def test_a_batch_larger_than_the_engine_is_taken_apart(bundle, device):
    graph, _ = engine_graph(bundle, "vocoder", device)
    inputs = vocoder_inputs(bundle, 35, 8)
    found = graph.run(inputs)[0]
    assert found.shape == (35, 8 * 128)
    alone = graph.run({name: array[34:] for name, array in inputs.items()})[0]
    np.testing.assert_allclose(found[34], alone[0], atol=1e-5)


def test_scalars_and_outputs_of_other_lengths(bundle, device):
    graph, _ = engine_graph(bundle, "acoustic_n", device)
    rng, spec = np.random.default_rng(1), bundle.manifest.audio
    inputs = {
        "content": rng.random((2, 9, 6)).astype(np.float32),
        "content_index": np.tile(np.arange(17, dtype=np.int32) // 2, (2, 1)),
        "f0_hz": np.full((2, 17), 200, np.float32),
        "loudness": np.full((2, 17), 0.1, np.float32),
        "singer": rng.random((2, 4)).astype(np.float32),
        "mel": rng.random((2, 17, spec.n_mels)).astype(np.float32),
        "noise": rng.random((2, 17, spec.n_mels)).astype(np.float32),
    }
    one, two = (graph.run({**inputs, "step_index": np.array(i, np.int32)})[0] for i in (0, 2))
    assert one.shape == (2, bucket(17), spec.n_mels)
    assert np.abs(one - two).max() > 1e-3


def test_where_everything_is_seen_nothing_is_padded_or_captured(bundle, device):
    """A window of ContentVec: zeros after it would change all of it. Each use has one context, for every length."""
    whole = replace(bundle, manifest=replace(bundle.manifest, front_end=AUTHORS_FRONT_END))
    graph, contexts = engine_graph(whole, "content", device)
    rng, kept = np.random.default_rng(2), []
    graph._loaded = replace(graph._loaded, prepared=lambda: kept.append(contexts[-1].executed))
    for n in (401, 16_003, 16_003, 8_000, 100_003, 402):
        audio = rng.normal(size=(1, n)).astype(np.float32)
        found = graph.run({"audio": audio})[0]
        np.testing.assert_array_equal(found, contexts[-1]._compute({"audio": audio})[0])
    assert device.launches == 0
    assert [context.executed for context in contexts] == [5, 1]  # no warm-up: that would double the work
    assert kept == [1, 1], "kernels are kept when each context has run once"


def test_a_shape_that_no_profile_holds_is_named(bundle, device):
    graph, _ = engine_graph(bundle, "vocoder", device, uses=("stream",))
    with pytest.raises(ProviderError) as error:
        graph.run(vocoder_inputs(bundle, 1, 1500))
    assert re.search(r"vocoder was not built for B 1, T 1536.*stream: .*T 1-", str(error.value))
    assert str(error.value).endswith("there is none for clip, batch\nhint: comosvc-export engines of the test")
    whole, _ = engine_graph(bundle, "vocoder", device)
    with pytest.raises(ProviderError, match=r"not built for B 1, T 1536[^\n]*$"):  # nothing that one could build
        whole.run(vocoder_inputs(bundle, 1, 1500))


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("execute_async_v3", False, "the engine of vocoder does not run"),
        ("set_tensor_address", False, "the engine of vocoder does not take an address for mel"),
        ("infer_shapes", ["noise"], "TensorRT knows too little of noise of the vocoder graph"),
        ("infer_shapes", RuntimeError("inference failed"), r"vocoder does not take \{'mel': .*: inference failed"),
    ],
)
def test_a_refusal_of_the_library_is_an_error(bundle, device, monkeypatch, method, answer, message):
    def refuses(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Context, method, refuses)
    with pytest.raises(ProviderError, match=message):
        engine_graph(bundle, "vocoder", device)[0].run(vocoder_inputs(bundle, 1, 8))


def test_a_capture_that_fails_is_said_once_and_done_without(bundle, device, monkeypatch, caplog):
    graph, contexts = engine_graph(bundle, "vocoder", device)
    plain = engine_graph(bundle, "vocoder", HostDevice(), captures=False)[0]

    def refuses(work):
        raise ProviderError("CUDA: cuStreamEndCapture gave CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    monkeypatch.setattr(device, "capture", refuses)
    for frames in (8, 40, 8):
        inputs = vocoder_inputs(bundle, 1, frames)
        np.testing.assert_array_equal(graph.run(inputs)[0], plain.run(inputs)[0])
    assert device.launches == 0
    assert sum(context.executed for context in contexts) == 5  # two warm-ups, three calls
    [said] = [record.getMessage() for record in caplog.records]
    assert "the engine of vocoder runs without CUDA graphs from now on: CUDA: cuStreamEndCapture gave" in said
