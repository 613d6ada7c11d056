"""Checkpoints are read, and nothing in them runs."""

import argparse
import collections
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import CONTAINERS, PAYLOADS, STOLEN, Stealing, in_zip, pickled

from comosvc.training.errors import ForeignFileError
from comosvc.training.foreign.checkpoints import read_checkpoint
from comosvc.training.foreign.inert_pickle import Record


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_runs(container, payload, tmp_path):
    CONTAINERS[container](tmp_path / "evil.pt", pickled(PAYLOADS[payload]))
    assert read_checkpoint(tmp_path / "evil.pt")["model"] == {}
    assert not (tmp_path / STOLEN).exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_are_what_they_claim(payload, tmp_path):
    """Python's own unpickler does run them."""
    script = f"import pickle; pickle.loads({pickled(PAYLOADS[payload])!r})"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / STOLEN).exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_deep_inside_stay_inert(zipped, tmp_path):
    weight = torch.randn(3, 4)
    config = argparse.Namespace(arch="hubert", heads=3, step=np.float64(0.5), extra={"deep": [Stealing()]})
    content = {"model": {"w": weight, "t": weight.t()}, "args": config, "history": [np.int64(3), np.arange(3)]}
    torch.save({**content, "more": (Stealing(),)}, "mixed.pt", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(Path("mixed.pt"))
    assert not Path(STOLEN).exists()
    assert torch.equal(read["model"]["w"], weight)
    assert torch.equal(read["model"]["t"], weight.t())
    assert isinstance(read["args"], Record)
    assert (read["args"].get("heads"), read["args"].get("missing", 7)) == (3, 7)
    assert isinstance(read["args"].get("extra")["deep"][0], Record)
    assert read["more"][0].args == ("touch stolen",)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind(zipped, tmp_path):
    base = torch.arange(24.0)
    tensors = {
        "slice": base[4:16].view(3, 4),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "long": base.long(),
        "bool": base > 3,
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base),
    }
    content = {"state": collections.OrderedDict(tensors), "object": Stealing()}
    torch.save(content, "kinds.pt", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(Path("kinds.pt"))["state"]
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def broken(path: Path, container: str, storage: bytes) -> None:
    """A checkpoint whose one tensor asks for more than its storage has."""
    torch.save({"w": torch.zeros(4), "x": Stealing()}, path, _use_new_zipfile_serialization=container == "zip")
    data = path.read_bytes()
    if container == "zip":
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.replace(b"K\x04\x85", storage) if name.endswith("pkl") else content)
    else:
        path.write_bytes(data.replace(b"K\x04\x85", storage))


@pytest.mark.parametrize("container", ["zip", "stream"])
def test_a_tensor_beyond_its_storage_is_refused(container, tmp_path):
    broken(tmp_path / "long.pt", container, b"K\x05\x85")
    with pytest.raises(ForeignFileError, match=r"long.pt is damaged.*a tensor of size \(5,\) and stride \(1,\)"):
        read_checkpoint(tmp_path / "long.pt")


@pytest.mark.parametrize("kept", [0, 10, 100, 700, -1])
@pytest.mark.parametrize("container", ["zip", "stream"])
def test_truncated_files(container, kept, tmp_path):
    torch.save({"w": torch.randn(100), "x": Stealing()}, "cut.pt", _use_new_zipfile_serialization=container == "zip")
    whole = Path("cut.pt").read_bytes()
    Path("cut.pt").write_bytes(whole[:kept])
    with pytest.raises(ForeignFileError, match=r"cut.pt .*\n?.*hint: "):
        read_checkpoint(Path("cut.pt"))


@pytest.mark.parametrize("member", ["data.pkl", "data/0", "data/1"])
def test_a_flipped_bit_is_noticed(member):
    torch.save({"w": torch.randn(100), "unused": torch.randn(50), "name": "x" * 60}, "flip.pt")
    whole = Path("flip.pt").read_bytes()
    with zipfile.ZipFile("flip.pt") as archive:
        content = archive.read(f"flip/{member}")
    place = whole.index(content) + (whole[whole.index(content) :].index(b"x" * 60) if member == "data.pkl" else 10)
    assert read_checkpoint(Path("flip.pt"))["name"] == "x" * 60
    Path("flip.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(
        ForeignFileError, match=rf"flip.pt is damaged: flip/{member} .* checksum .*\nhint: fetch it again"
    ):
        read_checkpoint(Path("flip.pt"))


def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(4), "x": Stealing()}, "unchecked.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(Path("unchecked.pt"))["w"].tolist() == [0, 1, 2, 3]


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """Their checksums alone would take the file's size for each of them."""
    in_zip(tmp_path / "many.pt", pickled(b"N") + bytes(9_000))
    with zipfile.ZipFile("many.pt", "a") as archive:
        archive.filelist += archive.filelist[:1] * 10
        archive._didModify = True
    with pytest.raises(ForeignFileError, match=r"many.pt is damaged: parts of it overlap"):
        read_checkpoint(Path("many.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{}}', "safetensors"),
        (b"RIFF____WAVEfmt ", "begins with 52 49 46 46"),
        (b"\x80\x02K\x01.   padding padding", "damaged"),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ForeignFileError, match=message):
        read_checkpoint(tmp_path / "x.pt")


def test_other_archives_are_named(tmp_path):
    with zipfile.ZipFile("docs.pt", "w") as archive:
        archive.writestr("docs/readme.txt", "hello")
    with pytest.raises(ForeignFileError, match=r"a zip archive without data.pkl"):
        read_checkpoint(Path("docs.pt"))
    with zipfile.ZipFile("bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    with pytest.raises(ForeignFileError, match=r"is compressed"):
        read_checkpoint(Path("bomb.pt"))
    with pytest.raises(ForeignFileError, match=r"cannot be read: No such file"):
        read_checkpoint(Path("nowhere.pt"))


@pytest.mark.parametrize("container", CONTAINERS)
def test_exponential_objects_cost_nothing(container, tmp_path):
    """Tuples of tuples 60 deep: never hashed, never printed. torch.load would hash those of the memo."""
    memo = b"(K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60
    CONTAINERS[container](tmp_path / "memo.pt", pickled(memo + b"}h\x00K\x00st"))
    assert len(read_checkpoint(tmp_path / "memo.pt")["x"]) == 62
    bomb = b"K\x01" + b"\x85" + b"2\x86" * 60
    CONTAINERS[container](tmp_path / "key.pt", pickled(b"}" + bomb + b"K\x00s"))
    assert len(read_checkpoint(tmp_path / "key.pt")["x"]) == 1
    CONTAINERS[container](tmp_path / "name.pt", pickled(bomb + bomb + b"\x93"))
    with pytest.raises(ForeignFileError, match=r"whose name is no text") as caught:
        read_checkpoint(tmp_path / "name.pt")
    assert len(str(caught.value)) < 1_000


def test_python_knows_no_names_of_the_file(tmp_path):
    """A global that does not exist would be an ImportError if it were looked up."""
    in_zip(tmp_path / "fairseq.pt", pickled(b"cfairseq.data.dictionary\nDictionary\n)\x81}Vcount\nK\x05sb"))
    found = read_checkpoint(tmp_path / "fairseq.pt")["x"]
    assert (found.name, found.get("count")) == ("fairseq.data.dictionary.Dictionary", 5)
