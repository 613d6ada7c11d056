"""Trains the toy voice: `python train_toy.py FOLDER JOBS`, also as one of several processes.

JOBS is a JSON list of {"name", "stage", "loop", "killed_at"}: each is trained into FOLDER/name; with `killed_at` it
breaks off when the batch of that step is wanted, and is resumed.
"""

import atexit
import json
import os
import sys
from pathlib import Path

import torch
from toy_voice import toy_batch, toy_model

from comosvc.training.acoustic.teaching import StudentConfig, StudentObjective, TeacherConfig, TeacherObjective
from comosvc.training.config import from_mapping, to_mapping
from comosvc.training.loop.loop import LoopConfig, fit

LOOP = {
    "steps": 8,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "final_learning_rate": 1e-4,
    "warmup_steps": 2,
    "checkpoint_every": 3,
    "log_every": 1,
    "precision": "fp32",
}


class Killed(Exception):
    """What stands for a signal."""


def objective_of(stage, loop):
    if stage == "teacher":
        return TeacherObjective(toy_model(), TeacherConfig(loop=loop, mixed_sigmas=True))
    return StudentObjective(toy_model(), StudentConfig(loop=loop, data_l1_weight=0.1))


def train(folder, *, name, stage="teacher", loop=None, killed_at=None):
    """Train one job and return the last checkpoint."""
    config = from_mapping(LoopConfig, {**LOOP, **(loop or {})}, "loop")

    def run(make_batch, *, resume):
        return fit(
            objective_of(stage, config),
            make_batch,
            config,
            folder / name,
            seed=3,
            resolved_config={"loop": to_mapping(config)},
            resume=resume,
            device="cpu",
        )

    if killed_at is not None:
        wanted = iter(range(killed_at * config.accumulate))

        def until_killed(draws):
            if next(wanted, None) is None:
                raise Killed
            return toy_batch(draws)

        try:
            run(until_killed, resume=False)
        except Killed:
            pass
        else:
            raise AssertionError("was not killed")
    return run(toy_batch, resume=killed_at is not None)


def left():
    """Runs after what training itself leaves for the end: a group of processes that is still there may abort."""
    if torch.distributed.is_initialized():
        os._exit(3)


if __name__ == "__main__":
    atexit.register(left)
    for job in json.loads(sys.argv[2]):
        train(Path(sys.argv[1]), **job)
