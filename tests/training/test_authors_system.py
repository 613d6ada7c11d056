"""The authors' networks and samplers against their formulas in float64 (tests/reference/authors.py)."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import authors

from comosvc.runtime.audio.features import mel_filterbank, mel_spectrogram
from comosvc.runtime.audio.frames import stretched_index
from comosvc.runtime.audio.spec import COMOSVC_24K, OPENVPI_44K, SINE_HARMONICS
from comosvc.runtime.conversion.source import sine_source
from comosvc.training.acoustic.diffusion import (
    TEACHER_LADDERS,
    SigmaConfig,
    consistency_sample,
    off_by_one_sigmas,
    sampling_sigmas,
    teacher_sample,
)
from comosvc.training.acoustic.model import AUTHORS_ACOUSTIC, AcousticModel, Condition, DenoiserConfig
from comosvc.training.acoustic.teaching import denoise_with
from comosvc.training.content.encoders import ContentVec, ContentVecConfig
from comosvc.training.errors import ConfigError
from comosvc.training.vocoder.hifigan import M4SINGER_24K, OPENVPI_NSF_44K, HifiGanConfig, NsfHifiGan

TOLERANCES = {
    torch.float64: 1e-6,  # noise levels and step frequencies are float32 in the model; 6e-8 seen
    torch.float32: 5e-6,  # float32 through all layers and steps; 1.4e-7 seen
}
RNG = np.random.default_rng(0)
SMALL_ACOUSTIC = replace(AUTHORS_ACOUSTIC, denoiser=DenoiserConfig(channels=24, hidden=12, layers=4))
SMALL_VOCODERS = {
    "m4singer": replace(M4SINGER_24K, upsample_initial_channel=32),
    "openvpi": replace(OPENVPI_NSF_44K, upsample_initial_channel=32),
    "resblock 2": replace(
        M4SINGER_24K,
        upsample_initial_channel=32,
        resblock="2",
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=((1, 3), (2, 4)),
    ),
}
SMALL_HUBERT = ContentVecConfig(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)


def randomised(module, std=0.2):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.1)
    return module.eval()


def relative(found, wanted):
    assert found.shape == wanted.shape
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Mel


@pytest.mark.parametrize("spec", [COMOSVC_24K, OPENVPI_44K])
def test_filters_are_librosas(spec):
    librosa_mel = pytest.importorskip("librosa.filters").mel
    wanted = librosa_mel(
        sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.f_min_hz, fmax=spec.f_max_hz
    )
    np.testing.assert_allclose(mel_filterbank(spec), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n_samples", [128 * 3, 128 * 40 + 77])
def test_the_mel_is_the_formula(n_samples):
    """Framing, magnitude, floor and logarithm; librosa's filters stand in for ours."""
    filters = pytest.importorskip("librosa.filters").mel(sr=24_000, n_fft=512, n_mels=80, fmin=30, fmax=12_000)
    audio = (0.3 * RNG.standard_normal(n_samples)).astype(np.float32)
    start = n_samples // 2
    audio[start : start + 1_500] = 0.0  # whole windows of 512 of it
    wanted = authors.mel_spectrogram(audio.astype(np.float64), filters.astype(np.float64), 512, 128)
    found = mel_spectrogram(audio, COMOSVC_24K)
    assert found.shape == wanted.shape == (n_samples // 128, 80)
    np.testing.assert_allclose(found, wanted, atol=5e-6)


def test_silence_is_the_floor(acoustic):
    """1e-5 as a logarithm to the base of 10, and where that lies between the authors' -6 and 1.5."""
    mel = mel_spectrogram(np.zeros(24_000, np.float32), COMOSVC_24K)
    np.testing.assert_array_equal(mel, np.float32(-5.0))
    np.testing.assert_allclose(acoustic.normalise(torch.from_numpy(mel)).numpy(), -0.7333, atol=1e-4)


# The acoustic model


def acoustic_weights(model):
    """Our two common projections as the authors' one for each layer."""
    names = {
        "content_embed": "unit_embed",
        "loudness_embed": "volume_embed",
        "singer_embed": "spk_embed",
        "key_shift_embed": "aug_shift_embed",
        "denoiser.step_embedding.": "decoder.denoise_fn.",
        "denoiser.layers": "decoder.denoise_fn.residual_layers",
        "denoiser.": "decoder.denoise_fn.",
    }

    def rename(name):
        ours = next((start for start in names if name.startswith(start)), None)
        return name if ours is None else names[ours] + name.removeprefix(ours)

    w = authors.named(dict(model.named_parameters()), rename)
    for ours, theirs in (("step", "diffusion"), ("condition", "conditioner")):
        for kind in ("weight", "bias"):
            parts = np.split(w.pop(f"decoder.denoise_fn.{ours}_projection.{kind}"), model.config.denoiser.layers)
            for i, part in enumerate(parts):
                name = f"decoder.denoise_fn.residual_layers.{i}.{theirs}_projection.{kind}"
                w[name] = part[..., None] if theirs == "conditioner" and kind == "weight" else part
    return w


@pytest.fixture(scope="module")
def acoustic():
    return randomised(AcousticModel(SMALL_ACOUSTIC, COMOSVC_24K, 32, 3))


def clip(n_frames, n_content, dtype):
    """A condition for us, and the same for the reference."""
    units = RNG.standard_normal((n_content, 32))
    f0 = 200.0 * np.exp(0.3 * RNG.standard_normal(n_frames))
    volume = RNG.uniform(0.0, 0.3, n_frames)
    arrays = {"units": units, "f0": f0, "volume": volume, "speaker": 2}
    return arrays, lambda model, shift=None: Condition(
        content=torch.from_numpy(units)[None].to(dtype),
        content_index=torch.from_numpy(stretched_index(n_content, n_frames))[None].int(),
        f0_hz=torch.from_numpy(f0)[None].to(dtype),
        loudness=torch.from_numpy(volume)[None].to(dtype),
        singer=model.singer_embed(torch.tensor([2])),
        key_shift=None if shift is None else torch.tensor([shift], dtype=dtype),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n_frames", "n_content"), [(2, 1), (57, 15), (300, 79)])
@pytest.mark.parametrize("steps", [1, 4])
@torch.inference_mode()
def test_mels_of_teacher_and_student(acoustic, dtype, n_frames, n_content, steps):
    model = acoustic.to(dtype)
    w, (arrays, condition) = acoustic_weights(model), clip(n_frames, n_content, dtype)
    noises = [RNG.standard_normal((n_frames, 80)) for _ in range(steps)]
    torch_noises = [torch.from_numpy(noise)[None].to(dtype) for noise in noises]
    denoise = denoise_with(model, model.embed(condition(model)))
    cond = authors.condition(w, **arrays)
    sigma = model.config.sigma

    student = model.denormalise(consistency_sample(denoise, torch_noises, sigma))[0]
    assert relative(student.double().numpy(), authors.student_mel(w, cond, noises)) < TOLERANCES[dtype]
    for ladder in TEACHER_LADDERS:
        n = max(steps, 2)
        teacher = model.denormalise(teacher_sample(denoise, torch_noises[0], n, sigma, ladder))[0]
        wanted = authors.teacher_mel(w, cond, noises[0], n, ladder)
        assert relative(teacher.double().numpy(), wanted) < TOLERANCES[dtype], ladder


@torch.inference_mode()
def test_a_key_shift_is_embedded_as_the_authors_do(acoustic):
    model = acoustic.double()
    w, (arrays, condition) = acoustic_weights(model), clip(40, 11, torch.float64)
    for shift in (None, 0.0, -3.7):
        found = model.embed(condition(model, shift))[0].numpy()
        assert relative(found, authors.condition(w, **arrays, shift=shift)) < 1e-12
    assert not np.allclose(authors.condition(w, **arrays), authors.condition(w, **arrays, shift=-3.7))


def test_normalisation_is_two_fixed_scalars(acoustic):
    mel = torch.tensor([-6.0, -5.0, -2.25, 1.5])[:, None].expand(4, 80).to(acoustic.mel_mean.dtype)
    found = acoustic.normalise(mel)[:, 0].tolist()
    assert found == pytest.approx([-1.0, -0.7333333, 0.0, 1.0])
    assert authors.denormalised(np.array(found)) == pytest.approx([-6.0, -5.0, -2.25, 1.5])
    with pytest.raises(ConfigError, match="mel_range"):
        replace(AUTHORS_ACOUSTIC, mel_range=(1.5, -6.0))


def test_the_ladders_are_those_of_the_specification():
    shipped = off_by_one_sigmas(50, SigmaConfig())
    np.testing.assert_allclose(shipped[:3], [80.0, 71.663, 64.082], rtol=1e-5)
    np.testing.assert_allclose(shipped[-2:], [0.00506, 0.00323], rtol=2e-3)
    eight = [80, 39.017, 17.528, 7.1005, 2.5152, 0.7434, 0.1698, 0.0261]
    np.testing.assert_allclose(sampling_sigmas(8, SigmaConfig()), eight, rtol=2e-3)


def test_published_sizes():
    """Parameters of specification 2.2; the pitch extractor, which nothing uses, has 3 257 091 more in a teacher."""
    with torch.device("meta"):
        model = AcousticModel(AUTHORS_ACOUSTIC, COMOSVC_24K, 768, 20)
        vocoder, hubert = NsfHifiGan(M4SINGER_24K), ContentVec()
    assert count(model.denoiser) == 54_945_360
    assert count(model) - count(model.denoiser) == 197_888 + 256 + 256 * 20
    assert count(model) + 3_257_091 == 58_405_715
    assert count(vocoder) == 13_936_011
    normed = [m for name, m in vocoder.named_modules() if isinstance(m, torch.nn.Conv1d | torch.nn.ConvTranspose1d)
              and not name.startswith("noise_convs")]  # fmt: skip
    assert count(vocoder) + sum(len(m.weight) for m in normed) == 13_946_124
    assert count(hubert) == 94_371_712


# The vocoder


def vocoder_weights(vocoder):
    kind_2 = vocoder.config.resblock == "2"

    def rename(name):
        name = name.replace("source_mix", "m_source.l_linear")
        return name.replace(".convs1.", ".convs.") if kind_2 else name

    return authors.named(vocoder.state_dict(), rename)


def shape_of(config):
    return authors.Vocoder(
        config.upsample_rates,
        config.resblock_kernel_sizes,
        config.resblock_dilation_sizes,
        config.normalised_source,
        config.resblock,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", SMALL_VOCODERS)
@pytest.mark.parametrize("n_frames", [1, 6, 23])
@torch.inference_mode()
def test_audio_of_the_vocoders(kind, n_frames, dtype):
    config = SMALL_VOCODERS[kind]
    vocoder = randomised(NsfHifiGan(config), 0.12).to(dtype)
    mel = RNG.standard_normal((n_frames, config.n_mels)) - 2.0
    f0 = 180.0 + 100.0 * RNG.random(n_frames)
    f0[n_frames // 2 :: 3] = 0.0
    shape = n_frames * config.hop_length, SINE_HARMONICS
    source = authors.sines(f0, RNG.random(9), RNG.standard_normal(shape), config.hop_length, config.sample_rate)
    found = vocoder(torch.from_numpy(mel)[None].to(dtype), torch.from_numpy(source)[None].to(dtype))[0]
    wanted = authors.vocode(vocoder_weights(vocoder), shape_of(config), mel, source)
    assert len(wanted) == n_frames * config.hop_length
    assert 0.01 < wanted.std() < 0.9
    assert relative(found.double().numpy(), wanted) < {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]


@pytest.mark.parametrize("kind", SMALL_VOCODERS)
@torch.inference_mode()
def test_vocoder_context_is_exact(kind):
    """What one mel frame, or one hop of the source, changes is what the stated context says."""
    config = SMALL_VOCODERS[kind]
    vocoder, hop, at = randomised(NsfHifiGan(config), 0.12).double(), config.hop_length, 20
    mel, source = torch.randn(1, 40, config.n_mels).double(), 0.1 * torch.randn(1, 40 * hop, SINE_HARMONICS).double()
    before = vocoder(mel, source)
    reached = []
    for change in ("mel", "source"):
        other_mel, other_source = mel.clone(), source.clone()
        if change == "mel":
            other_mel[:, at] += 1.0
        else:
            other_source[:, at * hop : (at + 1) * hop] += 0.5
        changed = (vocoder(other_mel, other_source) != before)[0].nonzero()[:, 0] // hop
        reached.append((int(changed.max()) - at, at - int(changed.min())))
    assert reached[0] == vocoder.mel_context_frames
    assert tuple(max(pair) for pair in zip(*reached, strict=True)) == vocoder.context_frames


def test_mel_gain_is_a_change_of_base():
    config = replace(SMALL_VOCODERS["openvpi"], mel_gain=float(np.log(10.0)))
    vocoder = randomised(NsfHifiGan(config), 0.12).double()
    natural = NsfHifiGan(SMALL_VOCODERS["openvpi"]).double()
    natural.load_state_dict(vocoder.state_dict())
    mel, source = torch.randn(1, 4, 128).double(), torch.randn(1, 2048, 9).double()
    torch.testing.assert_close(vocoder(mel, source), natural(mel * np.log(10.0), source))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upsample_kernel_sizes": (16, 16, 4)}, "upsample_kernel_sizes"),
        ({"upsample_kernel_sizes": (16, 15, 4, 4)}, "even number"),
        ({"resblock_kernel_sizes": (3, 7)}, "resblock_dilation_sizes"),
        ({"resblock_kernel_sizes": (3, 6, 11)}, "odd"),
        ({"upsample_initial_channel": 24}, "halved 4 times"),
    ],
)
def test_impossible_vocoders_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        HifiGanConfig(**change)


def test_the_sine_source_is_the_formula():
    """Phase and noise from the seed, everything else as in float64 sums over samples."""
    f0 = np.concatenate((np.geomspace(90, 800, 150), np.zeros(30), np.full(40, 333.3))).astype(np.float32)
    found, _ = sine_source(f0, COMOSVC_24K, seed=5)
    wanted = authors.sines(f0.astype(np.float64), np.zeros(9), np.zeros((len(f0) * 128, 9)), 128, 24_000)
    voiced = np.repeat(f0 > 0, 128)
    # The fundamental begins at phase 0; what is left of it is noise.
    noise = (found - wanted)[:, 0]
    assert noise[voiced].std() == pytest.approx(0.003, rel=0.02)
    assert noise[~voiced].std() == pytest.approx(0.1 / 3, rel=0.03)
    # An overtone's phase is another constant, which a projection on sine and cosine finds.
    cycles = np.cumsum(np.repeat(f0.astype(np.float64), 128) / 24_000)
    for h in range(2, 10):
        basis = np.stack([np.sin(2 * np.pi * h * cycles), np.cos(2 * np.pi * h * cycles)], axis=1)[voiced]
        amplitudes, residual, *_ = np.linalg.lstsq(basis, found[voiced, h - 1], rcond=None)
        assert np.hypot(*amplitudes) == pytest.approx(0.1, rel=1e-2)
        assert np.sqrt(residual[0] / voiced.sum()) == pytest.approx(0.003, rel=0.03)


# The content encoder


def hubert_weights(encoder):
    """Hugging Face's names as fairseq's (specification 2.4)."""
    names = [
        (r"^hubert\.", ""),
        (r"conv_layers\.(\d+)\.conv\.", r"conv_layers.\1.0."),
        (r"conv_layers\.0\.layer_norm\.", "conv_layers.0.2."),
        (r"^feature_projection\.layer_norm", "layer_norm"),
        (r"^feature_projection\.projection", "post_extract_proj"),
        (r"pos_conv_embed\.conv\.parametrizations\.weight\.original0", "pos_conv.0.weight_g"),
        (r"pos_conv_embed\.conv\.parametrizations\.weight\.original1", "pos_conv.0.weight_v"),
        (r"pos_conv_embed\.conv\.", "pos_conv.0."),
        (r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
        (r"(layers\.\d+)\.attention", r"\1.self_attn"),
        (r"feed_forward\.intermediate_dense", "fc1"),
        (r"feed_forward\.output_dense", "fc2"),
    ]

    def rename(name):
        for pattern, theirs in names:
            name = re.sub(pattern, theirs, name)
        return name

    return authors.named(encoder.state_dict(), rename)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_samples", [400, 719, 3_333, 16_000])
@torch.inference_mode()
def test_content_of_contentvec(n_samples, dtype, folded):
    encoder = randomised(ContentVec(SMALL_HUBERT)).to(dtype)
    if folded:
        encoder.fold()
    audio = 0.3 * RNG.standard_normal(n_samples) + 0.2  # raw: an offset must not be taken away
    found = encoder(torch.from_numpy(audio)[None].to(dtype))[0]
    wanted = authors.contentvec(hubert_weights(encoder), audio, heads=4, groups=4)
    assert len(wanted) == (n_samples - 400) // 320 + 1
    assert relative(found.double().numpy(), wanted) < {torch.float64: 1e-12, torch.float32: 5e-6}[dtype]


def test_content_frames():
    config = ContentVecConfig()
    assert (config.hop_length, config.min_samples) == (320, 400)
    for n_samples in (0, 399, 400, 719, 720, 16_000, 319_999, 320_000):
        assert config.frames(n_samples) == max(0, (n_samples - 400) // 320 + 1)


def test_stretched_index_is_nearest_interpolation():
    """Against torch's own, whose scale is a float32: where i S / T is whole it may fall one short."""
    for n_content, n_frames in ((1, 3), (49, 187), (99, 375), (499, 1_875), (999, 3_750), (7, 5)):
        rows = torch.arange(n_content, dtype=torch.float32)[None, None]
        torchs = F.interpolate(rows, size=n_frames, mode="nearest")[0, 0].numpy().astype(int)
        ours = stretched_index(n_content, n_frames)
        whole = np.arange(n_frames) * n_content % n_frames == 0
        np.testing.assert_array_equal(ours[~whole], torchs[~whole])
        assert (ours[whole] - torchs[whole]).max() <= 1
