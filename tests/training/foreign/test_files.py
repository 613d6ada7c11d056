"""Vocoders and content encoders read back: every weight lands where it belongs, what does not fit is named."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from foreign_files import (
    COMMIT,
    SMALL,
    contentvec_weights,
    fill_hub_cache,
    vocoder_weights,
    write_contentvec,
    write_hf_contentvec,
    write_m4singer_vocoder,
    write_openvpi_vocoder,
)
from hostile import STOLEN
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from comosvc.runtime.audio.spec import COMOSVC_24K, OPENVPI_44K
from comosvc.training.errors import ForeignFileError
from comosvc.training.foreign.content_file import content_files, read_content
from comosvc.training.foreign.locations import ForeignSource
from comosvc.training.foreign.stages import take_vocoder
from comosvc.training.foreign.vocoder_file import read_vocoder
from comosvc.training.foreign.weights import read_settings


def edit_yaml(path: Path, change) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.dump(content))


def read_m4singer(folder: Path, kind: str = "auto"):
    return read_vocoder(folder / "model_ckpt_steps_1970000.ckpt", read_settings(folder / "config.yaml"), kind)


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
        (lambda c: c.update(fmin=-1), r"config.yaml: fmin is -1; it must be 0 Hz to below fmax, 12000 Hz"),
        (lambda c: c.update(fmin=float("nan")), r"config.yaml: fmin must be a number, is nan"),
        (lambda c: c.update(fmin=12_000), r"config.yaml: fmin is 12000; it must be"),
        (lambda c: c.update(fmax=12_001), r"config.yaml: fmax is 12001; half of the rate, 12000 Hz, is the most"),
        (lambda c: c.update(fmax=float("nan")), r"config.yaml: fmax must be a number, is nan"),
        (lambda c: c.update(fmax=-1), r"config.yaml: fmax is -1; half"),
        (lambda c: c.update(upsample_kernel_sizes=[16, 16, 4, 3]), r"config.yaml: upsample_kernel_sizes .* do not fit"),
        (lambda c: c.update(resblock_kernel_sizes=[3, 4]), r"config.yaml: resblock_kernel_sizes .* must be odd"),
        (lambda c: c.update(upsample_rates=[-8, -4, 2, 2]), r"rates, kernels and dilations must be 1 to 512, found -8"),
        (lambda c: c.update(resblock_dilation_sizes=[[0, 3, 5]] * 2), r"must be 1 to 512, found 0"),
        (lambda c: c.update(resblock_dilation_sizes=[[1, 10**9, 5]] * 2), r"must be 1 to 512, found 1000000000"),
        (lambda c: c.update(upsample_kernel_sizes=[16, 10**30, 4, 4]), r"is 10{26}.*; 2147483647 is the most"),
        (lambda c: c.update(fft_size=10**9), r"no voice can have these settings: audio.n_fft is 1000000000"),
        (lambda c: c.update(win_size=0), r"no voice can have these settings: audio.win_length is 0"),
        (lambda c: c.update(win_size=64), r"no voice can have these settings: audio: hop_length, win_length and n_fft"),
    ],
)
def test_vocoder_settings_that_do_not_fit(tmp_path, change, message):
    write_m4singer_vocoder(tmp_path)
    edit_yaml(tmp_path / "config.yaml", change)
    with pytest.raises(ForeignFileError, match=message):
        read_m4singer(tmp_path)


def test_a_kind_that_is_guessed_is_said(tmp_path, caplog):
    """The layout of M4Singer's vocoder is that of DiffSinger's too."""
    path = write_m4singer_vocoder(tmp_path / "m4")
    openvpi = write_openvpi_vocoder(tmp_path / "nsf")
    certain = [("m4singer", path, COMOSVC_24K), ("diffsinger", path, COMOSVC_24K), ("auto", openvpi, OPENVPI_44K)]
    for kind, address, audio in certain:
        take_vocoder(str(address), None, kind, audio, tmp_path / kind)
        assert "taken for M4Singer's" not in caplog.text
    take_vocoder(str(path), None, "auto", COMOSVC_24K, tmp_path / "guessed")
    assert re.search(r"model_ckpt_steps_1970000.ckpt is taken for M4Singer's .*--vocoder-kind diffsinger", caplog.text)


def _content_of(path: Path):
    return read_content(*content_files(ForeignSource.parse(path)))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_stable_layer_norm": True}, r"do_stable_layer_norm is true"),
        ({"num_attention_heads": 5}, r"5 attention heads do not divide 32"),
        ({"conv_stride": [-5, -2, 2, 2, 2, 2, 2]}, r"7 convolutions with strides \(-5, -2, .*; ContentVec has"),
        ({"conv_stride": [320, 1, 1, 1, 1, 1, 1]}, r"with strides \(320, 1, .*; ContentVec has \(5, 2"),
        ({"conv_stride": []}, r"7 convolutions with strides \(\); ContentVec has"),
        ({"layer_norm_eps": 0}, r"config.json: layer_norm_eps is 0; ContentVec's is 1e-5"),
        ({"layer_norm_eps": -1e-5}, r"config.json: layer_norm_eps is -1e-05"),
    ],
)
def test_safetensors_settings_that_do_not_fit(tmp_path, changes, message):
    folder = write_hf_contentvec(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ForeignFileError, match=message):
        _content_of(folder)


def test_a_folder_without_weights_is_named(tmp_path):
    (write_hf_contentvec(tmp_path / "hf") / "model.safetensors").unlink()
    with pytest.raises(ForeignFileError, match=r"model.safetensors is not there"):
        _content_of(tmp_path / "hf")


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
        (
            "config.yaml",
            "a: 1\n? [x, y]\n: 2",
            r"has something in the wrong place: found unhashable key, line 2\nhint: .*name",
        ),
        ("config.yaml", "a: 1\nb: {c: 1, c: 2}", r"in the wrong place: 'c' a second time, line 2"),
        ("config.json", '{"a": 1, "a": 2}', r"the same key twice"),
        ("config.yaml", f"a: &a {{b: 1}}\nc: {{<<: [{'*a, ' * 9}]}}", r"in the wrong place: a merge \(<<\), line 2"),
        ("config.yaml", f"a: 1{':1' * 2_000}.5", r"cannot be read: int too large to convert to float"),
        ("config.yaml", "a: 1\n" * 40_000, r"has 200000 bytes; that is no configuration"),
    ],
)
def test_settings_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ForeignFileError, match=message):
        read_settings(tmp_path / name)


def test_a_number_of_thousands_of_digits_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(f"a: 0x{'f' * 9_000}")
    settings = read_settings(tmp_path / "config.yaml")
    for read in (settings.integer, settings.number, settings.text):
        with pytest.raises(ForeignFileError, match="a is a number of thousands of digits; 2147483647 is the most"):
            read("a")


def test_contentvec_from_the_hub(tmp_path, monkeypatch):
    """A repository stands for a folder: the weights and config.json of it are fetched, nothing else."""
    folder = write_hf_contentvec(tmp_path / "local")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    fill_hub_cache(tmp_path / "hub", "somebody/contentvec", files, small=["config.json"])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    address = f"hf://somebody/contentvec@{COMMIT}"
    found = [content_files(ForeignSource.parse(text)) for text in (address, f"{address}/model.safetensors")]
    assert [[path.name for path in pair] for pair in found] == [["model.safetensors", "config.json"]] * 2
    assert read_content(*found[0]).format == "hugging face"
