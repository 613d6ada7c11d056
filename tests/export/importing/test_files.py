"""Each foreign format read back: every weight lands where it belongs, and whatever does not fit is named."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from foreign_files import (
    COMMIT,
    SMALL,
    comosvc_weights,
    contentvec_weights,
    fill_hub_cache,
    vocoder_weights,
    write_comosvc,
    write_contentvec,
    write_hf_contentvec,
    write_m4singer_vocoder,
    write_openvpi_vocoder,
)
from hostile import PAYLOADS, STOLEN, in_zip, pickled
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from comosvc.export.importing.comosvc_file import read_comosvc
from comosvc.runtime.spec import COMOSVC_24K, OPENVPI_44K
from comosvc.training.errors import ForeignFileError
from comosvc.training.foreign.content_file import content_files, read_content
from comosvc.training.foreign.settings import read_settings
from comosvc.training.foreign.sources import Source
from comosvc.training.foreign.vocoder_file import read_vocoder


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


def read_m4singer(folder: Path, kind: str = "auto"):
    return read_vocoder(folder / "model_ckpt_steps_1970000.ckpt", read_settings(folder / "config.yaml"), kind)


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
        (lambda c: c["model"].update(n_chans="many"), r"model: n_chans must be a whole number, is 'many'"),
        (lambda c: c["model"].update(n_chans=10**9), r"no network has the sizes"),
        (lambda c: c["model"].update(n_chans=10**6), r"input_projection.weight has shape"),
        (lambda c: c["model"].pop("n_hidden"), r"config.yaml: model has no n_hidden"),
        (lambda c: c["data"].update(sampling_rate=44_100), r"sampling_rate is 44100, the vocoder's is 24000"),
        (lambda c: c["data"].update(hop_length=256), r"hop_length is 256, the vocoder's is 128"),
        (lambda c: c["data"].update(encoder="hubertsoft"), r"encoder is 'hubertsoft'; only 'vec768l12'"),
        (lambda c: c["data"].update(unit_interpolate_mode="left"), r"unit_interpolate_mode is 'left'"),
        (lambda c: c.pop("spk"), r"config.yaml has no spk"),
        (lambda c: c.update(spk={}), r"spk: nobody is there"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, change, message):
    write_comosvc(tmp_path)
    edit_yaml(tmp_path / "config.yaml", change)
    with pytest.raises(ForeignFileError, match=message):
        read_model(tmp_path)


def test_another_stage_is_recognised(tmp_path):
    write_comosvc(tmp_path / "c")
    write_m4singer_vocoder(tmp_path / "v")
    with pytest.raises(ForeignFileError, match=r"is no CoMoSVC checkpoint: it has state_dict, global_step"):
        read_comosvc(
            tmp_path / "v" / "model_ckpt_steps_1970000.ckpt", read_settings(tmp_path / "c" / "config.yaml"), COMOSVC_24K
        )
    with pytest.raises(ForeignFileError, match=r"is no vocoder checkpoint: it has global_step, model"):
        read_vocoder(tmp_path / "c" / "model_800000.pt", read_settings(tmp_path / "v" / "config.yaml"))


def test_both_vocoders(tmp_path):
    write_m4singer_vocoder(tmp_path / "m4")
    path = write_openvpi_vocoder(tmp_path / "nsf")
    m4 = read_m4singer(tmp_path / "m4")
    nsf = read_vocoder(path, read_settings(tmp_path / "nsf" / "config.json"))
    assert m4.audio == COMOSVC_24K
    assert (nsf.audio.sample_rate, nsf.audio.hop_length, nsf.audio.n_mels) == (44_100, 512, 128)
    assert (nsf.audio.f_min_hz, nsf.audio.f_max_hz, nsf.audio.n_fft) == (40.0, 16_000.0, OPENVPI_44K.n_fft)
    assert (m4.network.config.normalised_source, nsf.network.config.normalised_source) == (True, False)
    assert nsf.network.config.mel_gain == pytest.approx(2.302585, abs=1e-6)  # ln 10
    assert read_m4singer(tmp_path / "m4", "diffsinger").network.config.normalised_source is False
    weights = vocoder_weights(SMALL, (8, 4, 2, 2), (16, 16, 4, 4), 80)
    v, g = weights["ups.1.weight_v"], weights["ups.1.weight_g"]
    folded = torch.stack([g[i] * v[i] / v[i].norm() for i in range(len(v))])
    torch.testing.assert_close(m4.network.ups[1].weight, folded)
    assert torch.equal(m4.network.source_mix.weight, weights["m_source.l_linear.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(hop_size=256), r"upsample_rates 8 x 4 x 2 x 2 = 128, hop_size is 256"),
        (
            lambda c: c.update(upsample_initial_channel=64),
            r"conv_pre.weight_v has shape \(32, 80, 7\), \(64, 80, 7\) is",
        ),
        (lambda c: c.update(resblock_kernel_sizes=[3, 9]), r"convs1.0.weight_v has shape \(16, 16, 7\), \(16, 16, 9\)"),
        (lambda c: c.update(resblock="2"), r"resblocks.0.convs.0.weight is missing"),
        (lambda c: c.update(resblock="3"), r"resblock is '3'; known: 1, 2"),
        (lambda c: c.update(use_pitch_embed=False), r"use_pitch_embed is False"),
        (lambda c: c.update(mini_nsf=True), r"mini_nsf is True"),
        (lambda c: c.pop("upsample_rates"), r"config.yaml has no upsample_rates"),
        (lambda c: c.update(upsample_rates=["8", 4]), r"upsample_rates must be a list of whole numbers, is list"),
    ],
)
def test_vocoder_settings_that_do_not_fit(tmp_path, change, message):
    write_m4singer_vocoder(tmp_path)
    edit_yaml(tmp_path / "config.yaml", change)
    with pytest.raises(ForeignFileError, match=message):
        read_m4singer(tmp_path)


def _content_of(path: Path):
    return read_content(*content_files(Source.parse(path)))


def test_contentvec_in_every_format(tmp_path):
    """The same weights from fairseq's two containers and Hugging Face's two namings give the same network."""
    found = [
        _content_of(write_contentvec(tmp_path / "a.pt")),
        _content_of(write_contentvec(tmp_path / "b.pt", legacy=True)),
        _content_of(write_hf_contentvec(tmp_path / "c")),
        _content_of(write_hf_contentvec(tmp_path / "d", modern=True) / "model.safetensors"),
    ]
    assert [item.format for item in found] == ["fairseq", "fairseq", "hugging face", "hugging face"]
    audio = torch.randn(2, 2_000)
    with torch.inference_mode():
        outputs = [item.network(audio) for item in found]
    assert outputs[0].shape == (2, 6, 32)
    assert outputs[0].std() > 0.1
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])
    weights = contentvec_weights(SMALL)
    v, g = weights["encoder.pos_conv.0.weight_v"], weights["encoder.pos_conv.0.weight_g"]
    folded = torch.stack([g[0, 0, k] * v[:, :, k] / v[:, :, k].norm() for k in range(128)], dim=2)
    torch.testing.assert_close(found[0].network.hubert.encoder.pos_conv_embed.conv.weight, folded)
    assert found[0].network.config.num_attention_heads == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("encoder.layers.1.fc2.bias"), r"encoder.layers.1.fc2.bias is missing"),
        (lambda m: m.update({"layer_norm.weight": torch.ones(17)}), r"layer_norm.weight has shape \(17,\), \(16,\) is"),
        (
            lambda m: m.update({"feature_extractor.conv_layers.1.2.1.weight": torch.ones(16)}),
            r"nothing here takes: feature_extractor.conv_layers.1.2.1.weight",
        ),
        (lambda m: m.update({"encoder.layer_norm.weight": torch.ones(3, 3)}), r"1 dimensions are expected"),
    ],
)
def test_contentvec_weights_that_do_not_fit(tmp_path, change, message):
    path = tmp_path / "content.pt"
    weights = contentvec_weights(SMALL)
    change(weights)
    torch.save({"model": weights}, path)
    with pytest.raises(ForeignFileError, match=message):
        _content_of(path)


def test_safetensors_settings_that_do_not_fit(tmp_path):
    folder = write_hf_contentvec(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "do_stable_layer_norm": True}))
    with pytest.raises(ForeignFileError, match=r"do_stable_layer_norm is true"):
        _content_of(folder)
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5}))
    with pytest.raises(ForeignFileError, match=r"5 attention heads do not divide 32"):
        _content_of(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ForeignFileError, match=r"model.safetensors is not there"):
        _content_of(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        b"\x10\x00\x00\x00\x00\x00\x00\x00",
        b"\x02\x00\x00\x00\x00\x00\x00\x00{]",
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4294967296]}}'.ljust(64),
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}'.ljust(64) + bytes(8),
    ],
)
def test_safetensors_headers_that_lie(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(header)
    with pytest.raises(ForeignFileError, match=r"model.safetensors is damaged, or not a safetensors file"):
        _content_of(path)


def test_safetensors_cut_short(tmp_path):
    path = write_hf_contentvec(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ForeignFileError, match=r"is damaged, or not a safetensors file"):
        _content_of(path)
    save_file({"weight": torch.zeros(3)}, path)
    assert load_file(path)
    with pytest.raises(ForeignFileError, match=r"encoder.layer_norm.weight is missing"):
        _content_of(path)


@pytest.mark.parametrize(
    "text",
    [
        f"!!python/object/apply:os.system ['touch {STOLEN}']",
        f"data: !!python/object/apply:subprocess.check_call [[touch, {STOLEN}]]",
        f"data: {{x: !!python/object/new:os.system ['touch {STOLEN}']}}",
        "data: !!python/name:os.system",
        "data: !!python/module:os",
    ],
)
def test_yaml_makes_no_objects(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ForeignFileError, match=r"config.yaml asks for an object: .*line 1\nhint: .*take the tag"):
        read_settings(tmp_path / "config.yaml")
    assert not (tmp_path / STOLEN).exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", "a: [1, 2", r"is not valid YAML, line"),
        ("config.yaml", "[1, 2]", r"holds a list, not a table"),
        ("config.yaml", "[" * 1_500, r"cannot be read|not valid YAML"),
        ("config.json", "{", r"cannot be read"),
        ("config.yaml", "\x00", r"not valid YAML|cannot be read"),
    ],
)
def test_settings_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ForeignFileError, match=message):
        read_settings(tmp_path / name)


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
        _content_of(tmp_path / "evil.pt")
    assert not (tmp_path / STOLEN).exists()


def test_contentvec_from_the_hub(tmp_path, monkeypatch):
    """A repository stands for a folder: the weights and config.json of it are fetched, nothing else."""
    folder = write_hf_contentvec(tmp_path / "local")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fill_hub_cache(tmp_path / "hub", "somebody/contentvec", files, small=["config.json"])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    address = f"hf://somebody/contentvec@{COMMIT}"
    found = [content_files(Source.parse(text)) for text in (address, f"{address}/model.safetensors")]
    assert [[path.name for path in pair] for pair in found] == [["model.safetensors", "config.json"]] * 2
    assert read_content(*found[0]).format == "hugging face"
