"""Facts that are set on a finished voice."""

import json
from dataclasses import replace

import pytest
from tiny_bundle import edited, tiny_files, write_folder, write_zip
from typer.testing import CliRunner

from comosvc.export.cli import app
from comosvc.runtime import Converter
from comosvc.runtime.providers.self_test import vowel
from comosvc.runtime.voice.bundle import open_bundle


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    """A voice of which nothing is known but its graphs, as one that was imported."""

    def forget(manifest):
        for singer in manifest["singers"].values():
            singer.update(f0_median_hz=None, f0_range_hz=None, licence="not stated", credit="not stated")
        manifest["licences"] += [
            {"part": "acoustic graph", "licence": "not stated", "credit": "imported from model_1.pt"},
            {"part": "training data: target singers", "licence": "not stated", "credit": "not stated"},
        ]

    return write_zip(tmp_path_factory.mktemp("voice") / "v.comosvc", edited(tiny_files(), forget))


def invoke(*arguments):
    return CliRunner().invoke(app, ["set", *map(str, arguments)], env={"COLUMNS": "200"})


def test_one_number_is_set_and_key_auto_works(unknown, tmp_path):
    out = tmp_path / "known.comosvc"
    done = invoke(unknown, "--f0-median", "bass=110", "-o", out)
    assert done.exit_code == 0, done.output
    old, new = open_bundle(unknown), open_bundle(out)
    assert new.manifest.digest
    new.verify()
    wanted = replace(old.manifest.singers["bass"], f0_median_hz=110.0)
    assert new.manifest == replace(old.manifest, singers={**old.manifest.singers, "bass": wanted})
    files, kept = new.all_files(), old.all_files()
    assert {name: data for name, data in files.items() if name != "bundle.json"} == {
        name: data for name, data in kept.items() if name != "bundle.json"
    }
    with Converter(out, provider="cpu", threads=1) as converter:
        audio, rate = vowel(converter.spec)[0], converter.spec.sample_rate
        assert converter.convert(audio, rate, singer="bass", key="auto").options.key < 0.0


def test_everything_that_can_be_set(unknown, tmp_path):
    out = tmp_path / "voice.comosvc"
    facts = ["--f0-median", "alto=300", "--f0-range", "alto=200,500", "--rename", "alto=Änne", "--name", "choir"]
    says = ["--licence", "CC-BY-4.0", "--credit", "A. Singer", "--consent", "signed form"]
    assert invoke(unknown, *facts, *says, "-o", out).exit_code == 0
    manifest = open_bundle(out).manifest
    assert (manifest.name, manifest.consent) == ("choir", "signed form")
    assert list(manifest.singers) == ["Änne", "bass", "Ténor 1"]
    alto = manifest.singers["Änne"]
    assert (alto.index, alto.f0_median_hz, alto.f0_range_hz) == (0, 300.0, (200.0, 500.0))
    assert {(singer.licence, singer.credit) for singer in manifest.singers.values()} == {("CC-BY-4.0", "A. Singer")}
    rights = {entry.part: (entry.licence, entry.credit) for entry in manifest.licences}
    assert rights["acoustic graph"] == ("CC-BY-4.0", "imported from model_1.pt")
    assert rights["training data: target singers"] == ("CC-BY-4.0", "A. Singer")
    assert rights["pitch"] == ("MIT", "swift-f0")


def test_rights_of_one_singer(unknown, tmp_path):
    out = tmp_path / "voice.comosvc"
    assert invoke(unknown, "--singer", "bass", "--licence", "CC0", "-o", out).exit_code == 0
    manifest = open_bundle(out).manifest
    assert {name: singer.licence for name, singer in manifest.singers.items()} == {
        "alto": "not stated",
        "bass": "CC0",
        "Ténor 1": "not stated",
    }
    assert manifest.licences == open_bundle(unknown).manifest.licences


def test_in_place_and_from_a_folder(unknown, tmp_path):
    folder = write_folder(tmp_path / "unpacked", open_bundle(unknown).all_files())
    out = tmp_path / "voice.comosvc"
    assert invoke(folder, "--consent", "asked", "-o", out).exit_code == 0
    assert "--force" in invoke(out, "--f0-median", "bass=110", "-o", out).output
    assert invoke(out, "--f0-median", "bass=110", "-o", out, "--force").exit_code == 0
    manifest = open_bundle(out).manifest
    assert (manifest.consent, manifest.singers["bass"].f0_median_hz) == ("asked", 110.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to set"),
        (["--f0-median", "nobody=200"], "--f0-median names nobody; the voice's singers are alto, bass, Ténor 1"),
        (["--f0-median", "bass"], "--f0-median bass: must be NAME=HZ"),
        (["--f0-median", "bass=nan"], "must be NAME=HZ"),
        (["--f0-range", "bass=300,200"], "must be NAME=LOW,HIGH"),
        (["--f0-range", "bass=200"], "must be NAME=LOW,HIGH"),
        (["--f0-median", "bass=90", "--f0-range", "bass=100,200"], "does not hold the median 90 Hz"),
        (["--rename", "bass=alto"], "two singers would be called alto"),
        (["--rename", "bass=a,b"], "a name without = and ,"),
        (["--rename", "bass=\x1b[2J"], "a name without"),
        (["--singer", "nobody", "--licence", "MIT"], "--singer names nobody"),
    ],
)
def test_what_cannot_be_set_is_said_and_nothing_is_written(unknown, tmp_path, options, words):
    done = invoke(unknown, *options, "-o", tmp_path / "voice.comosvc")
    assert done.exit_code == 1
    assert words in done.output
    assert not list(tmp_path.iterdir())


def test_a_changed_voice_is_not_given_new_hashes(unknown, tmp_path):
    files = open_bundle(unknown).all_files()
    files["vocoder.onnx"] = files["vocoder.onnx"][:-1] + b"\0"
    out = tmp_path / "out.comosvc"
    done = invoke(write_zip(tmp_path / "v.comosvc", files), "--consent", "x", "-o", out)
    assert (done.exit_code, out.exists()) == (1, False)
    assert "damaged or changed" in done.output
    assert json.loads(files["bundle.json"])["consent"] != "x"
