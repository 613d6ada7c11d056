"""A voice trained on ContentVec and somebody else's vocoder, by the commands: from recordings to a conversion."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from foreign_files import TINY, write_contentvec, write_m4singer_vocoder, write_openvpi_vocoder
from typer.testing import CliRunner

from comosvc.export.cli import app as export_app
from comosvc.runtime import Converter
from comosvc.runtime.audio.frames import stretched_index
from comosvc.runtime.audio.resampling import resample
from comosvc.runtime.audio.spec import AUTHORS_FRONT_END, COMOSVC_24K, OPENVPI_44K, FrontEnd
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.training.cli import app
from comosvc.training.config import load_config
from comosvc.training.content.encoders import load_content_encoders, windowed_content
from comosvc.training.content.stage import CONTENT, encode_with
from comosvc.training.errors import ConfigError, DataError, ForeignFileError
from comosvc.training.foreign.stages import content_at, take_content, take_vocoder
from comosvc.training.loop.checkpoint import read_figures, require_checkpoint
from comosvc.training.recipe import Recipe
from comosvc.training.run.rendering import Renderer, load_stage, load_vocoder

CLIPS = Path(__file__).parents[3] / "benchmarks" / "data"
RECIPE = """
[audio]
{audio}
[prepare]
f0 = "dio"
[prepare.augmentation]
probability = 0.5
[prepare.front_end]
loudness = "hop"
condition_at = "start"
unvoiced_f0 = "interpolated"
content_index = "stretched"
content_window_s = 20.0
content_overlap_s = 2.0
[acoustic]
mel_range = [{low}, 3.5]
key_shift_embedding = true
[acoustic.denoiser]
channels = 16
hidden = 12
layers = 2
[teacher]
crop_frames = 64
[teacher.loop]
{loop}
[student]
crop_frames = 64
[student.loop]
{loop}
best_by = "to_ode"
"""
LOOP = "steps = 4\nbatch_size = 2\nlearning_rate = 1e-3\nfinal_learning_rate = 1e-3\nwarmup_steps = 1\nkeep = 4"
LOOP += "\ncheckpoint_every = 2\nprecision = 'fp32'"


def run(which, *arguments):
    done = CliRunner().invoke(which, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run whose content encoder and vocoder came from files, and its bundle."""
    folder = tmp_path_factory.mktemp("openvpi")
    audio = "\n".join(f"{name} = {value}" for name, value in vars(OPENVPI_44K).items())
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(audio=audio, loop=LOOP, low=np.log(1e-6) / np.log(OPENVPI_44K.mel_log_base)))
    for singer, clip in (("ann", "target_alto"), ("bob", "target_bass")):
        (folder / "recordings" / singer).mkdir(parents=True)
        whole, rate = soundfile.read(CLIPS / f"{clip}.flac")
        for part in range(2):
            soundfile.write(folder / "recordings" / singer / f"{part}.wav", whole[part * 2 * rate :][: 2 * rate], rate)
    given = folder / "run", write_contentvec(folder / "vec.pt", TINY), write_openvpi_vocoder(folder / "vocoder", TINY)
    run(app, "prepare", "-c", recipe, "-o", given[0], "--data", folder / "recordings", "-n", 1)
    run(app, "content", "-c", recipe, "-o", given[0], "--from", given[1])
    run(app, "vocoder", "-c", recipe, "-o", given[0], "--from", given[2])
    for stage in ("teacher", "student"):
        run(app, stage, "-c", recipe, "-o", given[0], "--device", "cpu")
    run(export_app, "bundle", given[0], "-o", folder / "voice.comosvc", "--consent", "they are synthetic")
    return given[0], folder / "voice.comosvc"


def test_the_bundle_says_what_it_is_made_of(trained):
    _, voice = trained
    manifest = open_bundle(voice).manifest
    assert manifest.front_end == AUTHORS_FRONT_END
    assert manifest.audio == OPENVPI_44K
    assert manifest.model.f0_extractor == "dio"
    assert (manifest.model.source.kind, manifest.model.source.channels) == ("sine", 9)
    assert manifest.model.content_labels == ()
    credits = {entry.part: (entry.licence, entry.credit) for entry in manifest.licences}
    assert credits["content graph"] == ("not stated", "imported from vec.pt")
    assert credits["vocoder graph"] == ("not stated", "imported from model")
    assert credits["acoustic graph"][0] == "MIT"
    taken = manifest.provenance["stages"]["content"]["config"]["taken_from"]
    assert (taken["file"], taken["format"]) == ("vec.pt", "fairseq")
    assert sum(taken["ignored_weights"].values()) == 3  # final_proj's two, label_embs_concat


def test_the_runtime_converts_as_the_run_does(trained):
    folder, voice = trained
    renderer, stage = Renderer(folder), load_stage(require_checkpoint(folder / "student"))
    audio, rate = soundfile.read(CLIPS / "source_unseen-1.flac", dtype="float32")
    audio = resample(audio[: 3 * rate], rate, renderer.spec.sample_rate)
    audio = audio[: renderer.spec.samples(renderer.spec.frames(len(audio))) - 51]  # no whole hops
    song = renderer.listen(audio, renderer.spec.sample_rate)
    rendered = renderer.render(stage, song, "bob", key=2.0, steps=1, seed=3)
    with Converter(voice) as converter:
        out = converter.convert(audio, renderer.spec.sample_rate, singer="bob", key=2.0, seed=3)
        same_f0 = converter.convert(audio, renderer.spec.sample_rate, singer="bob", f0_hz=rendered.f0_hz, seed=3)
    assert out.mel.shape == rendered.mel.shape
    # F0 is tracked in pieces by the one and whole by the other; what is not sung is silence by the one.
    assert np.abs(out.mel[: len(rendered.mel)] - rendered.mel).mean() < 2e-3 * rendered.mel.std()
    sung = same_f0.audio != 0
    assert sung.mean() > 0.5
    # The median: where the singing begins and ends one of them fades.
    sung = sung[: len(rendered.audio)]
    difference = np.abs(same_f0.audio[: len(sung)] - rendered.audio)[sung]
    assert np.median(difference) < 1e-3 * np.median(np.abs(rendered.audio[sung]))
    other = renderer.render(stage, song, "ann", key=2.0, steps=1, seed=3)
    assert np.abs(other.mel - rendered.mel).mean() > 4e-3 * rendered.mel.std()


def test_the_best_student_is_the_nearest_to_its_teacher(trained):
    folder, _ = trained
    figures = {path.name: read_figures(path) for path in (folder / "student").glob("*.safetensors")}
    best = figures.pop("best.safetensors")
    assert len(figures) == 2
    assert best["to_ode"] == min(found["to_ode"] for found in figures.values())
    assert all(found["one_step_l1"] > 0 for found in figures.values())


def test_taken_once_and_no_other_over_it(tmp_path):
    first, other = (
        write_contentvec(tmp_path / "a.pt", TINY),
        write_contentvec(tmp_path / "b.pt", replace(TINY, hubert_layers=2)),
    )
    path = take_content(str(first), COMOSVC_24K, AUTHORS_FRONT_END, tmp_path / "run")
    assert take_content(str(first), COMOSVC_24K, AUTHORS_FRONT_END, tmp_path / "run") == path
    with pytest.raises(DataError, match=r"holds another network already, or the same .*\nhint: delete it"):
        take_content(str(other), COMOSVC_24K, AUTHORS_FRONT_END, tmp_path / "run")
    encoder, _ = load_content_encoders(tmp_path / "run")[CONTENT]
    audio = torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(encoder(audio), content_at(str(first))[0].network(audio))


def test_the_same_file_with_other_settings_is_no_silent_success(tmp_path):
    path = write_m4singer_vocoder(tmp_path / "vocoder", TINY)
    taken = take_vocoder(str(path), None, "auto", COMOSVC_24K, tmp_path / "run")
    assert take_vocoder(str(path), None, "m4singer", COMOSVC_24K, tmp_path / "run") == taken
    for kind, audio in (("diffsinger", COMOSVC_24K), ("auto", replace(COMOSVC_24K, mel_log_base=np.e))):
        with pytest.raises(DataError, match=r"the same one taken with other settings"):
            take_vocoder(str(path), None, kind, audio, tmp_path / "run")
    with pytest.raises(ForeignFileError, match=r"'nope' is no kind of vocoder\nhint: auto, m4singer, openvpi"):
        take_vocoder(str(path), None, "nope", COMOSVC_24K, tmp_path / "other")


def test_what_does_not_suit_the_recipe(tmp_path):
    vec, vocoder = write_contentvec(tmp_path / "vec.pt", TINY), write_m4singer_vocoder(tmp_path / "vocoder", TINY)
    with pytest.raises(ConfigError, match=r"content_window_s is 0.*\nhint: set content_window_s = 20.0"):
        take_content(str(vec), COMOSVC_24K, FrontEnd(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"every 320 samples at 16000 Hz; .* content_hop_length 160\nhint"):
        take_content(str(vec), replace(COMOSVC_24K, content_hop_length=160), AUTHORS_FRONT_END, tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"it needs sample_rate = 24000, hop_length = 128, .* the recipe has 44100, 512"
    ):
        take_vocoder(str(vocoder), None, "auto", OPENVPI_44K, tmp_path / "run")
    with pytest.raises(ForeignFileError, match=r"is no vocoder checkpoint"):
        take_vocoder(str(vec), str(vocoder.with_name("config.yaml")), "auto", COMOSVC_24K, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_refuses_contentvec_without_windows(tmp_path, trained):
    folder, _ = trained
    run = tmp_path / "run"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("teacher", "student"))
    index = run / "features" / "index.json"
    index.write_text(index.read_text().replace('"content_window_s": 20.0', '"content_window_s": 0.0'))
    done = CliRunner().invoke(app, ["teacher", "-c", str(folder.parent / "recipe.toml"), "-o", str(run)])
    assert done.exit_code == 1
    assert "content_window_s is 0" in done.output


def test_a_vocoder_of_another_logarithm_sounds_the_same(tmp_path):
    path = write_openvpi_vocoder(tmp_path / "vocoder", TINY)
    for name, base in (("ten", 10.0), ("e", OPENVPI_44K.mel_log_base)):
        take_vocoder(str(path), None, "auto", replace(OPENVPI_44K, mel_log_base=base), tmp_path / name)
    (ten, spec), (natural, _) = load_vocoder(tmp_path / "ten"), load_vocoder(tmp_path / "e")
    assert spec.mel_log_base == 10.0
    generator = torch.Generator().manual_seed(0)
    mel, source = torch.randn(1, 6, 128, generator=generator), torch.randn(1, 6 * 512, 9, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ten(mel / np.log(10.0), source), natural(mel, source), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(ten(mel, source), natural(mel, source), atol=1e-3)


def test_songs_are_cut_as_the_runtime_cuts_them(tmp_path):
    """Longer than a window: the rows come from the windows, the seam in the middle of their overlap."""
    network = content_at(str(write_contentvec(tmp_path / "vec.pt", TINY)))[0].network
    front_end = replace(AUTHORS_FRONT_END, content_window_s=2.0, content_overlap_s=0.5)
    spec, n_frames = COMOSVC_24K, 560  # 3 s
    audio = np.random.default_rng(0).standard_normal(n_frames * 128 * 2 // 3).astype(np.float32)
    encode = encode_with(network)
    content, index = windowed_content(encode, network.n_content, audio, n_frames, spec, front_end)
    window, hop = 375, 281  # frames of 2 s, and of 1.5 s
    parts = [encode(audio[: window * 128 * 2 // 3]), encode(audio[hop * 128 * 2 // 3 :])]
    seam = window - 94 // 2
    wanted = np.concatenate(
        (
            parts[0][stretched_index(len(parts[0]), window)[:seam]],
            parts[1][stretched_index(len(parts[1]), n_frames - hop)[seam - hop :]],
        )
    )
    np.testing.assert_allclose(content[index], wanted, atol=1e-5)


def test_the_recipe_of_the_authors():
    recipe = load_config(Recipe, "authors")
    assert recipe.audio == COMOSVC_24K
    assert recipe.prepare.front_end == AUTHORS_FRONT_END
    assert (recipe.acoustic.denoiser.layers, recipe.acoustic.denoiser.channels) == (20, 512)
