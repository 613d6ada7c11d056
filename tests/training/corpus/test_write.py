import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from comosvc.runtime.errors import ComosvcError
from comosvc.training.corpus import PHONES, Corpus, CorpusConfig, held_out_set, write_corpus
from comosvc.training.errors import ConfigError, DataError

TINY = CorpusConfig(
    demo_singers=2,
    demo_minutes=0.05,
    other_singers=1,
    other_minutes=0.05,
    held_out_singers=1,
    held_out_songs=2,
    held_out_seconds=3.0,
    clip_seconds=(2.0, 3.0),
)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    calls = []
    write_corpus(TINY, folder, lambda done, total, clip: calls.append((done, total, clip)), synthetic_only=True)
    assert [call[0] for call in calls] == list(range(1, calls[-1][1] + 1))
    return folder


def test_splits_and_singers(written):
    corpus = Corpus.open(written)
    assert corpus.phones == PHONES
    assert corpus.recipe == "synthetic-only"
    assert {name for name, singer in corpus.singers.items() if singer.demo} == {"alto", "bass"}
    heldout = {name for name, singer in corpus.singers.items() if singer.split == "heldout"}
    assert heldout == {clip.singer for clip in corpus.clips(split="test")}
    assert not heldout & {clip.singer for clip in corpus.clips(split="train")}
    trained_songs = {clip.song for clip in corpus.clips(split="train")}
    assert not trained_songs & {clip.song for clip in corpus.clips(split="valid") + corpus.clips(split="test")}
    assert len({clip.song for clip in corpus.clips(split="train")}) == len(corpus.clips(split="train"))
    assert "MIT" in corpus.data_card


def test_clips_have_audio_and_labels_of_their_length(written):
    for clip in Corpus.open(written).clips():
        audio, labels = clip.audio(), clip.labels()
        assert audio.dtype == np.float32
        assert len(audio) / 24_000 == pytest.approx(clip.seconds, abs=1e-3)
        assert len(labels.f0_hz) == round(clip.seconds * 200)
        assert np.isfinite(labels.f0_hz).all()
        assert labels.phone_start_s[0] == 0.0
        assert (np.diff(labels.phone_start_s) > 0).all()


def test_label_lookup(written):
    labels = Corpus.open(written).clips()[0].labels()
    times_s = np.linspace(-0.1, 4.0, 200)
    phones = labels.phones_at(times_s)
    assert phones[0] == labels.phone[0]
    assert phones[-1] == labels.phone[-1]
    middle = 0.5 * (labels.phone_start_s[3] + labels.phone_start_s[4])
    assert labels.phones_at(np.array([middle]))[0] == labels.phone[3]
    k = int(np.flatnonzero((labels.f0_hz[:-1] > 0) & (labels.f0_hz[1:] > 0))[5])
    between = labels.f0_at(np.array([(k + 0.5) / 200]))[0]
    assert between == pytest.approx(np.sqrt(labels.f0_hz[k] * labels.f0_hz[k + 1]), rel=1e-5)
    unvoiced = int(np.flatnonzero(labels.f0_hz == 0)[0])
    assert labels.f0_at(np.array([unvoiced / 200]))[0] == 0.0


def test_parallel_clips_share_labels_and_equal_the_rendered_set(written):
    corpus = Corpus.open(written)
    clips = {clip.id: clip for clip in corpus.clips()}
    for song in held_out_set(TINY):
        members = [clips[f"{name}-{song.song}"] for name in (*song.sources, *song.targets)]
        assert [clip.performance for clip in members] == [song.song] * len(members)
        for clip in members:
            np.testing.assert_array_equal(clip.labels().f0_hz, song.performance.f0_hz.astype(np.float32))
            np.testing.assert_allclose(clip.audio(), song.audio[clip.singer], atol=1.01 / 2**16)


def test_second_run_changes_nothing(written):
    before = {path: path.stat().st_mtime_ns for path in (written / "audio").iterdir()}
    write_corpus(TINY, written, synthetic_only=True)
    assert {path: path.stat().st_mtime_ns for path in (written / "audio").iterdir()} == before


def test_missing_half_of_a_clip_is_made_again_identically(written):
    before = digests(written)
    first, second = Corpus.open(written).clips()[:2]
    first.audio_path.unlink()
    (written / "labels" / f"{second.id}.safetensors").unlink()
    write_corpus(TINY, written, synthetic_only=True)
    assert digests(written) == before


@pytest.mark.parametrize("change", [{"seed": 2}, {"other_minutes": 1.0}])
def test_other_configuration_is_refused_by_name(written, change):
    before = digests(written)
    with pytest.raises(DataError, match=next(iter(change))):
        write_corpus(replace(TINY, **change), written, synthetic_only=True)
    assert digests(written) == before


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write_corpus(TINY, tmp_path, synthetic_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_full_disk_is_noticed_before_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(1e9, 1e9, 1000)
    monkeypatch.setattr("comosvc.training.corpus.write.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="MB free"):
        write_corpus(TINY, tmp_path, synthetic_only=True)
    assert not list((tmp_path / "audio").iterdir())


def test_missing_flite_names_the_install_line_and_the_other_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComosvcError, match=r"apt-get install flite.*--synthetic-only"):
        write_corpus(TINY, tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLED = """
import sys, time
from pathlib import Path
from comosvc.training.corpus import CorpusConfig, write_corpus
if __name__ == "__main__":
    config = CorpusConfig(**eval(sys.argv[2]))
    write_corpus(config, Path(sys.argv[1]), lambda *_: time.sleep(0.2), synthetic_only=True)
"""


def test_killed_run_goes_on_where_it_stopped(written, tmp_path):
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(KILLED)
    process = subprocess.Popen([sys.executable, script, out, repr(vars(TINY))])
    deadline = time.monotonic() + 30
    while len(list(out.glob("audio/*.flac"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = sorted(path.name for path in out.glob("audio/*.flac"))
    assert 2 <= len(finished) < len(Corpus.open(written).clips())
    assert not (out / "corpus.json").exists()
    with pytest.raises(DataError, match="not finished"):
        Corpus.open(out)
    made = []
    write_corpus(TINY, out, lambda done, total, clip: made.append(clip), synthetic_only=True, jobs=2)
    assert not {f"{clip}.flac" for clip in made} & set(finished)
    left = {name: digest for name, digest in digests(out).items() if not name.endswith(".tmp")}
    assert left == digests(written)


def test_damaged_files_are_named(written, tmp_path):
    clip = replace(Corpus.open(written).clips()[0], folder=tmp_path)
    with pytest.raises(DataError, match=clip.id):
        clip.audio()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / f"{clip.id}.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=clip.id):
        clip.labels()


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"format_version": 99}), "[]"])
def test_damaged_or_newer_index_is_refused(tmp_path, text):
    (tmp_path / "corpus.json").write_text(text)
    with pytest.raises(DataError):
        Corpus.open(tmp_path)


@pytest.mark.parametrize("bad", [{"demo_singers": 9}, {"other_singers": -1}, {"clip_seconds": (9.0, 3.0)}])
def test_impossible_configurations_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        CorpusConfig(**bad)


def test_audio_files_are_flac_of_16_bits(written):
    info = soundfile.info(Corpus.open(written).clips()[0].audio_path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 24_000, 1)
