"""On an NVIDIA GPU: each graph and whole conversions against the CPU, CUDA graphs, memory, arrays that stay there.

fp32 is held to `TOLERANCE`, and fp16, in graphs of the demo that passed the gate, to the budgets that the gate has.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
from gpu_cases import cases, inputs_of
from gpu_double import why_not

from comosvc.export.precision.fp16 import FP16
from comosvc.export.precision.precision import add_to_bundle
from comosvc.export.precision.variants import figures, input_maker, require_budgets
from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.providers.device_arrays import DeviceArray
from comosvc.runtime.providers.gpu import Device, find_gpu
from comosvc.runtime.providers.gpu_source import SourceMaker
from comosvc.runtime.providers.self_test import steps_at_end, vowel
from comosvc.runtime.providers.tensorrt.build import BUILD
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.graphs import GRAPHS

NO_GPU = why_not(find_gpu)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU is not None, reason=f"{NO_GPU}")]

TOLERANCE = 1e-4
"""Relative, fp32 without TF32: sums in another order; ten times what ONNX Runtime may be off torch. Not measured."""
PROVIDERS = ("cuda", "tensorrt")


@pytest.fixture(scope="module", autouse=True)
def engines_are_built():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BUILD, "1")
        yield


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request):
    try:
        importlib.import_module(f"comosvc.runtime.providers.{request.param}").probe()
    except ProviderError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def on_gpu(provider):
    with Converter("demo", provider=provider, precision="fp32") as converter:
        yield converter


@pytest.fixture(scope="module")
def half_demo(tmp_path_factory):
    """The demo with the fp16 graphs that a user's would get."""
    path = tmp_path_factory.mktemp("half") / "demo.comosvc"
    add_to_bundle(Path("demo"), path, ["fp16"])
    return path


@pytest.fixture(scope="module")
def half_on_gpu(provider, half_demo):
    with Converter(half_demo, provider=provider, precision="fp16") as converter:
        yield converter


@pytest.fixture(scope="module")
def maker():
    bundle = open_bundle("demo")
    return input_maker(bundle.manifest, bundle.embeddings)


@pytest.fixture(scope="module")
def on_cpu():
    with Converter("demo", provider="cpu", threads=1) as converter:
        yield converter


@pytest.fixture(scope="module")
def song_44k():
    return np.tile(vowel(open_bundle("demo").manifest.audio)[0], 8).astype(np.float32), 44_100


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def both(gpu, cpu, maker, graph, frames, batch):
    """Outputs by name on the GPU and on the CPU, without the end, which depends on the padding."""
    spec, inputs = GRAPHS[graph], inputs_of(maker, cpu.manifest, graph, frames, batch)
    at_end = steps_at_end(cpu.manifest, graph)
    found = {}, {}
    for arrays, converter in zip(found, (gpu, cpu), strict=True):
        arrays |= {t.name: out for t, out in zip(spec.outputs, converter._graphs[graph].run(inputs), strict=True)}
    for name, wanted in found[1].items():
        keep = wanted.shape[1] - at_end
        assert keep > 0
        for arrays in found:
            arrays[name] = arrays[name][:, :keep]
    return found


CASES = [pytest.param(*case, id="{}-{}x{}".format(*case)) for case in cases()]


@pytest.mark.parametrize(("graph", "frames", "batch"), CASES)
def test_every_graph_gives_what_the_cpu_gives(on_gpu, on_cpu, maker, graph, frames, batch):
    found, wanted = both(on_gpu, on_cpu, maker, graph, frames, batch)
    for name, value in wanted.items():
        assert relative(found[name], value) < TOLERANCE


@pytest.mark.parametrize(("graph", "frames", "batch"), CASES)
def test_every_graph_in_fp16_is_within_its_budget(half_on_gpu, on_cpu, maker, graph, frames, batch):
    found, wanted = both(half_on_gpu, on_cpu, maker, graph, frames, batch)
    rows = list(figures(graph, FP16, found, wanted, (batch, frames), maker.audio))
    assert rows
    require_budgets(rows)


@pytest.mark.parametrize("seconds", [1.0, 12.0])
def test_a_conversion_in_fp16_is_within_its_budget(half_on_gpu, on_cpu, maker, song_44k, seconds):
    audio, rate = song_44k
    # F0 is given: a source that follows another differs in phase, which is no error of the graphs.
    f0_hz = on_cpu.convert(audio[: round(seconds * rate)], rate).f0_hz
    outputs = []
    for converter in (half_on_gpu, on_cpu):
        result = converter.convert(audio[: round(seconds * rate)], rate, f0_hz=f0_hz)
        heard = on_cpu.convert(result.audio, rate)
        outputs.append({"audio": result.audio[None], "f0_hz": heard.f0_hz[None], "confidence": (heard.f0_hz > 0)[None]})
    rows = list(figures("end_to_end", FP16, *outputs, (1, len(f0_hz)), maker.audio))
    assert {row.measure for row in rows} == {budget.measure for budget in FP16.budgets["end_to_end"]}
    require_budgets(rows)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 12.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_conversion_is_that_of_the_cpu(on_gpu, on_cpu, song_44k, seconds, steps):
    audio, rate = song_44k
    audio = audio[: round(seconds * rate)]
    found, wanted = (converter.convert(audio, rate, steps=steps) for converter in (on_gpu, on_cpu))
    voiced = (found.f0_hz > 0) & (wanted.f0_hz > 0)
    assert np.abs(1200 * np.log2(found.f0_hz[voiced] / wanted.f0_hz[voiced])).max(initial=0.0) < 1.0
    assert relative(found.mel, wanted.mel) < 10 * TOLERANCE
    assert relative(found.audio, wanted.audio) < 0.01  # 40 dB: the phase of the source follows F0


def test_the_same_twice_is_the_same(on_gpu, song_44k):
    first, second = (on_gpu.convert(*song_44k).audio for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_short_calls_are_captured_and_replayed(on_gpu, provider, song_44k):
    audio, rate = song_44k
    first, second = (on_gpu.convert(audio[:6_000], rate).audio for _ in range(2))
    np.testing.assert_array_equal(first, second)
    vocoder = on_gpu._graphs["vocoder"]
    assert vocoder._buckets, "no bucket was made"
    if provider == "tensorrt" and on_gpu.engines.flavour == "tensorrt":
        assert all(bucket.graph is not None for bucket in vocoder._buckets.values())


def test_nothing_is_allocated_after_the_warm_up(on_gpu, song_44k):
    device = Device()
    for _ in range(3):
        on_gpu.convert(*song_44k)
    before = device.used_bytes()
    for _ in range(5):
        on_gpu.convert(*song_44k)
    assert device.used_bytes() <= before


def test_a_batch_is_its_clips(on_gpu, song_44k, tmp_path):
    import soundfile

    audio, rate = song_44k
    files = [tmp_path / f"{number}.wav" for number in range(5)]
    for number, file in enumerate(files):
        soundfile.write(file, audio[: rate * (2 + number)], rate, subtype="FLOAT")
    for result in on_gpu.convert_many(files, tmp_path / "out", batch=4):
        assert result.error is None
        alone = on_gpu.convert(audio[: rate * (2 + int(result.source.stem))], rate).audio
        assert relative(soundfile.read(result.output, dtype="float32")[0], alone) < 0.01


def test_copies_are_counted_and_neither_source_nor_noise_is_sent(on_gpu, song_44k):
    on_gpu.convert(*song_44k)
    for name in ("content", "pitch", "acoustic", "vocoder"):
        assert on_gpu.transfers[name].ms > 0.0
    if why_not(lambda: SourceMaker(Device())) is None:
        assert set(on_gpu.transfers["vocoder"].sent_bytes) == {"mel", "f0_hz", "frames of source"}
        assert set(on_gpu.transfers["vocoder"].made_bytes) == {"source", "noise"}


def test_audio_on_the_gpu_stays_there(on_gpu, song_44k):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is built without CUDA")
    audio, rate = song_44k
    found = on_gpu.convert(torch.from_numpy(audio).cuda(), rate).audio
    assert isinstance(found, DeviceArray)
    wanted = on_gpu.convert(audio, rate).audio
    np.testing.assert_array_equal(torch.as_tensor(found, device="cuda").cpu().numpy(), wanted)
    np.testing.assert_array_equal(torch.from_dlpack(found).cpu().numpy(), wanted)
    np.testing.assert_array_equal(found.to_host(), wanted)


def test_too_much_memory_is_an_error_of_its_own():
    device = Device()
    with device.current(), pytest.raises(ProviderError, match=r"the GPU is out of memory: cuMemAlloc asked for .* MB"):
        device.allocate(1 << 50)
