"""The command `comosvc-export`."""

import json
import zipfile

import pytest
from typer.testing import CliRunner

from comosvc.export.archive import write_zip
from comosvc.export.cli import app

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def bundle(files, tmp_path):
    write_zip(tmp_path / "tiny.comosvc", files)
    return tmp_path / "tiny.comosvc"


@pytest.mark.parametrize("command", [[], ["bundle"], ["engines"], ["verify"], ["inspect"], ["pack"]])
def test_help_explains(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def assert_same_export(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    """The same run gives the same bytes; only a commit may be made in between, and `second` has no preview yet."""
    manifests = [json.loads(files["bundle.json"]) for files in (first, second)]
    for manifest in manifests:
        del manifest["provenance"]["commit"]
        manifest["provenance"]["files"].pop("preview.flac", None)
    assert manifests[0] == manifests[1]
    assert first.keys() - second.keys() == {"preview.flac"}
    assert all(first[name] == data for name, data in second.items() if name != "bundle.json")


def test_bundle_verify_inspect_pack(run, files, tmp_path):
    path = tmp_path / "tiny.comosvc"
    made = invoke("bundle", run, "-o", path)
    assert made.exit_code == 0, made.output
    assert "singers: bass, soprano" in made.output
    with zipfile.ZipFile(path) as archive:
        assert_same_export({name: archive.read(name) for name in archive.namelist()}, files)
        archive.extractall(tmp_path / "unpacked")
    again = invoke("bundle", run, "-o", path)
    assert again.exit_code == 1
    assert "--force" in again.output
    checked = invoke("verify", path)
    assert checked.exit_code == 0, checked.output
    assert "acoustic_n" in checked.output
    shown = invoke("inspect", path)
    for word in ("tiny", "soprano", "swift-f0", "look-ahead", "consistency distillation"):
        assert word in shown.output
    packed = invoke("pack", tmp_path / "unpacked", "-o", tmp_path / "again.comosvc")
    assert packed.exit_code == 0, packed.output
    assert (tmp_path / "again.comosvc").read_bytes() == path.read_bytes()


def test_verify_with_its_run(bundle, run):
    result = invoke("verify", bundle, "--run", run)
    assert result.exit_code == 0, result.output
    assert "end_to_end" in result.output


def test_errors_are_one_message(tmp_path):
    for arguments in (["verify", tmp_path / "none.comosvc"], ["bundle", tmp_path, "-o", tmp_path / "a.comosvc"]):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert "error: " in result.output
        assert "Traceback" not in result.output


def test_output_needs_the_suffix(run, tmp_path):
    result = invoke("bundle", run, "-o", tmp_path / "alto.zip")
    assert result.exit_code == 1
    assert "alto.comosvc" in result.output


def test_engines_are_built_found_again_and_shown(bundle, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed")
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "home"))
    command = ("engines", bundle, "--flavour", "rtx", "--profile", "stream")
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    for word in ("vocoder", "FLOAT", "profiles stream", "TensorRT RTX"):
        assert word in done.output
    assert "they were there already" not in done.output
    assert "they were there already" in invoke(*command).output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--precision", "fp16"), "has no graphs in fp16"),
        (("--precision", "bf16"), "has no graphs in bf16"),
        (("--profile", "live"), "unknown profile 'live'; known: stream, clip, batch"),
        (("--into-bundle",), "is no unpacked folder"),
    ],
)
def test_engines_that_cannot_be_built_are_one_clear_error(bundle, options, words):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed")
    done = invoke("engines", bundle, "--flavour", "rtx", *options)
    assert done.exit_code == 1
    assert words in done.output
