"""The training loop: exact resume, refusal of what does not fit, nothing lost."""

import io
import json
import re
import resource
import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from comosvc.training.config import to_mapping
from comosvc.training.errors import ConfigError, TrainingError
from comosvc.training.loop import checkpoint
from comosvc.training.loop.checkpoint import keep_best, latest_checkpoint, load_module, read_figures, read_metadata
from comosvc.training.loop.loop import LoopConfig, Objective, fit, learning_rate

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
    return {"x": draws.normal(1)}  # as many as the loop asks for


def run(folder, config=CONFIG, objective=None, *, resume=False, make_batch=batch, **resolved):
    resolved = {"loop": to_mapping(config), **resolved}
    objective = objective or Line()
    fit(
        objective, make_batch, config, folder,
        seed=1, resolved_config=resolved, resume=resume, device="cpu", console=Console(file=io.StringIO()),
    )  # fmt: skip
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


def test_off_a_terminal_a_line_a_minute_says_the_step(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("comosvc.training.loop.log.EVERY_S", 0.02)
    caplog.set_level("INFO")

    def slow(draws):
        time.sleep(0.02)
        return batch(draws)

    run(tmp_path / "stage", replace(CONFIG, log_every=1), make_batch=slow)
    assert re.search(r"stage: step \d+/12, loss [\d.e-]+.* \(0 min so far\)", caplog.text)


def test_what_fails_beside_the_training_costs_no_checkpoint(tmp_path):
    """Pictures of a checkpoint are made after it is written."""

    def illustrate(*_):
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        fit(
            Line(), batch, CONFIG, tmp_path / "stage",
            seed=1, resolved_config={"loop": to_mapping(CONFIG)}, resume=False, device="cpu", illustrate=illustrate,
        )  # fmt: skip
    assert read_metadata(latest_checkpoint(tmp_path / "stage"))[0] == CONFIG.checkpoint_every


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
    with pytest.raises(TrainingError, match=r"nan at step 6.*step_00000005(?s:.)*hint: .*--init-from"):
        run(tmp_path / "stage", make_batch=poisoned)
    assert all(torch.isfinite(t).all() for t in load_file(latest_checkpoint(tmp_path / "stage")).values())


def test_full_disk_is_found_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=10))
    objective = Line()
    with pytest.raises(TrainingError, match="free some space"):
        run(tmp_path / "stage", objective=objective)
    assert objective.losses == []


@contextmanager
def no_room_for(n_bytes):
    """While this lasts, a file that grows beyond `n_bytes` fails to be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_disk_that_fills_up_while_saving_costs_nothing(tmp_path, caplog):
    """Neither the checkpoints nor, as long as it is only TensorBoard's file, the training."""
    whole = run(tmp_path / "whole")
    with ExitStack() as stack:

        def disk_fills_up(draws):
            disk_fills_up.calls += 1
            if disk_fills_up.calls == 9:  # made during step 6 at the earliest
                stack.enter_context(no_room_for(200))
            return batch(draws)

        disk_fills_up.calls = 0
        expected = r"(?s)step_00000010.* could not be written.*step_00000005\.safetensors.*hint: free.*--resume"
        with pytest.raises(TrainingError, match=expected):
            run(tmp_path / "stage", replace(CONFIG, log_every=1), make_batch=disk_fills_up)
    assert caplog.text.count("TensorBoard") == 1
    assert sorted(path.name for path in (tmp_path / "stage").glob("*step_*")) == ["step_00000005.safetensors"]
    assert run(tmp_path / "stage", resume=True).losses == whole.losses[5:]


def test_infinite_gradient_stops_too(tmp_path):
    class Steep(Line):
        def forward(self, batch):
            return (self.model.weight.abs() - self.model.weight.abs().detach()).sqrt().sum(), {}

    with pytest.raises(TrainingError, match="gradient became infinite or NaN at step 0 of stage"):
        run(tmp_path / "stage", objective=Steep())


def test_settings_that_do_not_change_the_result_may_change(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stage", make_batch=killed_after(8))
    other = replace(CONFIG, batch_size=2, accumulate=2, log_every=1, keep=5)
    resumed = run(tmp_path / "stage", other, resume=True).losses
    means = [sum(pair) / 2 for pair in zip(resumed[::2], resumed[1::2], strict=True)]
    assert means == pytest.approx(whole.losses[5:], rel=1e-5)
    with pytest.raises(TrainingError, match=r"loop\.samples a step"):
        run(tmp_path / "stage", replace(CONFIG, batch_size=2), resume=True)


def test_best_checkpoint_by_a_figure_of_the_validation(tmp_path):
    figures = iter([3.0, 1.0, 2.0, 9.0, 5.0, 6.0])
    config = replace(CONFIG, checkpoint_every=2, best_by="error", keep=1)
    fit_with(tmp_path / "stage", config, lambda _: {"error": next(figures)})
    names = sorted(path.name for path in (tmp_path / "stage").glob("*.safetensors"))
    assert names == ["best.safetensors", "step_00000012.safetensors"]
    assert read_metadata(tmp_path / "stage" / "best.safetensors")[0] == 4
    figures = iter([3.0, 1.0, 2.0, 9.0, 5.0, 6.0])
    fit_with(tmp_path / "high", replace(config, best_is="highest"), lambda _: {"error": next(figures)})
    assert read_metadata(tmp_path / "high" / "best.safetensors")[0] == 8


def test_best_by_an_unknown_figure_names_the_known_ones(tmp_path):
    with pytest.raises(TrainingError, match=r"'eror'.*known: error"):
        fit_with(tmp_path / "stage", replace(CONFIG, best_by="eror"), lambda _: {"error": 1.0})


def fit_with(folder, config, validate):
    resolved = {"loop": to_mapping(config)}
    fit(
        Line(), batch, config, folder,
        seed=1, resolved_config=resolved, resume=False, device="cpu", validate=validate,
    )  # fmt: skip


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


def test_a_figure_that_is_no_number_is_never_the_best(tmp_path):
    figures = iter([1.0, float("nan"), 3.0, 4.0, 5.0, 6.0])
    config = replace(CONFIG, checkpoint_every=2, best_by="error", keep=1)
    fit_with(tmp_path / "stage", config, lambda _: {"error": next(figures)})
    assert read_metadata(tmp_path / "stage" / "best.safetensors")[0] == 2
    figures = iter([float("nan"), 2.0, 3.0, 4.0, 5.0, 6.0])
    fit_with(tmp_path / "other", config, lambda _: {"error": next(figures)})
    assert read_metadata(tmp_path / "other" / "best.safetensors")[0] == 4


def test_damaged_checkpoints_are_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stage", make_batch=killed_after(8))
    path = latest_checkpoint(tmp_path / "stage")
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", b"not a checkpoint at all"):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=rf"{path.name} is damaged, or no checkpoint.*\n?.*hint: a damaged"):
            run(tmp_path / "stage", resume=True)
    path.write_bytes(whole)
    path.with_name("best.safetensors").write_bytes(b"broken")
    best = keep_best(resave_with_figures(path, {"error": 1.0}), "error", "lowest")
    assert read_figures(best) == {"error": 1.0}
    assert best.samefile(path)  # a second name of it, which takes no space


def resave_with_figures(path, figures):
    metadata = {"step": "1", "config": "{}", "figures": json.dumps(figures)}
    save_file(load_file(path), path, metadata=metadata)
    return path


def test_a_full_disk_under_the_best_checkpoint(tmp_path, monkeypatch):
    """No hard links, and no room for a copy: what was the best before stays."""
    figures, config = iter([3.0, 1.0, 0.5, 9.0, 5.0, 6.0]), replace(CONFIG, checkpoint_every=2, best_by="error", keep=9)
    copies = []

    def no_link(*_):
        raise OSError("no links here")

    def copy(source, target):
        copies.append(target)
        if len(copies) == 3:
            raise OSError(28, "No space left on device")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr("comosvc.training.loop.checkpoint.os.link", no_link)
    monkeypatch.setattr("comosvc.training.loop.checkpoint.shutil.copyfile", copy)
    with pytest.raises(TrainingError, match=r"best.safetensors could not be written: .*No space left.*\nhint: free"):
        fit_with(tmp_path / "stage", config, lambda _: {"error": next(figures)})
    assert read_metadata(tmp_path / "stage" / "best.safetensors")[0] == 4
    assert not list((tmp_path / "stage").glob("*.partial"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("keep", 0), ("keep", -1), ("checkpoint_every", 0), ("log_every", 0), ("accumulate", 0), ("batch_size", 0),
     ("learning_rate", -1.0), ("gradient_clip", 0.0), ("ema_decay", 1.0), ("steps", -1)],
)  # fmt: skip
def test_settings_that_cannot_be_meant(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        replace(CONFIG, **{name: value})
