"""ONNX Runtime's binding, padding and buckets, with its CPU in place of the GPU; and why it does not work."""

import importlib.metadata
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from gpu_double import TEST_GPU, HostDevice

from comosvc.runtime import BundleError, ComosvcError, Converter, ProviderError
from comosvc.runtime.cli import doctor
from comosvc.runtime.conversion.generated import Generated
from comosvc.runtime.providers import cuda, gpu_source
from comosvc.runtime.providers.gpu import GPU_LOCK
from comosvc.runtime.voice.bundle import open_bundle

FULL = "BFCArena: Failed to allocate memory for requested buffer of size 1073741824"


def raising(message):
    def fails(*_, **__):
        raise RuntimeError(message)

    return fails


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(cuda, "find_gpu", lambda: TEST_GPU)
    cuda._probe_runtime.cache_clear()
    yield
    cuda._probe_runtime.cache_clear()


@pytest.fixture
def on_the_cpu(gpu, monkeypatch):
    """The provider with the CPU's names of provider and device, and without its options. The options asked for."""
    monkeypatch.setattr(cuda, "CUDA", "CPUExecutionProvider")
    monkeypatch.setattr(cuda, "_DEVICE", "cpu")
    real, opened = onnxruntime.InferenceSession, []

    def session(model, options, providers, **others):
        opened.append([entry[1] if isinstance(entry, tuple) else {} for entry in providers])
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return opened


def vocoder(voice="demo"):
    bundle = open_bundle(voice)
    return cuda.open_graph(bundle, "vocoder", bundle.manifest.graphs["vocoder"], 1)


def call(frames=24, n_mels=80):
    rng = np.random.default_rng(frames)
    noise = rng.normal(size=(1, frames * 128)).astype(np.float32)
    mel, f0_hz = rng.normal(size=(1, frames, n_mels)).astype(np.float32), np.full((1, frames), 200, np.float32)
    return {"mel": mel, "f0_hz": f0_hz, "source": noise[..., None], "noise": noise}


# --- Conversions


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
    graph, plain = vocoder(bundle_path), vocoder(bundle_path)
    assert on_the_cpu[-1][0]["enable_cuda_graph"] == "1"
    plain.captured_frames = 0
    for frames in (33, 36, 20, 33):
        inputs = call(frames, n_mels=8)
        np.testing.assert_array_equal(graph.run(inputs)[0], plain.run(inputs)[0])
    assert sorted(graph._buckets) == [20, 36]
    assert len({bucket.number for bucket in graph._buckets.values()}) == 2
    graph.run({name: np.repeat(array, 2, axis=0) for name, array in inputs.items()})
    assert len(graph._buckets) == 2  # a batch is no call of a stream
    assert not plain._buckets


def test_the_self_test_allows_for_padding_and_finds_a_wrong_graph(on_the_cpu):
    """Every probe of the demo; the end of its content depends on the padding, so its probe is made longer."""
    with Converter("demo", provider="cuda", threads=1) as converter:
        errors = converter.self_test().probe_errors
        assert set(errors) == {"content", "content_low", "pitch", "acoustic", "acoustic_n", "vocoder"}
        assert 0.0 < max(errors.values()) < 1e-4
        for name in ("content", "pitch", "acoustic", "acoustic_n", "vocoder"):
            run = converter._graphs[name].run
            converter._graphs[name].run = lambda inputs, run=run: tuple(1.01 * output for output in run(inputs))
            with pytest.raises(ComosvcError, match=rf"self-test failed: \w+ of the {name} graph in fp32 is 1.0e-02"):
                converter.self_test()
            converter._graphs[name].run = run


def test_source_and_noise_are_made_where_they_are_bound(on_the_cpu, bundle_path, song, monkeypatch):
    """Calls of buckets and others; the host makes nothing then. Without CUDA's compiler it does."""
    monkeypatch.setattr(gpu_source, "Device", HostDevice)
    clips = song[:6_000], np.tile(song, 4)
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = [converter.convert(clip, 24_000, steps=2).audio for clip in clips]
    with Converter(bundle_path, provider="cuda", threads=1) as converter:
        with monkeypatch.context() as patch:
            patch.setattr(Generated, "__array__", lambda *_, **__: pytest.fail("the host made it"))
            for clip, audio in zip(clips, wanted, strict=True):
                np.testing.assert_allclose(converter.convert(clip, 24_000, steps=2).audio, audio, atol=1e-4)
        crossed = converter.transfers
        assert converter._graphs["vocoder"]._buckets
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


# --- CUDA graphs


@pytest.fixture
def captures(on_the_cpu, monkeypatch):
    """(thread, graph's number) of every run; two at once are refused, as CUDA does during a capture."""
    kind = type(vocoder()._session)
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


def test_one_thread_captures_and_replays_graphs(captures):
    """A stream is warmed up in one thread and computes in another."""
    graphs = [vocoder() for _ in range(2)]
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda i: graphs[i % 2].run(call())[0], range(16)))
    for audio in found:
        np.testing.assert_array_equal(audio, found[0])
    assert {number for _, number in captures} == {"-1", "1"}
    assert len({thread for thread, _ in captures}) == 1
    assert captures[0][0] != threading.get_ident()


def test_no_graph_is_captured_while_another_thread_holds_the_gpu(captures):
    graph, began, done = vocoder(), threading.Event(), threading.Event()

    def run():
        began.set()
        graph.run(call())
        done.set()

    with GPU_LOCK:  # as in `Device`
        other = threading.Thread(target=run)
        other.start()
        assert began.wait(10)
        assert not done.wait(0.1)
        assert not captures
    other.join(10)
    assert done.is_set()


@pytest.mark.parametrize("why", ["CUDA failure 900: operation not permitted when stream is capturing", FULL])
def test_after_a_failed_capture_graphs_run_without_and_one_warning(on_the_cpu, monkeypatch, caplog, why):
    """ONNX Runtime says that memory is full where it cannot allocate during a capture."""
    graph = vocoder()
    plain = graph.run(call())[0].copy()
    run = type(graph._session).run_with_iobinding

    def refuses(self, binding, options):
        if options.get_run_config_entry("gpu_graph_id") != "-1":
            raise RuntimeError(why)
        return run(self, binding, options)

    monkeypatch.setattr(type(graph._session), "run_with_iobinding", refuses)
    for _ in range(3):
        np.testing.assert_array_equal(graph.run(call())[0], plain)
    [said] = [record.getMessage() for record in caplog.records if "without CUDA graphs" in record.getMessage()]
    assert f"the vocoder graph runs without CUDA graphs from now on: {why}" in said


# --- Failures


@pytest.mark.parametrize("with_graphs", [False, True])
@pytest.mark.parametrize(("said", "kind", "message"), [
    (None, None, None),
    (FULL, ProviderError, "(?s)out of memory: the vocoder graph cannot be loaded: BFCArena.*hint: close other"),
    ("CUDNN_STATUS_NOT_INITIALIZED", BundleError, "the vocoder graph cannot be loaded on the GPU: CUDNN_STATUS"),
])  # fmt: skip
def test_a_graph_is_opened_without_cuda_graphs_or_the_error_is_ours(
    on_the_cpu, monkeypatch, with_graphs, said, kind, message
):
    """Unless `with_graphs`, CUDA graphs are refused, and the attempt without them fails with `said`."""
    session, fallbacks = onnxruntime.InferenceSession, []

    def opens(model, options, providers, enable_fallback):
        fallbacks.append(enable_fallback)
        if not with_graphs and "enable_cuda_graph" in providers[0][1]:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        if said:
            raise RuntimeError(said)
        return session(model, options, providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opens)
    if kind is None:
        assert (vocoder().captured_frames > 0) == with_graphs
    else:
        with pytest.raises(kind, match=message):
            vocoder()
    assert set(fallbacks) == {0}, "ONNX Runtime's Python would print, and open the graph on the CPU"


@pytest.mark.parametrize(
    "full", [FULL, "CUDA failure 2: out of memory", "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_full_memory_has_an_error_of_its_own(on_the_cpu, monkeypatch, full):
    graph = vocoder()
    graph.run(call())
    for said, message in (
        (full, "the GPU is out of memory: the vocoder graph with mel"),
        ("else", "failed on the GPU"),
    ):
        monkeypatch.setattr(type(graph._session), "run_with_iobinding", raising(said))
        with pytest.raises(ProviderError, match=message):
            graph.run(call())


def test_a_batch_that_the_memory_does_not_hold_is_taken_apart(on_the_cpu, monkeypatch, caplog):
    graph, one = vocoder(), call()
    noise = np.random.default_rng(3).normal(size=(5, *one["noise"].shape[1:])).astype(np.float32)
    many = {**{name: np.repeat(value, 5, axis=0) for name, value in one.items()}, "noise": noise}
    wanted, batches, run = graph.run(many)[0], [], graph._run

    def full_beyond_two(inputs):
        batches.append(len(inputs["noise"]))
        if batches[-1] > 2:
            raise RuntimeError(FULL)
        return run(inputs)

    monkeypatch.setattr(graph, "_run", full_beyond_two)
    for _ in range(2):
        np.testing.assert_allclose(graph.run(many)[0], wanted, atol=1e-5)
    assert batches == [5, 2, 2, 1, 2, 2, 1], "the smaller batch is kept"
    [said] = [record.getMessage() for record in caplog.records if "at once from now on" in record.getMessage()]
    assert f"does not hold 5 clips of the vocoder graph: 2 at once from now on: {FULL}" in said


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda *_: [np.zeros(4)], "the GPU computes wrongly"),
        (raising(FULL), "the GPU is out of memory: a graph of one addition"),
        (raising("no kernel image"), r"does not run on the GPU: no kernel image; it is built for CUDA 13 and cuDNN 9"),
    ],
)
def test_the_probe_runs_a_graph(on_the_cpu, monkeypatch, run, message):
    cuda.probe()
    cuda._probe_runtime.cache_clear()
    monkeypatch.setattr(onnxruntime.InferenceSession(cuda.TINY, None, []).__class__, "run", run)
    with pytest.raises(ProviderError, match=message):
        cuda.probe()


def test_missing_or_clashing_wheels_are_named(gpu, monkeypatch):
    with pytest.raises(ProviderError, match=r"compiled without CUDA: the wheel for the processor is installed"):
        cuda.probe()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == "onnxruntime-gpu" else real(name))
    with pytest.raises(ProviderError, match=r"onnxruntime-gpu 9.9 are installed, and overwrite each other"):
        cuda.probe()


def test_a_listed_provider_that_falls_back_is_found_out(gpu, monkeypatch):
    """ONNX Runtime opens sessions on the CPU where CUDA or cuDNN are missing."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession
    on_cpu = lambda model, options, providers, **_: real(model, options, ["CPUExecutionProvider"])  # noqa: E731
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    with pytest.raises(ProviderError, match=r"it runs on the CPU instead; it is built for CUDA 13 and cuDNN 9"):
        cuda.probe()


def test_the_doctor_reports_every_error_of_a_library(monkeypatch):
    monkeypatch.setattr(doctor, "choose_provider", raising("CUBLAS failure 3"))
    finding = doctor.check_provider("cuda", "demo")
    assert (finding.works, finding.detail) == (False, "RuntimeError: CUBLAS failure 3")
