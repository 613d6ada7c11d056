"""The public face: lengths, silence, seeds, singers, keys, what may be given and what is refused."""

import builtins
import importlib
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from opened import graphs_of
from tiny_bundle import SPEC, edited, write_zip

from comosvc.runtime import AudioError, CancelledError, ComosvcError, Converter, OptionError, ProviderError
from comosvc.runtime.conversion.analysis import SourceClip
from comosvc.runtime.errors import install
from comosvc.runtime.providers.self_test import vowel

GLIDE, GLIDE_HZ = vowel(SPEC)


def refused(kind, converter, words, **options):
    with pytest.raises(kind) as caught:
        converter.convert(GLIDE[:2_400], options.pop("sample_rate", 24_000), **options)
    assert words in str(caught.value)


# --- Length and silence


@pytest.mark.parametrize(
    "rate", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 176_400, 192_000]
)
def test_the_result_is_as_long_as_the_source(converter, rate):
    for n_samples in (1, 2, 3, 127, 128, 129, 1_000, 12_289):
        clip = np.resize(GLIDE, n_samples)
        result = converter.convert(clip, rate)
        assert result.audio.shape == (n_samples,)
        assert result.sample_rate == rate
        assert result.audio.dtype == np.float32
        assert np.abs(result.audio).max() <= 1.0
        n_frames = converter.frames(n_samples, rate)
        assert result.mel.shape == (n_frames, SPEC.n_mels)
        assert result.f0_hz.shape == (n_frames,)


def test_the_result_is_not_shifted_in_time(converter):
    """A burst in silence comes out where it went in, at any rate."""
    for rate in (8_000, 44_100, 192_000):
        n_samples = rate // 2
        clip = np.zeros(n_samples, np.float32)
        start, end = rate // 5, rate // 5 + rate // 10
        clip[start:end] = np.resize(GLIDE, end - start)
        where = np.flatnonzero(converter.convert(clip, rate).audio)
        assert abs(where[0] - start) / rate < 0.05
        assert 0.0 < (where[-1] - end) / rate < 0.15


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_silence_gives_true_zeros_and_runs_nothing(bundle_path, rate):
    converter = Converter(bundle_path, threads=1)
    for graph in graphs_of(converter).values():
        graph.run = lambda _: pytest.fail("a graph ran for silence")
    result = converter.convert(np.zeros(30 * rate, np.float32), rate, key="auto")
    assert not result.audio.any()
    assert not result.f0_hz.any()
    assert result.options.key == 0.0
    assert result.warnings == ("the source is silent: so is the result",)


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_a_rest_gives_true_zeros(converter, rate):
    noise = 1e-4 * np.random.default_rng(0).standard_normal(rate)  # -80 dB: a recording's rest
    clip = np.concatenate((GLIDE[:20_000], noise, GLIDE[:20_000])).astype(np.float32)
    result = converter.convert(clip, rate)
    rest = result.audio[20_000 + rate // 5 : 20_000 + rate - rate // 10]
    assert not rest.any()
    assert np.abs(result.audio[:20_000]).max() > 0.05
    assert np.abs(result.audio[-20_000:]).max() > 0.05


@pytest.mark.parametrize("latency", ["default", "low"])
@pytest.mark.parametrize("f_hz", [20, 35, 40, 50, 60, 100, 120])
def test_loud_hum_alone_is_not_sung(converter, f_hz, latency):
    """At -20 dB RMS, faded in."""
    rate = 24_000
    seconds = np.arange(2 * rate) / rate
    hum = 0.141 * np.minimum(seconds, 1.0) * np.sin(2 * np.pi * f_hz * seconds)
    assert not converter.convert(hum.astype(np.float32), rate, latency=latency).audio.any()


@pytest.mark.parametrize("latency", ["default", "low"])
@pytest.mark.parametrize(
    ("offset", "f_hz", "level"), [(0.2, 0, 0), (0, 8, 0.0141), (0, 20, 0.0141), (0, 50, 0.00447), (0, 100, 0.00447)]
)
def test_what_lies_below_a_voice_is_not_sung(converter, offset, f_hz, level, latency):
    """An offset, rumble at -40 dB and hum at -50 dB: alone nothing, in a rest nothing, under a voice no louder."""
    for rate in (24_000, 44_100):
        low = (offset + level * np.sin(2 * np.pi * f_hz * np.arange(2 * rate) / rate)).astype(np.float32)
        assert not converter.convert(low, rate, latency=latency).audio.any()
    rest = np.zeros(12_000, np.float32)
    clip = np.concatenate((rest, GLIDE[:20_000], rest))
    low = (offset + level * np.sin(2 * np.pi * f_hz * np.arange(len(clip)) / 24_000)).astype(np.float32)
    found, wanted = (converter.convert(audio, 24_000, latency=latency).audio for audio in (clip + low, clip))
    assert not found[:10_000].any()
    assert not found[-6_000:].any()
    assert np.square(found).mean() == pytest.approx(np.square(wanted).mean(), rel=0.15)


def test_a_long_rest_is_skipped_without_a_trace(bundle_path, monkeypatch):
    """The notes after half a minute of rest come out as if all of it had been computed."""
    clip = np.concatenate((GLIDE, np.zeros(25 * 24_000, np.float32), GLIDE))
    converter, frames = Converter(bundle_path, threads=1), []
    vocoder = graphs_of(converter)["vocoder"].run
    graphs_of(converter)["vocoder"].run = lambda inputs: frames.append(inputs["mel"].shape[1]) or vocoder(inputs)
    skipped = converter.convert(clip, 24_000)
    assert sum(frames) < 17 * SPEC.frame_rate_hz  # two pieces of four
    monkeypatch.setattr(SourceClip, "is_silent", lambda *_: False)
    frames.clear()
    computed = converter.convert(clip, 24_000)
    assert sum(frames) > 28 * SPEC.frame_rate_hz
    np.testing.assert_array_equal(skipped.audio, computed.audio)


# --- Repeatability


def test_same_seed_same_samples(converter):
    first = converter.convert(GLIDE, 24_000, seed=7)
    again = converter.convert(GLIDE, 24_000, seed=7)
    other = converter.convert(GLIDE, 24_000, seed=8)
    np.testing.assert_array_equal(first.audio, again.audio)
    np.testing.assert_array_equal(first.mel, again.mel)
    assert np.abs(first.mel - other.mel).max() > 0.1


def test_threads_do_not_disturb_each_other(converter):
    clips = [np.roll(GLIDE, 1_000 * number)[: 9_000 + 777 * number] for number in range(8)]
    alone = [converter.convert(clip, 24_000, seed=number).audio for number, clip in enumerate(clips)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: converter.convert(item[1], 24_000, seed=item[0]).audio, enumerate(clips)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_source_is_not_changed(converter):
    clip = GLIDE.copy()
    converter.convert(clip, 24_000)
    np.testing.assert_array_equal(clip, GLIDE)


def test_number_types_and_channels_do_not_matter(converter):
    clip = np.round(GLIDE[:9_000] * 20_000).astype(np.int16)
    wanted = converter.convert(clip, 24_000).audio
    as_float = (clip / 32_768).astype(np.float32)
    for same in (as_float, as_float.astype(np.float64), np.stack((clip, clip), axis=1)):
        np.testing.assert_allclose(converter.convert(same, 24_000).audio, wanted, atol=1e-6)


# --- Singers, keys, steps


def test_singers_are_listed_in_order(converter):
    assert list(converter.singers) == ["alto", "bass", "Ténor 1"]
    assert converter.singers["bass"].f0_median_hz == 110.0
    with pytest.raises(TypeError):
        converter.singers["new"] = None


def test_the_first_singer_is_the_default(converter):
    assert converter.convert(GLIDE[:5_000], 24_000).options.singer == {"alto": 1.0}


def test_a_blend_is_the_weighted_mean(converter):
    """Of embeddings, so of a linear acoustic model too; here: the ends of a blend are its singers."""
    alto = converter.convert(GLIDE, 24_000, "alto")
    mixed = converter.convert(GLIDE, 24_000, {"alto": 3, "bass": 1.0})
    assert mixed.options.singer == {"alto": 0.75, "bass": 0.25}
    all_alto = converter.convert(GLIDE, 24_000, {"alto": 2.0, "bass": 0})
    np.testing.assert_array_equal(all_alto.audio, alto.audio)
    assert np.abs(mixed.mel - alto.mel).max() > 0.01


@pytest.mark.parametrize("weight", [1e308, 5e-324, np.float32(1e-40), 10**300, np.int8(3)])
def test_equal_weights_of_any_size_are_halves(converter, weight):
    halves = converter.convert(GLIDE[:2_400], 24_000, {"alto": weight, "bass": weight}).options.singer
    assert halves == {"alto": 0.5, "bass": 0.5}


def test_a_blends_key_rests_on_the_mean_of_log_f0(converter):
    keys = {name: converter.convert(GLIDE, 24_000, name, key="auto").options.key for name in ("alto", "bass")}
    median_hz = float(np.median(GLIDE_HZ))
    assert keys["alto"] == round(12 * np.log2(300.0 / median_hz))
    assert keys["bass"] == round(12 * np.log2(110.0 / median_hz))
    blend_hz = np.sqrt(300.0 * 110.0)
    blended = converter.convert(GLIDE, 24_000, {"alto": 1, "bass": 1}, key="auto").options.key
    assert blended == round(12 * np.log2(blend_hz / median_hz))


@pytest.mark.parametrize(("singer", "auto", "octave"), [("alto", 5, 0), ("bass", -12, -12), ("Ténor 1", -6, 0)])
def test_the_octave_key_is_the_nearest_to_what_auto_finds(converter, singer, auto, octave):
    found, warned = {}, {}
    for key in ("auto", "octave"):
        result = converter.convert(GLIDE, 24_000, singer, key=key)
        found[key], warned[key] = result.options.key, any("backing track" in text for text in result.warnings)
    assert found == {"auto": auto, "octave": octave}
    assert warned == {"auto": auto % 12 != 0, "octave": False}


def test_the_key_moves_the_pitch(converter):
    plain = converter.convert(GLIDE, 24_000)
    moved = converter.convert(GLIDE, 24_000, key=-7.5)
    voiced = plain.f0_hz > 0
    np.testing.assert_allclose(moved.f0_hz[voiced] / plain.f0_hz[voiced], 2 ** (-7.5 / 12), rtol=1e-6)
    cents = 1_200 * np.log2(plain.f0_hz[voiced] / GLIDE_HZ[: len(voiced)][voiced])
    assert voiced.mean() > 0.95
    assert np.abs(cents).max() < 30
    assert np.abs(moved.mel - plain.mel).max() > 0.01


def test_more_steps_are_another_sample(converter):
    mels = [converter.convert(GLIDE, 24_000, steps=steps).mel for steps in (1, 2, 4)]
    assert np.abs(mels[0] - mels[1]).max() > 0.01
    assert np.abs(mels[1] - mels[2]).max() > 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"singer": "soprano"}, "no singer 'soprano' in this voice; it has alto, bass, Ténor 1"),
        ({"singer": {"alto": 1, "soprano": 1}}, "no singer 'soprano'"),
        ({"singer": {}}, "must be a name or a mapping"),
        ({"singer": 3}, "must be a name or a mapping"),
        ({"singer": {"alto": -1}}, "the weight of singer 'alto' is -1"),
        ({"singer": {"alto": float("nan")}}, "the weight of singer 'alto' is nan"),
        ({"singer": {"alto": float("inf")}}, "the weight of singer 'alto' is inf"),
        ({"singer": {"alto": True}}, "the weight of singer 'alto' is True"),
        ({"singer": {"alto": 1j}}, "the weight of singer 'alto' is 1j; it must be a finite number from 0 up"),
        ({"singer": {"alto": 10**400}}, "000...; it must be a finite number"),
        ({"singer": {"alto": 10**5000}}, "is a number of thousands of digits"),
        ({"key": 1e308}, "key is 1e+308"),
        ({"key": 10**400}, "000...; it must be -36 to 36 semitones"),
        ({"key": np.complex64(1)}, "key is np.complex64(1+0j)"),
        ({"key": np.zeros(2)}, "key is array([0., 0.])"),
        ({"singer": {"alto": "much"}}, "the weight of singer 'alto' is 'much'"),
        ({"singer": {"alto": 0, "bass": 0}}, "add up to 0"),
        ({"key": 37}, "key is 37; it must be -36 to 36 semitones"),
        ({"key": -36.1}, "key is -36.1"),
        ({"key": float("nan")}, "key is nan"),
        ({"key": "up"}, "key is 'up'; it must be -36 to 36 semitones, or 'auto'"),
        ({"key": None}, "key is None"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "from 0 to 2^64 - 1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
        ({"seed": 10**5000}, "seed is a number of thousands of digits"),
        ({"steps": 10**5000}, "steps is a number of thousands of digits"),
        ({"singer": 10**5000}, "got a number of thousands of digits"),
        ({"sample_rate": 10**5000}, "got a number of thousands of digits"),
        ({"sample_rate": 1e308}, "sample_rate is 1e+308 Hz"),
        ({"sample_rate": True}, "whole number of Hz"),
        ({"latency": np.zeros(2)}, "latency is array([0., 0.])"),
        ({"channel": np.zeros(2)}, "channel is array([0., 0.])"),
        ({"progress": 5}, "progress is 5; it must be a function, or None"),
        ({"steps": 3}, "steps is 3; this voice can do 1, 2, 4"),
        ({"steps": True}, "steps is True"),
        ({"steps": [1]}, "steps is [1]"),
        ({"latency": "none"}, "latency is 'none'; known: default, low"),
        ({"sample_rate": 4_000}, "sample_rate is 4000 Hz"),
        ({"sample_rate": 44_100.5}, "whole number of Hz"),
        ({"f0_hz": np.zeros(18, np.float32)}, "f0_hz has shape (18,); it must be (19,)\nhint: T is"),
        ({"f0_hz": np.full(19, np.nan)}, "must be finite"),
        ({"f0_hz": np.full(19, "A4")}, "f0_hz is <U2 (19,); it must be finite numbers (19,)"),
        ({"f0_hz": np.full(19, -1.0)}, "f0_hz goes from -1.0"),
        ({"f0_hz": np.full(19, 9_000.0), "key": 12}, "to 4800 Hz at this key"),
        ({"noise": np.zeros((19, 80))}, "noise has shape (19, 80); it must be (19, 8)"),
        ({"f0_hz": [[1], [1, 2]]}, "f0_hz is no array of numbers"),
        ({"f0_hz": np.full(19, 1e308)}, "f0_hz goes from inf"),
        ({"f0_hz": np.array([9_000.0] + 18 * [100.0]), "singer": "alto", "key": "auto"}, "Hz at this key"),
        ({"noise": np.zeros((19, 8), complex)}, "noise is complex128"),
        ({"noise": np.full((19, 8), -1e308)}, "noise goes up to inf; it must be within 100 of 0"),
        ({"noise": np.full((19, 8), 1e30)}, "noise goes up to 1e+30"),
    ],
)
def test_a_wrong_option_is_one_clear_error(converter, options, words):
    refused(OptionError, converter, words, **options)


def test_steps_without_the_graph_for_them(files, tmp_path):
    def one_step(manifest):
        manifest["graphs"].pop("acoustic_n")
        manifest["model"]["schedules"] = {}

    converter = Converter(write_zip(tmp_path / "one.comosvc", edited(files, one_step)), threads=1)
    refused(OptionError, converter, "this voice can do 1", steps=2)


@pytest.mark.parametrize("audio", [np.zeros((2, 2, 2), np.float32), np.zeros(0), np.zeros(9, int), np.full(9, np.nan)])
def test_bad_audio_is_refused(converter, audio):
    with pytest.raises(AudioError):
        converter.convert(audio, 24_000)


# --- Given F0 and noise


def test_given_f0_replaces_the_pitch_graph(bundle_path, converter):
    blind = Converter(bundle_path, threads=1)
    graphs_of(blind)["pitch"].run = lambda _: pytest.fail("the pitch graph ran")
    f0_hz = np.geomspace(100.0, 200.0, blind.frames(len(GLIDE), 24_000))
    result = blind.convert(GLIDE, 24_000, key=12, f0_hz=f0_hz)
    np.testing.assert_allclose(result.f0_hz, 2 * f0_hz, rtol=1e-6)
    found = converter.convert(GLIDE, 24_000)
    whole = [converter.convert(GLIDE, 24_000, f0_hz=np.full(len(f0_hz), 200, kind)).audio for kind in (int, float)]
    np.testing.assert_array_equal(*whole)
    given = converter.convert(GLIDE, 24_000, f0_hz=found.f0_hz)
    np.testing.assert_allclose(given.audio, found.audio, atol=1e-5)
    assert blind.convert(GLIDE, 24_000, "alto", key="auto", f0_hz=f0_hz).options.key == round(
        12 * np.log2(300 / np.sqrt(100 * 200))
    )


def test_f0_is_0_where_the_result_is_silent(converter):
    clip = np.concatenate((GLIDE[:12_800], np.zeros(12_800, np.float32), GLIDE[:12_800]))
    result = converter.convert(clip, 24_000, f0_hz=np.full(300, 200.0))
    sounds = result.audio.reshape(300, 128).any(axis=1)
    assert 60 < np.count_nonzero(~sounds) < 100
    np.testing.assert_array_equal(result.f0_hz, np.where(sounds, np.float32(200.0), 0.0))


def test_given_noise_replaces_the_seeds(converter):
    noise = np.zeros((converter.frames(len(GLIDE), 24_000), SPEC.n_mels))
    quiet = [converter.convert(GLIDE, 24_000, seed=seed, noise=noise).mel for seed in (1, 2)]
    np.testing.assert_array_equal(quiet[0][:-2], quiet[1][:-2])
    assert np.abs(quiet[0] - converter.convert(GLIDE, 24_000, seed=1).mel).max() > 0.1


# --- Accounts


def test_a_result_says_how_it_was_made(converter):
    result = converter.convert(GLIDE, 24_000, "bass", key=2, seed=9, steps=2)
    assert result.options.as_dict() == {
        "voice": "tiny",
        "singer": {"bass": 1.0},
        "key": 2.0,
        "seed": 9,
        "steps": 2,
        "latency": "default",
        "provider": "cpu",
        "precision": "fp32",
    }
    stages = result.timings_ms
    assert list(stages) == ["resample", "content", "pitch", "acoustic", "vocoder", "total"]
    assert all(value > 0 for value in stages.values())
    assert stages["total"] >= sum(stages.values()) - stages["total"]


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (GLIDE, ()),
        (np.stack((GLIDE, GLIDE, GLIDE), axis=1), ("3 channels were mixed to mono",)),
        (0.02 * GLIDE / np.abs(GLIDE).max(), ("very quiet (peak -34 dB)",)),
        (5e-4 * GLIDE / np.abs(GLIDE).max(), ("(peak -66 dB): audio below -60 dB becomes silence",)),
        (np.clip(20 * GLIDE, -1, 1), ("the source clips",)),
        (2.0**15 * GLIDE, ("far beyond full scale, which is 1 (peak +",)),
        (GLIDE[:2_400], ("very short (100 ms)",)),
        (np.full(24_000, 0.2, np.float32), ("the source is silent",)),
        (0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32), ("no pitch was found",)),
    ],
)
def test_warnings_say_what_may_be_wrong(converter, clip, words):
    warnings = converter.convert(clip, 24_000).warnings
    assert len(warnings) == len(words)
    for warning, word in zip(warnings, words, strict=True):
        assert word in warning


def test_a_song_outside_the_voices_range_is_reported(converter):
    (warning,) = converter.convert(GLIDE, 24_000, "bass").warnings
    assert "at key +0 the song lies at" in warning
    assert "trained on 66-176 Hz" in warning
    assert converter.convert(GLIDE, 24_000, "bass", key="auto").warnings == ()


def test_progress_ends_at_one_and_can_cancel(converter):
    clip, shares = np.tile(GLIDE, 8), []
    for key, latency in ((0, "default"), ("auto", "default"), (0, "low")):
        shares = [0.0]
        converter.convert(clip, 24_000, key=key, latency=latency, progress=shares.append)
        assert (np.diff(shares) >= 0.0).all()
        assert np.diff(shares).max() < 0.4
        assert shares.count(1.0) == 1
        assert shares[-1] == 1.0
    with pytest.raises(CancelledError, match="cancelled at"):
        converter.convert(clip, 24_000, progress=lambda share: False)


@pytest.mark.parametrize("n_samples", [-1, 1.5, True, None, "x", 2**63, np.zeros(2)])
def test_frames_of_no_number_are_refused(converter, n_samples):
    with pytest.raises(OptionError, match=r"n_samples is .*; it must be a whole number from 0 to"):
        converter.frames(n_samples, 24_000)
    assert converter.frames(np.uint8(255), np.uint16(8_000)) == converter.frames(255, 8_000)


def test_track_f0_is_the_f0_of_a_conversion(converter):
    opposite = np.stack((GLIDE, -GLIDE), axis=1)
    for audio, channel in ((GLIDE, "mid"), (opposite, "mid"), (opposite, "right")):
        found = converter.track_f0(audio, 24_000, channel)
        np.testing.assert_array_equal(found, converter.convert(audio, 24_000, channel=channel).f0_hz)
        assert found.any()


def test_self_test_passes_here_and_notices_a_changed_file(files, tmp_path):
    path = write_zip(tmp_path / "tiny.comosvc", files)
    with Converter(path, threads=1) as converter:
        result = converter.self_test()
        assert result.f0_error_cents < 10
        assert result.provider == "cpu"
        path.write_bytes(path.read_bytes().replace(b"\x00\x00", b"\x00\x01", 1000))
        with pytest.raises(ComosvcError):
            converter.self_test()


def test_self_test_notices_a_mute_voice(bundle_path):
    converter = Converter(bundle_path, threads=1)
    vocoder = graphs_of(converter)["vocoder"].run
    graphs_of(converter)["vocoder"].run = lambda inputs: (0.0 * vocoder(inputs)[0],)
    with pytest.raises(ComosvcError, match="the result is silent"):
        converter.self_test()


def test_a_voice_that_gives_nan_is_an_error(bundle_path):
    converter = Converter(bundle_path, threads=1)
    vocoder = graphs_of(converter)["vocoder"].run
    graphs_of(converter)["vocoder"].run = lambda inputs: (np.nan * vocoder(inputs)[0],)
    with pytest.raises(ComosvcError, match="NaN"):
        converter.convert(GLIDE, 24_000)


def test_beyond_full_scale_is_cut_and_said(bundle_path):
    converter = Converter(bundle_path, threads=1)
    vocoder = graphs_of(converter)["vocoder"].run
    graphs_of(converter)["vocoder"].run = lambda inputs: (30.0 * vocoder(inputs)[0],)
    result = converter.convert(GLIDE, 24_000)
    assert np.abs(result.audio).max() == 1.0
    assert "beyond full scale" in result.warnings[-1]


# --- Providers


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_no_processor(bundle_path, provider, monkeypatch):
    def no_gpu():
        raise ProviderError("no GPU in this test")

    monkeypatch.setattr(importlib.import_module(f"comosvc.runtime.providers.{provider}"), "find_gpu", no_gpu)
    with pytest.raises(ProviderError, match="no GPU in this test"):
        Converter(bundle_path, provider=provider)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"provider": "gpu"}, OptionError),
        ({"precision": "fp64"}, OptionError),
        ({"precision": "fp16"}, ProviderError),
        ({"threads": 0}, OptionError),
        ({"threads": True}, OptionError),
        ({"threads": 1.5}, OptionError),
    ],
)
def test_wrong_engine_options_are_refused(bundle_path, options, kind):
    with pytest.raises(kind):
        Converter(bundle_path, **options)


def test_auto_says_what_it_took(converter):
    assert (converter.provider, converter.precision) == ("cpu", "fp32")


def test_a_session_that_runs_elsewhere_is_refused(bundle_path, monkeypatch):
    """ONNX Runtime itself would go on in silence."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["AzureExecutionProvider"])
    with pytest.raises(ProviderError, match="asked to run on CPUExecutionProvider but runs on"):
        Converter(bundle_path, threads=1)


def test_without_an_engine_the_two_choices_are_named(bundle_path, monkeypatch):
    def no_engine(name, *rest):
        if name in ("onnxruntime", "openvino"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", no_engine)
    with pytest.raises(ProviderError, match=rf"hint: {re.escape(install('cpu'))}, or with \[cuda\]"):
        Converter(bundle_path)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("provider", ["auto", "cpu", "openvino"])
def test_a_signal_during_the_import_of_an_engine_is_not_taken_for_its_absence(
    bundle_path, monkeypatch, provider, raised
):
    def interrupted(name, *rest):
        if name in ("onnxruntime", "openvino"):
            raise ImportError("initialization failed") from raised()  # as pybind11 does
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", interrupted)
    with pytest.raises(raised):
        Converter(bundle_path, provider=provider)


def test_a_closed_converter_says_so(bundle_path):
    with Converter(bundle_path, threads=1) as converter:
        pass
    with pytest.raises(ComosvcError, match="closed"):
        converter.convert(GLIDE, 24_000)


def test_errors_are_of_one_family():
    import comosvc.runtime

    kinds = [getattr(comosvc.runtime, name) for name in comosvc.runtime.__all__ if name.endswith("Error")]
    assert all(issubclass(kind, ComosvcError) for kind in kinds)
    assert not any(kind.__name__ in dir(builtins) for kind in kinds)
