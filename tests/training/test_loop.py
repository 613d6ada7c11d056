"""The training loop: exact resume, refusal of what does not fit, nothing lost."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from comosvc.training import checkpoint
from comosvc.training.checkpoint import latest_checkpoint, load_module, read_metadata
from comosvc.training.config import to_mapping
from comosvc.training.errors import TrainingError
from comosvc.training.loop import LoopConfig, Objective, fit, learning_rate

CONFIG = LoopConfig(
    steps=12,
    batch_size=4,
    learning_rate=0.1,
    final_learning_rate=0.01,
    warmup_steps=3,
    checkpoint_every=5,
    precision="fp32",
)


class Line(Objective):
    """Fit y = 3 x + 1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.losses = []

    def draw(self, batch, draws):
        return {"x": batch["x"] + 0.01 * draws.normal(1)}

    def forward(self, batch):
        x = batch["x"]
        loss = ((self.model(x) - (3 * x + 1)) ** 2).mean()
        self.losses.append(loss.item())
        return loss, {}


def batch(draws):
    return {"x": draws.normal(1)}


def run(folder, config=CONFIG, objective=None, *, resume=False, make_batch=batch, **resolved):
    resolved = {"loop": to_mapping(config), **resolved}
    objective = objective or Line()
    fit(objective, make_batch, config, folder, seed=1, resolved_config=resolved, resume=resume, device="cpu")
    return objective


def killed_after(n_steps):
    """A source of batches that fails like a kill after `n_steps`."""
    count = 0

    def make(draws):
        nonlocal count
        count += 1
        if count > n_steps:
            raise KeyboardInterrupt
        return batch(draws)

    return make


def test_loss_falls(tmp_path):
    config = replace(CONFIG, steps=300)
    losses = run(tmp_path / "stage", config).losses
    assert losses[-1] < 0.05 * losses[0]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", make_batch=killed_after(8))
    assert read_metadata(latest_checkpoint(tmp_path / "killed"))[0] == 5
    resumed = run(tmp_path / "killed", resume=True)
    assert resumed.losses == whole.losses[5:]
    ours, theirs = (load_file(latest_checkpoint(tmp_path / name)) for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_half_done_run_asks_for_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stage", make_batch=killed_after(8))
    with pytest.raises(TrainingError, match="--resume"):
        run(tmp_path / "stage")


def test_finished_run_does_nothing(tmp_path):
    run(tmp_path / "stage")
    before = latest_checkpoint(tmp_path / "stage").stat().st_mtime_ns
    assert run(tmp_path / "stage").losses == []
    assert latest_checkpoint(tmp_path / "stage").stat().st_mtime_ns == before


def test_other_configuration_is_refused(tmp_path):
    run(tmp_path / "stage", width=3)
    with pytest.raises(TrainingError, match="differs in: width"):
        run(tmp_path / "stage", width=4)


def test_nan_stops_and_keeps_the_last_checkpoint(tmp_path):
    def poisoned(draws):
        values = batch(draws)
        poisoned.calls += 1
        return {"x": values["x"] * float("nan")} if poisoned.calls > 6 else values

    poisoned.calls = 0
    with pytest.raises(TrainingError, match=r"nan at step 6.*step_00000005"):
        run(tmp_path / "stage", make_batch=poisoned)
    assert all(torch.isfinite(t).all() for t in load_file(latest_checkpoint(tmp_path / "stage")).values())


def test_full_disk_is_found_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=10))
    objective = Line()
    with pytest.raises(TrainingError, match="free some space"):
        run(tmp_path / "stage", objective=objective)
    assert objective.losses == []


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    run(tmp_path / "stage")
    steps = [read_metadata(path)[0] for path in sorted((tmp_path / "stage").glob("step_*.safetensors"))]
    assert steps == [10, 12]


def test_misshapen_checkpoint_names_the_tensor(tmp_path):
    run(tmp_path / "stage")
    with pytest.raises(TrainingError, match="weight"):
        load_module(latest_checkpoint(tmp_path / "stage"), "model", nn.Linear(2, 1))


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(step, CONFIG) for step in range(CONFIG.steps)]
    assert rates[0] == pytest.approx(0.1 / 3)
    assert max(rates) == rates[2] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.01, abs=0.005)
    assert learning_rate(CONFIG.steps, CONFIG) == pytest.approx(0.01)
