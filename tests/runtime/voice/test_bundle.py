"""A bundle is believed in nothing: each way of being broken or foreign is one clear error."""

import contextlib
import hashlib
import json
import os
import struct
import zipfile

import numpy as np
import onnx
import pytest
from safetensors.numpy import load, save
from tiny_bundle import edited, write_folder, write_zip

from comosvc.runtime import BundleError, Converter
from comosvc.runtime.voice.bundle import open_bundle, shipped_voices
from comosvc.runtime.voice.manifest import from_json, to_json


def refused(path, *words):
    """Opening and loading `path` is a `BundleError` whose message has `words`."""
    with pytest.raises(BundleError) as caught:
        Converter(path, threads=1)
    for word in words:
        assert word in str(caught.value)


def with_new_hash(files, name, data):
    """`files` with other bytes under `name` and a manifest that agrees."""
    digest = hashlib.sha256(data).hexdigest()

    def edit(manifest):
        if name == manifest["singer_embedding_file"]:
            manifest["singer_embedding_sha256"] = digest
        else:
            manifest["graphs"][name.removesuffix(".onnx")]["sha256"] = digest

    return {**edited(files, edit), name: data}


def test_zip_and_folder_are_the_same_voice(files, tmp_path):
    zipped = open_bundle(write_zip(tmp_path / "a.comosvc", files))
    folder = open_bundle(write_folder(tmp_path / "a", files))
    assert zipped.manifest == folder.manifest
    np.testing.assert_array_equal(zipped.embeddings, folder.embeddings)
    for name in zipped.manifest.graphs:
        assert zipped.graph_bytes(name) == folder.graph_bytes(name) == files[f"{name}.onnx"]


def test_a_path_may_have_any_letters(files, tmp_path):
    folder = tmp_path / "Stimme süß 声"
    folder.mkdir()
    assert open_bundle(str(write_zip(folder / "ölig.comosvc", files))).manifest.name == "tiny"


def test_the_manifest_survives_its_own_json(files):
    manifest = from_json(files["bundle.json"], "here")
    assert from_json(to_json(manifest), "here") == manifest


def test_an_unknown_name_is_answered_with_the_shipped_ones():
    with pytest.raises(BundleError, match="no voice 'sopranino'") as caught:
        open_bundle("sopranino")
    assert (", ".join(shipped_voices()) or "none") in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(format_version=2), ("format 2", "reads format 1", "upgrade")),
        (lambda m: m.pop("format_version"), ("format None",)),
        (lambda m: m.update(colour="blue"), ("unknown keys: colour",)),
        (lambda m: m.pop("consent"), ("lacks consent",)),
        (lambda m: m["audio"].update(hop=128), ("bundle.json.audio", "unknown keys: hop")),
        (lambda m: m["audio"].update(sample_rate="24000"), ("bundle.json.audio.sample_rate must be int", "'24000'")),
        (lambda m: m["audio"].update(n_mels=10), ("multiple of 4",)),
        (lambda m: m["audio"].update(n_mels=12), ("M = 8", "should be 12")),
        (lambda m: m["audio"].update(hop_length=0), ("audio.hop_length is 0", "16 to 4096")),
        (lambda m: m["audio"].update(content_sample_rate=22_050), ("16000",)),
        (lambda m: m["graphs"].pop("vocoder"), ("no graph for vocoder",)),
        (lambda m: m["graphs"].update(teacher=m["graphs"]["content"]), ("unknown graph 'teacher'",)),
        (lambda m: m["graphs"]["content"].update(sha256="0" * 64), ("content.onnx has SHA-256", "damaged or changed")),
        (lambda m: m["graphs"]["content"].update(sha256="../x"), ("not a SHA-256",)),
        (lambda m: m["graphs"]["content"].update(file="elsewhere.onnx"), ("elsewhere.onnx is missing",)),
        (lambda m: m["graphs"]["content"].update(file="../tiny.onnx"), ("'../tiny.onnx' is not a path inside",)),
        (lambda m: m["graphs"]["content"].update(file="/etc/passwd"), ("not a path inside",)),
        (lambda m: m["graphs"]["content"].update(file="a\\..\\b"), ("not a path inside",)),
        (lambda m: m["graphs"]["content"].update(file="C:evil"), ("not a path inside",)),
        (lambda m: m["graphs"]["content"].update(file=None), ("content graph is not inside", "pack --full")),
        (lambda m: m["graphs"]["content"].update(precision="fp16"), ("graphs.content is fp16", "must be fp32")),
        (lambda m: m["graphs"]["content"]["inputs"][0].__setitem__(0, "wave"), ("contract has audio",)),
        (lambda m: m["graphs"]["content"]["inputs"][0].__setitem__(1, "float64"), ("audio is float64",)),
        (lambda m: m["graphs"]["content"]["inputs"][0].__setitem__(2, ["B", 16_000]), ("fixes N to 16000",)),
        (lambda m: m["graphs"]["content"]["inputs"][0].__setitem__(2, ["B"]), ("dims ['B']",)),
        (lambda m: m["graphs"]["vocoder"]["inputs"].pop(2), ("model.source contradicts",)),
        (lambda m: m["model"].update(content_channels=7), ("C = 6, should be 7",)),
        (lambda m: m["model"]["schedules"].update({"3": [0]}), ("needs steps - 1 indices, has 1",)),
        (lambda m: m["graphs"].pop("acoustic_n"), ("without an acoustic_n graph",)),
        (lambda m: m["model"]["source"].update(kind="sines"), ("'sines'", "pulse, sine, none")),
        (lambda m: m["context"]["vocoder"].update(past=-1), ("context.vocoder.past is -1", "0 to 2000")),
        (lambda m: m["singers"].clear(), ("no singers",)),
        (lambda m: m["singers"]["alto"].update(index=3), ("has 3 rows", "alto")),
        (lambda m: m["singers"]["alto"].update(index=-1), ("singers.alto.index is -1",)),
        (lambda m: m["singers"]["alto"].update(f0_range_hz=[400, 500]), ("does not hold the median",)),
        (lambda m: m.update(singer_embedding_sha256="1" * 64), ("singers.safetensors has SHA-256",)),
    ],
)
def test_a_manifest_that_lies_is_refused(files, tmp_path, edit, words):
    refused(write_zip(tmp_path / "lying.comosvc", edited(files, edit)), *words)


def test_a_graph_may_lie_in_the_cache(files, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "slim.comosvc", edited(files, lambda m: m["graphs"]["pitch"].pop("file")))
    digest = hashlib.sha256(files["pitch.onnx"]).hexdigest()
    for place in ("home", "cache"):
        (tmp_path / place / "blobs").mkdir(parents=True)
        (tmp_path / place / "blobs" / digest).write_bytes(files["pitch.onnx"])
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "home"))
    Converter(path, threads=1).close()
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "nowhere"))
    refused(path, "pitch graph is not inside")
    Converter(path, threads=1, cache_dir=tmp_path / "cache").close()
    (tmp_path / "cache" / "blobs" / digest).write_bytes(b"other")
    with pytest.raises(BundleError, match="damaged or changed"):
        Converter(path, threads=1, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["content.onnx", "singers.safetensors", "bundle.json"])
def test_a_missing_file_is_named(files, tmp_path, name):
    left = {key: data for key, data in files.items() if key != name}
    refused(write_zip(tmp_path / "gap.comosvc", left), f"{name} is missing")
    refused(write_folder(tmp_path / "gap", left), f"{name} is missing")


def test_one_changed_byte_is_noticed_in_zip_and_folder(files, tmp_path):
    data = bytearray(files["vocoder.onnx"])
    data[len(data) // 2] ^= 1
    changed = {**files, "vocoder.onnx": bytes(data)}
    refused(write_folder(tmp_path / "changed", changed), "vocoder.onnx", "damaged or changed")
    refused(write_zip(tmp_path / "changed.comosvc", changed), "vocoder.onnx", "damaged or changed")
    archive = bytearray(write_zip(tmp_path / "bitrot.comosvc", files).read_bytes())
    archive[archive.find(files["vocoder.onnx"]) + 1000] ^= 1
    (tmp_path / "bitrot.comosvc").write_bytes(archive)
    refused(tmp_path / "bitrot.comosvc", "vocoder.onnx cannot be read", "CRC")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95pickle", b"RIFF....WAVEfmt "])
def test_a_foreign_file_is_no_bundle(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path, "is not a voice bundle", ".comosvc")


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_foreign_zip_and_folder_are_no_bundle(tmp_path, write):
    refused(write(tmp_path / "photos", {"a.jpg": b"x"}), "bundle.json is missing; this is not a voice bundle")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_broken_manifest_is_refused(files, tmp_path, text):
    refused(write_zip(tmp_path / "broken.comosvc", {**files, "bundle.json": text}), "broken.comosvc")


def test_truncated_and_compressed_zips_and_members_that_leave_the_folder_are_refused(files, tmp_path):
    refused(write_zip(tmp_path / "deflated.comosvc", files, zipfile.ZIP_DEFLATED), "is compressed")
    path = write_zip(tmp_path / "half.comosvc", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "is not a voice bundle")
    for name in ("../x", "/x", "a/../../x", "a\\b", "c:x"):
        refused(write_zip(tmp_path / "slip.comosvc", {**files, name: b""}), "not a path inside the bundle")


def test_links_and_twins_are_refused(files, tmp_path):
    path = write_zip(tmp_path / "link.comosvc", files)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refused(path, "link is encrypted, a link, or there twice")
    path = write_zip(tmp_path / "twin.comosvc", files)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("bundle.json", files["bundle.json"])
    refused(path, "there twice")


def test_overlapping_members_are_refused(files, tmp_path):
    """The zip bomb that needs no compression: many entries, one piece of data."""
    path = write_zip(tmp_path / "bomb.comosvc", {**files, "big": bytes(100_000)})
    data = bytearray(path.read_bytes())
    directory = data.rfind(b"PK\x05\x06")
    count, size, offset = struct.unpack_from("<HII", data, directory + 10)
    entry = data[data.rfind(b"PK\x01\x02") : directory]
    copies = b"".join(bytes(entry).replace(b"big", f"b{i:02}".encode()) for i in range(50))
    end = bytearray(data[directory:])
    struct.pack_into("<HHII", end, 8, count + 50, count + 50, size + len(copies), offset)
    path.write_bytes(bytes(data[:directory]) + copies + bytes(end))
    refused(path, "more than the archive has")


def test_a_link_out_of_the_folder_is_refused(files, tmp_path):
    (tmp_path / "outside.onnx").write_bytes(files["content.onnx"])
    folder = write_folder(tmp_path / "voice", files)
    (folder / "content.onnx").unlink()
    (folder / "content.onnx").symlink_to(tmp_path / "outside.onnx")
    refused(folder, "content.onnx leads out of the bundle")


def test_a_file_that_is_no_graph_is_refused(files, tmp_path):
    broken = with_new_hash(files, "content.onnx", b"not onnx")
    refused(write_zip(tmp_path / "a.comosvc", broken), "content graph cannot be loaded")


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_no_engine_sees_a_graph_that_is_not_plain(files, tmp_path, monkeypatch, provider):
    engine = pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[provider])
    model = onnx.load_from_string(files["content.onnx"])
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="notes.txt")
    path = write_zip(tmp_path / "a.comosvc", with_new_hash(files, "content.onnx", model.SerializeToString()))
    monkeypatch.setattr(engine, {"cpu": "InferenceSession", "openvino": "compile_model"}[provider], None)
    for open_it in (lambda: Converter(path, provider=provider, cache_dir=tmp_path), lambda: open_bundle(path).verify()):
        with pytest.raises(
            BundleError, match=r"content.onnx: the content graph cannot be loaded: it has external data"
        ):
            open_it()


def test_a_graph_unlike_its_manifest_is_refused(files, tmp_path):
    model = onnx.load_from_string(files["content.onnx"])
    model.graph.output[0].type.tensor_type.shape.dim[2].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 6
    model.graph.input[0].name = model.graph.node[0].input[0] = "wave"
    swapped = with_new_hash(files, "content.onnx", model.SerializeToString())
    refused(write_zip(tmp_path / "a.comosvc", swapped), "content graph has inputs ['wave']", "['audio']")
    model = onnx.load_from_string(files["content.onnx"])
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 16_000
    fixed = with_new_hash(files, "content.onnx", model.SerializeToString())
    refused(write_zip(tmp_path / "fixed.comosvc", fixed), "audio is float32 ['B', 16000], the manifest says float32")
    model = onnx.load_from_string(files["acoustic_n.onnx"])
    step = next(value for value in model.graph.input if value.name == "step_index")
    step.type.tensor_type.elem_type = onnx.TensorProto.INT64
    wide = with_new_hash(files, "acoustic_n.onnx", model.SerializeToString())
    refused(write_zip(tmp_path / "wide.comosvc", wide), "step_index is tensor(int64)")
    other = with_new_hash(files, "acoustic.onnx", files["vocoder.onnx"])
    refused(write_zip(tmp_path / "b.comosvc", other), "acoustic graph has inputs")


def test_embeddings_must_fit(files, tmp_path):
    embedding = load(files["singers.safetensors"])["embedding"]
    bad = {
        "other name": {"rows": embedding},
        "other width": {"embedding": embedding[:, :3].copy()},
        "other type": {"embedding": embedding.astype(np.float64)},
        "not finite": {"embedding": embedding * np.float32(np.nan)},
    }
    for what, tensors in bad.items():
        broken = with_new_hash(files, "singers.safetensors", save(tensors))
        refused(write_zip(tmp_path / f"{what}.comosvc", broken), "singers.safetensors")
    broken = with_new_hash(files, "singers.safetensors", b"garbage")
    refused(write_zip(tmp_path / "garbage.comosvc", broken), "not a safetensors file")


@pytest.mark.parametrize("byte", [0x20, 0xFF])
def test_whatever_zipfile_raises_is_one_error(files, tmp_path, byte):
    """The last member's data ends behind the directory, of which `zipfile` says EOFError."""
    path = write_zip(tmp_path / "x.comosvc", files)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data[archive.getinfo("vocoder.onnx").header_offset + 29] = byte  # of the length of the extra field
    path.write_bytes(data)
    refused(path, "vocoder.onnx cannot be read", "fetch the bundle again")


def test_any_changed_byte_of_a_zip_is_refused_or_changes_nothing(files, tmp_path):
    path, rng = write_zip(tmp_path / "x.comosvc", files), np.random.default_rng(0)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset for info in archive.infolist()]
    headers = [start + i for start in starts for i in range(60)] + list(range(len(data) - 600, len(data)))
    for place in rng.choice(headers, 150):
        changed = bytearray(data)
        changed[place] = rng.integers(0, 256)
        path.write_bytes(changed)
        with contextlib.suppress(BundleError):
            open_bundle(path).verify()


def test_a_zip_of_many_files_is_not_even_listed(files, tmp_path):
    path = write_zip(tmp_path / "many.comosvc", {**files, **{f"{i}": b"" for i in range(1_001)}})
    refused(path, "is not a voice bundle", "it has 1008 files")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment may hide another directory"
    refused(path, "does not end as a zip without a comment does")
    path = write_zip(tmp_path / "forged.comosvc", files)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, len(data) - 10, 1 << 30)  # the size of the directory
    path.write_bytes(data)
    refused(path, "is not a voice bundle")


def tensors_file(**tensors):
    """A safetensors file of zeros; `tensors` are (type, shape, bytes)."""
    header, end = {}, 0
    for name, (dtype, shape, n_bytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


@pytest.mark.parametrize(
    "data",
    [
        tensors_file(embedding=("BF16", [3, 4], 24)),
        tensors_file(embedding=("F32", [3, 4], 48), x=("F8_E4M3", [4], 4)),
        tensors_file(embedding=("F32", [3, 4], 48), x=("F32", [1] * 65, 4)),
        tensors_file(embedding=("F32", [2**62, 4], 48)),
        tensors_file(embedding=("F32", [0, 4], 0)),
        struct.pack("<Q", 2**63) + b"{}",
        b"",
    ],
)
def test_embeddings_of_any_other_form_are_refused(files, tmp_path, data):
    broken = with_new_hash(files, "singers.safetensors", data)
    refused(write_zip(tmp_path / "x.comosvc", broken), "singers.safetensors")


def test_what_is_no_plain_file_is_refused_and_not_waited_for(files, tmp_path):
    os.mkfifo(tmp_path / "pipe.comosvc")
    refused(tmp_path / "pipe.comosvc", "is a pipe or a device")
    refused("/dev/zero", "is a pipe or a device")
    folder = write_folder(tmp_path / "voice", files)
    (folder / "content.onnx").unlink()
    os.mkfifo(folder / "content.onnx")
    refused(folder, "content.onnx is missing")
    (folder / "content.onnx").unlink()
    (folder / "content.onnx").symlink_to(folder / "content.onnx")
    refused(folder, "content.onnx")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "no voice")
    refused("x" * 5_000, "File name too long")
    refused("x\0y", r"no voice 'x\x00y'")


def test_a_file_beyond_any_size_is_not_read(files, tmp_path):
    folder = write_folder(tmp_path / "voice", files)
    for name, limit in (("bundle.json", 2 << 20), ("singers.safetensors", 256 << 20), ("content.onnx", 2 << 30)):
        with (folder / name).open("r+b") as file:
            file.truncate(limit + 1)
        refused(folder, f"{name} has {limit + 1} bytes")
        (folder / name).write_bytes(files[name])


def test_other_files_are_compared_with_their_hashes(files, tmp_path):
    data = b"all of it is free"
    named = edited(files, lambda m: m["provenance"].update(files={"card.md": hashlib.sha256(data).hexdigest()}))
    bundle = open_bundle(write_folder(tmp_path / "voice", {**named, "card.md": data}))
    bundle.verify()
    (tmp_path / "voice" / "card.md").write_bytes(b"none of it is free")
    for check in (bundle.verify, lambda: bundle.read("card.md")):
        with pytest.raises(BundleError, match=r"card.md has SHA-256 .* damaged or changed"):
            check()


def test_a_huge_manifest_is_not_even_parsed(files, tmp_path):
    text = json.dumps({"format_version": 1, "consent": "x" * (17 << 20)}).encode()
    refused(write_zip(tmp_path / "fat.comosvc", {**files, "bundle.json": text}), "bytes; at most 2097152 are read")
