"""New singers on a trained model, and content encoders taken over from a voice."""

import io
from importlib import resources

import onnx
import pytest
import torch
from run_folders import noise_features
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.training.acoustic.model import AcousticConfig, DenoiserConfig
from comosvc.training.acoustic.teaching import StudentConfig, TeacherConfig
from comosvc.training.cli import app
from comosvc.training.config import RECIPES, load_config, to_mapping
from comosvc.training.content.adopt import adopt_content, load_weights
from comosvc.training.content.encoder import ContentConfig, ContentEncoder
from comosvc.training.data.prepared import FeatureIndex
from comosvc.training.errors import TrainingError
from comosvc.training.loop.checkpoint import latest_checkpoint, read_metadata, save_checkpoint
from comosvc.training.loop.loop import LoopConfig
from comosvc.training.recipe import Recipe
from comosvc.training.run.acoustic_stages import load_content_encoders, train_student, train_teacher
from comosvc.training.run.fine_tune import Start
from comosvc.training.vocoder.light import Vocoder, VocoderConfig

LOOP = LoopConfig(
    steps=4,
    batch_size=2,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup_steps=1,
    checkpoint_every=4,
    precision="fp32",
)
ACOUSTIC = AcousticConfig(denoiser=DenoiserConfig(channels=16, hidden=8, layers=2))
TEACHER, STUDENT = TeacherConfig(loop=LOOP, crop_frames=32), StudentConfig(loop=LOOP, crop_frames=32)
HOW = {"seed": 0, "resume": False, "device": "cpu"}
ENCODER = ContentConfig(channels=16, n_mels=20, dilations=(1, 2), mean_frames=10)


def new_encoder(seed=0):
    torch.manual_seed(seed)
    return ContentEncoder(ENCODER, SPEC).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the singers ana and ben, with teacher and student."""
    run = noise_features(tmp_path_factory.mktemp("trained") / "base", "ana", "ben")
    small = VocoderConfig(channels=16, dilations=(1,))
    networks = {"content": (new_encoder(), ENCODER), "vocoder": (Vocoder(small, SPEC), small)}
    for stage, (module, network) in networks.items():
        config = {"audio": to_mapping(SPEC), "network": to_mapping(network)}
        (run / stage).mkdir()
        unused = torch.optim.AdamW(module.parameters())
        save_checkpoint(run / stage, 7, {"model": module, "ema": module}, unused, config)
    train_teacher(ACOUSTIC, TEACHER, run, **HOW)
    train_student(STUDENT, run, **HOW)
    return run


def tensors(run, stage, module):
    stored = load_file(latest_checkpoint(run / stage))
    return {name.removeprefix(f"{module}."): t for name, t in stored.items() if name.startswith(f"{module}.")}


def changed(ours, theirs):
    return {
        name for name in theirs if ours[name].shape != theirs[name].shape or not torch.equal(ours[name], theirs[name])
    }


def test_embedding_only_changes_nothing_else(trained, tmp_path):
    run, start = noise_features(tmp_path / "new", "zoe", "ben"), Start(source=trained, train="embedding")
    train_teacher(AcousticConfig(), TEACHER, run, **HOW, start=start)
    before, after = tensors(trained, "teacher", "ema"), tensors(run, "teacher", "model")
    assert changed(after, before) == {"singer_embed.weight"}
    train_student(STUDENT, run, **HOW, start=start)
    kept, student = tensors(trained, "student", "ema"), tensors(run, "student", "ema")
    assert changed(student, kept) == {"singer_embed.weight"}
    assert torch.equal(student["singer_embed.weight"], tensors(run, "teacher", "ema")["singer_embed.weight"])
    _, config = read_metadata(latest_checkpoint(run / "student"))
    assert config["singers"] == ["zoe", "ben"]
    assert config["init_from"]["train"] == "embedding"


def test_new_singers_begin_at_the_mean_and_known_ones_where_they_were(trained, tmp_path):
    run = noise_features(tmp_path / "new", "zoe", "ben")
    still = TeacherConfig(
        loop=LoopConfig(**{**to_mapping(LOOP), "learning_rate": 0.0, "final_learning_rate": 0.0}), crop_frames=32
    )
    train_teacher(ACOUSTIC, still, run, **HOW, start=Start(source=trained))
    table, before = (tensors(r, "teacher", "ema")["singer_embed.weight"] for r in (run, trained))
    torch.testing.assert_close(table, torch.stack([before.mean(dim=0), before[1]]))


def test_everything_may_be_trained_and_distilled_again(trained, tmp_path):
    run = noise_features(tmp_path / "new", "zoe")
    start = Start(source=latest_checkpoint(trained / "teacher"))
    train_teacher(ACOUSTIC, TEACHER, run, **HOW, start=start)
    before, after = tensors(trained, "teacher", "ema"), tensors(run, "teacher", "model")
    assert {"mel_mean", "mel_scale"} == set(before) - changed(after, before)
    train_student(STUDENT, run, **HOW, start=Start(source=trained))
    kept, student = tensors(trained, "student", "ema"), tensors(run, "student", "model")
    # Near the old student, of which it started, and not at the teacher.
    teacher = tensors(run, "teacher", "ema")
    name = "denoiser.layers.0.dilated_conv.weight"
    assert 0 < (student[name] - kept[name]).abs().mean() < (student[name] - teacher[name]).abs().mean()


def test_content_encoder_and_vocoder_come_along(trained, tmp_path):
    run = noise_features(tmp_path / "new", "zoe")
    train_teacher(ACOUSTIC, TEACHER, run, **HOW, start=Start(source=trained))
    assert load_content_encoders(run)["content"][1] == load_content_encoders(trained)["content"][1]
    assert changed(tensors(run, "vocoder", "ema"), tensors(trained, "vocoder", "ema")) == set()


def test_another_content_encoder_is_refused(trained, tmp_path):
    run, other = noise_features(tmp_path / "new", "zoe"), new_encoder(1)
    (run / "content").mkdir()
    config = {"audio": to_mapping(SPEC), "network": to_mapping(ENCODER)}
    save_checkpoint(run / "content", 1, {"model": other, "ema": other}, torch.optim.AdamW(other.parameters()), config)
    with pytest.raises(TrainingError, match="other content encoders"):
        train_teacher(ACOUSTIC, TEACHER, run, **HOW, start=Start(source=trained))


def test_student_of_a_changed_teacher_is_not_kept(trained, tmp_path):
    run = noise_features(tmp_path / "new", "zoe")
    train_teacher(ACOUSTIC, TEACHER, run, **HOW, start=Start(source=trained))
    with pytest.raises(TrainingError, match="--train all"):
        train_student(STUDENT, run, **HOW, start=Start(source=trained, train="embedding"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--init-from", "nowhere"], "nowhere is not there"),
        (["--init-from", "FOLDER"], "has no trained teacher"),
        (["--init-from", "VOICE"], "is no checkpoint of a training stage"),
        (["--init-from", "WEIGHTS"], "is no checkpoint of a training stage"),
        (["--init-from", "STUDENT"], "is no checkpoint of a teacher"),
        (["--train", "embedding"], "--init-from RUN"),
        (["--train", "half", "--init-from", "nowhere"], "embedding, all"),
        (["--strategy", "magic"], "strategy"),
    ],
)
def test_options_that_make_no_sense_are_refused(trained, tmp_path, options, says):
    run = noise_features(tmp_path / "new", "zoe")
    (tmp_path / "voice.comosvc").write_bytes(b"PK\x03\x04 and so on")
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    files = {
        "STUDENT": latest_checkpoint(trained / "student"),
        "FOLDER": tmp_path,
        "VOICE": tmp_path / "voice.comosvc",
        "WEIGHTS": tmp_path / "weights.safetensors",
    }
    options = [str(files.get(option, option)) for option in options]
    recipe = tmp_path / "smoke.toml"
    smoke = resources.files("comosvc.training").joinpath("recipes/smoke.toml").read_text("utf-8")
    recipe.write_text(smoke.replace("content_hop_length = 160", f"content_hop_length = {SPEC.content_hop_length}"))
    result = CliRunner().invoke(app, ["teacher", "-c", str(recipe), "-o", str(run), "--device", "cpu", *options])
    assert result.exit_code == 1
    assert says in " ".join(result.output.split())


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_read(name):
    assert load_config(Recipe, name).teacher.loop.steps > 0


def test_stage_that_a_recipe_leaves_out_says_so(tmp_path):
    result = CliRunner().invoke(app, ["content", "-c", "fine-tune", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "trains no such network" in result.output


def exported(encoder):
    example = torch.zeros(1, 4_000)
    program = torch.onnx.export(
        encoder, (example,), dynamo=True, opset_version=20, dynamic_shapes={"audio": {0: "B", 1: "N"}}, verbose=False
    )
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    return onnx.load_from_string(buffer.getvalue())


def test_weights_come_back_out_of_a_graph_bit_for_bit():
    encoder, empty = new_encoder(), new_encoder(1)
    load_weights(empty, exported(encoder))
    assert changed(empty.state_dict(), encoder.state_dict()) == set()


def test_graph_of_another_network_is_refused():
    with pytest.raises(TrainingError, match="not that of its network"):
        load_weights(
            ContentEncoder(ContentConfig(channels=24, n_mels=20, dilations=(1, 2)), SPEC), exported(new_encoder())
        )


@pytest.mark.slow
def test_recordings_without_phones_take_the_encoder_of_a_voice(smoke_run, smoke_bundle, tmp_path, caplog):
    spec = FeatureIndex.open(smoke_run / "features").audio
    adopt_content(tmp_path, spec, str(smoke_bundle))
    assert "33 phones" in caplog.text
    ours, theirs = load_content_encoders(tmp_path), load_content_encoders(smoke_run)
    assert {name: encoder_hash for name, (_, encoder_hash) in ours.items()} == {
        name: encoder_hash for name, (_, encoder_hash) in theirs.items()
    }


def test_shipped_encoder_is_for_recordings_framed_like_it(tmp_path):
    with pytest.raises(TrainingError, match="content_hop_length 160, this run 320"):
        adopt_content(tmp_path, SPEC)
