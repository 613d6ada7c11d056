"""What an application may rely on."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
import soundfile

import comosvc.runtime
from comosvc.runtime import Conversion, Converter, LiveStream, OptionError, Stream

PUBLIC = [
    "COMOSVC_24K",
    "AudioError",
    "AudioSpec",
    "BundleError",
    "CancelledError",
    "ComosvcError",
    "Conversion",
    "Converter",
    "FileConversion",
    "LiveStream",
    "OptionError",
    "Options",
    "OutputError",
    "ProviderError",
    "SelfTest",
    "Singer",
    "Stream",
    "__version__",
]


def test_all_names_are_there_and_no_others():
    assert comosvc.runtime.__all__ == PUBLIC
    for name in PUBLIC:
        assert hasattr(comosvc.runtime, name)


def test_convert_takes_what_the_design_says():
    assert list(inspect.signature(Converter.convert).parameters) == [
        *("self", "audio", "sample_rate", "singer", "key", "seed", "steps"),
        *("latency", "f0_hz", "noise", "progress", "channel"),
    ]
    construct = inspect.signature(Converter).parameters
    assert list(construct) == ["model", "provider", "precision", "threads", "cache_dir"]


def test_a_result_has_what_the_design_says():
    names = [field.name for field in dataclasses.fields(Conversion)]
    assert names == ["audio", "sample_rate", "f0_hz", "mel", "timings_ms", "options", "warnings"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    assert name.isupper() or name == "__version__" or inspect.getdoc(getattr(comosvc.runtime, name))


def test_importing_is_cheap_and_changes_nothing():
    """No engine, no torch, no thread or environment setting; the first of these costs a second on some machines."""
    code = (
        "import os, sys, threading; before = dict(os.environ);"
        "import comosvc.runtime;"
        "print(sorted({'onnxruntime', 'torch', 'matplotlib', 'scipy', 'typer'} & set(sys.modules)),"
        " before == dict(os.environ), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True 1"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Converter, ["singers", "provider", "precision", "spec", "manifest"]),
        (Stream, ["sample_rate", "latency_samples", "singer", "key"]),
        (LiveStream, ["block_samples", "latency_samples", "underruns", "restarts", "error"]),
    ],
)
def test_help_shows_what_an_object_has(kind, names):
    for name in names:
        assert isinstance(getattr(kind, name), property)
        assert inspect.getdoc(getattr(kind, name))


def test_objects_are_printed_in_a_line(converter, song, tmp_path):
    soundfile.write(tmp_path / "a.wav", song, 24_000)
    clip = converter.convert(song, 24_000, singer="bass", key=3)
    good, bad = converter.convert_many([tmp_path / "a.wav", tmp_path / "gone.wav"], tmp_path / "out")
    stream = converter.stream(24_000, key=-2.0)
    for value, words in (
        (clip, ["<Conversion 2.67 s at 24000 Hz, bass, key +3, in ", "on cpu fp32, 1 warning>"]),
        (good, ["a.wav' -> ", "a_alto_0key.wav'", "alto, key +0"]),
        (bad, ["gone.wav", "AudioError: "]),
        (converter, ["tiny.comosvc'", "provider='cpu'", "precision='fp32'", "singers=['alto', 'bass', 'Ténor 1']"]),
        (stream, ["<Stream at 24000 Hz, alto, key -2, ", "samples of latency"]),
        (LiveStream(stream), ["<LiveStream of <Stream", "480 samples a block, 0 underruns"]),
    ):
        assert len(repr(value)) < 400
        assert "array" not in repr(value)
        assert "\n" not in repr(value).partition("Error: ")[0]
        for word in words:
            assert word in repr(value)


def test_an_error_has_its_hint_apart():
    assert OptionError("threads is 0\nhint: give 1").hint == "give 1"
    assert OptionError("threads is 0").hint is None
