"""Source and noise from the GPU's kernels against those of the host. Without a GPU the kernels are compiled as C."""

import numpy as np
import pytest
from gpu_double import HostDevice, engine_graph, why_not

from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.conversion.generated import Generated, Normals, make_source_track
from comosvc.runtime.conversion.source import (
    frame_noise,
    noise_frames,
    noise_samples,
    pulse_source,
    sample_noise,
    sine_source,
)
from comosvc.runtime.providers import gpu_source as module
from comosvc.runtime.providers.gpu import Device
from comosvc.runtime.providers.gpu_source import SourceMaker, Wanted
from comosvc.runtime.voice.bundle import open_bundle

SPEC = COMOSVC_24K
LONG = 4 * 3600 * 24_000 // 128
"""A frame after four hours."""
SEEDS = (0, 5, 2**64 - 1)
LAST_BIT = {HostDevice: 1.2e-7, Device: 1e-6}
"""Relative: float64 functions of two libraries, rounded to float32, may fall to either side. It happens to few.

CUDA's table gives its functions errors of up to 2 last bits of float64, which float32 seldom shows."""
NO_GPU = why_not(lambda: SourceMaker(Device()))
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU is not None, reason=f"{NO_GPU}")]


@pytest.fixture(params=[HostDevice, pytest.param(Device, marks=ON_GPU)])
def device(request):
    return request.param()


@pytest.fixture
def host_device():
    return HostDevice()


def melody(n_frames, seed=0):
    rng = np.random.default_rng(seed)
    f0_hz = 200.0 * 2.0 ** np.cumsum(0.02 * rng.normal(size=n_frames))
    f0_hz[n_frames // 3 : n_frames // 2] = 0.0
    return f0_hz.astype(np.float32)


def made(device, drawn, shape=None):
    """What the kernels leave in memory of `shape`, between two numbers that must stay."""
    shape = drawn.shape if shape is None else shape
    maker, memory = SourceMaker(device), np.full(int(np.prod(shape)) + 2, 7.0, np.float32)
    with device.lock, device.current():
        address = device.allocate(memory.nbytes)
        device.upload(address, memory)
        maker.make([Wanted("x", drawn, address + 4, shape)])
        device.download(memory, address)
        device.synchronize()
    assert memory[0] == memory[-1] == 7.0, "written beyond its place"
    return memory[1:-1].reshape(shape)


def same(device, found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=LAST_BIT[type(device)], atol=1e-9)
    assert isinstance(device, Device) or (found == wanted).mean() > 0.999


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first", [0, 1, 2, 3, 33 * 128, LONG * 128 + 2])
def test_noise_is_that_of_the_host(device, seed, first):
    samples = Generated([Normals(sample_noise(seed, first), (1_001,))])
    same(device, made(device, samples)[0], noise_samples(seed, first, 1_001))
    frames = Generated([Normals(frame_noise(seed, first, 8, step=3), (50, 8))])
    same(device, made(device, frames)[0], noise_frames(seed, first, 50, 8, step=3))


@pytest.mark.parametrize("seed", SEEDS)
def test_sines_are_those_of_the_host(device, seed):
    track, f0_hz = make_source_track("sine", 9, SPEC, seed), melody(60)
    track.extend(f0_hz)
    same(device, made(device, track.read(0, 60))[0], sine_source(f0_hz, SPEC, seed)[0])


@pytest.mark.parametrize(("kind", "channels"), [("sine", 9), ("pulse", 1), ("pulse", 2)])
def test_pieces_hours_away_are_those_of_the_whole(device, kind, channels):
    """Frame by frame the same for all pieces, on the host and on the device, also after frames that were skipped."""
    f0_hz, tracks = np.full(LONG, 311.1, np.float32), []
    for _ in range(2):
        tracks.append(make_source_track(kind, channels, SPEC, 3))
        tracks[-1].extend(f0_hz)
        tracks[-1].extend(melody(40))
    there, here = tracks
    whole = np.asarray(here.read(LONG - 1, LONG + 40))
    assert np.abs(whole).max() > 0.05
    same(device, made(device, there.read(LONG - 1, LONG + 40)), whole)
    for first, last in ((LONG - 1, LONG + 8), (LONG + 5, LONG + 21), (LONG + 30, LONG + 40)):
        there.forget(first)
        piece = slice((first - LONG + 1) * 128, (last - LONG + 1) * 128)
        same(device, made(device, there.read(first, last)), whole[:, piece])
        np.testing.assert_array_equal(np.asarray(there.read(first, last)), whole[:, piece])


def test_pulses_are_those_of_the_host(device):
    track, f0_hz = make_source_track("pulse", 1, SPEC, 0), melody(60)
    track.extend(f0_hz)
    # The kernel of a pulse is a quotient of two sines: their last bits are 1e-12 of a difference that may be small.
    np.testing.assert_allclose(made(device, track.read(0, 60))[0], pulse_source(f0_hz, SPEC)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kind", "channels"), [("sine", 9), ("pulse", 1)])
def test_rows_and_padding(device, kind, channels):
    """Clips of several lengths in a larger bucket: each keeps its own values, and the rest is zero."""
    rows = []
    for seed, frames in enumerate((9, 4, 7)):
        track = make_source_track(kind, channels, SPEC, seed)
        track.extend(melody(frames, seed))
        rows += track.read(0, frames).rows
    drawn = Generated(rows)
    found = made(device, drawn, (4, 11 * 128, channels))
    for place, row in enumerate(rows):
        same(device, found[place, : len(row.host())], row.host())
        assert not found[place, len(row.host()) :].any()
    assert not found[3].any()
    np.testing.assert_array_equal(np.asarray(drawn)[1, : 4 * 128], rows[1].host())
    assert len(drawn[1:]) == 2


@pytest.fixture
def on_engines(bundle_path, host_device):
    """A converter on the double, and its outputs on the CPU for the same clips."""
    bundle = open_bundle(bundle_path)

    def opened(with_maker=True):
        maker = SourceMaker(host_device) if with_maker else None
        graphs = {name: engine_graph(bundle, name, host_device, maker=maker)[0] for name in bundle.manifest.graphs}
        converter._graphs = graphs
        return converter

    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        yield converter, opened


def test_a_conversion_makes_them_on_the_device_only(on_engines, host_device, song, monkeypatch):
    converter, opened = on_engines
    wanted = converter.convert(song, 24_000, steps=2)
    opened()
    monkeypatch.setattr(Generated, "__array__", lambda *_, **__: pytest.fail("the host made it"))
    found = converter.convert(song, 24_000, steps=2)
    np.testing.assert_allclose(found.mel, wanted.mel, atol=1e-4)  # padded: sums in another order
    np.testing.assert_allclose(found.audio, wanted.audio, atol=1e-4)
    before = host_device.allocations
    np.testing.assert_array_equal(converter.convert(song, 24_000, steps=2).audio, found.audio)
    assert host_device.allocations == before, "memory was allocated after the warm-up"
    crossed = converter.transfers
    assert set(crossed["vocoder"].sent_bytes) == {"mel", "f0_hz", "frames of source"}
    assert set(crossed["vocoder"].made_bytes) == {"source", "noise"}
    assert set(crossed["acoustic"].made_bytes) == set(crossed["acoustic_n"].made_bytes) == {"noise"}
    assert crossed["vocoder"].made_bytes["source"] > 10 * crossed["vocoder"].sent_bytes["frames of source"]
    assert not crossed["content"].made_bytes
    assert crossed["vocoder"].making_ms > 0.0


def test_several_files_at_once_are_made_in_one_call(on_engines, song, tmp_path):
    import soundfile

    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, file in enumerate(files):
        soundfile.write(file, song[: len(song) - 999 * number], 24_000, subtype="FLOAT")
    converter, opened = on_engines
    alone = [converter.convert(song[: len(song) - 999 * number], 24_000).audio for number in range(3)]
    opened()
    results = sorted(converter.convert_many(files, tmp_path / "out", batch=3), key=lambda result: result.source)
    assert converter.transfers["vocoder"].calls == 1
    assert set(converter.transfers["vocoder"].made_bytes) == {"source", "noise"}
    for result, wanted in zip(results, alone, strict=True):
        np.testing.assert_allclose(soundfile.read(result.output)[0], wanted, atol=2e-4)


def test_arrays_made_by_the_host_are_counted_as_sent(on_engines, host_device, song):
    converter, opened = on_engines
    opened(with_maker=False).convert(song, 24_000)
    crossed = converter.transfers["vocoder"]
    assert set(crossed.sent_bytes) == {"mel", "f0_hz", "source", "noise"}
    assert not crossed.made_bytes
    assert crossed.making_ms > 0.0
    assert host_device.kernel_launches == 0


def test_without_a_compiler_the_host_makes_them_with_a_warning(host_device, monkeypatch, caplog):
    def no_compiler(*_):
        raise ProviderError("CUDA's run-time compiler cannot be loaded")

    monkeypatch.setattr(host_device, "load_kernels", no_compiler)
    assert module.make_source_maker(host_device) is None
    assert "source and all noise are made on the host, and sent: CUDA's run-time compiler" in caplog.text
