"""Pictures and sound in TensorBoard, and the page of a run's checkpoints."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from dataset_trees import tone
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from comosvc.runtime import Converter
from comosvc.runtime.audio.features import mel_centres_hz, mel_spectrogram
from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.runtime.audio.spec import FrontEnd
from comosvc.runtime.errors import OutputError
from comosvc.training.acoustic.teaching import StudentConfig
from comosvc.training.cli import app
from comosvc.training.data.prepared import PreparedClip
from comosvc.training.evaluation import audition as audition_module
from comosvc.training.evaluation.audition import Entry, _key, page
from comosvc.training.loop.log import shown
from comosvc.training.run.pictures import Illustration, mel_picture
from comosvc.training.run.rendering import AnalysedSong, LoadedStage, Rendering


def test_a_picture_shows_bands_bottom_up_and_the_pitch_on_one_scale():
    mels = [np.full((n, SPEC.n_mels), -5.0, np.float32) for n in (100, 50)]
    mels[0][:, 20] = 0.0
    f0_hz = np.where(np.arange(100) < 40, mel_centres_hz(SPEC)[20], 0.0).astype(np.float32)
    figure = mel_picture(mels, f0_hz, SPEC, 0.0)
    assert [axes.get_xlim()[1] for axes in figure.axes] == [n / SPEC.frame_rate_hz for n in (100, 50)]
    image, line = figure.axes[0].images[0], figure.axes[0].lines[0]
    assert image.origin == "lower"
    np.testing.assert_array_equal(image.get_array(), mels[0].T)
    _, _, low, high = image.get_extent()
    voiced = np.isfinite(line.get_ydata())
    assert voiced.sum() == 40
    bands = (line.get_ydata()[voiced] - low) / (high - low) * SPEC.n_mels
    assert np.abs(bands - 20.5).max() < 0.6


class Reader(HTMLParser):
    """What a page refers to."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, name, value) for name, value in attributes if name in ("src", "href", "action")]

    def handle_data(self, data):
        self.text.append(data)


def test_names_cannot_break_the_page():
    evil = "<script>alert(1)</script>"
    text = page(
        evil,
        evil,
        [Entry(evil, evil, "data:,", "data:,", {"a": 1.0, "b": float("nan")})],
        {"a": evil, "b": ""},
        verdict=evil,
    )
    assert evil not in text
    assert evil in "".join(Reader(text).text)


class ToyRenderer:
    """A teacher and two students that differ from the song by a constant; the vocoder gives a tone."""

    spec = SPEC
    clips = tuple(
        PreparedClip(key=str(n), id=f"alto#{n}", singer="alto", song=str(n), split=split, frames=n)
        for n, split in ((100, "train"), (120, "valid"), (140, "train"))
    )

    def __init__(self, run):
        self.features = SimpleNamespace(clips=self.clips, load=self.load, singers={}, front_end=FrontEnd())

    def load(self, clip):
        mel = np.zeros((clip.frames, SPEC.n_mels), np.float32)
        audio = np.full(clip.frames * SPEC.hop_length, 3_277, np.int16)
        return {"mel": mel, "f0_hz": mel[:, 0], "audio": audio}

    def listen(self, audio, rate):
        audio = audio.astype(np.float32)
        mel = mel_spectrogram(audio, SPEC)
        return AnalysedSong(mel, mel, mel, np.full(len(mel), 220.0, np.float32), mel[:, 0], audio)

    def render(self, stage, song, singer, **_):
        return Rendering(song.mel + stage.step / 10, song.f0_hz, self.sing(song.mel, song.f0_hz))

    def require_own(self, checkpoint): ...

    def sing(self, mel, f0_hz, seed=0):
        return tone(220.0, len(mel) * SPEC.hop_length / SPEC.sample_rate).astype(np.float32)


@pytest.fixture
def toy_page(write_toy_page):
    return write_toy_page().read_text("utf-8")


@pytest.fixture
def write_toy_page(tmp_path, monkeypatch):
    """Writes the page of three checkpoints, without networks."""
    steps = {"teacher": 1, "student": 4, "student-2": 2}
    stages = {
        name: LoadedStage(name, step, None, ("alto",), None if name == "teacher" else StudentConfig(loop=None))
        for name, step in steps.items()
    }
    paths = [tmp_path / name / "step.safetensors" for name in steps]
    monkeypatch.setattr(audition_module, "Renderer", ToyRenderer)
    monkeypatch.setattr(audition_module, "find_checkpoints", lambda run: paths)
    monkeypatch.setattr(audition_module, "load_stage", lambda path: stages[path.parent.name])
    monkeypatch.setattr(audition_module, "require_checkpoint", lambda folder: folder)
    song = tmp_path / "song [b].wav"
    soundfile.write(song, tone(220.0, 1.0), SPEC.sample_rate)
    bar = Console(force_terminal=True, file=io.StringIO())

    def write():
        with shown("audition", bar) as progress:
            options = audition_module.AuditionOptions(key="0")
            return audition_module.audition(
                tmp_path, song, tmp_path, options, lambda what: progress(f"{what} [/b]", None)
            )

    return write


def test_a_page_that_does_not_fit_on_the_disk_leaves_the_one_before(write_toy_page, tmp_path, monkeypatch):
    before = write_toy_page().read_bytes()

    write = Path.write_bytes

    def until_full(path, data):
        write(path, data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(OutputError, match=r"index.html cannot be written: No space left on device"):
        write_toy_page()
    assert (tmp_path / "index.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "song [b].wav"]


def test_the_page_plays_source_target_and_vocoder_alone_before_the_checkpoints(toy_page):
    captions = re.findall(r"<figcaption>(.*?) <small>(.*?)</small>", toy_page)
    assert [name for name, _ in captions][:3] == ["source", "target: alto", "vocoder alone"]
    assert "alto#120" in captions[1][1]  # held out
    players = re.findall(r'<audio[^>]*src="data:audio/flac;base64,([^"]*)"( data-other-song="1")?>', toy_page)
    assert [bool(other) for _, other in players] == [False, True, False, False, False, False]
    sounds = [soundfile.read(io.BytesIO(base64.b64decode(data)))[0] for data, _ in players]
    assert len(sounds[1]) == 120 * SPEC.hop_length
    assert np.abs(sounds[1] - 0.1).max() < 1e-4
    assert np.abs(sounds[2]).max() > 0.1


def test_the_page_names_the_checkpoint_to_listen_to_in_one_line(toy_page):
    """Mels that are 0.1 apart for each step, in decades: 2 dB."""
    (line,) = re.findall(r'<p class="verdict">(.*?)</p>', toy_page)
    assert line == (
        "Listen to student-2, step 2 first: of the students it is nearest to the teacher, 2.0 dB apart, "
        "and it sings in tune."
    )
    for word in ("FPC", "RMSE", "nepers"):
        assert word not in re.sub(r"base64,[^\"]*", "", toy_page)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_tensorboard_has_pictures_and_sound_at_each_checkpoint(smoke_run, stage):
    events = EventAccumulator(str(smoke_run / stage / "tensorboard"), size_guidance={"images": 0, "audio": 0}).Reload()
    names = ["target", "teacher", "student"][: 3 if stage == "student" else 2]
    assert events.Tags()["images"] == [f"mel: {' | '.join(names)}"]
    assert set(events.Tags()["audio"]) == {f"audio/{name}" for name in names}
    steps = [image.step for image in events.Images(f"mel: {' | '.join(names)}")]
    assert steps == [{"teacher": 40, "student": 20}[stage]]
    sound, _ = soundfile.read(io.BytesIO(events.Audio("audio/target")[0].encoded_audio_string))
    assert np.abs(sound).max() > 0.01


@pytest.fixture(scope="module")
def audition(smoke_run, tmp_path_factory):
    """The page of the smoke run, and where it lies."""
    folder = tmp_path_factory.mktemp("audition")
    soundfile.write(folder / "song & dance.wav", tone(220.0, 1.5, 44_100), 44_100)
    run = ["audition", str(smoke_run), "--song", str(folder / "song & dance.wav"), "-o", str(folder / "page")]
    result = CliRunner().invoke(app, [*run, "--teacher-steps", "3"])
    assert result.exit_code == 0, result.output
    return (folder / "page" / "index.html").read_text("utf-8")


def test_the_key_is_what_a_conversion_finds_for_the_whole_song():
    """Before it there is a hum, which only the gate knows for silence."""
    song = np.concatenate((0.01 * tone(100.0, 4.0, 44_100), tone(220.0, 2.0, 44_100))).astype(np.float32)
    with Converter("demo", provider="cpu", threads=1) as converter:
        found = converter.convert(song, 44_100, singer="tenor", key="auto").options.key
        features = SimpleNamespace(singers=converter.singers, front_end=FrontEnd(), f0="swift-f0")
        renderer = SimpleNamespace(features=features, spec=converter.spec)
    assert found == 2.0
    assert _key("auto", renderer, song, 44_100, "tenor") == found
    assert _key("auto", renderer, np.zeros(44_100, np.float32), 44_100, "tenor") == 0.0


@pytest.mark.slow
def test_the_page_has_every_checkpoint_and_needs_nothing_else(audition, smoke_run):
    reader = Reader(audition)
    text = "".join(reader.text)
    for stage, step in (("teacher", 40), ("student", 20), ("student-published", 20)):
        assert f"{stage}, step {step}" in text
    assert [tag for tag, _, _ in reader.found].count("audio") == 6  # source, target and vocoder alone too
    assert all(value.startswith("data:") for _, _, value in reader.found)
    assert not re.search(r"https?://", audition)
    assert "default-src 'none'" in audition.replace("&#x27;", "'")


@pytest.mark.slow
def test_what_the_page_plays_is_the_song_as_long_as_it_was(audition):
    lengths = []
    for tag, _, value in Reader(audition).found:
        data = io.BytesIO(base64.b64decode(value.partition(",")[2]))
        if tag == "audio":
            sound, rate = soundfile.read(data)
            assert rate == 24_000
            assert np.isfinite(sound).all()
            lengths.append(len(sound) / rate)
        else:
            assert Image.open(data).size == (1100, 200)
    assert len(lengths) == 6
    del lengths[1]  # the singer's own recording
    assert set(lengths) == {36_000 // 128 * 128 / 24_000}


@pytest.mark.slow
def test_evaluate_takes_stages_of_a_run(smoke_run, tmp_path):
    for singer in ("alto", "bass"):
        for song in range(5):
            (tmp_path / "d" / singer).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "d" / singer / f"{song}.wav", tone(200.0 + 20 * song), 24_000)
    run = ["evaluate", f"{smoke_run}/teacher@2", f"one={smoke_run}/student", "--data", str(tmp_path / "d")]
    result = CliRunner().invoke(app, [*run, "--clips", "1", "--task", "conversion", "-o", str(tmp_path / "o")])
    assert result.exit_code == 0, result.output
    markdown = (tmp_path / "o" / "evaluation.md").read_text("utf-8")
    assert "| run/teacher@2 | 2 | 2 |" in markdown
    assert "| one | 1 | 2 |" in markdown


def test_what_is_too_loud_is_clipped_and_not_complained_of():
    class Loud:
        spec, has_vocoder = SPEC, True

        def paint(self, *_, **__):
            return np.zeros((10, SPEC.n_mels), np.float32), np.zeros(10, np.float32)

        def sing(self, *_):
            return np.linspace(-1.7, 1.3, 1_280, dtype=np.float32)

    class Writer(SimpleNamespace):
        def add_figure(self, *_, **__): ...

        def add_audio(self, name, audio, *_, **__):
            heard[name] = audio

    heard = {}
    song = AnalysedSong(np.zeros((10, SPEC.n_mels), np.float32), *(np.zeros(10, np.float32) for _ in range(5)))
    stage = LoadedStage("teacher", 1, SimpleNamespace(mel_mean=torch.zeros(1)), ("a",), None)
    Illustration(Loud(), song, "a", stage)(stage.model, 1, Writer())
    assert (heard["audio/teacher"].min(), heard["audio/teacher"].max()) == (-1.0, 1.0)
    assert heard["audio/teacher"][0, 640] == pytest.approx(-0.2, abs=0.01)


@pytest.mark.slow
def test_bad_requests_are_named(smoke_run, tmp_path):
    soundfile.write(tmp_path / "song.wav", tone(220.0, 0.5), 24_000)
    run = ["audition", str(smoke_run), "--song", str(tmp_path / "song.wav"), "-o", str(tmp_path / "page.html")]
    bad_keys = [(["-k", key], "-36 to 36 semitones") for key in ("high", "nan", "inf", "1e6")]
    for extra, says in ((["-s", "nobody"], "it has alto"), *bad_keys):
        result = CliRunner().invoke(app, [*run, *extra])
        assert result.exit_code == 1
        assert says in result.output
    run[1] = str(tmp_path / "run")
    shutil.copytree(smoke_run / "content", tmp_path / "run" / "content")
    shutil.copytree(smoke_run / "features", tmp_path / "run" / "features")
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 1
    assert "comosvc-train teacher" in result.output
