"""ONNX Runtime's binding, padding and buckets, with its CPU in place of the GPU; and why it does not work."""

import importlib.metadata

import numpy as np
import onnxruntime
import pytest
from gpu_double import HostDevice

from comosvc.runtime import ComosvcError, Converter, ProviderError, doctor
from comosvc.runtime.bundle import open_bundle
from comosvc.runtime.drawn import Drawn
from comosvc.runtime.gpu import Gpu
from comosvc.runtime.providers import cuda

GPU = Gpu("Test GPU", "8.9", 8 << 30, (13, 0))


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The provider as it is, but for the names of provider and device, and options that the CPU does not know."""
    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    monkeypatch.setattr(cuda, "CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(cuda, "_DEVICE", "cpu")
    real = onnxruntime.InferenceSession
    opened = []

    def session(model, options, providers):
        opened.append([entry[1] if isinstance(entry, tuple) else {} for entry in providers])
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    cuda._probe_runtime.cache_clear()
    yield opened
    cuda._probe_runtime.cache_clear()


def test_a_conversion_is_that_of_the_cpu(on_the_cpu, bundle_path, song):
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = converter.convert(song, 24_000, steps=2)
    with Converter(bundle_path, provider="cuda", threads=1) as converter:
        assert (converter.provider, converter.precision) == ("cuda", "fp32")
        found = converter.convert(song, 24_000, steps=2)
        graphs = converter._graphs
    np.testing.assert_allclose(found.mel, wanted.mel, atol=1e-4)  # padded: sums in another order
    np.testing.assert_allclose(found.audio, wanted.audio, atol=1e-4)
    assert all(options[0]["use_tf32"] == "0" for options in on_the_cpu[-5:])
    for name in ("content", "pitch", "acoustic", "acoustic_n", "vocoder"):
        assert graphs[name].transfers.calls > 0
        assert graphs[name].transfers.to_device_bytes > graphs[name].transfers.to_host_bytes > 0


def test_short_calls_of_one_clip_have_buckets_of_their_own(on_the_cpu, bundle_path):
    bundle = open_bundle(bundle_path)
    graph = cuda.open_graphs(bundle, "fp32", 1)["vocoder"]
    assert on_the_cpu[-1][0]["enable_cuda_graph"] == "1"
    plain = cuda.open_graphs(bundle, "fp32", 1)["vocoder"]
    plain.captured_frames = 0
    rng = np.random.default_rng(0)
    for frames in (33, 36, 20, 33):
        inputs = {
            "mel": rng.normal(size=(1, frames, 8)).astype(np.float32),
            "f0_hz": np.full((1, frames), 200, np.float32),
            "source": rng.normal(size=(1, frames * 128, 1)).astype(np.float32),
            "noise": rng.normal(size=(1, frames * 128)).astype(np.float32),
        }
        found = graph.run(inputs)[0].copy()
        np.testing.assert_array_equal(found, plain.run(inputs)[0])
    assert sorted(graph._buckets) == [20, 36]
    assert len({bucket.number for bucket in graph._buckets.values()}) == 2
    graph.run({name: np.repeat(array, 2, axis=0) for name, array in inputs.items()})
    assert len(graph._buckets) == 2  # a batch is none of a stream's calls
    assert not plain._buckets


def test_the_self_test_knows_that_calls_are_padded(on_the_cpu):
    """Every probe of the demo; of its content nothing is left that does not hear the end, so it is made longer."""
    with Converter("demo", provider="cuda", threads=1) as converter:
        errors = converter.self_test().probe_errors
    assert set(errors) == {"content", "content_low", "pitch", "acoustic", "acoustic_n", "vocoder"}
    assert 0.0 < max(errors.values()) < 1e-4


@pytest.mark.parametrize("name", ["content", "pitch", "acoustic", "acoustic_n", "vocoder"])
def test_the_self_test_finds_a_wrong_graph(on_the_cpu, name):
    with Converter("demo", provider="cuda", threads=1) as converter:
        run = converter._graphs[name].run
        converter._graphs[name].run = lambda inputs: tuple(1.01 * output for output in run(inputs))
        with pytest.raises(ComosvcError, match=rf"self-test failed: \w+ of the {name} graph in fp32 is 1.0e-02 from"):
            converter.self_test()


def test_the_doctor_reports_whatever_a_library_raises(monkeypatch):
    monkeypatch.setattr(doctor, "choose_provider", lambda _: (_ for _ in ()).throw(RuntimeError("CUBLAS failure 3")))
    finding = doctor.check_provider("cuda", "demo")
    assert (finding.works, finding.detail) == (False, "RuntimeError: CUBLAS failure 3")


def test_source_and_noise_are_made_where_they_are_bound(on_the_cpu, bundle_path, song, monkeypatch):
    """Calls of buckets and others; the host makes nothing then. Without CUDA's compiler it does."""
    monkeypatch.setattr(cuda, "Device", HostDevice)
    clips = song[:6_000], np.tile(song, 4)
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = [converter.convert(clip, 24_000, steps=2).audio for clip in clips]
    with Converter(bundle_path, provider="cuda", threads=1) as converter:
        with monkeypatch.context() as patch:
            patch.setattr(Drawn, "__array__", lambda *_, **__: pytest.fail("the host made it"))
            for clip, audio in zip(clips, wanted, strict=True):
                np.testing.assert_allclose(converter.convert(clip, 24_000, steps=2).audio, audio, atol=1e-4)
        crossed, vocoder = converter.transfers, converter._graphs["vocoder"]
    assert vocoder._buckets
    assert crossed["vocoder"].calls > 1
    assert set(crossed["vocoder"].sent_bytes) == {"mel", "f0_hz", "frames of source"}
    assert set(crossed["vocoder"].made_bytes) == {"source", "noise"}
    assert set(crossed["acoustic"].made_bytes) == {"noise"}
    assert crossed["content"].received_bytes.keys() == {"content"}
    monkeypatch.setattr(HostDevice, "load_kernels", lambda *_: (_ for _ in ()).throw(ProviderError("no NVRTC")))
    with Converter(bundle_path, provider="cuda", threads=1) as converter:
        converter.convert(clips[0], 24_000)
        assert set(converter.transfers["vocoder"].sent_bytes) == {"mel", "f0_hz", "source", "noise"}
        assert not converter.transfers["vocoder"].made_bytes


def test_a_graph_that_cannot_be_captured_runs_without(on_the_cpu, bundle_path, monkeypatch):
    session = onnxruntime.InferenceSession

    def refuses_graphs(model, options, providers):
        if providers[0][1].get("enable_cuda_graph") == "1":
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return session(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuses_graphs)
    assert cuda.open_graphs(open_bundle(bundle_path), "fp32", 1)["acoustic"].captured_frames == 0


def test_the_probe_runs_a_graph(on_the_cpu, monkeypatch):
    cuda.probe()
    cuda._probe_runtime.cache_clear()
    monkeypatch.setattr(cuda, "_run_bound", lambda *_: [np.zeros(4)])
    with pytest.raises(ProviderError, match="the GPU computes wrongly"):
        cuda.probe()


def test_the_wheel_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    with pytest.raises(ProviderError, match=r"compiled without CUDA: the wheel for the processor is installed"):
        cuda.probe()


def test_two_wheels_are_a_clash(monkeypatch):
    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "onnxruntime-gpu" else real(name))
    with pytest.raises(ProviderError, match=r"onnxruntime-gpu 9.9 are installed, and overwrite each other"):
        cuda.probe()


def test_a_listed_provider_that_falls_back_is_found_out(monkeypatch):
    """What ONNX Runtime does in silence where CUDA or cuDNN are missing."""
    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers: real(model, options, ["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderError, match=r"it runs on the CPU instead; it is built for CUDA 13 and cuDNN 9"):
        cuda.probe()


def test_out_of_memory_has_words_of_its_own():
    arrays = {"audio": np.zeros((8, 100), np.float32)}
    full = cuda._failure("content", arrays, RuntimeError("BFCArena: Failed to allocate memory for requested buffer"))
    assert "the GPU is out of memory: the content graph with audio (8, 100)" in str(full)
    assert "failed on the GPU with audio (8, 100)" in str(cuda._failure("content", arrays, RuntimeError("else")))
