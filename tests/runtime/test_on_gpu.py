"""On an NVIDIA GPU: each graph and whole conversions against the CPU, CUDA graphs, memory, arrays that stay there."""

import importlib
from importlib.util import find_spec

import numpy as np
import pytest

from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.bundle import open_bundle
from comosvc.runtime.device import Device
from comosvc.runtime.device_arrays import DeviceArray
from comosvc.runtime.gpu import find_gpu
from comosvc.runtime.graph import GRAPHS
from comosvc.runtime.self_test import vowel


def why_not():
    try:
        find_gpu()
    except ProviderError as error:
        return str(error).partition("\n")[0]
    return None


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")]

TOLERANCE = 1e-4
"""Relative, fp32 without TF32: sums in another order; ten times what ONNX Runtime may be off torch. Not measured."""
PROVIDERS = ("cuda", "tensorrt")


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
def on_cpu():
    with Converter("demo", provider="cpu", threads=1) as converter:
        yield converter


@pytest.fixture(scope="module")
def song_44k():
    return np.tile(vowel(open_bundle("demo").manifest.audio)[0], 8).astype(np.float32), 44_100


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("frames", [7, 129, 750])
@pytest.mark.parametrize("graph", ["content", "pitch", "acoustic", "acoustic_n", "vocoder"])
def test_every_graph_gives_what_the_cpu_gives(on_gpu, on_cpu, graph, frames, batch):
    from comosvc.export.inputs import InputMaker

    manifest, spec = on_cpu.manifest, GRAPHS[graph]
    sizes = {"C": manifest.model.content_channels, "D": manifest.model.singer_channels, "H": 1, "M": 80}
    n_sigmas = 1 + max(index for indices in manifest.model.schedules.values() for index in indices)
    maker = InputMaker(manifest.audio, sizes, n_sigmas)
    length = frames if spec.inputs[0].name != "audio" else (frames + 40) * 256
    inputs = maker.make(spec, batch, length, seed=1)
    # Padding is silence to the future of what comes last; on the CPU there is the array's end instead.
    unheard = (1 + getattr(manifest.context, graph.removesuffix("_n")).future) * (128 if graph == "vocoder" else 1)
    for found, wanted in zip(on_gpu._graphs[graph].run(inputs), on_cpu._graphs[graph].run(inputs), strict=True):
        keep = wanted.shape[1] - unheard
        assert keep > 0
        assert relative(found[:, :keep], wanted[:, :keep]) < TOLERANCE


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


def test_what_crosses_is_counted(on_gpu, song_44k):
    on_gpu.convert(*song_44k)
    for name in ("content", "pitch", "acoustic", "vocoder"):
        assert on_gpu.transfers[name].ms > 0.0


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_audio_on_the_gpu_stays_there(on_gpu, song_44k):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch is built without CUDA")
    audio, rate = song_44k
    found = on_gpu.convert(torch.from_numpy(audio).cuda(), rate).audio
    assert isinstance(found, DeviceArray)
    wanted = on_gpu.convert(audio, rate).audio
    np.testing.assert_array_equal(torch.as_tensor(found, device="cuda").cpu().numpy(), wanted)
    np.testing.assert_array_equal(found.to_host(), wanted)


def test_too_much_memory_is_an_error_of_its_own():
    device = Device()
    with device.current(), pytest.raises(ProviderError, match=r"the GPU is out of memory: cuMemAlloc asked for .* MB"):
        device.allocate(1 << 50)
