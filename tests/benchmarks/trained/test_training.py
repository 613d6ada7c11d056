import json
import time
from dataclasses import replace

import pytest
import torch

from comosvc.benchmarks.trained import equal_compute as training
from comosvc.benchmarks.trained.equal_compute import CPU_S, CpuClock, make_plan, read_plan, spent_cpu_s, train_stage
from comosvc.benchmarks.trained.objectives import (
    BUDGET_SHARES,
    DIFFSVC,
    FLOW,
    STUDENT,
    STUDENTS_TEACHER,
    TEACHER,
    build_stage,
    require_stages,
)
from comosvc.training.errors import ConfigError, TrainingError
from comosvc.training.loop.checkpoint import read_figures, read_metadata, require_checkpoint, save_checkpoint


def test_the_steps_are_what_the_budget_buys(trained_run):
    steps = json.loads((trained_run / "plan.json").read_text())["steps"]
    # 10 processor seconds: at 5 a step, at 2, at 2, 70 % at 2 and 30 % at 3.
    assert steps == {FLOW: 2, DIFFSVC: 5, TEACHER: 5, STUDENTS_TEACHER: 4, STUDENT: 1}
    assert {name: read_metadata(require_checkpoint(trained_run / name))[0] for name in BUDGET_SHARES} == steps


def test_another_budget_in_the_same_run_is_refused_in_words(trained_run, recipe, material):
    with pytest.raises(ConfigError, match="begun with 10 processor seconds for each system, now 20"):
        make_plan(trained_run, recipe, material, 20.0)


def test_a_student_s_compute_is_its_teacher_s_and_its_own(trained_run):
    plan = read_plan(trained_run)
    assert plan.cpu_s(STUDENT) == 4 * 2.0 + 1 * 3.0
    assert plan.cpu_s(TEACHER) == 5 * 2.0
    assert spent_cpu_s(trained_run, STUDENT) > 0 < spent_cpu_s(trained_run, STUDENTS_TEACHER)


def test_the_clock_counts_processor_time_and_goes_on_from_a_checkpoint(tmp_path):
    module = torch.nn.Linear(1, 1)
    save_checkpoint(tmp_path, 1, {"model": module}, torch.optim.AdamW(module.parameters()), {}, figures={CPU_S: 100.0})
    clock = CpuClock(tmp_path, lambda average: {"valid_loss": 0.5})
    time.sleep(0.2)
    idle = clock(module)
    assert idle["valid_loss"] == 0.5
    assert 100.0 <= idle[CPU_S] < 100.15  # sleeping is not computing
    while time.process_time() - clock.start_s < 0.3:
        pass
    assert clock(module)[CPU_S] >= 100.3


def test_a_student_waits_for_its_teacher(run, recipe, material, tmp_path):
    plan = training.Plan(1.0, {}, dict.fromkeys(BUDGET_SHARES, 4))
    with pytest.raises(TrainingError, match="has 0 of 4 steps"):
        train_stage(STUDENT, tmp_path, recipe, material, plan)


def test_a_pilot_measures_a_step(recipe, material):
    cost = training.step_cost(build_stage(TEACHER, recipe, material, None))
    assert 1e-4 < cost < 1.0


def test_the_validation_is_on_the_averaged_network_and_its_own_loss(trained_run, recipe, material):
    for name in (FLOW, DIFFSVC, TEACHER):
        assert read_figures(require_checkpoint(trained_run / name))["valid_loss"] > 0
    stage = build_stage(DIFFSVC, recipe, material, None)
    untrained = stage.validate(stage.objective.model)["valid_loss"]
    assert untrained == pytest.approx(1.0, abs=0.05)  # no noise predicted: the variance of the noise
    assert "valid_loss" not in read_figures(require_checkpoint(trained_run / STUDENT))


def test_our_networks_have_no_bound_on_look_ahead_here(trained_run):
    acoustic = read_metadata(require_checkpoint(trained_run / TEACHER))[1]["acoustic"]
    assert acoustic["denoiser"]["lookahead_frames"] is None
    assert acoustic["harmonic_embedding"]


def test_the_mel_of_the_noise_predictor_fills_minus_one_to_one(recipe, material):
    model = build_stage(DIFFSVC, recipe, material, None).objective.model
    normalised = [model.normalise(torch.from_numpy(clip.mel)) for clip in material.train]
    assert min(x.min().item() for x in normalised) == pytest.approx(-1.0)
    assert max(x.max().item() for x in normalised) == pytest.approx(1.0)


def test_stages_come_in_the_order_that_they_need(recipe):
    assert require_stages(None) == list(BUDGET_SHARES)
    assert require_stages([STUDENT, STUDENTS_TEACHER]) == [STUDENTS_TEACHER, STUDENT]
    with pytest.raises(ConfigError, match="there is no stage tango"):
        require_stages(["tango"])


def test_each_of_the_shares_of_a_system_adds_up_to_its_budget():
    assert BUDGET_SHARES[FLOW] == BUDGET_SHARES[DIFFSVC] == BUDGET_SHARES[TEACHER] == 1.0
    assert BUDGET_SHARES[STUDENTS_TEACHER] + BUDGET_SHARES[STUDENT] == 1.0


def test_the_same_seed_builds_the_same_network(recipe, material):
    def weights(seed):
        model = build_stage(FLOW, replace(recipe, seed=seed), material, None).objective.model
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
