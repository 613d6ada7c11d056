"""The content encoder: what each frame sees, that chunks equal the whole, that it learns, that it exports."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.content.encoder import (
    ContentConfig,
    ContentEncoder,
    content_loss,
    mel_edges_hz,
    running_mean,
    triangular_filters,
    windowed_dft,
)
from comosvc.training.content.labelled_audio import Augmentation, CropSampler, LabelledClip, bent, played
from comosvc.training.content.stage import ContentObjective, encode_with, score_frames
from comosvc.training.corpus import PHONES, Labels
from comosvc.training.loop.batches import Draws

SPEC = dataclasses.replace(COMOSVC_24K, content_hop_length=160)
HOP, RATE = SPEC.content_hop_length, SPEC.content_sample_rate
SMALL = ContentConfig(channels=24, n_mels=40, dilations=(1, 2, 3), mean_frames=9, lookahead_frames=1, dropout=0.0)
pytestmark = pytest.mark.usefixtures("one_thread")


def make_encoder(config: ContentConfig = SMALL, seed: int = 0) -> ContentEncoder:
    torch.manual_seed(seed)
    encoder = ContentEncoder(config, SPEC).eval()
    for parameter in encoder.parameters():  # PyTorch's zero and one initial values would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vowel(f0_hz: float, formants_hz: tuple[float, ...], seconds: float) -> np.ndarray:
    """A pulse train through resonances, int16 at 16 kHz."""
    excitation = np.zeros(int(seconds * RATE))
    excitation[(np.arange(0.0, seconds, 1 / f0_hz) * RATE).astype(int)] = 1.0
    frequencies = np.fft.rfftfreq(len(excitation), 1 / RATE)
    gain = sum(1.0 / (1.0 + ((frequencies - centre) / 80.0) ** 2) for centre in formants_hz)
    audio = np.fft.irfft(np.fft.rfft(excitation) * gain, len(excitation))
    return np.round(audio / np.abs(audio).max() * 8000).astype(np.int16)


def vowel_clip(singer: str, song: str, f0_hz: float, order: tuple[str, ...]) -> LabelledClip:
    formants = {"aa": (780.0, 1120.0), "iy": (290.0, 2320.0)}
    pieces = [vowel(f0_hz, formants[phone], 0.5) for phone in order]
    starts = 0.5 * np.arange(len(order))
    phones = np.array([PHONES.index(phone) for phone in order], np.int32)
    labels = Labels(np.full(1, np.nan, np.float32), starts, phones)
    return LabelledClip(singer, song, singer.startswith("recorded"), 1.0, np.concatenate(pieces), labels)


CLIPS = [
    vowel_clip("low", "a", 110.0, ("aa", "iy", "aa", "iy")),
    vowel_clip("high", "b", 280.0, ("iy", "aa", "iy", "aa")),
    vowel_clip("recorded-1", "c", 170.0, ("aa", "iy", "iy", "aa")),
]


def test_windowed_dft_is_the_fourier_transform_of_the_windowed_frame():
    frame = noise(320).double().numpy()
    expected = np.fft.rfft(frame * torch.hann_window(320, dtype=torch.float64).numpy())
    real, imaginary = np.split(frame @ windowed_dft(320), 2)
    assert np.allclose(real + 1j * imaginary, expected, atol=1e-5)


def test_every_mel_band_has_a_bin():
    bins_hz = np.linspace(0.0, RATE / 2, HOP + 1)
    assert (triangular_filters(mel_edges_hz(ContentConfig()), bins_hz).sum(axis=0) > 0.3).all()


@pytest.mark.parametrize("n_samples", [160, 319, 320, 1_777, 16_000])
def test_one_distribution_for_each_whole_hop(n_samples):
    with torch.no_grad():
        content = make_encoder()(noise(2, n_samples))
    assert content.shape == (2, n_samples // HOP, len(PHONES))
    assert torch.allclose(content.sum(dim=-1), torch.ones(2, n_samples // HOP), atol=1e-5)


def test_silence_is_finite():
    with torch.no_grad():
        assert torch.isfinite(make_encoder()(torch.zeros(1, 1600))).all()


def test_a_frame_is_centred_on_its_hop():
    """A click moves the spectrum of the two windows around it, and most that of the frame whose centre it hits."""
    audio = torch.zeros(1, 40 * HOP)
    audio[0, 20 * HOP + HOP // 2] = 1.0
    power = make_encoder().power(audio)[0].sum(dim=-1)
    assert power.argmax() == 20
    assert power[19] == pytest.approx(0.0, abs=1e-6)
    assert power[21] == pytest.approx(0.0, abs=1e-6)


def test_context_is_exact():
    """Changing one hop of audio changes exactly the frames that `context_frames` names."""
    encoder = make_encoder().double()
    past, future = encoder.context_frames
    audio = noise(1, 60 * HOP).double()
    changed = audio.clone()
    changed[0, 30 * HOP : 31 * HOP] += noise(HOP, seed=2)
    with torch.no_grad():
        moved = torch.nonzero((encoder.logits(audio) - encoder.logits(changed))[0].abs().sum(dim=-1))[:, 0]
    assert moved.min() == 30 - future
    assert moved.max() == 30 + past


def test_look_ahead_is_exact():
    """Audio later than `lookahead_ms` after a frame's centre cannot reach it; the last of what is earlier does."""
    encoder = make_encoder().double()
    edge = round(30.5 * HOP + encoder.lookahead_ms * RATE / 1e3)
    audio = noise(1, 60 * HOP).double()
    beyond, within = audio.clone(), audio.clone()
    beyond[0, edge:] += noise(60 * HOP - edge, seed=2)
    within[0, edge - 8 : edge] += 1.0
    with torch.no_grad():
        frame, of_beyond, of_within = (encoder.logits(a)[0, 30] for a in (audio, beyond, within))
    assert torch.equal(frame, of_beyond)
    assert not torch.equal(frame, of_within)


def test_defaults_keep_within_their_bounds():
    encoder = ContentEncoder(ContentConfig(mean_frames=40), SPEC)
    assert encoder.lookahead_ms <= 40.0
    assert encoder.context_frames[0] <= 100


def test_chunks_with_context_equal_the_whole():
    encoder = make_encoder()
    past, future = encoder.context_frames
    audio = noise(1, 100 * HOP + 57)
    pieces = []
    with torch.no_grad():
        whole = encoder(audio)
        for start in range(0, 100, 23):
            stop, first = min(start + 23, 100), max(start - past, 0)
            last = audio.shape[1] if stop + future >= 100 else (stop + future) * HOP
            pieces.append(encoder(audio[:, first * HOP : last])[:, start - first : stop - first])
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-6)


def test_batch_items_are_independent():
    encoder = make_encoder()
    audio = noise(3, 8_000)
    with torch.no_grad():
        assert torch.allclose(encoder(audio)[1], encoder(audio[1:2])[0], atol=1e-6)


def test_labels_follow_the_crop():
    """Wherever a crop lies and however fast it is played, it sounds exactly where its target says so."""
    starts, phones = np.array([0.0, 0.31, 0.52, 0.9, 1.3, 1.37, 1.9]), np.array([0, 1, 0, 2, 0, 3, 0], np.int32)
    labels = Labels(np.full(1, np.nan, np.float32), starts, phones)
    sounding = labels.phones_at(np.arange(2 * RATE) / RATE) > 0
    hum = np.round(9000 * sounding * np.sin(np.arange(2 * RATE))).astype(np.int16)
    clips = [LabelledClip("x", "a", recorded, 1.0, hum, labels) for recorded in (False, True)]
    varied = Augmentation(speed=1.5, recorded_speed=2.0, reverb=0.0, noise_db=(-90.0, -60.0), gain_db=(0.0, 0.0))
    batch = CropSampler(clips, SMALL, make_encoder().bins_hz, HOP, 60, varied)(Draws(0, 0, range(16)))
    level = batch["audio"].reshape(16, 60, HOP).square().mean(dim=-1)
    assert torch.allclose(batch["target"].sum(dim=-1), torch.ones(16, 60))
    silence = batch["target"][..., PHONES.index("sil")]
    assert (level[silence > 0.99] < 1e-4).all()
    assert (level[silence < 0.01] > 1e-3).all()
    assert (silence > 0.99).sum() > 50
    assert (silence < 0.01).sum() > 50


def test_batches_follow_the_seed():
    sampler = CropSampler(CLIPS, SMALL, make_encoder().bins_hz, HOP, 60, Augmentation())
    first, again, other = (sampler(Draws(seed, 0, range(4))) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["audio"], other["audio"])


@pytest.mark.parametrize("tract", [1 / 1.4, 1.0, 1.4])
def test_bent_edges_stay_in_order(tract):
    rng = np.random.default_rng(0)
    edges = mel_edges_hz(ContentConfig())
    for _ in range(200):
        bent_edges = bent(edges, 1.2, tract, 1.2, rng)
        assert np.diff(bent_edges).min() > 0.0
        assert bent_edges[-1] == pytest.approx(edges[-1])


def test_warp_reads_formants_of_another_tract():
    """Without bends, a resonance at 1.2 kHz seen with a warp of 1.2 falls where one at 1 kHz falls without."""
    edges = mel_edges_hz(ContentConfig())
    bins_hz = np.linspace(0.0, RATE / 2, 4_001)
    warped = triangular_filters(bent(edges, 1.0, 1.2, 1.0, np.random.default_rng(0)), bins_hz)
    plain = triangular_filters(edges, bins_hz)
    assert warped[600].argmax() == plain[500].argmax()


def test_hiss_hardly_moves_with_the_tract():
    """Through a tract 1.2 times as long, 4.5 kHz is seen nearer to its place than 1 kHz is."""
    edges = mel_edges_hz(ContentConfig())
    moved = bent(edges, 1.0, 1.2, 1.0, np.random.default_rng(0)) / edges
    assert np.interp(4500.0, edges, moved) == pytest.approx(1.2**0.6, abs=0.005)
    assert np.interp(1000.0, edges, moved) == pytest.approx(1.2, abs=0.005)


def test_played_faster_is_higher_and_earlier():
    tone = np.round(8000 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.int16)
    spectrum = np.abs(np.fft.rfft(played(tone, 0, RATE // 2, 1.25)))
    assert spectrum.argmax() * 2 == pytest.approx(625, abs=4)
    late = played(tone, -HOP, 4 * HOP, 1.0)
    assert np.abs(late[: HOP - 32]).max() < 0.01
    assert np.abs(late[HOP:]).max() > 0.2


def test_it_learns_vowels_whoever_sings_them():
    """On a handful of vowels the loss falls and a pitch that was never heard is named right."""
    encoder = make_encoder(ContentConfig(channels=32, n_mels=40, dilations=(1, 2), dropout=0.0))
    objective = ContentObjective(encoder)
    sampler = CropSampler(CLIPS, encoder.config, encoder.bins_hz, HOP, 50, Augmentation(speed=1.1, recorded_speed=1.1))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        loss, _ = objective(sampler(Draws(0, step, range(6))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]
    unheard = vowel_clip("other", "d", 210.0, ("iy", "aa", "iy"))
    assert score_frames(encode_with(encoder), [unheard], HOP, RATE).accuracy > 0.85


def test_loss_of_the_truth_is_its_entropy():
    target = torch.zeros(1, 2, len(PHONES))
    target[0, 0, 3] = 1.0
    target[0, 1, 4:6] = 0.5
    loss = content_loss(torch.log(target + 1e-12), target)
    assert loss.item() == pytest.approx(0.5 * np.log(2.0), abs=1e-5)


def test_onnx_equals_torch(tmp_path):
    encoder = make_encoder()
    dynamic = {"audio": {0: "B", 1: "N"}}
    program = torch.onnx.export(
        encoder, (noise(2, 4_801),), dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False
    )
    assert program is not None
    program.save(tmp_path / "content.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "content.onnx", providers=["CPUExecutionProvider"])
    for batch, n_samples in [(1, 160), (3, 1_777), (2, 48_000)]:
        audio = noise(batch, n_samples)
        with torch.no_grad():
            expected = encoder(audio).numpy()
        (content,) = session.run(None, {session.get_inputs()[0].name: audio.numpy()})
        assert content.shape == expected.shape
        assert np.abs(content - expected).max() < 1e-5


@pytest.mark.parametrize("n_frames", [1, 7, 40])
def test_running_mean_is_weighted_by_loudness(n_frames):
    features = torch.rand(2, 60, 5, generator=torch.Generator().manual_seed(0))
    features[:, 20:30] = 0.0
    found = running_mean(features, n_frames)
    for frame in (0, 3, 25, 59):
        window = features[:, max(0, frame + 1 - n_frames) : frame + 1].double()
        loudness = window.mean(dim=-1, keepdim=True)
        wanted = (window * loudness).sum(dim=1) / (loudness.sum(dim=1) + 0.02 * n_frames)
        assert torch.allclose(found[:, frame].double(), wanted, atol=1e-6)
