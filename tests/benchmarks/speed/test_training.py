"""The speed of training: equal work on both sides, and a report that says what was measured."""

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from comosvc.benchmarks.baselines.authors import AuthorsModel, AuthorsTraining, Items, Network
from comosvc.benchmarks.cli import app
from comosvc.benchmarks.report import Figures, load
from comosvc.benchmarks.speed.training import (
    N_CONTENT,
    N_SINGERS,
    TrainOptions,
    measure_training,
    of_size,
    random_clips,
)
from comosvc.runtime.errors import OptionError
from comosvc.training.acoustic.model import Denoiser
from comosvc.training.loop.devices import why_emulated


def test_network_of_the_authors_is_ours_with_the_projections_apart():
    config = of_size(3, 16).denoiser
    torch.manual_seed(0)
    ours = Denoiser(config, 80)
    torch.nn.init.normal_(ours.output_projection.weight)
    theirs = Network(3, 16, config.hidden, 80)
    for name in ("input_projection", "skip_projection", "output_projection"):
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    theirs.mlp.load_state_dict(ours.step_embedding.mlp.state_dict())
    steps, conditions = (
        [part for tensor in (m.weight.data, m.bias.data) for part in tensor.chunk(3)]
        for m in (ours.step_projection, ours.condition_projection)
    )
    for n, (layer, mine) in enumerate(zip(theirs.residual_layers, ours.layers, strict=True)):
        layer.dilated_conv.load_state_dict(mine.dilated_conv.state_dict())
        layer.output_projection.load_state_dict(mine.output_projection.state_dict())
        layer.diffusion_projection.load_state_dict({"weight": steps[n], "bias": steps[n + 3]})
        layer.conditioner_projection.load_state_dict({"weight": conditions[n][..., None], "bias": conditions[n + 3]})
    inputs = (torch.randn(2, 30, 80), torch.randn(2), torch.randn(2, 30, config.hidden))
    torch.testing.assert_close(theirs(*inputs), ours(*inputs), rtol=1e-4, atol=1e-4)


def test_network_of_the_authors_has_the_published_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in Network(20, 512, 256, 80).parameters()) == 54_945_360


@pytest.mark.parametrize("student", [False, True])
def test_the_authors_train_what_they_say(student):
    torch.manual_seed(0)
    model = AuthorsModel(Network(2, 16, 256, 80), N_CONTENT, 256, N_SINGERS)
    before = {name: p.clone() for name, p in model.named_parameters()}
    training = AuthorsTraining(model, Items(random_clips(), 40), 4, student=student)
    losses = [training.step() for _ in range(3)]
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == ({"network"} if student else {"network", "unit_embed", "f0_embed", "volume_embed", "spk_embed"})
    assert len(set(losses)) == 3


def test_what_the_processor_imitates_is_left_out(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    options = TrainOptions(batch_size=2, crop_frames=32, rounds=9, steps=1, limit_s=0.0, acoustic=of_size(2, 16))
    report = measure_training(options, "train", lambda _: None)
    assert report.rows[-1].what == "bf16"
    assert report.rows[-1].note == "left out: this processor has no bf16 unit (avx512_bf16 or amx_bf16)"
    assert {name: len(seconds) for name, seconds in report.details["step_s"].items()} == {
        f"{stage}, {system}": 1 for stage in ("teacher", "student") for system in ("authors", "fp32")
    }, "one round, as the time was used up"
    with pytest.raises(OptionError, match="no bf16 unit"):
        measure_training(replace(options, precisions=("bf16",)), "train", lambda _: None)


def test_report_of_a_small_run(tmp_path):
    sizes = ["--layers", "2", "--channels", "16", "--batch", "2", "--frames", "32", "--rounds", "2", "--steps", "2"]
    result = CliRunner().invoke(
        app, ["train", *sizes, "--precision", "bf16,fp32", "--json", str(tmp_path / "train.json")]
    )
    assert result.exit_code == 0, result.output
    report = load(tmp_path / "train.json", [Figures])
    rows = {row.what: row.value for row in report.rows}
    for stage in ("teacher", "student"):
        theirs = rows[f"{stage}: steps a second, the authors' arithmetic in fp32"]
        assert theirs > 0
        for precision in ("fp32",) if why_emulated("bf16", torch.device("cpu")) else ("bf16", "fp32"):
            assert rows[f"{stage}, {precision}: steps a second, ours"] > 0
            assert 0 <= rows[f"{stage}, {precision}: share of the time that ours waits for batches"] <= 100
    assert "2 x 16, batch 2 x 32 frames" in report.rows[0].note
    assert {len(seconds) for seconds in report.details["step_s"].values()} == {2}
