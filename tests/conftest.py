"""A smoke run: the commands that make the demo voice, on the smoke recipe, for all tests that need a whole voice."""

from pathlib import Path

import pytest
from typer.testing import CliRunner


def pytest_addoption(parser):
    group = parser.getgroup("comosvc benchmarks")
    group.addoption("--device", default="cpu", help="where tests/benchmarks times networks in torch: cpu or cuda")
    group.addoption("--systems", default="", help="also time these systems of comosvc-bench rtf, in full size")


STAGES = ("content", "vocoder", "teacher", "student")


def invoke(app, *arguments):
    """Run a command and insist that it succeeds."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """A run folder with every stage, the published student too."""
    from comosvc.training.cli import app

    folder = tmp_path_factory.mktemp("smoke") / "run"
    invoke(app, "corpus", "-c", "smoke", "-o", folder, "--synthetic-only", "-n", 1)
    invoke(app, "prepare", "-c", "smoke", "-o", folder, "-n", 1)
    for stage in (*STAGES, "student --published"):
        invoke(app, *stage.split(), "-c", "smoke", "-o", folder, "--device", "cpu", "--threads", 1)
    return folder


@pytest.fixture(scope="session")
def smoke_bundle(smoke_run, tmp_path_factory):
    """The voice of that run."""
    from comosvc.export.cli import app

    bundle = tmp_path_factory.mktemp("smoke-bundle") / "smoke.comosvc"
    invoke(app, "bundle", smoke_run, "-o", bundle)
    return bundle


@pytest.fixture(scope="session")
def int8_demo(tmp_path_factory):
    """The shipped voice with graphs in 8 bits besides, as a file."""
    from comosvc.export.precision.precision import add_to_bundle

    path = tmp_path_factory.mktemp("int8") / "demo.comosvc"
    add_to_bundle(Path("demo"), path, ["int8"])
    return path
