"""Other things in place of a voice or a run folder: each is named, with the command that takes it."""

import zipfile
from pathlib import Path

import pytest
import soundfile
from tiny_bundle import tiny_files, write_folder, write_zip

from comosvc.runtime.errors import BundleError
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.file_kinds import FileKind, file_kind, not_a_run

SAFETENSORS = b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{}}'


def zipped(path: Path, *names: str, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    write_zip(folder / "voice.comosvc", tiny_files())
    zipped(folder / "model.pt", "archive/data.pkl", "archive/data/0")
    zipped(folder / "script.pt", "code/data.pkl", "code/constants.pkl")
    zipped(folder / "around.zip", "voice/bundle.json", "voice/pitch.onnx")
    zipped(folder / "small.comosvc", "bundle.json", compression=zipfile.ZIP_DEFLATED)
    (folder / "old.pt").write_bytes(b"\x80\x02" + bytes(100))
    (folder / "x.safetensors").write_bytes(SAFETENSORS)
    (folder / "pitch.onnx").write_bytes(tiny_files()["pitch.onnx"])
    (folder / "config.yaml").write_text("model: {}\n")
    (folder / "page.pt").write_text("<!DOCTYPE html><html>")
    (folder / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "empty").touch()
    soundfile.write(folder / "song.wav", [0.0] * 100, 8_000)
    write_folder(folder / "unpacked", tiny_files())
    (folder / "run" / "student").mkdir(parents=True)
    (folder / "run" / "student" / "step_00000010.safetensors").write_bytes(SAFETENSORS)
    (folder / "voices").mkdir()
    write_zip(folder / "voices" / "alto.comosvc", tiny_files())
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text("{}")
    (folder / "hub" / "model.safetensors").write_bytes(SAFETENSORS)
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("model.pt", FileKind.CHECKPOINT, "comosvc-export import --como model.pt --vocoder FILE"),
        ("old.pt", FileKind.CHECKPOINT, "comosvc-export import --como old.pt"),
        ("script.pt", FileKind.TORCHSCRIPT, "that torch.save wrote"),
        ("around.zip", FileKind.ZIPPED_VOICE, "comosvc-export pack FOLDER -o around.comosvc"),
        ("x.safetensors", FileKind.SAFETENSORS, "comosvc-export bundle RUN"),
        ("pitch.onnx", FileKind.ONNX, "give the .comosvc file"),
        ("config.yaml", FileKind.SETTINGS, "--config of comosvc-export import"),
        ("page.pt", FileKind.WEB_PAGE, "open the link in a browser"),
        ("pointer.pt", FileKind.POINTER, "git lfs pull"),
        ("empty", FileKind.EMPTY, "fetch"),
        ("song.wav", FileKind.AUDIO, "comosvc-convert song.wav"),
        ("run", FileKind.RUN, "comosvc-export bundle run -o run.comosvc"),
        ("run/student", FileKind.STAGE, "comosvc-export bundle run -o run.comosvc"),
        ("run/student/step_00000010.safetensors", FileKind.SAFETENSORS, "comosvc-export bundle run -o run.comosvc"),
        ("voices", FileKind.FOLDER, "voices holds alto.comosvc"),
        ("hub", FileKind.HUGGING_FACE, "--content of comosvc-export import"),
    ],
)
def test_what_is_no_voice_is_named_with_its_command(things, monkeypatch, name, kind, hint):
    monkeypatch.chdir(things)
    assert file_kind(Path(name)) is kind
    with pytest.raises(BundleError) as caught:
        open_bundle(name)
    assert str(caught.value).startswith(f"{name} is {kind}; it is not a voice bundle\nhint: ")
    assert hint in str(caught.value)


def test_a_compressed_voice_is_named_as_one(things):
    with pytest.raises(BundleError, match=r"bundle.json is compressed; .*\nhint: unpack it, then: comosvc-export pack"):
        open_bundle(things / "small.comosvc")


def test_voices_are_voices(things):
    assert file_kind(things / "voice.comosvc") is file_kind(things / "unpacked") is FileKind.VOICE
    assert open_bundle(things / "voice.comosvc").manifest == open_bundle(things / "unpacked").manifest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("voice.comosvc", "is a voice; the run folder of comosvc-train is needed\nhint: a voice is finished"),
        ("unpacked", "is a voice;"),
        ("model.pt", "comosvc-export import --como model.pt"),
        ("run/student", "hint: give the folder around it, run"),
        ("run/student/step_00000010.safetensors", "hint: give the run folder around it, run"),
        ("gone", "gone is not there"),
    ],
)
def test_what_is_no_run_folder_is_named(things, monkeypatch, name, words):
    monkeypatch.chdir(things)
    found = not_a_run(Path(name))
    assert found is not None
    assert words in found


def test_run_folders_pass(things, tmp_path):
    assert not_a_run(things / "run") is None
    assert not_a_run(tmp_path) is None
