"""Several processes: the same losses as one process with as many samples a step, and exact resume."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_toy import train

from comosvc.training.errors import TrainingError
from comosvc.training.loop.batches import Draws
from comosvc.training.loop.checkpoint import latest_checkpoint, read_metadata
from comosvc.training.loop.devices import Placement, open_fabric

TESTS = Path(__file__).parents[2]
STAGES = ("teacher", "student")
# Sums over the samples of a step are taken in another order; AdamW carries the last bits on from step to step.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def losses(folder):
    """The loss of each step, as TensorBoard shows it; a resumed run wrote two files."""
    curve = {}
    for file in sorted((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        events = EventAccumulator(str(file))
        events.Reload()
        curve.update({event.step: event.value for event in events.Scalars("loss")})
    return torch.tensor([curve[step] for step in sorted(curve)])


def run(command, folder, jobs):
    done = subprocess.run(
        [*command, TESTS / "train_toy.py", folder, json.dumps(jobs)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Runs of two processes, which the first one starts itself."""
    two = {"devices": 2, "batch_size": 4}
    jobs = [{"name": stage, "stage": stage, "loop": two} for stage in STAGES]
    parts = {"devices": 2, "batch_size": 2, "accumulate": 2}
    jobs += [{"name": "parts", "loop": parts}, {"name": "killed", "loop": parts, "killed_at": 5}]
    return run([sys.executable], tmp_path_factory.mktemp("two"), jobs)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The same with the doubled batch in one process."""
    folder = tmp_path_factory.mktemp("one")
    for stage in STAGES:
        train(folder, name=stage, stage=stage, loop={"batch_size": 8})
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_equal_one_with_the_doubled_batch(two_processes, one_process, stage):
    theirs, ours = losses(two_processes / stage), losses(one_process / stage)
    assert len(ours) == 8
    assert len(set(ours.tolist())) == 8
    torch.testing.assert_close(theirs, ours, **TOLERANCE)


def test_accumulated_batches_of_two_processes_too(two_processes, one_process):
    torch.testing.assert_close(losses(two_processes / "parts"), losses(one_process / "teacher"), **TOLERANCE)


def test_two_processes_killed_and_resumed_are_exact(two_processes):
    assert losses(two_processes / "killed").tolist() == losses(two_processes / "parts").tolist()
    ours, theirs = (load_file(latest_checkpoint(two_processes / name)) for name in ("killed", "parts"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_only_the_first_process_writes(two_processes):
    files = sorted(path.name for path in (two_processes / "teacher").iterdir())
    assert files == ["step_00000006.safetensors", "step_00000008.safetensors", "tensorboard"]
    assert len(list((two_processes / "teacher" / "tensorboard").iterdir())) == 1


def test_torchrun_decides_how_many(one_process, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    folder = run(torchrun, tmp_path, [{"name": "teacher", "loop": {"batch_size": 4, "devices": 1}}])
    torch.testing.assert_close(losses(folder / "teacher"), losses(one_process / "teacher"), **TOLERANCE)
    loop = read_metadata(latest_checkpoint(folder / "teacher"))[1]["loop"]
    assert (loop["devices"], loop["nodes"]) == (2, 1)


def test_accumulated_batches_equal_a_large_one(one_process, tmp_path):
    train(tmp_path, name="parts", loop={"batch_size": 2, "accumulate": 4})
    torch.testing.assert_close(losses(tmp_path / "parts"), losses(one_process / "teacher"), **TOLERANCE)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_resumes_exactly(tmp_path, precision):
    """In fp16 the loss scale is part of the state."""
    loop = {"precision": precision, "accumulate": 2}
    train(tmp_path, name="whole", loop=loop)
    train(tmp_path, name="killed", loop=loop, killed_at=5)
    assert losses(tmp_path / "killed").tolist() == losses(tmp_path / "whole").tolist()
    ours, theirs = (load_file(latest_checkpoint(tmp_path / name)) for name in ("killed", "whole"))
    assert ("scaler.scale" in ours) == (precision == "fp16")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_samples_draws_depend_on_nothing_else():
    whole, part = Draws(1, 7, range(6)), Draws(1, 7, range(2, 4))
    assert torch.equal(whole.normal(3, 2)[2:4], part.normal(3, 2))
    assert torch.equal(whole.integers(1000)[2:4], part.integers(1000))
    seen = {Draws(*key, range(2)).normal(1)[number].item() for key in ((0, 0), (0, 1), (1, 0)) for number in (0, 1)}
    assert len(seen) == 6


def test_devices_that_are_not_there_are_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(TrainingError, match="--device cpu"):
        open_fabric(Placement(device="cuda", devices=2))
