"""On an NVIDIA GPU: the kernels that make source and noise, against the host; and that conversions use them."""

import numpy as np
import pytest

from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.conversion.generated import Generated, Normals, make_source_track
from comosvc.runtime.conversion.source import frame_noise, sample_noise
from comosvc.runtime.providers.gpu import Device, find_gpu
from comosvc.runtime.providers.gpu_source import SourceMaker, Wanted
from comosvc.runtime.providers.self_test import vowel
from comosvc.runtime.providers.tensorrt.build import BUILD

FAR = 4 * 3600 * 24_000 // 128  # four hours


def why_not():
    try:
        find_gpu()
        SourceMaker(Device())
    except ProviderError as error:
        return str(error).partition("\n")[0]
    return None


pytestmark = [pytest.mark.gpu, pytest.mark.skipif((reason := why_not()) is not None, reason=f"{reason}")]


def drawn(kind, seed):
    if kind == "samples":
        return Generated([Normals(sample_noise(seed, FAR * 128 + 3), (1_000_001,))])
    if kind == "frames":
        return Generated([Normals(frame_noise(seed, FAR, 80, step=1), (2_001, 80))])
    f0_hz = 200.0 * 2.0 ** np.cumsum(0.01 * np.random.default_rng(seed).normal(size=2_000))
    f0_hz[300:500] = 0.0
    track = make_source_track(kind, 9 if kind == "sine" else 1, COMOSVC_24K, seed)
    track.extend(np.full(FAR, 311.1, np.float32))
    track.extend(f0_hz.astype(np.float32))
    return track.read(FAR - 3, FAR + 2_000)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
@pytest.mark.parametrize("kind", ["samples", "frames", "sine", "pulse"])
def test_what_the_gpu_makes_is_what_the_host_makes(kind, seed):
    device, value = Device(), drawn(kind, seed)
    maker = SourceMaker(device)
    shape = (2, value.shape[1] + 64, *value.shape[2:])
    found = np.full(shape, 7.0, np.float32)
    with device.lock, device.current():
        address = device.allocate(found.nbytes)
        device.upload(address, found)
        maker.make([Wanted("x", value, address, shape)])
        device.download(found, address)
        device.synchronize()
    # Float64 functions may be 2 last bits off (CUDA's own table of them), which float32 seldom shows.
    np.testing.assert_allclose(found[0, : value.shape[1]], np.asarray(value)[0], rtol=1e-6, atol=1e-9)
    assert not found[0, value.shape[1] :].any()
    assert not found[1].any()
    device.close()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_neither_source_nor_noise_is_sent(provider, monkeypatch):
    monkeypatch.setenv(BUILD, "1")
    try:
        converter = Converter("demo", provider=provider, precision="fp32")
    except ProviderError as error:
        pytest.skip(str(error))
    with converter:
        converter.convert(vowel(converter.spec)[0], 44_100)
        crossed = converter.transfers["vocoder"]
    assert set(crossed.sent_bytes) == {"mel", "f0_hz", "frames of source"}
    assert set(crossed.made_bytes) == {"source", "noise"}
