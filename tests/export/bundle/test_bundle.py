"""A run folder becomes a bundle, and `verify` notices whatever happens to it afterwards."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.numpy import save, save_file
from typer.testing import CliRunner

from comosvc.export.archive import pack, write_zip
from comosvc.export.bundle.assemble import TorchGraphs, build_files
from comosvc.export.bundle.statements import Statements
from comosvc.export.bundle.verify import verify
from comosvc.export.bundle.voice import TrainedVoice, data_summary, load_voice
from comosvc.export.cli import app
from comosvc.export.errors import ExportError, ParityError
from comosvc.export.graphs.parity import LENGTHS, encode_probes, make_probes, onnx_runner
from comosvc.runtime import Converter
from comosvc.runtime.errors import BundleError
from comosvc.runtime.storage import sha256
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.graphs import GRAPHS
from comosvc.training.data.prepared import FeatureIndex, song_mark
from comosvc.training.errors import DataError, TrainingError
from comosvc.training.vocoder.light import VocoderConfig

Files = dict[str, bytes]


def written(files: Files, folder: Path) -> Path:
    path = folder / "voice.comosvc"
    write_zip(path, files)
    return path


def perturbed(graph: bytes) -> bytes:
    """The graph with the largest number of a tensor of middle size moved by that tensor's standard deviation."""
    model = onnx.load_from_string(graph)
    matrices = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    tensor = sorted(matrices, key=lambda t: int(np.prod(t.dims)))[len(matrices) // 2]
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[weights.argmax()] += weights.std()
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return model.SerializeToString()


def edited_json(data: bytes, edit: Callable[[dict], object]) -> bytes:
    content = json.loads(data)
    edit(content)
    return json.dumps(content).encode()


def edited_manifest(data: bytes, edit: Callable[[dict], object]) -> bytes:
    """Without its digest, which a forger could write too."""
    return edited_json(data, lambda manifest: (manifest.pop("digest"), edit(manifest)))


def with_graph(files: Files, name: str, graph: bytes, *, forge: bool) -> Files:
    """`files` with another graph and its hash; with `forge` parity.json and its hash speak of the new graph too."""
    new = {**files, f"{name}.onnx": graph}
    hashes = {"graphs": {name: {"sha256": sha256(graph)}}, "files": {}}
    if forge:
        new["parity.json"] = edited_json(files["parity.json"], lambda d: d["graphs"].update({name: sha256(graph)}))
        hashes["files"]["parity.json"] = sha256(new["parity.json"])

    def edit(manifest: dict) -> None:
        manifest["graphs"][name].update(hashes["graphs"][name])
        manifest["provenance"]["files"].update(hashes["files"])

    new["bundle.json"] = edited_manifest(files["bundle.json"], edit)
    return new


def test_verify_accepts_the_export(files, voice, tmp_path):
    path = written(files, tmp_path)
    alone, with_torch = verify(path), verify(path, voice)
    assert {row.graph for row in alone} == set(GRAPHS)
    assert all(row.ok for row in with_torch)
    for graph, lengths in LENGTHS.items():
        measured = {(row.batch, row.length) for row in with_torch if row.graph == graph}
        assert {length for _, length in measured} >= set(lengths)
        assert len({batch for batch, _ in measured}) >= 2


@pytest.mark.parametrize("graph", ["content", "pitch", "acoustic", "acoustic_n", "vocoder"])
def test_verify_rejects_a_changed_weight(files, tmp_path, graph):
    changed = perturbed(files[f"{graph}.onnx"])
    with pytest.raises(BundleError, match=f"{graph}.onnx has SHA-256"):
        verify(written({**files, f"{graph}.onnx": changed}, tmp_path))
    with pytest.raises(ParityError, match=f"not measured on this {graph} graph"):
        verify(written(with_graph(files, graph, changed, forge=False), tmp_path))
    with pytest.raises(ParityError, match=rf"{graph} at batch \d, length \d+: relative error"):
        verify(written(with_graph(files, graph, changed, forge=True), tmp_path))


def test_verify_with_the_run_rejects_what_the_probes_allow(files, voice, tmp_path):
    """A forger may compute new probes too; torch still disagrees."""
    forged = with_graph(files, "content", perturbed(files["content.onnx"]), forge=True)
    forged["probes.safetensors"] = _reprobed(forged, voice)
    digest = sha256(forged["probes.safetensors"])
    forged["bundle.json"] = edited_json(
        forged["bundle.json"], lambda m: m["provenance"]["files"].update({"probes.safetensors": digest})
    )
    path = written(forged, tmp_path)
    verify(path)
    with pytest.raises(ParityError, match=r"content at batch \d, length \d+: relative error"):
        verify(path, voice)


def _reprobed(files: Files, voice: TrainedVoice) -> bytes:
    runners = {name: onnx_runner(files[f"{name}.onnx"]) for name in GRAPHS}
    return encode_probes(make_probes(runners, TorchGraphs.of(voice).maker))


def test_verify_rejects_changed_and_missing_files(files, tmp_path):
    with pytest.raises(BundleError, match=r"data-card.md has SHA-256 .* it was damaged or changed"):
        verify(written({**files, "data-card.md": b"all of it is free"}, tmp_path))
    without = {name: data for name, data in files.items() if name != "probes.safetensors"}
    with pytest.raises(BundleError, match=r"probes.safetensors is missing"):
        verify(written(without, tmp_path))


def test_probes_stay_small(files):
    assert len(files["probes.safetensors"]) < 1_000_000


def test_manifest_says_what_the_run_was(files, tmp_path):
    manifest = open_bundle(written(files, tmp_path)).manifest
    assert list(manifest.singers) == ["bass", "soprano"]
    assert manifest.model.initial_noise_scale == 0.9
    assert "student.data_l1_weight = 0.5 (published: 0.0)" in manifest.model.departures
    assert "acoustic.denoiser.lookahead_frames = 2 (published: None)" in manifest.model.departures
    assert manifest.context.acoustic.future == 2
    parts = manifest.lookahead_ms
    assert manifest.context.content.future == 4
    assert manifest.context.content_low.future == 2
    assert (parts.content, parts.content_low_latency) == (40.0, 20.0)
    assert parts.total == pytest.approx(
        parts.content_low_latency + parts.pitch_low_latency + parts.acoustic + parts.vocoder
    )
    assert manifest.lookahead_ms.acoustic == pytest.approx(2 * 128 / 24)
    assert manifest.provenance["stages"]["student"]["step"] == 1
    assert any("swift-f0" in entry.credit for entry in manifest.licences)


def test_embeddings_are_those_of_the_targets(files, voice, tmp_path):
    table = voice.acoustic.singer_embed.weight.detach().numpy()
    np.testing.assert_array_equal(open_bundle(written(files, tmp_path)).embeddings, table[[0, 2]])


def test_graphs_name_no_path_of_this_machine(files):
    for name in ("content", "acoustic", "acoustic_n", "vocoder"):
        for word in (b"/home/", b"site-packages", b"conftest", b".py"):
            assert word not in files[f"{name}.onnx"], f"{word!r} in {name}"


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("features", "comosvc-train prepare"),
        ("content", "comosvc-train content"),
        ("vocoder", "comosvc-train vocoder"),
        ("student", "comosvc-train student"),
    ],
)
def test_a_missing_stage_names_its_command(run, tmp_path, missing, hint):
    for stage in ("features", "content", "vocoder", "teacher", "student"):
        if stage != missing:
            (tmp_path / stage).symlink_to(run / stage)
    with pytest.raises((TrainingError, DataError), match=hint):
        load_voice(tmp_path, Statements())


def test_a_bundle_says_which_songs_were_held_out_without_their_titles(run, voice):
    features = FeatureIndex.open(run / "features")
    held_out = replace(features, clips=tuple(replace(clip, split="valid") for clip in features.clips))
    assert voice.provenance["data"]["held_out"] == []
    assert data_summary(held_out)["held_out"] == [song_mark("chorus", "song")]


@pytest.mark.parametrize("folder", ["student-published", "student"])
def test_every_missing_command_is_named_with_the_recipe(make_run, tmp_path, folder):
    run = make_run(tmp_path / "run")
    features = FeatureIndex.open(run / "features")
    replace(features, recipe="my own.toml").save()
    for stage in ("vocoder", "teacher", "student"):
        (run / stage).rename(tmp_path / stage)
    commands = [f"comosvc-train {stage} -c 'my own.toml' -o {run}" for stage in ("vocoder", "teacher", "student")]
    commands[2] += " --published" if folder == "student-published" else ""
    with pytest.raises(TrainingError, match=re.escape("hint: run " + ", then ".join(commands))):
        load_voice(run, Statements(), folder)


def test_singers_that_came_after_the_training_are_named(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    features = FeatureIndex.open(run / "features")
    zoe = replace(features.singers["bass"], index=3)
    replace(features, singers={**features.singers, "zoe": zoe}).save()
    with pytest.raises(ExportError, match=r"was trained with other data: singers added: zoe\nhint: "):
        load_voice(run, Statements())


def test_stages_of_different_runs_are_refused(make_run, tmp_path):
    """The content encoder was trained again after the student."""
    other = make_run(tmp_path / "other")
    path = other / "content" / "step_00000001.safetensors"
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["ema.stem.bias"] = tensors["ema.stem.bias"] + np.float32(0.1)
    save_file(tensors, path, metadata)
    with pytest.raises(ExportError, match=r"trained with another content encoder"):
        load_voice(other, Statements())


def test_recorded_people_need_a_word_on_consent(make_run, tmp_path):
    run = make_run(tmp_path / "run", kind="recorded")
    with pytest.raises(ExportError, match=r"bass is a recorded person.*\nhint: --consent"):
        load_voice(run, Statements())
    voice = load_voice(run, Statements(licence="CC-BY-4.0", credit="A. Singer", consent="signed form"))
    assert (voice.singers["bass"].licence, voice.singers["bass"].credit) == ("CC-BY-4.0", "A. Singer")
    assert voice.consent == "signed form"


def test_pack_full_puts_cached_graphs_inside(files, tmp_path, monkeypatch):
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "home"))
    blob = files["content.onnx"]
    blobs = tmp_path / "home" / "blobs"
    folder = tmp_path / "voice"
    blobs.mkdir(parents=True)
    folder.mkdir()
    for name, data in files.items():
        if name == "bundle.json":
            data = edited_manifest(data, lambda m: m["graphs"]["content"].update(file=None))
        if name != "content.onnx":
            (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=r"the content graph is not inside the bundle"):
        pack(folder, tmp_path / "a.comosvc", full=True)
    (blobs / sha256(blob)).write_bytes(blob)
    pack(folder, tmp_path / "shared.comosvc", full=False)
    pack(folder, tmp_path / "full.comosvc", full=True)
    verify(tmp_path / "shared.comosvc")
    (blobs / sha256(blob)).unlink()
    assert open_bundle(tmp_path / "full.comosvc").graph_bytes("content") == blob
    verify(tmp_path / "full.comosvc")


def test_pack_refuses_what_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"bundle.json is missing; this is not a voice bundle"):
        pack(tmp_path, tmp_path / "a.comosvc", full=False)


@pytest.fixture
def unpacked(files, tmp_path):
    """The folder of the export."""
    folder = tmp_path / "voice"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_changed_licence_is_noticed_by_every_command(unpacked, tmp_path):
    manifest = (unpacked / "bundle.json").read_text("utf-8")
    (unpacked / "bundle.json").write_text(manifest.replace("imitate no person", "imitate some person"), "utf-8")
    for command in (["inspect", unpacked], ["verify", unpacked], ["pack", unpacked, "-o", tmp_path / "a.comosvc"]):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert done.exit_code == 1
        assert "bundle.json is not what was written" in done.output.replace("\n", " ")
    assert not (tmp_path / "a.comosvc").exists()


def test_engines_of_an_unpacked_voice_are_not_packed(unpacked, files, tmp_path):
    (unpacked / "engines" / "some").mkdir(parents=True)
    (unpacked / "engines" / "some" / "content.plan").write_bytes(b"code")
    (unpacked / "more").mkdir()
    (unpacked / "more" / "words.txt").write_bytes(b"kept")
    pack(unpacked, tmp_path / "a.comosvc", full=False)
    assert set(open_bundle(tmp_path / "a.comosvc").all_files()) == {*files, "more/words.txt"}


def test_an_older_manifest_says_so_until_it_is_packed(unpacked, tmp_path):
    (unpacked / "bundle.json").write_bytes(edited_manifest((unpacked / "bundle.json").read_bytes(), lambda m: None))
    done = CliRunner().invoke(app, ["verify", str(unpacked)])
    assert done.exit_code == 0
    assert "an older version wrote its manifest" in done.output
    pack(unpacked, tmp_path / "a.comosvc", full=False)
    assert open_bundle(tmp_path / "a.comosvc").manifest.digest is not None


DAMAGE = {
    "no parity": ("parity.json", lambda d: b"{}"),
    "no JSON": ("parity.json", lambda d: b"\xff"),
    "parity of another form": ("parity.json", lambda d: edited_json(d, lambda p: p.update(graphs=[1]))),
    "variants of another form": ("parity.json", lambda d: edited_json(d, lambda p: p.update(variants={"int8": 3}))),
    "deep": ("parity.json", lambda d: b"[" * 100_000),
    "no probes": ("probes.safetensors", lambda d: save({})),
    "no tensors": ("probes.safetensors", lambda d: b"garbage"),
    "no graph": ("content.onnx", lambda d: b"garbage"),
    "another graph": ("content.onnx", lambda d: onnx.ModelProto(ir_version=10).SerializeToString()),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_verify_and_inspect_name_what_is_damaged_though_its_hash_fits(files, unpacked, what):
    name, damage = DAMAGE[what]
    data = damage(files[name])
    (unpacked / name).write_bytes(data)

    def edit(manifest: dict) -> None:
        if name in manifest["provenance"]["files"]:
            manifest["provenance"]["files"][name] = sha256(data)
        else:
            manifest["graphs"][name.removesuffix(".onnx")]["sha256"] = sha256(data)

    (unpacked / "bundle.json").write_bytes(edited_manifest(files["bundle.json"], edit))
    with pytest.raises(BundleError, match=name):
        verify(unpacked)
    done = CliRunner().invoke(app, ["inspect", str(unpacked)])
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_a_graph_that_fails_is_the_bundles_fault(files, tmp_path):
    """Its bytes are plain and its hashes agree; the engine refuses it."""
    model = onnx.load_from_string(files["content.onnx"])
    model.graph.node[0].op_type = "Nonsense"
    path = written(with_graph(files, "content", model.SerializeToString(), forge=True), tmp_path)
    with pytest.raises(BundleError, match=r"the fp32 content graph fails: "):
        verify(path)


def test_a_failed_write_leaves_nothing(files, tmp_path):
    (tmp_path / "voice.comosvc").mkdir()
    with pytest.raises(ExportError, match="cannot be written"):
        written(files, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_a_voice_with_the_light_vocoder_agrees_with_torch(make_run, files, known_graphs, voice, tmp_path):
    light = VocoderConfig(channels=16, dilations=(1, 2), lookahead_frames=1, per_bin=True)
    vocoder = load_voice(make_run(tmp_path / "run", vocoder=light), Statements()).vocoder
    with known_graphs({name: files[f"{name}.onnx"] for name in GRAPHS if name != "vocoder"}):
        path = written(build_files(replace(voice, vocoder=vocoder), "light")[1], tmp_path)
    rows = [row for row in verify(path) if row.graph == "vocoder"]
    assert rows
    assert all(row.ok for row in rows)
    with Converter(path, threads=1) as converter:
        out = converter.convert(0.1 * np.sin(np.arange(24_000) / 20.0), 24_000, singer="bass")
    assert np.isfinite(out.audio).all()
    assert np.abs(out.audio).max() > 0.0
