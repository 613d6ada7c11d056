"""Data that changes under a run folder: found when a stage begins, named, and nothing lost."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dataset_trees import tone, write
from rich.console import Console
from run_folders import HOW, noise_features, save_stage, short_loop

from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.training.acoustic.model import AcousticConfig, DenoiserConfig
from comosvc.training.acoustic.teaching import StudentConfig, TeacherConfig
from comosvc.training.content.encoder import ContentConfig, ContentEncoder
from comosvc.training.content.stage import ContentTraining, train_content
from comosvc.training.corpus import CorpusConfig, write_corpus
from comosvc.training.data.datasets import folder_material
from comosvc.training.data.prepare import prepare
from comosvc.training.data.prepared import FeatureIndex
from comosvc.training.data.record import DataRecord, changed_recordings
from comosvc.training.errors import DataError, TrainingError
from comosvc.training.loop.checkpoint import latest_checkpoint
from comosvc.training.run.acoustic_stages import train_student, train_teacher
from comosvc.training.run.rendering import Renderer
from comosvc.training.vocoder.light import Vocoder, VocoderConfig
from comosvc.training.vocoder.stage import VocoderTraining, train_vocoder

LOOP = short_loop(1, batch_size=1)
ACOUSTIC = AcousticConfig(denoiser=DenoiserConfig(channels=16, hidden=8, layers=2))
TEACHER, STUDENT = TeacherConfig(loop=LOOP, crop_frames=32), StudentConfig(loop=LOOP, crop_frames=32)
VOCODER = VocoderTraining(loop=LOOP, crop_frames=32, network={"channels": 16, "dilations": [1]})
ENCODER = ContentConfig(channels=16, n_mels=20, dilations=(1, 2), mean_frames=10)


def new_encoder(spec=SPEC):
    torch.manual_seed(0)
    return ContentEncoder(ENCODER, spec)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of ana and ben that has a teacher."""
    folder = noise_features(tmp_path_factory.mktemp("trained") / "run", "ana", "ben")
    save_stage(folder, "content", new_encoder(), ENCODER)
    train_teacher(ACOUSTIC, TEACHER, folder, **HOW)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of `trained`."""
    return shutil.copytree(trained, tmp_path / "run")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("singers", "songs", "says"),
    [
        (("ana", "ben", "zoe"), 2, "singers added: zoe"),
        (("ana",), 2, "singers gone: ben"),
        (("ana", "zoe"), 2, "singers added: zoe; singers gone: ben"),
        (("ben", "ana"), 2, "singers in another order: now ben, ana, was ana, ben"),
        (("ana", "ben"), 3, r"2 clips added \(run-ana-2, run-ben-2\)"),
        (("ana", "ben"), 1, r"2 clips gone \(run-ana-1, run-ben-1\)"),
    ],
)
def test_other_data_is_named_before_anything_is_trained(run, singers, songs, says):
    noise_features(run, *singers, songs=songs)
    before = files(run / "teacher")
    for again in (
        lambda: train_teacher(ACOUSTIC, TEACHER, run, **HOW),
        lambda: train_student(STUDENT, run, **HOW),
    ):
        with pytest.raises(
            TrainingError, match=rf"teacher was trained on other data .*{says}.*\nhint: .*-train teacher"
        ):
            again()
    assert files(run / "teacher") == before
    assert not (run / "student").exists()


def test_the_same_data_prepared_again_passes(run):
    noise_features(run, "ana", "ben")
    before = files(run / "teacher")
    train_teacher(ACOUSTIC, TEACHER, run, **HOW)
    train_student(STUDENT, run, **HOW)
    assert files(run / "teacher") == before


def test_a_stage_of_an_earlier_version_is_compared_by_its_singers(run):
    (run / "teacher" / "data.json").unlink()
    noise_features(run, "ana", "ben", "zoe")
    with pytest.raises(TrainingError, match="singers added: zoe"):
        train_student(STUDENT, run, **HOW)


def test_a_checkpoint_of_another_run_is_found(run, tmp_path):
    """Its singers have the same names; its clips are others."""
    other = noise_features(tmp_path / "other", "ana", "ben")
    save_stage(other, "content", new_encoder(), ENCODER)
    train_teacher(ACOUSTIC, TEACHER, other, **HOW)
    latest_checkpoint(other / "teacher").replace(latest_checkpoint(run / "teacher"))
    with pytest.raises(TrainingError, match="trained on other clips"):
        train_student(STUDENT, run, **HOW)


def test_a_vocoder_compares_its_data_too(tmp_path):
    run = noise_features(tmp_path / "run", "ana")
    train_vocoder(VOCODER, run, **HOW)
    noise_features(run, "ana", songs=3)
    with pytest.raises(TrainingError, match=r"vocoder was trained on other data .*1 clips added"):
        train_vocoder(VOCODER, run, **HOW)


@pytest.mark.parametrize(("stage", "field"), [("content", "content_hop_length"), ("vocoder", "n_mels")])
def test_networks_for_other_audio_settings_are_refused(tmp_path, stage, field):
    run, other = noise_features(tmp_path / "run", "ana"), replace(SPEC, **{field: getattr(SPEC, field) // 2})
    of_encoder = other if stage == "content" else SPEC
    save_stage(run, "content", new_encoder(of_encoder), ENCODER, of_encoder)
    if stage == "vocoder":
        small = VocoderConfig(channels=16, dilations=(1,))
        save_stage(run, stage, Vocoder(small, other), small, other)
    with pytest.raises(
        DataError, match=rf"run/{stage} is for other audio settings .*{field} is now .*\nhint: .*-train {stage}"
    ):
        train_teacher(ACOUSTIC, TEACHER, run, **HOW)
    assert not (run / "teacher").exists()


def test_a_corpus_that_changed_is_named(tmp_path):
    config = CorpusConfig(
        demo_singers=1, demo_minutes=0.1, other_singers=0, held_out_singers=0, held_out_songs=0, clip_seconds=(2.0, 3.0)
    )
    run, training = tmp_path / "run", ContentTraining(loop=LOOP, network=ENCODER, crop_frames=64)
    write_corpus(config, run / "corpus", synthetic_only=True)
    train_content(training, SPEC, run, **HOW)
    clip = next((run / "corpus" / "labels").glob("*.safetensors"))
    clip.write_bytes(clip.read_bytes() + b" ")
    with pytest.raises(
        TrainingError, match=rf"1 clips with other audio or labels \({clip.stem}\).*\nhint: .*-train content"
    ):
        train_content(training, SPEC, run, **HOW)


def test_a_stage_is_auditioned_with_its_own_encoder_only(run):
    encoder = run / "content" / "step_00000001.safetensors"
    checkpoint = latest_checkpoint(run / "teacher")
    Renderer(run).require_own(checkpoint)
    save_stage(run, "content", ContentEncoder(ENCODER, SPEC), ENCODER, step=2)
    assert encoder.is_file()
    with pytest.raises(DataError, match=r"content encoders are now .*\nhint: .*-train teacher"):
        Renderer(run).require_own(checkpoint)


def test_a_run_folder_that_cannot_be_written_or_read(run, monkeypatch):
    index = run / "features" / "index.json"

    def opened(path, mode="r", *arguments, open_path=Path.open, **options):
        if path == index or ("x" in mode and path.parent == run / "vocoder"):
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, mode, *arguments, **options)

    features = FeatureIndex.open(run / "features")
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(TrainingError, match=r"run/vocoder cannot be written: Permission denied\nhint: free"):
        DataRecord.of(features).write(run / "vocoder")
    monkeypatch.setattr(Path, "read_text", lambda path, *_: opened(path))
    with pytest.raises(DataError, match=r"index.json cannot be read: Permission denied"):
        FeatureIndex.open(run / "features")


def record(clips, singers):
    return DataRecord({}, singers, clips)


def test_changes_in_words():
    before = record(
        {"a/1": ["ana", "train", "k1"], "a/2": ["ana", "train", "k2"], "b/1": ["ben", "train", "k3"]}, ["ana", "ben"]
    )
    now = record(
        {"a/1": ["ana", "valid", "k1"], "a/2": ["ana", "train", "x"], "c/1": ["bea", "train", "k3"]}, ["ana", "bea"]
    )
    assert now.changes_since(before) == [
        "singer ben is now called bea",
        "1 clips with other audio or labels (a/2)",
        "1 clips moved between training and validation (a/1)",
    ]
    assert before.changes_since(before) == []


def test_recordings_that_changed_after_prepare(tmp_path, caplog):
    data, run = tmp_path / "data", tmp_path / "run"
    for name in ("one", "two", "three"):
        write(data / "a" / f"{name}.wav", tone(200.0))
    features = prepare(folder_material(data), SPEC, run / "features", 1, Console(quiet=True), recipe="my own.toml")
    assert changed_recordings(features) == []
    write(data / "a" / "one.wav", tone(300.0, 1.0))
    (data / "a" / "two.wav").unlink()
    write(data / "a" / "new.wav", tone(250.0))
    features = FeatureIndex.open(run / "features")
    assert changed_recordings(features) == [
        "1 new (a/new.wav)", "1 gone (a/two.wav)", "1 of another size or date (a/one.wav)",
    ]  # fmt: skip
    train_vocoder(VOCODER, run, **HOW)
    assert f"comosvc-train prepare -c 'my own.toml' -o {run} --data {data} --dataset folder" in caplog.text
    data.rename(tmp_path / "elsewhere")
    assert changed_recordings(features) == [], "a run folder without its recordings"
