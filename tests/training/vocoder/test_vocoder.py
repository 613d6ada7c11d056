"""The vocoder: that it sounds right before training, sees no further than it says, learns, and exports."""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from comosvc.runtime.audio.features import mel_spectrogram
from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.runtime.conversion.source import noise_samples, pulse_source
from comosvc.training.cli import app
from comosvc.training.errors import ConfigError
from comosvc.training.loop.batches import Draws
from comosvc.training.vocoder.frame_spectra import FrameSpectra
from comosvc.training.vocoder.light import LIGHT_24K, Vocoder, VocoderConfig
from comosvc.training.vocoder.losses import energy_distance, mel_distance, vocoder_loss
from comosvc.training.vocoder.stage import VocoderClip, VocoderData, VocoderObjective

SMALL = VocoderConfig(channels=24, dilations=(1, 2))
LIGHT = VocoderConfig(channels=24, dilations=(1, 2), lookahead_frames=2, per_bin=True)
FLOPS_ALLOWED = 5e9  # per second of audio
LOOKAHEAD_MS_ALLOWED = 13.4
VOICED_NEPERS, UNVOICED_NEPERS = 0.12, 0.3  # noise in bands of one DFT bin each is not the target's noise
PARITY = 1e-5  # relative to the peak; 1e-6 was seen
pytestmark = pytest.mark.usefixtures("one_thread")


def make_vocoder(config: VocoderConfig = SMALL) -> Vocoder:
    torch.manual_seed(0)
    vocoder = Vocoder(config, SPEC).eval()
    torch.nn.init.normal_(vocoder.head.weight, std=0.05)  # as untrained, zero, it would hide what the network sees
    return vocoder


def vibrato(n_frames: int, centre_hz: float) -> np.ndarray:
    """F0 of a sung tone with an unvoiced tenth in its middle."""
    f0_hz = centre_hz * 2.0 ** (0.03 * np.sin(2 * np.pi * 5.5 * np.arange(n_frames) / SPEC.frame_rate_hz))
    f0_hz[n_frames // 2 : n_frames // 2 + n_frames // 10] = 0.0
    return f0_hz.astype(np.float32)


def sung(f0_hz: np.ndarray) -> np.ndarray:
    """Pulses and breath through three formants; breath alone where `f0_hz` is 0. None of the vocoder's code."""
    source, _ = pulse_source(f0_hz, SPEC, 0.6)
    excitation = source[:, 0] + 0.05 * np.random.default_rng(7).standard_normal(len(source))
    hz = np.fft.rfftfreq(len(excitation), 1 / SPEC.sample_rate)
    tract = sum(1.0 / (1.0 + 1j * (hz - centre) / 90.0) for centre in (600.0, 1500.0, 3000.0)) + 0.02
    voice = np.fft.irfft(np.fft.rfft(excitation) * tract, len(excitation))
    return (0.3 * voice / np.abs(voice).max()).astype(np.float32)


def inputs_of(audio: np.ndarray, f0_hz: np.ndarray, seed: int = 0) -> dict[str, torch.Tensor]:
    source, _ = pulse_source(f0_hz, SPEC)
    arrays = mel_spectrogram(audio, SPEC), f0_hz, source, noise_samples(seed, 0, len(audio))
    return dict(zip(("mel", "f0_hz", "source", "noise"), (torch.from_numpy(a)[None] for a in arrays), strict=True))


def random_inputs(batch: int, n_frames: int) -> dict[str, torch.Tensor]:
    f0_hz = vibrato(n_frames, 200.0)
    rows = [inputs_of(sung(f0_hz), f0_hz, seed) for seed in range(batch)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("config", [SMALL, LIGHT])
@pytest.mark.parametrize("n_frames", [1, 2, 30])
def test_audio_is_as_long_as_its_frames(config, n_frames):
    with torch.no_grad():
        audio = make_vocoder(config)(**random_inputs(2, n_frames))
    assert audio.shape == (2, SPEC.samples(n_frames))
    assert torch.isfinite(audio).all()


def copied(truth: np.ndarray, f0_hz: np.ndarray, config: VocoderConfig) -> np.ndarray:
    with torch.no_grad():
        return Vocoder(config, SPEC)(**inputs_of(truth, f0_hz))[0].numpy()


@pytest.mark.parametrize("config", [VocoderConfig(), LIGHT])
@pytest.mark.parametrize("centre_hz", [110.0, 220.0, 330.0])
def test_copy_synthesis_before_training(config, centre_hz):
    f0_hz = vibrato(300, centre_hz)
    truth = sung(f0_hz)
    heard, wanted = (mel_spectrogram(x, SPEC)[4:-4] * np.log(10.0) for x in (copied(truth, f0_hz, config), truth))
    voiced = f0_hz[4:-4] > 0.0
    assert np.abs(heard - wanted)[voiced].mean() <= VOICED_NEPERS
    assert np.abs(heard - wanted)[~voiced].mean() <= UNVOICED_NEPERS
    assert abs((heard - wanted).mean()) < 0.03


def test_dispersed_pulses_are_less_peaked():
    f0_hz = np.full(150, 110.0, np.float32)
    crests = {}
    for dispersion_ms in (0.0, 1.0):
        audio = copied(sung(f0_hz), f0_hz, VocoderConfig(dispersion_ms=dispersion_ms))[SPEC.samples(5) :]
        crests[dispersion_ms] = np.abs(audio).max() / audio.std()
    assert crests[1.0] < 0.8 * crests[0.0]


def test_harmonics_lie_where_the_source_has_them():
    f0_hz = np.full(300, 250.0, np.float32)
    audio = copied(sung(f0_hz), f0_hz, VocoderConfig())
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    hz = np.fft.rfftfreq(len(audio), 1 / SPEC.sample_rate)
    for harmonic in range(1, 9):
        near = np.abs(hz - 250.0 * harmonic) < 100.0
        assert abs(hz[near][spectrum[near].argmax()] - 250.0 * harmonic) < 1.0


@pytest.mark.parametrize("config", [VocoderConfig(), LIGHT])
def test_silence_stays_silence(config):
    frames = torch.full((1, 40, SPEC.n_mels), float(np.log10(SPEC.mel_floor)))
    noise = torch.from_numpy(noise_samples(0, 0, SPEC.samples(40)))[None]
    with torch.no_grad():
        audio = make_vocoder(config)(frames, torch.zeros(1, 40), torch.zeros(1, SPEC.samples(40), 1), noise)
    assert audio.abs().max() == 0.0


@pytest.mark.parametrize("config", [SMALL, LIGHT, VocoderConfig(channels=24, dilations=(3,), refinements=0)])
def test_context_is_exact(config):
    vocoder = make_vocoder(config)
    n_frames, changed = 60, 30
    clean = random_inputs(1, n_frames)
    clean["f0_hz"].clamp_(min=100.0)
    reach = {}
    with torch.no_grad():
        expected = vocoder(**clean)
        for name in clean:
            step = SPEC.hop_length if name in ("source", "noise") else 1
            disturbed = {key: value.clone() for key, value in clean.items()}
            disturbed[name][:, changed * step : (changed + 1) * step] += 1.0
            differs = (vocoder(**disturbed) != expected).reshape(n_frames, -1).any(dim=1).nonzero().flatten() - changed
            reach[name] = int(differs.max()), -int(differs.min())
    assert reach["mel"] == reach["f0_hz"] == vocoder.mel_context_frames
    assert max(reach["source"], reach["noise"]) == vocoder.context_frames


@pytest.mark.parametrize("config", [SMALL, LIGHT])
def test_chunk_with_context_equals_whole(config):
    vocoder = make_vocoder(config)
    past, future = vocoder.context_frames
    whole = random_inputs(1, 80)
    start, stop = 30, 40
    chunk = {}
    for name, value in whole.items():
        step = SPEC.hop_length if name in ("source", "noise") else 1
        chunk[name] = value[:, (start - past) * step : (stop + future) * step]
    with torch.no_grad():
        expected = vocoder(**whole)[:, SPEC.samples(start) : SPEC.samples(stop)]
        got = vocoder(**chunk)[:, SPEC.samples(past) : -SPEC.samples(future)]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("config", [VocoderConfig(), LIGHT_24K])
def test_costs(config):
    vocoder = Vocoder(config, SPEC)
    if not config.lookahead_frames:
        assert vocoder.lookahead_ms <= LOOKAHEAD_MS_ALLOWED
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        vocoder(**random_inputs(1, 375))
    assert counter.get_total_flops() / 2.0 <= FLOPS_ALLOWED  # two seconds


def test_another_frame_layout_is_refused():
    with pytest.raises(ConfigError, match="hop_length"):
        FrameSpectra(SPEC.__class__(**{**SPEC.__dict__, "hop_length": 160}))


def test_frames_overlap_to_the_signal_they_came_from():
    spectra = FrameSpectra(SPEC)
    audio = torch.randn(2, SPEC.samples(20))
    frames = spectra.filtered(spectra.analyse(audio), torch.zeros(2, 22, SPEC.n_mels))
    torch.testing.assert_close(spectra.overlap_add(frames), audio, rtol=0, atol=1e-5)


def test_mel_is_the_runtimes():
    spectra, audio = FrameSpectra(SPEC), sung(vibrato(50, 180.0))
    got = spectra.log_mel(spectra.analyse(torch.from_numpy(audio)[None]), SPEC.mel_floor)[0, 3:-3].numpy()
    np.testing.assert_allclose(got, mel_spectrogram(audio, SPEC)[2:-2] * np.log(10.0), atol=1e-3)


def test_dispersion_passes_all_frequencies():
    vocoder, noise = Vocoder(VocoderConfig(), SPEC), torch.randn(1, SPEC.samples(200))
    plain, dispersed = (vocoder.spectra.analyse(noise, dft).square().sum(dim=1)[0] for dft in (None, vocoder.pulse_dft))
    power = (x[: SPEC.n_fft // 2 + 1] + x[SPEC.n_fft // 2 + 1 :] for x in (plain, dispersed))
    before, after = (p.unfold(0, 16, 16).sum(dim=-1) for p in power)
    torch.testing.assert_close(after / before, torch.ones_like(before), rtol=0, atol=0.1)


def test_energy_distance_wants_the_right_amount_of_noise():
    generator = torch.Generator().manual_seed(0)
    target, first, second = torch.randn(3, 2, 60_000, generator=generator)
    distances = {scale: energy_distance(scale * first, scale * second, target, 1024) for scale in (0.5, 0.8, 1.0, 1.25)}
    assert min(distances, key=lambda scale: float(distances[scale])) == 1.0
    assert energy_distance(first, first, target, 1024) > distances[1.0]  # variety is worth something


def test_loss_is_small_for_the_recording_itself():
    spectra, audio = FrameSpectra(SPEC), torch.from_numpy(sung(vibrato(60, 200.0)))[None]
    loss, parts = vocoder_loss(torch.stack([audio, audio]), audio, spectra)
    assert loss == 0.0
    assert set(parts) == {"mel_l1", "energy"}
    assert mel_distance(audio * np.e, audio, spectra) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("config", [SMALL, LIGHT])
def test_training_improves_every_part(config):
    f0_hz = vibrato(120, 200.0)
    audio = sung(f0_hz)
    clip = VocoderClip(mel_spectrogram(audio, SPEC), f0_hz, (audio * 32767).astype(np.int16))
    data = VocoderData([clip], SPEC, 60)
    objective = VocoderObjective(make_vocoder(config), SPEC)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(12):
        loss, _ = objective(data.batch(Draws(step % 2, 0, range(2))))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            still = [n for n, p in objective.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert not still
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.01


def test_the_light_kind_exports_with_free_batch_and_length():
    """tests/export exports the other kind."""
    vocoder = make_vocoder(LIGHT)
    example = random_inputs(2, 9)
    free = {"mel": {0: "B", 1: "T"}, "f0_hz": {0: "B", 1: "T"}, "source": {0: "B", 1: "L"}, "noise": {0: "B", 1: "L"}}
    program = torch.onnx.export(
        vocoder, kwargs=example, dynamic_shapes=free, dynamo=True, opset_version=20, verbose=False
    )
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for batch, n_frames in ((1, 1), (2, 33), (1, 150)):
        feed = random_inputs(batch, n_frames)
        with torch.no_grad():
            expected = vocoder(**feed).numpy()
        (got,) = session.run(None, {name: value.numpy() for name, value in feed.items()})
        assert np.abs(got - expected).max() <= PARITY * np.abs(expected).max()


@pytest.mark.parametrize("option", ["--vocoder-kind", "--vocoder-config"])
def test_options_of_a_file_need_one(tmp_path, option):
    done = CliRunner().invoke(app, ["vocoder", "-c", "smoke", "-o", str(tmp_path), option, "openvpi"])
    assert done.exit_code == 1
    assert f"{option} is about a vocoder from a file" in done.stderr
