"""Files from paths and from the cache of huggingface_hub, which these tests fill themselves."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreign_files import COMMIT, fill_hub_cache
from huggingface_hub import constants

from comosvc.training.errors import ForeignFileError
from comosvc.training.foreign.locations import ForeignSource, sha256_of

LARGE, SMALL = b"x" * 100_000, b"sampling_rate: 24000\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "hub"
    fill_hub_cache(folder, "owner/voice", {"m/model.ckpt": LARGE, "m/config.yaml": SMALL}, small=["m/config.yaml"])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def address(file: str, revision: str = COMMIT) -> str:
    return f"hf://owner/voice@{revision}/{file}"


def test_files_come_from_the_cache(cache):
    source = ForeignSource.parse(address("m/model.ckpt"))
    assert source.file().read_bytes() == LARGE
    config = source.beside("config.json", "config.yaml")
    assert config is not None
    assert config.text == address("m/config.yaml")
    assert config.file().read_bytes() == SMALL
    assert ForeignSource.parse(f"hf://owner/voice@{COMMIT}").inside("m/config.yaml").file().read_bytes() == SMALL


@pytest.mark.parametrize("file", ["m/model.ckpt", "m/config.yaml"])
def test_a_changed_file_is_refused(cache, file):
    path = ForeignSource.parse(address(file)).file()
    path.resolve().write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ForeignFileError, match=r"has the hash [0-9a-f]+, the Hub says .*\nhint: delete "):
        ForeignSource.parse(address(file)).file()


def test_offline_is_respected(cache):
    with pytest.raises(ForeignFileError, match=r"not in the cache .*\nhint: without HF_HUB_OFFLINE"):
        ForeignSource.parse(address("m/other.ckpt")).file()
    assert ForeignSource.parse(address("m/model.ckpt")).beside("config.json") is None


def test_the_environment_of_huggingface_hub_applies(cache):
    """HF_HUB_CACHE and HF_HUB_OFFLINE are read by the library itself, in a fresh process."""
    script = (
        "from comosvc.training.foreign.locations import ForeignSource\n"
        f"print(ForeignSource.parse({address('m/model.ckpt')!r}).file())"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == LARGE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://owner/voice", "it names no revision"),
        ("hf://owner/voice/model.pt", "it names no revision"),
        (f"hf://owner/voice@{COMMIT[:8]}/model.pt", "an abbreviation"),
        ("hf://owner/voice@main/model.pt", "'main' is a branch, a tag"),
        (f"hf://voice@{COMMIT}/model.pt", "not an address of the form"),
        (address("m/../../secret"), "not a path inside a repository"),
        (address("m//x"), "not a path inside a repository"),
    ],
)
def test_what_may_change_or_escape_is_refused(text, message):
    with pytest.raises(ForeignFileError, match=message):
        ForeignSource.parse(text)


def test_paths(tmp_path):
    (tmp_path / "a.pt").write_bytes(LARGE)
    (tmp_path / "config.yml").write_bytes(SMALL)
    source = ForeignSource.parse(tmp_path / "a.pt")
    assert source.file() == tmp_path / "a.pt"
    assert sha256_of(source.file()) == hashlib.sha256(LARGE).hexdigest()
    config = source.beside("config.yaml", "config.yml")
    assert config is not None
    assert config.file().name == "config.yml"
    with pytest.raises(ForeignFileError, match=r"is a folder; a file is needed"):
        ForeignSource.parse(tmp_path).file()
    with pytest.raises(ForeignFileError, match=r"gone.pt is not there"):
        ForeignSource.parse(tmp_path / "gone.pt").file()
    with pytest.raises(ForeignFileError, match=r"is a repository; a file is needed"):
        ForeignSource.parse(f"hf://owner/voice@{COMMIT}").file()
