"""The command `comosvc-export`."""

import json
import subprocess
import sys
import zipfile

import pytest
from typer.testing import CliRunner

from comosvc.export.archive import write_zip
from comosvc.export.bundle import voice as voice_module
from comosvc.export.cli import app
from comosvc.runtime.voice.bundle import shipped_voices
from comosvc.runtime.voice.graphs import GRAPHS

runner = CliRunner()


def invoke(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def bundle(files, tmp_path):
    write_zip(tmp_path / "tiny.comosvc", files)
    return tmp_path / "tiny.comosvc"


@pytest.mark.parametrize("command", [[], ["bundle"], ["engines"], ["verify"], ["inspect"], ["pack"], ["precision"]])
def test_help_explains(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def assert_same_export(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    """The same run gives the same bytes; only a commit may be made in between, and `second` has no preview and no fp16
    yet.
    """
    manifests = [json.loads(files["bundle.json"]) for files in (first, second)]
    parity = [json.loads(files["parity.json"]) for files in (first, second)]
    added = parity[0].pop("variants")["fp16"]["graphs"]
    assert {name: entry["sha256"] for name, entry in manifests[0]["variants"]["fp16"].items()} == added
    for manifest in manifests:
        del manifest["digest"], manifest["variants"], manifest["provenance"]["commit"]
        del manifest["provenance"]["files"]["parity.json"]
        manifest["provenance"]["files"].pop("preview.flac", None)
    assert manifests[0] == manifests[1]
    assert parity[0] == parity[1]
    assert first.keys() - second.keys() == {"preview.flac", *(f"{name}.fp16.onnx" for name in GRAPHS)}
    assert all(first[name] == data for name, data in second.items() if name not in ("bundle.json", "parity.json"))


def test_bundle_verify_inspect_pack(run, files, known_graphs, tmp_path):
    path = tmp_path / "tiny.comosvc"
    with known_graphs({name: files[f"{name}.onnx"] for name in ("content", "acoustic", "acoustic_n")}):
        made = invoke("bundle", run, "-o", path, "--precision", "fp32,fp16")
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
    assert "mel_nepers" in checked.output
    shown = invoke("inspect", path)
    for word in ("tiny", "fp16", "soprano", "swift-f0", "look-ahead", "MB", "consistency distillation"):
        assert word in shown.output
    packed = invoke("pack", tmp_path / "unpacked", "-o", tmp_path / "again.comosvc")
    assert packed.exit_code == 0, packed.output
    assert (tmp_path / "again.comosvc").read_bytes() == path.read_bytes()


def test_pack_takes_a_shipped_name(tmp_path):
    packed = invoke("pack", "demo", "-o", tmp_path / "p.comosvc")
    assert packed.exit_code == 0, packed.output
    assert (tmp_path / "p.comosvc").read_bytes() == shipped_voices()["demo"].read_bytes()


def test_inspect_folds_what_is_too_long_for_the_screen(bundle):
    shown = runner.invoke(app, ["inspect", str(bundle)], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert "…" not in shown.output


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


def test_bundle_names_what_is_no_run_folder(run, bundle, tmp_path):
    out = tmp_path / "a.comosvc"
    assert "is a voice; the run folder of comosvc-train is needed" in invoke("bundle", bundle, "-o", out).output
    assert "give the folder around it" in invoke("bundle", run / "student", "-o", out).output
    assert "unknown weights 'best'" in invoke("bundle", run, "-o", out, "--weights", "best").output
    assert not out.exists()


def test_consent_is_asked_for_before_networks_are_loaded(make_run, tmp_path, monkeypatch):
    recorded = make_run(tmp_path / "run", kind="recorded")
    monkeypatch.setattr(voice_module, "load_content_encoders", None)
    said = invoke("bundle", recorded, "-o", tmp_path / "a.comosvc").output
    assert "bass is a recorded person" in said


def test_output_needs_the_suffix(run, tmp_path):
    result = invoke("bundle", run, "-o", tmp_path / "alto.zip")
    assert result.exit_code == 1
    assert "alto.comosvc" in result.output


def test_inspect_takes_shipped_names():
    shown = CliRunner().invoke(app, ["inspect", "demo"])
    assert shown.exit_code == 0, shown.output
    assert "soprano" in shown.output


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


def test_an_error_of_the_operating_system_is_one_message(bundle, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", "/locked/place")

    monkeypatch.setattr("comosvc.export.archive.pack", refused)
    done = invoke("pack", bundle, "-o", tmp_path / "packed.comosvc")
    assert done.exit_code == 1
    assert done.output.strip() == "error: /locked/place: Permission denied"


def test_inspect_loads_nothing_heavy():
    code = "import sys; from comosvc.export.cli import app; app(['inspect', 'demo'], standalone_mode=False)\n"
    code += "print([name for name in ('torch', 'onnx', 'onnxruntime', 'scipy', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
