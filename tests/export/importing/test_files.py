"""CoMoSVC's checkpoints read back: every weight lands where it belongs, and whatever does not fit is named."""

from pathlib import Path

import pytest
import torch
import yaml
from foreign_files import (
    SMALL,
    comosvc_weights,
    write_comosvc,
    write_contentvec,
    write_m4singer_vocoder,
    write_openvpi_vocoder,
)
from hostile import PAYLOADS, STOLEN, in_zip, pickled

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.errors import ForeignFileError
from comosvc.training.foreign.comosvc_file import read_comosvc
from comosvc.training.foreign.content_file import read_content
from comosvc.training.foreign.stages import content_at, vocoder_at
from comosvc.training.foreign.vocoder_file import read_vocoder
from comosvc.training.foreign.weights import read_settings


def edit_yaml(path: Path, change) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.dump(content))


def edit_checkpoint(path: Path, change) -> None:
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def read_model(folder: Path, **options):
    path = folder / "model_800000.pt"
    return read_comosvc(path, read_settings(folder / "config.yaml"), COMOSVC_24K, **options)


def test_student_and_teacher(tmp_path):
    write_comosvc(tmp_path / "student")
    write_comosvc(tmp_path / "teacher", student=False)
    student, teacher = read_model(tmp_path / "student"), read_model(tmp_path / "teacher")
    assert (student.is_teacher, teacher.is_teacher) == (False, True)
    assert student.step == 800_000
    assert student.singers == {"Singer-0": 0, "Singer-1": 1, "Singer-2": 2}
    weights = comosvc_weights(SMALL, student=True)
    model = student.model
    assert torch.equal(model.content_embed.weight, weights["unit_embed.weight"])
    assert torch.equal(model.singer_embed.weight, weights["spk_embed.weight"])
    third = weights["decoder.denoise_fn.residual_layers.2.conditioner_projection.weight"][..., 0]
    assert torch.equal(model.denoiser.condition_projection.weight[64:], third)
    second = weights["decoder.denoise_fn.residual_layers.1.diffusion_projection.bias"]
    assert torch.equal(model.denoiser.step_projection.bias[16:32], second)
    assert float(model.mel_scale) == 3.75
    assert torch.equal(model.mel_mean, torch.full((80,), -2.25))
    assert sorted(student.ignored.values()) == [2, 16 + 3 * 8 - 6, 16 + 3 * 8 - 6]
    assert teacher.ignored == {"pitch extractor: loaded by the authors' training, never run": 2}


def test_the_averaged_network_on_request(tmp_path):
    write_comosvc(tmp_path)
    weights = comosvc_weights(SMALL, student=True)
    name = "skip_projection.weight"
    online, ema = read_model(tmp_path), read_model(tmp_path, network="ema")
    assert torch.equal(online.model.denoiser.skip_projection.weight, weights[f"decoder.denoise_fn.{name}"])
    assert torch.equal(ema.model.denoiser.skip_projection.weight, weights[f"decoder.denoise_fn_ema.{name}"])
    write_comosvc(tmp_path, student=False)
    with pytest.raises(ForeignFileError, match=r"is a teacher: it has no averaged network"):
        read_model(tmp_path, network="ema")


def test_one_singer_and_no_pitch_augmentation(tmp_path):
    sizes = type(SMALL)(n_spk=1)
    write_comosvc(tmp_path, sizes, pitch_aug=False)
    model = read_model(tmp_path).model
    assert not model.singer_embed.weight.any()
    assert model.singer_embed.weight.shape == (1, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("unit_embed.weight"), r"unit_embed.weight is missing"),
        (lambda m: m.update({"unit_embed.weight": torch.zeros(12, 31)}), r"shape \(12, 31\), \(12, 32\) is expected"),
        (lambda m: m.update({"extra.weight": torch.zeros(1)}), r"weights that nothing here takes: extra.weight"),
        (lambda m: m.update({"unit_embed.bias": torch.full((12,), torch.nan)}), r"unit_embed.bias has values that are"),
        (lambda m: m.update({"unit_embed.bias": torch.zeros(12).long()}), r"unit_embed.bias is torch.int64"),
        (
            lambda m: m.pop("decoder.denoise_fn.residual_layers.1.dilated_conv.bias"),
            r"residual_layers.1.dilated_conv.bias is missing; near it: .*residual_layers.1.dilated_conv.weight",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    path = write_comosvc(tmp_path)
    edit_checkpoint(path, lambda content: change(content["model"]))
    with pytest.raises(ForeignFileError, match=message):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(n_layers=4), r"residual_layers.3.dilated_conv.weight is missing"),
        (lambda c: c["model"].update(n_chans=24), r"input_projection.weight has shape \(16, 80, 1\), \(24, 80, 1\) is"),
        (lambda c: c["model"].update(n_spk=4), r"spk_embed.weight has shape \(3, 12\), \(4, 12\) is expected"),
        (lambda c: c["model"].update(n_spk=1), r"Singer-1 has number 1; the model has singers 0 to 0"),
        (
            lambda c: c["model"].update(n_spk=4),
            r"is of another model: n_spk is 4, the weights have 3; .*--config",
        ),
        (lambda c: c["model"].update(n_layers=4), r"another model: n_layers is 4, the weights have 3"),
        (
            lambda c: c["model"].update(n_chans=24, n_hidden=13),
            r"n_hidden is 13, the weights have 12, n_chans is 24",
        ),
        (lambda c: c["data"].update(encoder_out_channels=256), r"encoder_out_channels is 256, the weights have 32"),
        (lambda c: c["model"].update(use_pitch_aug=False), r"use_pitch_aug is False, the weights have True"),
        (lambda c: (c["model"].update(n_spk=1), c.update(spk={"a": 0})), r"n_spk is 1, the weights have 3"),
        (lambda c: c["model"].update(n_chans="many"), r"model: n_chans must be a whole number, is 'many'"),
        (lambda c: c["model"].update(n_chans=10**9), r"no network has the sizes"),
        (lambda c: c["model"].update(n_chans=3), r"no network has the sizes of its configuration: float division by"),
        (lambda c: c["model"].update(n_hidden=-1), r"no network has the sizes"),
        (lambda c: c["model"].update(n_chans=10**6), r"input_projection.weight has shape"),
        (lambda c: c["model"].pop("n_hidden"), r"config.yaml: model has no n_hidden"),
        (lambda c: c["data"].update(sampling_rate=44_100), r"sampling_rate is 44100, the vocoder's is 24000"),
        (lambda c: c["data"].update(hop_length=256), r"hop_length is 256, the vocoder's is 128"),
        (lambda c: c["data"].update(encoder="hubertsoft"), r"encoder is 'hubertsoft'; only 'vec768l12'"),
        (lambda c: c["data"].update(unit_interpolate_mode="left"), r"unit_interpolate_mode is 'left'"),
        (lambda c: c.pop("spk"), r"config.yaml has no spk"),
        (lambda c: c.update(spk={}), r"spk: there is no singer"),
        (lambda c: c.update(spk={"x" * 201: 0}), r"spk: a singer's name has 201 characters; at most 200"),
        (lambda c: c.update(spk={" ": 0}), r"spk: a singer's name is empty"),
        (lambda c: c.update(spk={1: 0, "1": 1}), r"in the wrong place: '1' a second time"),
        (lambda c: c.update(spk={"x": 2**31}), r"spk: x is 2147483648; 2147483647 is the most"),
        (lambda c: c.update(spk={"x\nhint: y": 0}), r"spk: a singer's name is .*: a name has no line breaks"),
        (lambda c: c["model"].update(type=["Diffusion"]), r"model: type must be text, is list"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, change, message):
    write_comosvc(tmp_path)
    edit_yaml(tmp_path / "config.yaml", change)
    with pytest.raises(ForeignFileError, match=message):
        read_model(tmp_path)


def test_a_model_of_another_name_is_doubted(tmp_path, caplog):
    write_comosvc(tmp_path)
    read_model(tmp_path)
    assert not caplog.text
    edit_yaml(tmp_path / "config.yaml", lambda c: c["model"].update(type="ReFlow"))
    read_model(tmp_path)
    assert "model: type is 'ReFlow', the authors' is 'Diffusion'" in caplog.text


def test_another_stage_is_recognised(tmp_path):
    write_comosvc(tmp_path / "c")
    write_m4singer_vocoder(tmp_path / "v")
    with pytest.raises(ForeignFileError, match=r"is no CoMoSVC checkpoint: it has state_dict, global_step"):
        read_comosvc(
            tmp_path / "v" / "model_ckpt_steps_1970000.ckpt", read_settings(tmp_path / "c" / "config.yaml"), COMOSVC_24K
        )
    with pytest.raises(ForeignFileError, match=r"is no vocoder checkpoint: it has global_step, model"):
        read_vocoder(tmp_path / "c" / "model_800000.pt", read_settings(tmp_path / "v" / "config.yaml"))


@pytest.mark.parametrize(
    ("given", "place", "hint"),
    [
        ("model", "vocoder", "is no vocoder checkpoint: .*; it is a CoMoSVC checkpoint\nhint: .* is --como of"),
        ("model", "content", "is no content encoder: .*; it is a CoMoSVC checkpoint\nhint: .* is --como of"),
        ("vocoder", "model", "is no CoMoSVC checkpoint: .*; it is a vocoder checkpoint\nhint: .* is --vocoder of"),
        ("vocoder", "content", "is no content encoder: .*; it is a vocoder checkpoint\nhint: .* is --vocoder of"),
        ("openvpi", "content", "is no content encoder: .*; it is a vocoder checkpoint\nhint: .* is --vocoder of"),
        ("content", "model", "is no CoMoSVC checkpoint: .*; it is a content encoder\nhint: .* is --content of"),
        ("content", "vocoder", "is no vocoder checkpoint: .*; it is a content encoder\nhint: .* is --content of"),
        ("sovits", "model", "is no CoMoSVC checkpoint: .*; it is a model of so-vits-svc or RVC\nhint: CoMoSVC's own"),
    ],
)
def test_each_part_is_recognised_in_the_place_of_another(tmp_path, given, place, hint):
    torch.save({"model": {"enc_p.pre.weight": torch.zeros(2), "emb_g.weight": torch.zeros(2)}}, tmp_path / "G_0.pth")
    paths = {
        "model": write_comosvc(tmp_path / "c"),
        "vocoder": write_m4singer_vocoder(tmp_path / "v"),
        "openvpi": write_openvpi_vocoder(tmp_path / "o"),
        "content": write_contentvec(tmp_path / "content.pt"),
        "sovits": tmp_path / "G_0.pth",
    }
    readers = {
        "model": lambda path: read_comosvc(path, read_settings(tmp_path / "c" / "config.yaml"), COMOSVC_24K),
        "vocoder": lambda path: read_vocoder(path, read_settings(tmp_path / "v" / "config.yaml")),
        "content": read_content,
    }
    with pytest.raises(ForeignFileError, match=hint):
        readers[place](paths[given])


@pytest.mark.parametrize("payload", ["os.system", "getattr of an import"])
def test_hostile_files_in_each_place(tmp_path, payload, monkeypatch):
    """What is no checkpoint of the kind is refused by its keys; nothing has run by then."""
    monkeypatch.chdir(tmp_path)
    write_comosvc(tmp_path / "c")
    write_m4singer_vocoder(tmp_path / "v")
    in_zip(tmp_path / "evil.pt", pickled(PAYLOADS[payload]))
    with pytest.raises(ForeignFileError, match=r"evil.pt: .* is missing"):
        read_comosvc(tmp_path / "evil.pt", read_settings(tmp_path / "c" / "config.yaml"), COMOSVC_24K)
    with pytest.raises(ForeignFileError, match=r"is no vocoder checkpoint"):
        read_vocoder(tmp_path / "evil.pt", read_settings(tmp_path / "v" / "config.yaml"))
    with pytest.raises(ForeignFileError, match=r"encoder.layer_norm.weight is missing"):
        read_content(tmp_path / "evil.pt")
    assert not (tmp_path / STOLEN).exists()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "is empty"),
        ("x" * 5_000, "File name too long"),
        ("/dev/null", "is a pipe or a device"),
        ("none", "not there"),
    ],
)
def test_what_is_no_file_is_named(address, words):
    for read in (content_at, vocoder_at):
        with pytest.raises(ForeignFileError, match=words):
            read(address)


def test_a_part_without_a_configuration_is_said_to_be_what_it_is(tmp_path):
    content, model = write_contentvec(tmp_path / "content.pt"), write_comosvc(tmp_path)
    (tmp_path / "config.yaml").unlink()
    page = tmp_path / "page.pt"
    page.write_text("<html>")
    for path, words in (
        (content, "is no vocoder checkpoint: .*; it is a content encoder\nhint: .*--content"),
        (model, "is no vocoder checkpoint: .*; it is a CoMoSVC checkpoint\nhint: .*--como"),
        (page, "is no checkpoint: it is a web page"),
    ):
        with pytest.raises(ForeignFileError, match=words):
            vocoder_at(str(path))
