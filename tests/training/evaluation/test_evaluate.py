"""The command `evaluate` on bundles, folders and stages, with data sets of tones."""

import io
import json
import re
import shutil
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from dataset_trees import RATE, m4singer, opensinger, tone, write
from rich.console import Console
from run_folders import short_loop
from tiny_bundle import tiny_files, write_zip
from typer.testing import CliRunner

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.cli import app
from comosvc.training.data.datasets import folder_material, m4singer_material
from comosvc.training.data.prepare import prepare
from comosvc.training.data.prepared import song_mark
from comosvc.training.errors import DataError
from comosvc.training.evaluation import converters as systems
from comosvc.training.evaluation import outside as likeness
from comosvc.training.evaluation.converters import (
    BundleSystem,
    EvaluationClip,
    FolderSystem,
    Pair,
    choose_clips,
    conversions,
    file_name,
    open_system,
)
from comosvc.training.evaluation.pages import RECONSTRUCTION, Results, as_tables
from comosvc.training.evaluation.run import Data, EvaluationOptions, as_trained, evaluate
from comosvc.training.evaluation.scores import ClipScore
from comosvc.training.evaluation.singer_id import SingerIdConfig, train_singer_id

SONGS = tuple(f"歌{i}" for i in range(6))


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(likeness, "LEARNING_STEPS", 50)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_zip(tmp_path_factory.mktemp("bundle") / "tiny.comosvc", tiny_files())


@pytest.fixture(scope="module")
def singers(tmp_path_factory):
    """Recordings of two singers of the bundle, a folder each."""
    folder = tmp_path_factory.mktemp("singers")
    for singer, f0_hz in (("alto", 300.0), ("bass", 110.0)):
        for song in range(5):
            write(folder / singer / f"song {song}.wav", tone(f0_hz * 2 ** (song / 12)))
    return folder


@pytest.fixture(scope="module")
def m4(tmp_path_factory):
    return m4singer(tmp_path_factory.mktemp("m4"), {"Alto-1": 330.0, "Bass-2": 165.0}, SONGS, 1)


def test_clips_are_of_the_split_and_of_every_singer(m4):
    material = m4singer_material(m4)
    valid = choose_clips(material, "valid", 3)
    assert {name: len(clips) for name, clips in valid.items()} == {"Alto-1": 1, "Bass-2": 1}
    every = choose_clips(material, "all", 4)
    assert {name: len(clips) for name, clips in every.items()} == {"Alto-1": 4, "Bass-2": 4}
    assert {clip.song for clip in every["Alto-1"]} <= set(SONGS)
    train = choose_clips(material, "train", 9)
    assert not {c.song for c in train["Alto-1"]} & {c.song for c in valid["Alto-1"]}


def test_too_few_songs_to_hold_one_out_says_so(tmp_path):
    write(tmp_path / "a" / "one.wav", tone(200.0))
    with pytest.raises(DataError, match="--split all"):
        choose_clips(folder_material(tmp_path), "valid", 3)
    with pytest.raises(DataError, match="valid, train, all"):
        choose_clips(folder_material(tmp_path), "test", 3)


def test_conversions_go_to_others_and_to_their_range():
    clips = {name: [EvaluationClip(f"{name} {i}", name, "", "", np.zeros(9), RATE) for i in range(2)] for name in "ab"}
    pairs = conversions(clips, ["a", "b", "c"], {"a": 200.0, "b": 400.0}, {"a": 200.0, "b": 400.0, "c": 100.0})
    assert [(p.clip.id, p.target, p.key) for p in pairs] == [
        ("a 0", "b", 12.0),
        ("a 1", "c", -12.0),
        ("b 0", "a", -12.0),
        ("b 1", "c", -24.0),
    ]


def test_a_copy_scores_as_a_copy(singers, tmp_path):
    """A system that hands the clips through: every measure at its perfect value."""
    material = folder_material(singers)
    for clips in choose_clips(material, "all", 3).values():
        for clip in clips:
            write(tmp_path / "copies" / file_name(Pair(clip, clip.singer, 0.0)), clip.audio, clip.rate)
    options = EvaluationOptions(task="reconstruction", split="all", embedding=None)
    (results,) = evaluate(
        [FolderSystem("copies", tmp_path / "copies")], Data("s", material), Data("s", material), options, tmp_path / "o"
    )
    assert len(results.scores) == 6
    for score in results.scores:
        assert score.figures["FPC"] == pytest.approx(1.0, abs=1e-3)
        assert score.figures["F0 RMSE"] == pytest.approx(0.0, abs=0.5)
        assert score.figures["mel L1"] < 0.05
        assert score.figures["MCD"] < 0.1
        assert score.figures["STOI"] == pytest.approx(1.0, abs=0.01)
    assert "CER" in results.missing


def test_tables_of_a_bundle(bundle, singers, tmp_path):
    recogniser = tmp_path / "recogniser.py"
    recogniser.write_text("print('歌')")
    result = CliRunner().invoke(
        app,
        [
            "evaluate", f"tiny={bundle}", "--data", str(singers), "-o", str(tmp_path / "out"), "--clips", "1",
            "--recogniser", f"{sys.executable} {recogniser} {{wav}}",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    reconstruction, conversion = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert set(reconstruction["systems"]) == {"tiny"}
    assert {(s["system"], s["target"]) for s in conversion["scores"]} == {
        ("source", "alto"), ("source", "bass"), ("tiny", "alto"), ("tiny", "bass"),
    }  # fmt: skip
    assert len({s["key"] for s in conversion["scores"]}) == 2
    for score in conversion["scores"]:
        assert ("F0 RMSE" in score["figures"]) == (score["system"] == "tiny"), "the source's would be the key alone"
        assert score["figures"]["FPC voiced"] <= 1.0
        assert {"SIM", "ID"} <= score["figures"].keys(), "likeness is measured by default"
        if score["system"] == "source":
            assert score["figures"]["ID"] == 0.0, "an unconverted clip is like its own singer"
    assert all(s["figures"]["CER"] == 0.0 for s in reconstruction["scores"])
    markdown = (tmp_path / "out" / "evaluation.md").read_text("utf-8")
    assert "| system | NFE | clips | FPC |" in markdown
    assert "by a singer classifier trained on recordings of 2 singers" in markdown
    made = list((tmp_path / "out" / "conversion" / "tiny").glob("*.wav"))
    assert len(made) == 2
    assert soundfile.info(made[0]).frames > 0


def told(singer, **splits):
    """A system that knows `singer` and says which of the songs "1", "2" and so on it held out."""
    songs = {song_mark(singer, f"song {name[1:]}"): split for name, split in splits.items()}
    return SimpleNamespace(singers=(singer,), songs=songs)


def test_what_was_trained_on_is_not_evaluated_as_held_out(singers):
    """A song is held out where every system that knows it held it out; a bundle names these alone."""
    material = folder_material(singers)
    systems = [told("alto", _0="valid", _1="valid", _2="train", _3="train", _4="train"), told("alto", _1="valid")]
    systems.append(SimpleNamespace(singers=None, songs={}))
    found = {(r.singer, r.song): r.split for r in as_trained(material, systems).recordings}
    assert [song for (singer, song), split in found.items() if (singer, split) == ("alto", "valid")] == ["song 1"]
    usual = {(r.singer, r.song): r.split for r in material.recordings}
    assert usual["alto", "song 1"] == "train", "by names alone another one is"
    assert {key: split for key, split in found.items() if key[0] == "bass"} == {
        key: split for key, split in usual.items() if key[0] == "bass"
    }, "a singer that no system tells of"
    assert as_trained(material, [told("alto", _77="valid"), told("bass")]) == material, "other recordings of theirs"


def test_one_singer_alone_has_no_likeness(bundle, singers, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "alto").symlink_to(singers / "alto")
    run = ["evaluate", str(bundle), "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--split", "all"]
    result = CliRunner().invoke(app, [*run, "--clips", "1"])
    assert result.exit_code == 0, result.output
    assert "likeness is learned from the recordings of two singers" in " ".join(result.output.split())


def test_audio_of_another_program_is_taken_by_name(bundle, singers, tmp_path):
    run = ["evaluate", str(bundle), "--data", str(singers), "--clips", "1", "--task", "conversion"]
    assert CliRunner().invoke(app, [*run, "-o", str(tmp_path / "a")]).exit_code == 0
    theirs = next((tmp_path / "a" / "conversion").glob("*tiny*"))
    run[1] = f"theirs={theirs}"
    again = CliRunner().invoke(app, [*run, "-o", str(tmp_path / "b")])
    assert again.exit_code == 0, again.output
    one, two = (json.loads((tmp_path / n / "evaluation.json").read_text("utf-8"))[0]["scores"] for n in "ab")
    ours = [s["figures"] for s in one if s["system"] != "source"]
    read = [s["figures"] for s in two if s["system"] == "theirs"]
    for a, b in zip(ours, read, strict=True):
        assert a == pytest.approx(b, abs=0.05, rel=0.05)  # 16 bit files


def test_across_data_sets(bundle, m4, singers, tmp_path):
    """Sources of one data set, targets of another: what is converted is none of the voice's own singers."""
    result = CliRunner().invoke(
        app,
        [
            "evaluate", str(bundle), "--data", str(m4), "--dataset", "m4singer", "--target-data", str(singers),
            "--clips", "1", "-o", str(tmp_path),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (results,) = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert results["task"] == "conversion"
    assert {s["target"] for s in results["scores"]} <= {"alto", "bass"}
    assert all("#" in s["clip"] for s in results["scores"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "nobody"], "choose of alto, bass"),
        (["--split", "x"], "--split takes"),
        (["--task", "x"], "--task takes"),
        (["--dataset", "m4singer"], "meta.json"),
        (["--recogniser", "whisper"], "{wav}"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle, singers, tmp_path, arguments, says):
    run = ["evaluate", str(bundle), "--data", str(singers), "-o", str(tmp_path), *arguments]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 1
    assert says in result.output.replace("\n", " ")


def test_singers_that_nobody_recorded(bundle, m4, tmp_path):
    result = CliRunner().invoke(
        app, ["evaluate", str(bundle), "--data", str(m4), "--dataset", "m4singer", "-o", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "--target-data" in result.output


@pytest.mark.parametrize(
    ("given", "whom"),
    [
        (["ours={}@1", "ours={}@4"], "another called 'ours'"),
        (["{}", "{}@1"], "another called "),
        (["a b={}", "a_b={}"], "another called 'a b'"),  # their audio would lie in one folder
        (["source={}"], "the unconverted recordings"),
    ],
)
def test_names_that_would_mix_two_systems_are_refused(bundle, singers, tmp_path, given, whom):
    systems = [system.format(bundle) for system in given]
    run = ["evaluate", *systems, "--data", str(singers), "-o", str(tmp_path / "out"), "--clips", "1"]
    result = CliRunner().invoke(app, run, env={"COLUMNS": "500"})
    assert result.exit_code == 1, result.output
    assert f"cannot be told from {whom}" in result.output
    assert not (tmp_path / "out").exists()


def test_names_say_the_run_and_the_steps(bundle, tmp_path, monkeypatch):
    def load_stage(path):
        return SimpleNamespace(student=None if path.parent.name == "teacher" else "", singers=("a",))

    monkeypatch.setattr(systems, "Renderer", lambda run: None)
    monkeypatch.setattr(systems, "load_stage", load_stage)
    for place in ("A/student", "A/teacher", "B/student"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "step_00000001.safetensors").touch()
    monkeypatch.chdir(tmp_path / "A")
    names = {
        str(bundle): f"{bundle}@1",
        f"{bundle}@4": f"{bundle}@4",
        "student": "A/student@1",
        f"{tmp_path}/A/student@4": "A/student@4",
        "./teacher": "A/teacher@50",
        "../B/student": "B/student@1",
        "student/step_00000001.safetensors": "A/student/step_00000001@1",
        "../B/student/step_00000001.safetensors@2": "B/student/step_00000001@2",
        "mine=student@4": "mine",
    }
    assert {given: open_system(given).name for given in names} == names


@pytest.mark.parametrize("system", ["{}@0", "ours={}@0", "{}@00"])
def test_no_steps_are_an_error(bundle, system):
    with pytest.raises(DataError, match="asks for 0"):
        open_system(system.format(bundle))


def test_output_that_is_a_file_is_refused_before_anything_is_converted(bundle, singers, tmp_path, monkeypatch):
    monkeypatch.setattr(BundleSystem, "convert", lambda *_: pytest.fail("converted"))
    (tmp_path / "note.txt").write_text("mine")
    for output in (tmp_path / "note.txt", tmp_path / "note.txt" / "out"):
        run = ["evaluate", str(bundle), "--data", str(singers), "-o", str(output)]
        result = CliRunner().invoke(app, run, env={"COLUMNS": "500"})
        assert (result.exit_code, type(result.exception)) == (1, SystemExit)
        assert "-o takes a folder" in result.output
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_an_embedding_that_is_asked_for_and_missing_is_an_error(bundle, singers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    run = ["evaluate", str(bundle), "--data", str(singers), "-o", str(tmp_path), "--embedding", "resemblyzer"]
    result = CliRunner().invoke(app, run, env={"COLUMNS": "500"})
    assert result.exit_code == 1
    assert "pip install --no-deps resemblyzer webrtcvad-wheels" in result.output


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_figure_and_name_is_whole_in_any_terminal(width):
    measures = ("FPC", "PESQ", "CER", "SIM", "FPC voiced", "F0 RMSE", "STOI", "MCD", "mel L1", "ID")
    values = {name: 1.001 + 0.01 * i for i, name in enumerate(measures)}
    names = ("a long name/of a run/student/step_00100000@1", "[red]theirs")
    results = Results(
        RECONSTRUCTION, "data", dict.fromkeys(names, 50), [ClipScore(n, "", "", 0.0, values) for n in names], {}
    )
    text = Console(width=width, record=True, file=io.StringIO())
    text.print(*as_tables(results, width))
    shown = text.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for figure in results.rows()[0][3]:
        assert shown.count(f" {figure} ") == len(names), figure
    first = shown.split("[red]theirs")[0]
    folded = "".join(re.findall(r"^│ (.{,60}?) +│", first, re.MULTILINE))
    assert names[0].replace(" ", "") in folded.replace(" ", "")


def test_no_system_says_what_is_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no system"):
        open_system(str(tmp_path / "empty"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The smoke recipe with two steps of each stage."""
    text = resources.files("comosvc.training").joinpath("recipes/smoke.toml").read_text("utf-8")
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(re.sub(r"^(warmup_)?steps = \d+", r"\1steps = 2", text, flags=re.MULTILINE), "utf-8")
    return path


DOCUMENT = (Path(__file__).parents[3] / "docs" / "train.md").read_text("utf-8")
EXPERIMENTS = re.findall(r"^comosvc-train (cross .*)$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("command", EXPERIMENTS)
def test_cross_dataset_experiment(command, recipe, m4, tmp_path, monkeypatch):
    """The documented commands, where OpenSinger and M4Singer are six tones of two singers each."""
    monkeypatch.chdir(tmp_path)
    opensinger(tmp_path / "OpenSinger", {"Man_0": 120.0, "Woman_0": 240.0}, SONGS, 1)
    (tmp_path / "m4singer").symlink_to(m4)
    shutil.copy(recipe, "my.toml")
    few = ["--teacher-steps", "2", "--clips", "1", "--device", "cpu", "-n", "1"]
    result = CliRunner().invoke(app, [*command.split(), *few])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("runs/*/evaluation/evaluation.json")
    (results,) = json.loads(path.read_text("utf-8"))
    convert, _, train = path.parts[-3].partition("-to-")
    assert results["data"] == f"{convert} → {train}"
    assert set(results["systems"]) == {"source", "teacher", "student"}
    learned = {"m4singer": {"Alto-1", "Bass-2"}, "opensinger": {"Man_0", "Woman_0"}}[train]
    assert {score["target"] for score in results["scores"]} == learned
    assert len(results["scores"]) == 6


def test_both_experiments_are_documented():
    assert len(EXPERIMENTS) == 2


def test_cross_asks_for_layout_and_folder(tmp_path):
    run = ["cross", "--train", "wavs", "--convert", f"m4singer={tmp_path}", "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 1
    assert "LAYOUT=FOLDER" in result.output


def test_likeness_by_a_singer_classifier_of_ones_own(singers, bundle, tmp_path):
    """Trained on the targets' recordings, it knows whose copies are whose."""
    material = folder_material(singers)
    prepare(material, COMOSVC_24K, tmp_path / "run" / "features", 1, Console(quiet=True))
    loop = short_loop(40, batch_size=4, learning_rate=3e-3, final_learning_rate=1e-4, warmup_steps=5)
    train_singer_id(
        SingerIdConfig(loop=loop, channels=16, crop_frames=64), tmp_path / "run", seed=0, resume=False, device="cpu"
    )
    for clips in choose_clips(material, "valid", 1).values():
        for clip in clips:
            write(tmp_path / "copies" / file_name(Pair(clip, clip.singer, 0.0)), clip.audio, clip.rate)
    run = ["evaluate", str(tmp_path / "copies"), "--data", str(singers), "--task", "reconstruction", "--clips", "1"]
    result = CliRunner().invoke(app, [*run, "--embedding", str(tmp_path / "run"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (results,) = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert results["embedding"] == "our singer classifier"
    for score in results["scores"]:
        assert score["figures"]["ID"] == 1.0
        assert 0.8 < score["figures"]["SIM"] <= 1.0
