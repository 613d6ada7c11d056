"""Each measure where its value is known on paper."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from comosvc.training.errors import DataError
from comosvc.training.evaluation import outside
from comosvc.training.evaluation import scores as measures

RATE = outside.MEASURE_RATE
T = np.arange(500)


def test_pearson_does_not_care_for_key_or_scale():
    f0 = 200.0 + 20.0 * np.sin(T / 30.0)
    assert measures.f0_pearson(2.0 * f0, f0) == pytest.approx(1.0)
    assert measures.f0_pearson(400.0 - f0, f0) == pytest.approx(-1.0)
    assert measures.f0_pearson(np.cos(2 * np.pi * T / 100), np.sin(2 * np.pi * T / 100)) == pytest.approx(0, abs=1e-9)
    assert np.isnan(measures.f0_pearson(np.full(500, 200.0), f0))


def test_unvoiced_frames_count_in_one_correlation_and_not_in_the_other():
    f0 = 200.0 + 20.0 * np.sin(T / 30.0)
    half = np.where(T < 250, f0, 0.0)
    assert measures.voiced_pearson(half, f0) == pytest.approx(1.0)
    covariance = np.mean(half * f0) - half.mean() * f0.mean()
    assert measures.f0_pearson(half, f0) == pytest.approx(covariance / half.std() / f0.std())


def test_f0_rmse_in_cents():
    f0 = np.full(500, 220.0)
    assert measures.f0_rmse_cents(f0 * 2 ** (30 / 1200), f0) == pytest.approx(30.0)
    alternating = f0 * 2 ** (np.where(T % 2, 10.0, -10.0) / 1200)
    assert measures.f0_rmse_cents(alternating, f0) == pytest.approx(10.0)
    assert measures.f0_rmse_cents(np.where(T < 5, 440.0, 0.0), f0) == pytest.approx(1200.0)
    assert np.isnan(measures.f0_rmse_cents(np.zeros(500), f0))


def test_mcd_of_a_cosine_on_the_mel_axis():
    """A difference of A nepers times cos(pi m (k + 1/2) / M) has c_m = A alone: MCD = 10 / ln 10 sqrt(2) A."""
    rng = np.random.default_rng(0)
    truth, bands = rng.normal(size=(50, 80)), (np.arange(80) + 0.5) / 80
    for m, expected in ((1, 1.0), (13, 1.0), (14, 0.0), (0, 0.0)):
        estimate = truth + 0.3 / np.log(10.0) * np.cos(np.pi * m * bands)
        distortion = measures.mel_cepstral_distortion(estimate, truth, 10.0)
        assert distortion == pytest.approx(expected * 0.3 * 10.0 / np.log(10.0) * np.sqrt(2.0), abs=1e-9)


def test_mcd_with_all_coefficients_is_the_rms_log_spectral_distance():
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(1, 80))
    difference -= difference.mean()
    distortion = measures.mel_cepstral_distortion(difference, np.zeros((1, 80)), np.e, 79)
    assert distortion == pytest.approx(20.0 / np.log(10.0) * np.sqrt(np.mean(difference**2)))


def test_mel_l1_is_in_nepers_and_over_common_frames():
    truth = np.zeros((10, 80))
    assert measures.mel_l1(np.full((12, 80), 0.5), truth, 10.0) == pytest.approx(0.5 * np.log(10.0))


def test_readable_text_has_no_case_space_or_punctuation():
    assert outside.readable("Ｈe llo，世界!\n") == "hello世界"


def test_character_errors():
    rate = outside.find_character_errors()
    assert rate("美错了", "美 错") == pytest.approx(0.5)
    assert rate("", "abcd") == 1.0
    assert rate("A, b", "ab") == 0.0


def speech_like(seed=0, seconds=2.0):
    """Noise bursts with a comb of harmonics, loud enough for PESQ to find an utterance."""
    rng, t = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 20))
    return (0.1 * (tone + 0.1 * rng.standard_normal(len(t))) * (np.sin(2 * np.pi * 3 * t) > -0.3)).astype(np.float32)


def test_pesq_of_a_copy_is_its_maximum_and_noise_lowers_it():
    pesq, clean = outside.find_pesq(), speech_like()
    assert pesq(clean, clean) == pytest.approx(4.64, abs=0.01)
    noisy = clean + 0.05 * np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    assert 1.0 <= pesq(noisy, clean) < 3.5
    assert np.isnan(pesq(clean, np.zeros_like(clean)))


def test_stoi_of_a_copy_is_one_and_of_noise_low():
    stoi, clean = outside.find_stoi(), speech_like()
    assert stoi(clean, clean) == pytest.approx(1.0, abs=1e-3)
    noise = np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    assert stoi(noise, clean) < 0.5


def test_stoi_listens_where_the_reference_sounds():
    """Frames of silence in the clean signal are left out: noise there changes nothing, and the other way round does."""
    stoi, clean = outside.find_stoi(), speech_like()
    rest = np.zeros(RATE, np.float32)
    noise = 0.1 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    pause, noisy = np.concatenate([clean, rest]), np.concatenate([clean, noise])
    assert stoi(noisy, pause) > 0.99
    assert stoi(pause, noisy) < 0.9


@pytest.mark.parametrize(
    ("find", "package"),
    [(outside.find_pesq, "pesq"), (outside.find_stoi, "pystoi"), (outside.find_character_errors, "jiwer")],
)
def test_missing_package_is_named(find, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    found = find()
    assert isinstance(found, outside.Missing)
    assert "[evaluate]" in found.why
    assert package in found.why


def test_recogniser_is_a_program_with_a_file(tmp_path):
    script = tmp_path / "hear me.py"
    script.write_text("import sys, soundfile\nprint(len(soundfile.read(sys.argv[1])[0]), '字')\n")
    recognise = outside.Recogniser(f"{sys.executable} '{script}' {{wav}}")
    assert recognise(np.zeros(1234, np.float32)) == "1234 字"
    with pytest.raises(DataError, match="gets no file"):
        outside.Recogniser("whisper")
    with pytest.raises(DataError, match="did not run"):
        outside.Recogniser("/nowhere/program {wav}")(np.zeros(10, np.float32))
    script.write_text("raise SystemExit('out of memory')")
    with pytest.raises(DataError, match="ended with 1: out of memory"):
        recognise(np.zeros(10, np.float32))


def test_embedding_by_an_onnx_graph(tmp_path):
    class Moments(torch.nn.Module):
        def forward(self, audio):
            return torch.stack([audio.mean(1), audio.square().mean(1)], 1)

    torch.onnx.export(
        Moments().eval(), (torch.zeros(1, 100),), tmp_path / "e.onnx", dynamo=True, verbose=False,
        dynamic_shapes={"audio": {1: "N"}},
    )  # fmt: skip
    name, embed = outside.find_embedding(str(tmp_path / "e.onnx"), [])
    assert name == "e.onnx"
    np.testing.assert_allclose(embed(np.full(50, 2.0, np.float32)), [2.0, 4.0])
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"bad\.onnx"):
        outside.find_embedding(str(tmp_path / "bad.onnx"), [])


def test_no_embedding_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    found = outside.find_embedding(None, [tmp_path])
    assert isinstance(found, outside.Missing)
    assert "import of resemblyzer halted" in found.why
    assert "pip install --no-deps resemblyzer webrtcvad-wheels" in found.why
    with pytest.raises(DataError, match=r"import of resemblyzer halted.*\nhint: pip install librosa"):
        outside.find_embedding("resemblyzer", [tmp_path])
    with pytest.raises(DataError, match="singer classifier"):
        outside.find_embedding(str(tmp_path), [])


def test_resemblyzer_is_fed_one_channel_at_the_rate_it_is_told(monkeypatch):
    """A stand-in that checks what the package's own functions ask for (resemblyzer 0.1.4)."""

    def preprocess_wav(fpath_or_wav, source_sr=None):
        assert (fpath_or_wav.ndim, fpath_or_wav.dtype, source_sr) == (1, np.float32, 16_000)
        return fpath_or_wav[100:]

    class VoiceEncoder:
        def __init__(self, device=None, verbose=True, weights_fpath=None):
            assert (str(device), verbose, weights_fpath) == ("cpu", False, None)

        def embed_utterance(self, wav, return_partials=False, rate=1.3, min_coverage=0.75):
            return np.array([len(wav), wav[0]], np.float32)

    package = SimpleNamespace(preprocess_wav=preprocess_wav, VoiceEncoder=VoiceEncoder)
    monkeypatch.setitem(sys.modules, "resemblyzer", package)
    name, embed = outside.find_embedding("resemblyzer", [])
    assert name == "resemblyzer"
    np.testing.assert_allclose(embed(np.full(16_000, 0.25, np.float32)), [15_900, 0.25])


def test_cosine():
    assert measures.cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.sqrt(0.5))
