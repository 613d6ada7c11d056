"""What further steps add: for a teacher its steps are Euler's on the ODE, for a student fresh noise."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import soundfile
from opened import converted
from rich.console import Console
from tiny_bundle import edited, tiny_files, write_zip

from comosvc.runtime import Converter
from comosvc.runtime.cli.info import print_info
from comosvc.runtime.conversion.generated import make_step_noise
from comosvc.runtime.errors import BundleError, OptionError
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.manifest import ModelEntry, OdeEntry, SourceEntry

MODEL = ModelEntry(
    content_channels=1,
    singer_channels=1,
    sigma_min=0.002,
    sigma_max=80.0,
    source=SourceEntry(kind="none", channels=1),
    objective="",
    initial_noise_scale=0.7,
)
ODE = OdeEntry(sigmas=(17.5, 2.5, 0.17, 9.0), mel_mean=(-2.25,), mel_scale=3.75)


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    """Some function of both, as wild as a network."""
    return np.tanh(x / np.sqrt(sigma**2 + 0.25) + 0.3 * np.log(sigma)) * 0.8


@pytest.mark.parametrize("per_band", [False, True])
def test_the_steps_are_eulers(per_band):
    """D + s' * noise, step after step, is x + (s' - s) (x - D) / s, the textbook's step."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=8) if per_band else np.array([-2.25])
    ode = replace(ODE, mel_mean=tuple(mean))
    noise = rng.standard_normal((5, 8)).astype(np.float32)
    schedule = (0, 3, 1, 2)
    levels = [80.0, 17.5, 9.0, 2.5, 0.17]
    x = 0.7 * 80.0 * noise.astype(np.float64)
    steps = make_step_noise(replace(MODEL, ode=ode), schedule, noise, None)
    ours = x
    for number, (sigma, after) in enumerate(zip(levels, [*levels[1:], 0.0], strict=True)):
        wanted = denoise(x, sigma)
        mel = denoise(ours, sigma) * 3.75 + mean
        np.testing.assert_allclose((mel - mean) / 3.75, wanted, atol=2e-5)
        x = x + (after - sigma) * (x - wanted) / sigma
        if number < len(schedule):
            put_back = steps(number + 1, mel.astype(np.float32))
            ours = (mel - mean) / 3.75 + after * put_back


def test_a_student_draws_anew():
    steps = make_step_noise(MODEL, (0,), np.zeros((2, 4), np.float32), lambda step: np.full((2, 4), step, np.float32))
    assert (steps(3, np.zeros((2, 4), np.float32)) == 3).all()


def sung(path, piece_s: float) -> np.ndarray:
    """The mel of a hum in four steps."""
    hum = (0.3 * np.sin(2 * np.pi * 220 * np.arange(48_000) / 24_000)).astype(np.float32)
    with Converter(path) as converter:
        return converted(converter, hum, 24_000, piece_s, 5_000, steps=4)[1]


TEACHER = {"sigmas": [2.0, 0.5, 0.2], "mel_mean": [0.1], "mel_scale": 1.5}


@pytest.mark.parametrize(
    ("changes", "usual"), [({}, 1), ({"ode": TEACHER}, 4), ({"ode": TEACHER, "default_steps": 2}, 2)]
)
def test_a_voice_has_a_usual_number_of_steps(tmp_path, changes, usual):
    """A bundle from before `default_steps` that follows an ODE takes its longest schedule, wherever none is named."""
    hum = (0.3 * np.sin(2 * np.pi * 220 * np.arange(9_000) / 24_000)).astype(np.float32)
    path = write_zip(tmp_path / "voice.comosvc", edited(tiny_files(), lambda m: m["model"].update(changes)))
    with Converter(path, threads=1) as converter:
        for latency in ("default", "low"):
            found, wanted = (
                converter.convert(hum, 24_000, latency=latency),
                converter.convert(hum, 24_000, latency=latency, steps=usual),
            )
            assert found.options.steps == usual
            np.testing.assert_array_equal(found.audio, wanted.audio)
        soundfile.write(tmp_path / "hum.wav", hum, 24_000)
        results = [
            converter.convert_file(tmp_path / "hum.wav", tmp_path / "one.wav"),
            *converter.convert_many([tmp_path / "hum.wav"], tmp_path / "many"),
        ]
        assert [result.options.steps for result in results] == [usual, usual]
        assert converter.stream(24_000).latency_samples == converter.stream(24_000, steps=usual).latency_samples
        assert converter.convert(hum, 24_000, steps=1).options.steps == 1
    shown = Console(width=200, record=True, file=StringIO())
    print_info(open_bundle(path), shown)
    assert f"steps: 1, 2, 4 ({usual} by default)" in shown.export_text()


def test_a_number_of_steps_that_the_voice_cannot_do_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.comosvc", edited(tiny_files(), lambda m: m["model"].update(default_steps=3)))
    with pytest.raises(BundleError, match=r"model.default_steps is 3; the voice can do \(1, 2, 4\)"):
        Converter(path)


def test_pieces_of_a_teachers_clip_join(tmp_path):
    """Each piece follows the ODE on its own, with its context."""
    path = write_zip(tmp_path / "teacher.comosvc", edited(tiny_files(), lambda m: m["model"].update(ode=TEACHER)))
    whole = sung(path, 100.0)
    np.testing.assert_allclose(sung(path, 0.3), whole, atol=1e-5 * np.abs(whole).max())
    assert np.abs(sung(write_zip(tmp_path / "student.comosvc", tiny_files()), 100.0) - whole).max() > 1e-2


@pytest.mark.parametrize(
    ("ode", "message"),
    [
        ({"sigmas": [1.0], "mel_mean": [0.0], "mel_scale": 1.0}, r"points beyond the 1 levels"),
        ({"sigmas": [1.0, 1.0, 0.0], "mel_mean": [0.0], "mel_scale": 1.0}, r"model.ode.sigmas\[2\] is 0.0; it must be"),
        ({"sigmas": [1.0, 1.0, 1.0], "mel_mean": [0.0, 0.0], "mel_scale": 1.0}, r"has 2 numbers for 8 bands"),
    ],
)
def test_an_ode_that_contradicts_the_voice(tmp_path, ode, message):
    files = edited(tiny_files(), lambda m: m["model"].update(ode=ode))
    with pytest.raises(BundleError, match=message):
        Converter(write_zip(tmp_path / "x.comosvc", files))


def test_a_singer_of_unknown_pitch(tmp_path):
    """Key "auto" needs to know it, and nothing else does."""
    files = edited(tiny_files(), lambda m: m["singers"]["alto"].update(f0_median_hz=None, f0_range_hz=None))
    with Converter(write_zip(tmp_path / "x.comosvc", files)) as converter:
        assert converter.singers["alto"].f0_median_hz is None
        song = (0.3 * np.sin(np.arange(24_000) / 20)).astype(np.float32)
        for singer in ("alto", {"alto": 0.5, "bass": 0.5}):
            converter.convert(song, 24_000, singer=singer, key=2.0)
            with pytest.raises(OptionError, match=r"is not known.*\nhint: give the key in semitones, .* --f0-median"):
                converter.convert(song, 24_000, singer=singer, key="auto")
        converter.convert(song, 24_000, singer="bass", key="auto")
