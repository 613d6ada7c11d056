"""Source and noise made by the GPU's kernels, compiled for the processor here, against what the host makes."""

import ast
from pathlib import Path

import numpy as np
import pytest
from gpu_double import HostDevice, engine_graph

from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.cli import doctor
from comosvc.runtime.conversion.generated import Generated, Normals, make_source_track
from comosvc.runtime.conversion.source import (
    frame_noise,
    noise_frames,
    noise_samples,
    pulse_source,
    sample_noise,
    sine_source,
)
from comosvc.runtime.providers import gpu as nvrtc
from comosvc.runtime.providers import gpu_source as module
from comosvc.runtime.providers.gpu import Gpu, compile_cuda
from comosvc.runtime.providers.gpu_source import SourceMaker, Wanted
from comosvc.runtime.voice.bundle import open_bundle

SPEC = COMOSVC_24K
LONG = 4 * 3600 * 24_000 // 128
"""A frame after four hours."""
SEEDS = (0, 5, 2**64 - 1)
LAST_BIT = 1.2e-7
"""Relative: float64 functions of two libraries, rounded to float32, may fall to either side. It happens to few."""


@pytest.fixture
def device():
    return HostDevice()


def song(n_frames, seed=0):
    rng = np.random.default_rng(seed)
    f0_hz = 200.0 * 2.0 ** np.cumsum(0.02 * rng.normal(size=n_frames))
    f0_hz[n_frames // 3 : n_frames // 2] = 0.0
    return f0_hz.astype(np.float32)


def made(device, drawn, shape=None):
    """What the kernels leave in memory of `shape`, after a number that must stay as it is."""
    shape = drawn.shape if shape is None else shape
    maker, count = SourceMaker(device), int(np.prod(shape))
    with device.lock, device.current():
        memory = np.full(count + 2, 7.0, np.float32)
        maker.make([Wanted("x", drawn, memory[1:].ctypes.data, shape)])
        device.synchronize()
    assert memory[0] == memory[-1] == 7.0, "written beyond its place"
    return memory[1:-1].reshape(shape)


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=LAST_BIT, atol=1e-9)
    assert (found == wanted).mean() > 0.999


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first", [0, 1, 2, 3, 33 * 128, LONG * 128 + 2])
def test_noise_is_that_of_the_host(device, seed, first):
    same(made(device, Generated([Normals(sample_noise(seed, first), (1_001,))]))[0], noise_samples(seed, first, 1_001))
    frames = Generated([Normals(frame_noise(seed, first, 8, step=3), (50, 8))])
    same(made(device, frames)[0], noise_frames(seed, first, 50, 8, step=3))


@pytest.mark.parametrize("seed", SEEDS)
def test_sines_are_those_of_the_host(device, seed):
    track, f0_hz = make_source_track("sine", 9, SPEC, seed), song(60)
    track.extend(f0_hz)
    same(made(device, track.read(0, 60))[0], sine_source(f0_hz, SPEC, seed)[0])


@pytest.mark.parametrize(("kind", "channels"), [("sine", 9), ("pulse", 1), ("pulse", 2)])
def test_pieces_hours_away_are_those_of_the_whole(device, kind, channels):
    """Frame by frame the same whichever pieces are asked for, on either side, and after what was never made."""
    f0_hz, tracks = np.full(LONG, 311.1, np.float32), []
    for _ in range(2):
        tracks.append(make_source_track(kind, channels, SPEC, 3))
        tracks[-1].extend(f0_hz)
        tracks[-1].extend(song(40))
    there, here = tracks
    whole = np.asarray(here.read(LONG - 1, LONG + 40))
    assert np.abs(whole).max() > 0.05
    same(made(device, there.read(LONG - 1, LONG + 40)), whole)
    for first, last in ((LONG - 1, LONG + 8), (LONG + 5, LONG + 21), (LONG + 30, LONG + 40)):
        there.forget(first)
        piece = slice((first - LONG + 1) * 128, (last - LONG + 1) * 128)
        same(made(device, there.read(first, last)), whole[:, piece])
        np.testing.assert_array_equal(np.asarray(there.read(first, last)), whole[:, piece])


def test_pulses_are_those_of_the_host(device):
    track, f0_hz = make_source_track("pulse", 1, SPEC, 0), song(60)
    track.extend(f0_hz)
    # The kernel of a pulse is a quotient of two sines: their last bits are 1e-12 of what is left, which may be small.
    np.testing.assert_allclose(made(device, track.read(0, 60))[0], pulse_source(f0_hz, SPEC)[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kind", "channels"), [("sine", 9), ("pulse", 1)])
def test_rows_and_padding(device, kind, channels):
    """Clips of several lengths in a larger bucket: each is its own, and all else is zero."""
    rows = []
    for seed, frames in enumerate((9, 4, 7)):
        track = make_source_track(kind, channels, SPEC, seed)
        track.extend(song(frames, seed))
        rows += track.read(0, frames).rows
    drawn = Generated(rows)
    found = made(device, drawn, (4, 11 * 128, channels))
    for place, row in enumerate(rows):
        same(found[place, : len(row.host())], row.host())
        assert not found[place, len(row.host()) :].any()
    assert not found[3].any()
    np.testing.assert_array_equal(np.asarray(drawn)[1, : 4 * 128], rows[1].host())
    assert len(drawn[1:]) == 2


def test_a_conversion_makes_them_on_the_device_only(bundle_path, device, song, monkeypatch):
    bundle = open_bundle(bundle_path)
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        wanted = converter.convert(song, 24_000, steps=2)
        maker = SourceMaker(device)
        graphs = {name: engine_graph(bundle, name, device, maker=maker)[0] for name in bundle.manifest.graphs}
        converter._graphs = graphs
        monkeypatch.setattr(Generated, "__array__", lambda *_, **__: pytest.fail("the host made it"))
        found = converter.convert(song, 24_000, steps=2)
        np.testing.assert_allclose(found.mel, wanted.mel, atol=1e-4)  # padded: sums in another order
        np.testing.assert_allclose(found.audio, wanted.audio, atol=1e-4)
        before = device.allocations
        np.testing.assert_array_equal(converter.convert(song, 24_000, steps=2).audio, found.audio)
        assert device.allocations == before, "memory was allocated after the warm-up"
        crossed = converter.transfers
    assert set(crossed["vocoder"].sent_bytes) == {"mel", "f0_hz", "frames of source"}
    assert set(crossed["vocoder"].made_bytes) == {"source", "noise"}
    assert set(crossed["acoustic"].made_bytes) == set(crossed["acoustic_n"].made_bytes) == {"noise"}
    assert crossed["vocoder"].made_bytes["source"] > 10 * crossed["vocoder"].sent_bytes["frames of source"]
    assert not crossed["content"].made_bytes
    assert crossed["vocoder"].making_ms > 0.0


def test_several_files_at_once_are_made_in_one_call(bundle_path, device, song, tmp_path):
    import soundfile

    bundle = open_bundle(bundle_path)
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, file in enumerate(files):
        soundfile.write(file, song[: len(song) - 999 * number], 24_000, subtype="FLOAT")
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        alone = [converter.convert(song[: len(song) - 999 * number], 24_000).audio for number in range(3)]
        maker = SourceMaker(device)
        converter._graphs = {
            name: engine_graph(bundle, name, device, maker=maker)[0] for name in bundle.manifest.graphs
        }
        results = sorted(converter.convert_many(files, tmp_path / "out", batch=3), key=lambda result: result.source)
        assert converter.transfers["vocoder"].calls == 1
        assert set(converter.transfers["vocoder"].made_bytes) == {"source", "noise"}
    for result, wanted in zip(results, alone, strict=True):
        np.testing.assert_allclose(soundfile.read(result.output)[0], wanted, atol=2e-4)


def test_without_a_compiler_the_host_makes_them_and_it_is_said(device, monkeypatch, caplog):
    def no_compiler(*_):
        raise ProviderError("CUDA's run-time compiler cannot be loaded")

    monkeypatch.setattr(device, "load_kernels", no_compiler)
    assert module.make_source_maker(device) is None
    assert "source and all noise are made on the host, and sent: CUDA's run-time compiler" in caplog.text


def test_the_doctor_says_who_makes_them(monkeypatch):
    def no_compiler(*_):
        raise ProviderError("CUDA's run-time compiler cannot be loaded")

    gpu, asked = Gpu("Test GPU", "8.9", 8 << 30, (13, 0)), []
    monkeypatch.setattr(doctor, "compile_cuda", lambda *arguments: asked.append(arguments))
    found = doctor._source_compiler(gpu)
    assert (found.works, found.detail) == (True, "compiles the kernels that make source and noise on a GPU")
    assert asked == [(module.SOURCE.read_bytes(), "source.cu", "8.9")]
    monkeypatch.setattr(doctor, "compile_cuda", no_compiler)
    assert doctor._source_compiler(None).works is None  # no fault where there is no GPU
    assert doctor._source_compiler(gpu).works is False
    assert "made on the host and sent: CUDA's run-time" in doctor._source_compiler(gpu).detail


def test_what_the_host_makes_is_counted_as_sent(bundle_path, device, song):
    bundle = open_bundle(bundle_path)
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        converter._graphs = {name: engine_graph(bundle, name, device)[0] for name in bundle.manifest.graphs}
        converter.convert(song, 24_000)
        crossed = converter.transfers["vocoder"]
    assert set(crossed.sent_bytes) == {"mel", "f0_hz", "source", "noise"}
    assert not crossed.made_bytes
    assert crossed.making_ms > 0.0
    assert device.kernel_launches == 0


def test_every_function_of_the_compiler_exists():
    bindings = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    tree = ast.parse(Path(nvrtc.__file__).read_text("utf-8"))
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {name for name in names if name.startswith("nvrtc")}
    assert len(names) > 5
    for name in names:
        assert callable(getattr(bindings, name)), name
    assert bindings.nvrtcResult.NVRTC_SUCCESS == 0


def nvrtc_missing():
    try:
        compile_cuda(b"", "empty.cu", "8.0")
    except ProviderError as error:
        return str(error).partition("\n")[0]
    return None


needs_nvrtc = pytest.mark.skipif((why_not := nvrtc_missing()) is not None, reason=f"{why_not}")


@needs_nvrtc
@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "9.0", "10.0", "12.0"])
def test_the_kernels_compile_for_every_gpu(capability):
    """CUDA's own compiler needs no GPU."""
    cubin = compile_cuda(module.SOURCE.read_bytes(), "source.cu", capability)
    assert cubin.startswith(b"\x7fELF")
    assert all(kernel.encode() in cubin for kernel in module._KERNELS)


@needs_nvrtc
def test_what_the_compiler_says_is_told():
    with pytest.raises(ProviderError, match=r'(?s)COMPILATION for bad.cu on compute capability 8.0: .*"x" is und'):
        compile_cuda(b"x y", "bad.cu", "8.0")
