"""What an application may rely on."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

import comosvc.runtime
from comosvc.runtime import Conversion, Converter

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
