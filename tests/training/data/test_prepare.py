"""From a data set's tree to features: the same in one process and in several, resumed, reported on."""

import hashlib
import io
import json
import re
import time
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from dataset_trees import RATE, m4singer, opensinger, tone, write
from rich.console import Console
from safetensors.numpy import load_file
from typer.testing import CliRunner

from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.runtime.storage import Aside
from comosvc.training.cli import app
from comosvc.training.config import load_config
from comosvc.training.data import prepare as module
from comosvc.training.data import prepared as features_module
from comosvc.training.data.augmentation import variation_path
from comosvc.training.data.datasets import Material, folder_material, m4singer_material, opensinger_material
from comosvc.training.data.material import f0_histogram, report_tables
from comosvc.training.data.prepare import PrepareConfig, prepare
from comosvc.training.data.prepared import FeatureIndex, require_audio
from comosvc.training.errors import ConfigError, DataError
from comosvc.training.recipe import Recipe

SMOKE = load_config(Recipe, "smoke")
AUTHORS = load_config(Recipe, "authors").prepare.augmentation
SONGS = tuple(f"歌{i}" for i in range(6))


@pytest.fixture(scope="module")
def m4(tmp_path_factory):
    return m4singer_material(m4singer(tmp_path_factory.mktemp("m4"), {"Alto-1": 300.0, "Bass-1": 110.0}, SONGS, 1))


def test_m4singer_to_features(m4, tmp_path):
    prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    features = FeatureIndex.open(tmp_path)
    assert features.trained_singers == ["Alto-1", "Bass-1"]
    assert len(features.clips) == 12
    assert {clip.split for clip in features.clips} == {"train", "valid"}
    clip = next(c for c in features.clips if c.id.startswith("Alto-1#歌3"))
    assert clip.text == "歌3词0"
    arrays = features.load(clip)
    assert arrays["mel"].shape == (clip.frames, 80)
    assert np.median(arrays["f0_hz"][20:-20]) == pytest.approx(300 * 2 ** (3 / 12), rel=0.01)


def test_several_processes_do_the_same(m4, tmp_path):
    one, two = (prepare(m4, SPEC, tmp_path / str(n), n, Console(quiet=True)) for n in (1, 2))
    assert one.clips == two.clips
    assert one.singers == two.singers
    assert (one.folder / "report.json").read_text() == (two.folder / "report.json").read_text()


def test_goes_on_where_it_stopped(m4, tmp_path, monkeypatch):
    analyse, analysed = module.analyse, []

    def counted(audio, *rest):
        analysed.append(len(audio))
        if len(analysed) == 8:
            raise KeyboardInterrupt
        return analyse(audio, *rest)

    monkeypatch.setattr(module, "analyse", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    killed = Aside(tmp_path / "x.safetensors")
    killed.file.close()  # as the system does, with its lock
    features = prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    assert len(analysed) == 8 + 12 - 7
    assert len(features.clips) == 12
    assert not list(tmp_path.glob("*.partial"))


def test_full_disk_is_named_and_nothing_is_lost(m4, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataError, match="goes on where it stopped"):
        prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))


def test_varied_copies_lie_beside_the_clips(m4, tmp_path):
    few = replace(m4, recordings=m4.recordings[:2], trained=["Alto-1"], singers={"Alto-1": m4.singers["Alto-1"]})
    config = PrepareConfig(augmentation=AUTHORS, peak=0.95)
    features = prepare(few, SPEC, tmp_path, 1, Console(quiet=True), config)
    for clip in features.clips:
        arrays = features.load(clip)
        assert np.abs(arrays["audio"]).max() / 32767 == pytest.approx(0.95, abs=1e-3)
        varied = load_file(variation_path(tmp_path, clip.key, AUTHORS))
        assert varied["mel"].shape == arrays["mel"].shape
        assert -5.0 <= varied["key_shift"] <= 5.0


def test_report_has_hours_pitch_loudness_and_reasons(tmp_path):
    opensinger(tmp_path / "data", {"Man_0": 110.0, "Woman_3": 220.0}, SONGS, 1)
    write(tmp_path / "data" / "ManRaw" / "0_歌0" / "0_歌0_7.wav", tone(110.0, 0.2))
    write(tmp_path / "data" / "ManRaw" / "0_歌0" / "0_歌0_8.wav", np.zeros(RATE))
    (tmp_path / "data" / "ManRaw" / "0_歌0" / "0_歌0_9.wav").write_bytes(b"nothing")
    features = prepare(opensinger_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    man = report["singers"]["Man_0"]
    assert sum(man["hours"].values()) == pytest.approx(6 * 0.7 / 3600, rel=0.03)
    assert man["songs"] == {"train": 5, "valid": 1}
    assert list(man["f0_histogram_s"]) == ["A2", "A♯2", "B2", "C3", "C♯3", "D3"]  # 110 Hz and five semitones up
    assert man["f0_histogram_s"]["A2"] == pytest.approx(0.7, abs=0.1)
    level_db = 20 * np.log10(np.sqrt(np.mean(tone(110.0) ** 2)))
    assert man["loudness_db"]["median"] == pytest.approx(level_db, abs=1.0)
    assert man["peak_db"] == pytest.approx(20 * np.log10(np.abs(tone(110.0)).max()), abs=0.2)
    assert report["dropped_by_reason"] == {"shorter than 0.5 s": 1, "silent": 1, "cannot be read": 1}
    assert report["not_held_out"] == []
    text = Console(width=200, record=True, file=io.StringIO())
    for table in report_tables(features.folder):
        text.print(table)
    shown = text.export_text()
    assert "Woman_3" in shown
    assert "A2 █" in shown
    assert "shorter than 0.5 s: ManRaw/0_歌0/0_歌0_7" in shown
    narrow = Console(width=80, record=True, file=io.StringIO())
    for table in report_tables(features.folder):
        narrow.print(table)
    assert "…" not in narrow.export_text().replace(f"{man['loudness_db']['p5']:.0f}…", ""), "folded, not cut"


def test_the_report_says_of_whom_no_song_is_held_out(tmp_path):
    opensinger(tmp_path / "data", {"Man_0": 110.0}, SONGS, 1)
    opensinger(tmp_path / "data", {"Woman_3": 220.0}, SONGS[:4], 1)
    features = prepare(opensinger_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["not_held_out"] == ["Woman_3"]
    screen = Console(width=200, record=True, file=io.StringIO())
    screen.print(*report_tables(features.folder))
    assert "no song held out: Woman_3. It takes 5 songs of a singer" in screen.export_text()


def names_by_rank(*names):
    """`names` in the order in which songs are held out."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def reported(features):
    return json.loads((features.folder / "report.json").read_text("utf-8"))


def split_of(features):
    return {clip.song: clip.split for clip in features.clips}


@pytest.mark.parametrize("useless", [b"", b"no audio", np.zeros(RATE), tone(200.0, 0.3), "noise"])
def test_the_held_out_song_is_one_that_can_be_used(tmp_path, useless):
    """The title that comes first is of a file that is empty, no audio, silent, too short, or without pitch."""
    first, *others = names_by_rank(*(f"song {c}" for c in "ABCDEF"))
    if isinstance(useless, bytes):
        write(tmp_path / "data" / "ana" / f"{first}.wav", tone(1.0)).write_bytes(useless)
    else:
        noise = np.random.default_rng(0).normal(0.0, 0.05, RATE)
        write(tmp_path / "data" / "ana" / f"{first}.wav", noise if isinstance(useless, str) else useless)
    for n, name in enumerate(others):
        write(tmp_path / "data" / "ana" / f"{name}.wav", tone(200.0 * 2 ** (n / 12)))
    features = prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    assert split_of(features) == {name: "valid" if name == others[0] else "train" for name in others}
    assert reported(features)["not_held_out"] == []


def test_four_usable_songs_and_a_useless_one_are_too_few(tmp_path):
    for n, name in enumerate(names_by_rank(*"ABCD")):
        write(tmp_path / "data" / "ana" / f"{name}.wav", tone(200.0 * 2 ** (n / 12)))
    write(tmp_path / "data" / "ana" / "E.wav", np.zeros(RATE))
    features = prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    assert set(split_of(features).values()) == {"train"}
    assert reported(features)["not_held_out"] == ["ana"]


def test_clips_shorter_than_training_takes_are_dropped_and_not_counted(tmp_path):
    write(tmp_path / "data" / "ana" / "long.wav", tone(200.0, 1.0))
    for n in range(3):
        write(tmp_path / "data" / "ana" / f"short {n}.wav", tone(210.0 + n, 0.6))
    material = folder_material(tmp_path / "data")
    features = prepare(material, SPEC, tmp_path / "out", 1, Console(quiet=True), crop_frames=128)
    assert [clip.id for clip in features.clips] == ["ana/long.wav#0"]
    report = reported(features)
    assert report["singers"]["ana"]["train_minutes"] == pytest.approx(1 / 60, abs=0.01)
    assert report["dropped_by_reason"] == {"too short to train on": 3}
    (tmp_path / "data" / "ana" / "long.wav").unlink()
    with pytest.raises(
        DataError, match=r"(?s)no usable clip of ana, 3 dropped: .*0.60 s.* 0.68 s.*hint: .*crop_frames"
    ):
        prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "o", 1, Console(quiet=True), crop_frames=128)


def test_a_vocoder_is_not_trained_on_clips_that_the_teacher_cannot_take(tmp_path):
    write(tmp_path / "data" / "ana" / "short.wav", tone(200.0, 0.6))
    prepare(folder_material(tmp_path / "data"), SMOKE.audio, tmp_path / "run" / "features", 1, Console(quiet=True))
    run = ["vocoder", "-c", "smoke", "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(app, run, env={"COLUMNS": "500"})
    assert done.exit_code == 1
    assert "no clip of ana (112 frames) is as long as the 128 frames" in done.output
    assert not (tmp_path / "run" / "vocoder").exists()


def test_a_singer_without_a_usable_clip_is_named_with_its_own_reasons(tmp_path):
    write(tmp_path / "data" / "ana" / "song.wav", tone(200.0))
    write(tmp_path / "data" / "ana" / "silent.wav", np.zeros(RATE))
    write(tmp_path / "data" / "ben" / "rest.wav", np.zeros(RATE))
    with pytest.raises(DataError, match=r"no usable clip of ben, 1 dropped: ben/rest.wav: silent\nhint: "):
        prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))


def test_a_recording_that_is_there_twice_is_never_in_both_sets(tmp_path):
    first, second, *others = names_by_rank(*(f"song {c}" for c in "ABCDEF"))
    for n, name in enumerate((first, *others)):
        write(tmp_path / "data" / "ana" / f"{name}.wav", tone(200.0 * 2 ** (n / 12)))
    write(tmp_path / "data" / "ana" / "again" / f"{second}.wav", tone(200.0))
    features = prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    split = split_of(features)
    assert split[first] == split["again"]
    assert list(split.values()).count("train") >= 4
    same = reported(features)["same_recording"]
    assert set(same) | set(same.values()) == {f"ana/{first}.wav#0", f"ana/again/{second}.wav#0"}


def test_files_that_count_as_one_song_are_named(tmp_path):
    for n in range(6):
        write(tmp_path / "data" / "ana" / f"take-{n + 1}.wav", tone(200.0 * 2 ** (n / 12)))
    write(tmp_path / "data" / "ana" / "other.v1.wav", tone(150.0))
    features = prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    assert reported(features)["files_of_one_song"] == {"ana": {"take": 6}}
    screen = Console(width=200, record=True, file=io.StringIO())
    screen.print(*report_tables(features.folder))
    assert "ana: 6 files are the song take." in screen.export_text()


def test_tables_fit_80_columns_whatever_the_names(tmp_path):
    names = ("[red]a name of more than eighty columns, " + "in all its length" * 3, "歌手.v2", "z")
    for name in names:
        for n in range(5):
            write(tmp_path / "data" / name / f"{n}.{n}.wav", tone(100.0 * 2 ** (n / 12), 1.0))
    features = prepare(folder_material(tmp_path / "data"), SPEC, tmp_path / "out", 1, Console(quiet=True))
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(*report_tables(features.folder))
    lines = screen.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.split()[:1] == ["z"])
    assert row.split()[1:6] == ["0.1", "0.0", "4", "+", "1"]
    assert "[red]a name" in "".join(lines)


def test_prepare_warns_of_the_weak_content_encoder(tmp_path):
    write(tmp_path / "data" / "ana" / "song.wav", tone(200.0, 1.0))
    run = ["prepare", "-c", "smoke", "-o", str(tmp_path / "run"), "--data", str(tmp_path / "data"), "-n", "1"]
    done = CliRunner().invoke(app, run, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "recorded singers and no content encoder yet" in said
    assert "set content_hop_length = 320 under [audio] (the recipe has 160), prepare again" in said
    assert f"comosvc-train content -c smoke -o {tmp_path}/run --from FILE" in said


def test_a_damaged_index_is_named(m4, tmp_path):
    prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    for text in ("[]", "{}", '{"audio": {', '{"singers": {"a": {}}, "clips": []}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DataError, match=r"index.json is damaged: .*\nhint: "):
            FeatureIndex.open(tmp_path)


def test_off_a_terminal_long_work_says_how_far_it_is(m4, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("comosvc.training.loop.log.EVERY_S", 0.02)
    caplog.set_level("INFO")
    prepare(m4, SPEC, tmp_path, 1, Console(file=io.StringIO()))
    assert re.search(r"features: \d+ of 12, \d+% \(0 min so far\)", caplog.text)
    n_lines = len(caplog.records)
    time.sleep(0.1)
    assert len(caplog.records) == n_lines, "no line after the end"


def test_histogram_counts_seconds():
    f0_hz = np.array([440.0] * 200 + [460.0] * 100 + [466.2] * 50, np.float32)
    assert f0_histogram(f0_hz, 100.0) == {"A4": 2.0, "A♯4": 1.5}


def test_long_files_are_cut_and_lose_their_text(tmp_path):
    song = np.concatenate([tone(200.0, 1.0), np.zeros(2 * RATE), tone(250.0, 1.0)])
    write(tmp_path / "data" / "a" / "song.wav", song)
    found = folder_material(tmp_path / "data")
    found = Material([replace(r, text="la") for r in found.recordings], found.singers, found.trained, [])
    clips = prepare(found, SPEC, tmp_path / "out", 1, Console(quiet=True)).clips
    assert [(clip.id, clip.text) for clip in clips] == [("a/song.wav#0", ""), ("a/song.wav#1", "")]


def test_damaged_features_are_made_anew_or_named(m4, tmp_path):
    features = prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    clip = features.clips[0]
    path = tmp_path / f"{clip.key}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match=rf"{path.name} is damaged or gone: .*\nhint: delete it and run prepare again"):
        features.load(clip)
    prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    assert path.read_bytes() == whole


def test_a_disk_that_fills_up_under_a_clip(m4, tmp_path, monkeypatch):
    save, saved = features_module.save_file, []

    def until_full(arrays, path):
        saved.append(path)
        if len(saved) == 5:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(arrays, path)

    monkeypatch.setattr(features_module, "save_file", until_full)
    with pytest.raises(DataError, match=r"could not be written: .*No space left.*\nhint: free some space"):
        prepare(m4, SPEC, tmp_path, 1, Console(quiet=True))
    assert not list(tmp_path.glob("*.partial"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_a_file_where_the_folder_should_be(m4, tmp_path):
    (tmp_path / "note.txt").write_text("")
    with pytest.raises(DataError, match=r"note.txt/features cannot be made: Not a directory\nhint"):
        prepare(m4, SPEC, tmp_path / "note.txt" / "features", 1, Console(quiet=True))


def test_the_recipe_must_be_that_of_the_features(m4, tmp_path):
    prepare(m4, SPEC, tmp_path / "features", 1, Console(quiet=True))
    require_audio(tmp_path, SPEC)
    with pytest.raises(ConfigError, match=r"n_mels 64 \(features: 80\)\nhint"):
        require_audio(tmp_path, replace(SPEC, n_mels=64))
    text = resources.files("comosvc.training").joinpath("recipes/smoke.toml").read_text("utf-8")
    (tmp_path / "other.toml").write_text(text.replace("n_mels = 80", "n_mels = 64"))
    for stage in ("vocoder", "teacher", "student"):
        done = CliRunner().invoke(app, [stage, "-c", str(tmp_path / "other.toml"), "-o", str(tmp_path)])
        assert done.exit_code == 1
        assert "the recipe's [audio] is not that of" in done.output.replace("\n", " ")
