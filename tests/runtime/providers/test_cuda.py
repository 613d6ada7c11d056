"""ONNX Runtime's binding, padding and buckets, with its CPU in place of the GPU; and why it does not work."""

import importlib.metadata
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from gpu_double import HostDevice

from comosvc.runtime import BundleError, ComosvcError, Converter, ProviderError
from comosvc.runtime.cli import doctor
from comosvc.runtime.conversion.generated import Generated
from comosvc.runtime.providers import cuda
from comosvc.runtime.providers.gpu import GPU_LOCK, Gpu
from comosvc.runtime.voice.bundle import open_bundle

FULL = "BFCArena: Failed to allocate memory for requested buffer of size 1073741824"
GPU = Gpu("Test GPU", "8.9", 8 << 30, (13, 0))


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The provider as it is, but for the names of provider and device, and options that the CPU does not know."""
    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    monkeypatch.setattr(cuda, "CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(cuda, "_DEVICE", "cpu")
    real = onnxruntime.InferenceSession
    opened = []

    def session(model, options, providers, **others):
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


def test_a_first_graph_that_finds_no_memory_is_told_so(on_the_cpu, monkeypatch):
    monkeypatch.setattr(cuda, "_run_bound", lambda *_: (_ for _ in ()).throw(RuntimeError(FULL)))
    with pytest.raises(ProviderError, match="the GPU is out of memory: a graph of one addition"):
        cuda.probe()


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
            patch.setattr(Generated, "__array__", lambda *_, **__: pytest.fail("the host made it"))
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

    def refuses_graphs(model, options, providers, **others):
        if providers[0][1].get("enable_cuda_graph") == "1":
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return session(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuses_graphs)
    assert cuda.open_graphs(open_bundle(bundle_path), "fp32", 1)["acoustic"].captured_frames == 0


@pytest.mark.parametrize("with_graphs", ["0", "1"])
@pytest.mark.parametrize(("said", "kind", "told"), [
    (FULL, ProviderError, "(?s)out of memory: the acoustic graph cannot be loaded: BFCArena.*hint: close what else"),
    ("CUDNN_STATUS_NOT_INITIALIZED", BundleError, "the acoustic graph cannot be loaded on the GPU: CUDNN_STATUS"),
])  # fmt: skip
def test_whatever_happens_while_a_graph_is_loaded_is_an_error_of_ours(
    on_the_cpu, bundle_path, monkeypatch, with_graphs, said, kind, told
):
    """`with_graphs` "0": CUDA graphs are refused, and it is the attempt without them that fails so."""
    cuda.probe()
    fallbacks = []

    def fails(model, options, providers, enable_fallback):
        fallbacks.append(enable_fallback)
        refused = with_graphs == "0" and "enable_cuda_graph" in providers[0][1]
        raise RuntimeError("cannot use the graph capture feature" if refused else said)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    bundle = open_bundle(bundle_path)
    with pytest.raises(kind, match=told):
        cuda.open_graph(bundle, "acoustic", bundle.manifest.graphs["acoustic"], 1)
    assert set(fallbacks) == {0}, "ONNX Runtime's Python would print, and open the graph on the CPU"


@pytest.fixture
def captures(on_the_cpu, monkeypatch):
    """(thread, graph's number) of every run; two at once are refused, as CUDA refuses much while one is captured."""
    kind = type(_vocoder_of_demo()._session)
    run, runs, running = kind.run_with_iobinding, [], threading.Lock()

    def counted(self, binding, options):
        assert running.acquire(blocking=False), "two sessions run at once"
        try:
            runs.append((threading.get_ident(), options.get_run_config_entry("gpu_graph_id")))
            time.sleep(0.001)
            return run(self, binding, options)
        finally:
            running.release()

    monkeypatch.setattr(kind, "run_with_iobinding", counted)
    return runs


def _vocoder_of_demo():
    bundle = open_bundle("demo")
    return cuda.open_graph(bundle, "vocoder", bundle.manifest.graphs["vocoder"], 1)


def _call(frames=24):
    rng = np.random.default_rng(frames)
    noise = rng.normal(size=(1, frames * 128)).astype(np.float32)
    mel, f0_hz = rng.normal(size=(1, frames, 80)).astype(np.float32), np.full((1, frames), 200, np.float32)
    return {"mel": mel, "f0_hz": f0_hz, "source": noise[..., None], "noise": noise}


def test_a_graph_is_captured_and_replayed_by_one_thread(captures):
    """Whoever calls: a stream is warmed up in the thread that opens it, and computes in another."""
    graphs = [_vocoder_of_demo() for _ in range(2)]
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda i: graphs[i % 2].run(_call())[0], range(16)))
    for audio in found:
        np.testing.assert_array_equal(audio, found[0])
    assert {number for _, number in captures} == {"-1", "1"}
    assert len({thread for thread, _ in captures}) == 1
    assert captures[0][0] != threading.get_ident()


def test_nobody_allocates_while_a_graph_may_be_captured(captures):
    graph, began, done = _vocoder_of_demo(), threading.Event(), threading.Event()

    def run():
        began.set()
        graph.run(_call())
        done.set()

    with GPU_LOCK:  # as `Device` holds it
        other = threading.Thread(target=run)
        other.start()
        assert began.wait(10)
        assert not done.wait(0.1)
        assert not captures
    other.join(10)
    assert done.is_set()


@pytest.mark.parametrize("why", ["CUDA failure 900: operation not permitted when stream is capturing", FULL])
def test_a_capture_that_fails_is_said_once_and_done_without(on_the_cpu, monkeypatch, caplog, why):
    """ONNX Runtime says that memory is full where it may not ask for any."""
    graph = _vocoder_of_demo()
    plain = graph.run(_call())[0].copy()
    run = type(graph._session).run_with_iobinding

    def refuses(self, binding, options):
        if options.get_run_config_entry("gpu_graph_id") != "-1":
            raise RuntimeError(why)
        return run(self, binding, options)

    monkeypatch.setattr(type(graph._session), "run_with_iobinding", refuses)
    for _ in range(3):
        np.testing.assert_array_equal(graph.run(_call())[0], plain)
    said = [record.getMessage() for record in caplog.records if "without CUDA graphs" in record.getMessage()]
    assert len(said) == 1
    assert f"the vocoder graph runs without CUDA graphs from now on: {why}" in said[0]


def test_a_memory_that_is_full_is_told(on_the_cpu, monkeypatch):
    graph = _vocoder_of_demo()
    graph.run(_call())

    def full(*_):
        raise RuntimeError(FULL)

    monkeypatch.setattr(type(graph._session), "run_with_iobinding", full)
    with pytest.raises(ProviderError, match="the GPU is out of memory: the vocoder graph with mel"):
        graph.run(_call())


def test_a_batch_that_the_memory_does_not_hold_is_taken_apart(on_the_cpu, monkeypatch, caplog):
    graph, call = _vocoder_of_demo(), _call()
    noise = np.random.default_rng(3).normal(size=(5, *call["noise"].shape[1:])).astype(np.float32)
    many = {**{name: np.repeat(value, 5, axis=0) for name, value in call.items()}, "noise": noise}
    wanted, batches, run = graph.run(many)[0], [], graph._run

    def full_beyond_two(inputs):
        batches.append(len(inputs["noise"]))
        if batches[-1] > 2:
            raise RuntimeError(FULL)
        return run(inputs)

    monkeypatch.setattr(graph, "_run", full_beyond_two)
    for _ in range(2):
        np.testing.assert_allclose(graph.run(many)[0], wanted, atol=1e-5)
    assert batches == [5, 2, 2, 1, 2, 2, 1], "what was learnt is kept"
    said = [record.getMessage() for record in caplog.records if "at once from now on" in record.getMessage()]
    assert len(said) == 1
    assert f"does not hold 5 clips of the vocoder graph: 2 at once from now on: {FULL}" in said[0]


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
        lambda model, options, providers, **_: real(model, options, ["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderError, match=r"it runs on the CPU instead; it is built for CUDA 13 and cuDNN 9"):
        cuda.probe()


@pytest.mark.parametrize(
    "said", [FULL, "CUDA failure 2: out of memory", "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_out_of_memory_has_words_of_its_own(said):
    arrays = {"audio": np.zeros((8, 100), np.float32)}
    full = cuda._failure("content", arrays, RuntimeError(said))
    assert "the GPU is out of memory: the content graph with audio (8, 100)" in str(full)
    assert "failed on the GPU with audio (8, 100)" in str(cuda._failure("content", arrays, RuntimeError("else")))
