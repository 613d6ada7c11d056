"""Real runs over toys and the tiny voice."""

import json
import os
import pickle
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from full_size_fp16 import shaken
from onnx import numpy_helper
from speed_reports import CEILINGS, facts, report
from tiny_bundle import CONTENT, SINGER, SPEC, tiny_files, write_folder
from toy_systems import TOYS, Denoiser, seeded, toy, toy_breaking, toy_many, toy_one
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app
from comosvc.benchmarks.report import load, save
from comosvc.benchmarks.speed import exported as exporting
from comosvc.benchmarks.speed import full_size, rtf, systems, voices
from comosvc.benchmarks.speed.ceilings import measure_ceilings
from comosvc.benchmarks.speed.chain import sung_clip
from comosvc.benchmarks.speed.engines import OnnxChain, TorchChain, open_torch
from comosvc.benchmarks.speed.exported import content_key, export_system
from comosvc.benchmarks.speed.full_size import (
    random_voice,
    ready_counted,
    ready_precision,
    ready_voice,
    with_precision,
    with_singers,
)
from comosvc.benchmarks.speed.options import RtfOptions
from comosvc.benchmarks.speed.results import TOTAL, Loaded, SpeedReport
from comosvc.benchmarks.speed.rtf import measure_rtf
from comosvc.benchmarks.speed.systems import find_subjects, plan
from comosvc.benchmarks.speed.tables import all_tables, engine_table, loading_table
from comosvc.benchmarks.speed.timing import Rounds, Sample
from comosvc.benchmarks.speed.voices import ReadyVoice, VoiceChain, engine_facts, fp32_graphs
from comosvc.benchmarks.speed.worker import LocalSession, MeasuringError, Peak, ProcessSession, in_process
from comosvc.export.precision.precision import recorded
from comosvc.export.precision.variants import BUDGETS, Budget
from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.errors import ComosvcError
from comosvc.runtime.providers.tensorrt.build import BUILD, build_engines
from comosvc.runtime.providers.tensorrt.target import build_target, engine_spec
from comosvc.runtime.voice.bundle import kept_fp32, open_bundle
from comosvc.runtime.voice.manifest import MANIFEST_FILE, from_json, to_json
from comosvc.training.acoustic.model import AUTHORS_ACOUSTIC, DenoiserConfig
from comosvc.training.content.encoders import ContentVecConfig
from comosvc.training.vocoder.hifigan import M4SINGER_24K
from comosvc.training.vocoder.light import Vocoder, VocoderConfig


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_command_from_end_to_end(tmp_path, monkeypatch, tiny_path):
    """Networks that run in torch are measured in this process, our voice in one of its own."""

    def open_session(name, opener, threads):
        return (ProcessSession if "tiny" in name else OwnSession)(name, opener, threads)

    monkeypatch.setattr(rtf, "measure_rtf", partial(measure_rtf, open_session=open_session))
    monkeypatch.setattr(rtf, "measure_ceilings", partial(measure_ceilings, gemm_size=256, copy_mb=8))
    monkeypatch.setattr(
        rtf, "in_process", lambda function, *arguments: pickle.loads(pickle.dumps(function))(*arguments)
    )
    monkeypatch.setattr(systems, "BASELINES", TOYS)
    options = ["--systems", "toy-many", "-m", str(tiny_path), "--lengths", "0.5,1", "--rounds", "3", "--full"]
    options += ["--engines", "torch,onnx,tensorrt"]
    done = CliRunner().invoke(app, ["rtf", *options, "--json", str(tmp_path / "a.json")], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    report = load(tmp_path / "a.json", [SpeedReport])
    assert [(entry.what, entry.command) for entry in report.not_measured] == [
        ("toy-many (tensorrt fp32)", ""),
        (
            "comosvc:tiny (tensorrt fp32)",
            "comosvc-bench rtf --systems comosvc:tiny --engines tensorrt --precision fp32 --threads 1 --batch 1 "
            "--lengths 0.5,1 --device cuda",
        ),
    ]
    keys = ["toy-many (torch fp32)", "toy-many (onnx fp32)", "comosvc:tiny (onnx fp32)"]
    assert [str(row.key) for row in report.totals() if row.seconds == 1.0] == keys
    for row in report.totals():
        stages = [other for other in report.rows if (other.key, other.cell) == (row.key, row.cell)][1:]
        assert sum(stage.wall_s[0] for stage in stages) == pytest.approx(row.wall_s[0])
        assert len(row.wall_s) == 3
        assert row.peak_mb is not None
        assert row.extrapolated == (row.system == "toy-many")
    assert [check.system for check in report.full_checks] == ["toy-many", "toy-many"]
    assert report.ceilings[0].gflop_s("fp32") > 0
    for word in ("toy-many (onnx fp32)", "whole chain, RTF", "GEMM", "comosvc-bench", "--device cuda"):
        assert word in done.output
    _percentiles_and_rates_are_those_of_the_run(report)
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "a.json").read_text())["rows"])


def _percentiles_and_rates_are_those_of_the_run(report):
    grids = {grid.title: grid for grid in all_tables(report)}
    assert "TensorRT engines" not in grids, "none was built"
    rows = {row[:2]: row[2:] for row in grids["whole chain, ms: cpu, batch 1, 1 thread(s)"].rows}
    for total in report.totals():
        _, middle, high = sorted(total.wall_s)
        n, p50, p95, p99, gpu = rows[str(total.key), f"{total.seconds:g}"]
        assert (n, p50, gpu) == ("3", f"{1e3 * middle:.4g}", ""), "no GPU was there: an empty cell"
        assert float(p95) == pytest.approx(1e3 * (middle + 0.9 * (high - middle)), rel=1e-3)
        assert float(p99) == pytest.approx(1e3 * (middle + 0.98 * (high - middle)), rel=1e-3)
    rates = {row[:2]: row[2:] for row in grids["rates by stage: cpu, 1 s, batch 1, 1 thread(s)"].rows}
    measured = {(str(row.key), row.stage): row for row in report.rows if row.seconds == 1.0}
    copy_gb_s = report.ceilings[0].copy_gb_s
    # 200 evaluations of 72 weights, 100 frames of 8 bins in and out, and a number once in the ten seconds counted.
    sampler = 200 * (72 * 4 + 2 * 100 * 8 * 4 + 0.1 * 8) / 1e9
    for system in ("toy-many (torch fp32)", "toy-many (onnx fp32)"):
        row = measured[system, "acoustic"]
        assert row.gbyte == pytest.approx(sampler)
        ms, tera, of_flop, giga, of_copy = rates[system, "acoustic"]
        assert ms == f"{1e3 * row.median_s:.4g}"
        assert (tera, of_flop) == (f"{1e-3 * row.gflop_s:.3g}", f"{row.ceiling_share:.0%}")
        assert (giga, of_copy) == (f"{sampler / row.median_s:.3g}", f"{sampler / row.median_s / copy_gb_s:.0%}")
        assert (system, "f0") not in rates, "what runs no network has none"
    ours = rates["comosvc:tiny (onnx fp32)", "acoustic"]
    assert (ours[1:3], ours[3] != "") == (("", ""), True), "nobody counted its work, but its bytes"


def test_bytes_of_a_voice_are_those_of_its_files(tiny_path):
    bundle = open_bundle(tiny_path)
    model = onnx.load_from_string(bundle.graph_bytes("acoustic"))
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer) / 1e6
    frames, content = SPEC.frame_rate_hz, 16_000 / SPEC.content_hop_length
    # Content, its index, F0, loudness, noise and mel; the singer once in the ten seconds that are counted.
    ends = 4 * (content * CONTENT + frames * (3 + 2 * SPEC.n_mels) + 0.1 * SINGER) / 1e6
    facts = {p: ready_counted(partial(ReadyVoice, tiny_path), p).facts for p in ("fp32", "bf16")}
    assert facts["fp32"].title == "voice tiny"
    assert set(facts["fp32"].weights_mb) == {"content", "f0", "acoustic", "vocoder"}
    assert facts["fp32"].weights_mb["acoustic"] == pytest.approx(weights)
    assert facts["fp32"].ends_mb_per_s["acoustic"] == pytest.approx(ends)
    assert 0.49 * weights < facts["bf16"].weights_mb["acoustic"] < 0.6 * weights, "but for integers"
    assert facts["bf16"].ends_mb_per_s == facts["fp32"].ends_mb_per_s


class OwnSession(LocalSession):
    def __init__(self, name, opener, threads):
        super().__init__(pickle.loads(pickle.dumps(opener)), threads)


WAITING = "the run had not come to it when this was written"


class FakeSession:
    """Takes as long as its name says."""

    opened, closed = [], []

    def __init__(self, name, opener, threads):
        FakeSession.opened.append((name, threads))
        self.name = name
        self.loaded = Loaded(title=name, sample_rate=8000, gflop_per_s={"acoustic": 2.0}, loaded_mb=400.0)

    def prepare(self, seconds, batch):
        self.work_s = seconds * batch
        if "toy-many" in self.name and seconds == 2.0:
            raise MeasuringError("no room")

    def turn(self, most=None):
        return {"acoustic": Sample(self.work_s, 0.5 * self.work_s), "vocoder": Sample(self.work_s, self.work_s)}

    def peak(self):
        return Peak(100.0, False)

    def close(self):
        FakeSession.closed.append(self.name)


@pytest.fixture
def fake_run(monkeypatch):
    monkeypatch.setattr(rtf, "in_process", lambda function, *a: None if not a else ceilings_of(*a))
    FakeSession.opened, FakeSession.closed = [], []

    def run(keep=lambda _: None, **grid):
        options = RtfOptions(engines=("torch",), rounds=Rounds(3), **grid)
        variants, skipped = plan(find_subjects(("toy", "toy-many"), TOYS), options)
        return measure_rtf(variants, skipped, options, "a command", open_session=FakeSession, keep=keep)

    return run


def ceilings_of(threads, device):
    return replace(CEILINGS, threads=threads, fp32_onnx_gflop_s=100.0 * threads)


def test_rows_of_a_grid(fake_run):
    report = fake_run(lengths_s=(1.0, 2.0), batches=(1, 4), threads=(1, 2))
    toy_rows = [row for row in report.totals() if row.system == "toy"]
    assert {row.cell for row in toy_rows} == {(t, b, s) for t in (1, 2) for b in (1, 4) for s in (1.0, 2.0)}
    assert all(row.rtf == pytest.approx(2.0) for row in toy_rows)
    assert all(row.cpu_rtf == pytest.approx(1.5) for row in toy_rows)
    (row,) = [row for row in toy_rows if row.cell == (2, 4, 2.0)]
    assert row.gflop == pytest.approx(2.0 * 4 * 2)
    assert row.ceiling_share == pytest.approx(row.gflop_s / 200.0)
    (vocoder,) = [row for row in report.rows if row.stage == "vocoder" and row.cell == (1, 1, 1.0)][:1]
    assert vocoder.gflop is None


def test_a_system_that_fails_is_noted_and_the_others_are_measured(fake_run):
    report = fake_run(lengths_s=(1.0, 2.0, 4.0))
    assert [row.seconds for row in report.totals() if row.system == "toy-many"] == [1.0]
    assert [row.seconds for row in report.totals() if row.system == "toy"] == [1.0, 2.0, 4.0]
    failure, missing = report.not_measured
    assert failure.what.startswith("toy-many (torch fp32) at 2 s")
    assert failure.why == "no room"
    assert missing.what.startswith("toy-many (torch fp32) at 4 s")
    assert missing.why == "not tried: it failed at 2 s, batch 1, 1 thread(s)"
    assert "--lengths 4 --device cpu" in missing.command
    assert sorted(FakeSession.closed) == ["toy (torch fp32)", "toy-many (torch fp32)"]


def test_a_run_that_is_ended_has_kept_what_it_measured(fake_run, tmp_path):
    def keep(report):
        save(report, tmp_path / "a.json")
        if len(report.totals()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake_run(keep, lengths_s=(1.0, 4.0), threads=(1, 2))
    report = load(tmp_path / "a.json", [SpeedReport])
    assert [row.cell for row in report.totals()] == [(1, 1, 1.0)] * 2
    assert report.rows[0].ceiling_gflop_s == 100.0
    missing = [(entry.what.partition(" (")[0], entry.why) for entry in report.not_measured]
    assert missing == 3 * [("toy", WAITING)] + 3 * [("toy-many", WAITING)]


def died(*_):
    raise MeasuringError("its process died")


def test_a_system_that_dies_after_its_turns_is_noted(fake_run, monkeypatch):
    monkeypatch.setattr(FakeSession, "peak", died)
    with pytest.raises(ComosvcError, match=r"nothing could be measured\ntoy .* at 1 s.*: its process died"):
        fake_run(lengths_s=(1.0,))


def test_ceilings_that_cannot_be_measured_again_cost_no_row(fake_run, monkeypatch):
    answers = [None, None, ceilings_of(1, "cpu"), MeasuringError("its process died")]

    def in_turn(*_):
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(rtf, "in_process", in_turn)
    report = fake_run(lengths_s=(1.0,))
    assert len(report.totals()) == 2
    assert [entry.why for entry in report.not_measured] == ["its process died"]


def test_on_a_gpu_nobody_has_the_memory_of_another(fake_run, monkeypatch):
    monkeypatch.setattr("comosvc.benchmarks.report.machine_facts", lambda device: {})
    report = fake_run(lengths_s=(1.0,), device="cuda")
    assert {row.system: row.sitting for row in report.rows} == {"toy": 0, "toy-many": 1}


def test_what_is_too_large_costs_no_smaller_size_its_row(fake_run):
    """2 s break the one system; a larger batch may come first in what was asked for."""
    report = fake_run(lengths_s=(1.0, 2.0), batches=(8, 1))
    assert [(row.batch, row.seconds) for row in report.totals() if row.system == "toy"] == [
        *((1, 1.0), (1, 2.0), (8, 1.0), (8, 2.0))
    ]
    assert [(row.batch, row.seconds) for row in report.totals() if row.system == "toy-many"] == [(1, 1.0)]


def test_what_does_not_fit_into_memory_has_a_sitting_of_its_own(fake_run, monkeypatch):
    assert {row.sitting for row in fake_run(lengths_s=(1.0,)).rows} == {0}
    monkeypatch.setattr(rtf, "MEMORY_SHARE", 0.0)
    report = fake_run(lengths_s=(1.0,))
    assert {row.system: row.sitting for row in report.rows} == {"toy": 0, "toy-many": 1}


@pytest.mark.parametrize("make", [toy_one, toy_many])
def test_onnx_runtime_and_torch_do_the_same_work(make):
    """Whoever is timed has to compute what the other computes: the last mel of the sampler."""
    torch_chain = TorchChain(make(), 1, "cpu", "fp32")
    onnx_chain = OnnxChain(make(), export_system(make), 1)
    outputs = []
    for chain in (torch_chain, onnx_chain):
        stage = make().stages[2]
        call, place = chain._network(stage)
        inputs = {name: place(value) for name, value in stage.inputs(1.0, 2).items()}
        with torch.inference_mode():
            for step in range(3):
                inputs["step_index"] = place(np.array(step))
                inputs["mel"] = call(inputs)
        outputs.append(np.asarray(inputs["mel"]))
    assert outputs[0].shape == (2, 100, 8)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_torch_in_half_precision(precision):
    turn = TorchChain(toy(), 1, "cpu", precision).prepare(0.5, 1)(None)
    assert set(turn) == {"content", "f0", "acoustic"}


def test_a_compiled_network_computes_the_same(monkeypatch):
    """The backend that compiles nothing: what is tested is that torch.compile has the module, at each size anew."""
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(True))
    chain, eager = TorchChain(toy(), 1, "cpu", "fp32", compiler="eager"), TorchChain(toy(), 1, "cpu", "fp32")
    for seconds in (0.5, 1.0):
        assert chain.prepare(seconds, 1)(None).keys() == eager.prepare(seconds, 1)(None).keys()
    assert len(resets) == 2
    for name, module in chain._modules.items():
        assert module._compiled_call_impl is not None
        assert eager._modules[name]._compiled_call_impl is None


def test_a_graph_is_kept_while_it_is_the_same(monkeypatch):
    first = export_system(toy_one)
    assert not any(graph.was_cached for graph in first.values())
    monkeypatch.setattr(exporting.graphs, "trace", pytest.fail)
    assert all(graph.was_cached for graph in export_system(toy_one).values())


def test_graphs_that_nobody_asks_for_are_removed(monkeypatch):
    kept = {graph.path for graph in export_system(toy_one).values()}
    folder = next(iter(kept)).parent
    old, broken, fresh = folder / "old.onnx", folder / "broken.partial", folder / "fresh.partial"
    for path in (old, old.with_suffix(".json"), broken, fresh):
        path.write_text("{}")
    days = 86_400 * (exporting.UNUSED_DAYS + 1)
    for path in (old, old.with_suffix(".json"), broken, *kept):
        os.utime(path, (time.time() - days,) * 2)
    exporting.remove_unused()
    assert kept | {fresh} <= {*folder.iterdir()}
    assert not {old, old.with_suffix(".json"), broken} & {*folder.iterdir()}


def test_a_changed_source_has_another_key(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "_PACKAGE", tmp_path)
    source = tmp_path / "training" / "vocoder" / "hifigan.py"
    source.parent.mkdir(parents=True)
    keys = set()
    for text in ("one", "two", "two"):
        source.write_text(text)
        exporting.source_hash.cache_clear()
        keys.add(content_key(seeded(Denoiser)))
    exporting.source_hash.cache_clear()
    assert len(keys) == 2


def test_another_network_has_another_key():
    plain, other = seeded(Denoiser), toy(denoiser=type("Other", (Denoiser,), {})).stages[2].build()
    assert content_key(plain) == content_key(seeded(Denoiser))
    changed = seeded(Denoiser)
    changed.net.bias.data[0] += 1.0
    flagged = seeded(Denoiser)
    flagged.follows_ode = True
    keys = {content_key(module) for module in (plain, other, changed, flagged)}
    assert len(keys) == 4


def test_a_process_of_its_own():
    session = ProcessSession("toy", partial(open_torch, toy_one, "cpu", "fp32", None, None), 1)
    try:
        session.prepare(0.5, 1)
        assert set(session.turn()) == {"content", "f0", "acoustic"}
        peak = session.peak()
        assert peak.resident_mb is None or peak.resident_mb > 10.0
    finally:
        session.close()
    with pytest.raises(MeasuringError, match="its process ended"):
        session.turn()


def test_what_breaks_in_another_process_is_told():
    session = ProcessSession("toy-breaking", partial(open_torch, toy_breaking, "cpu", "fp32", None, None), 1)
    with pytest.raises(MeasuringError, match="RuntimeError: out of cheese"):
        session.prepare(0.5, 1)
    session.close()
    with pytest.raises(MeasuringError, match="ZeroDivisionError"):
        in_process(divmod, 1, 0)


def test_peak_memory_is_that_since_prepare():
    session = LocalSession(partial(open_torch, toy_one, "cpu", "fp32", None, None), 1)
    block = np.ones(60_000_000, np.float32)
    before = session.peak().resident_mb
    del block
    session.prepare(0.5, 1)
    peak = session.peak()
    if peak.resident_mb is None or peak.since_start:
        pytest.skip("this system does not set the mark back")
    assert peak.resident_mb < before - 100.0


@pytest.mark.parametrize("batch", [1, 3])
def test_our_voice_runs_as_a_user_runs_it(tiny_path, batch):
    chain = VoiceChain(tiny_path, 1, "cpu", "fp32")
    turn = chain.prepare(0.5, batch)(None)
    assert list(turn) == ["content", "f0", "acoustic", "vocoder", "other"]
    assert all(sample.wall_s >= 0.0 for sample in turn.values())
    assert turn["vocoder"].wall_s > 0.0
    assert chain.loaded.load_s > 0.0


def small_voice(vocoder):
    content = ContentVecConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7
    )
    acoustic = replace(AUTHORS_ACOUSTIC, denoiser=DenoiserConfig(channels=24, hidden=12, layers=2))
    return replace(random_voice(content, acoustic, vocoder), sampler_steps=())


def test_our_system_may_have_the_light_vocoder():
    light = VocoderConfig(channels=16, dilations=(1,), per_bin=True)
    vocoder = small_voice(light).vocoder
    assert isinstance(vocoder, Vocoder)
    assert vocoder.config == light


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What `comosvc` is in full size, small: a function that makes it ready, as often as it is called."""
    home = str(tmp_path_factory.mktemp("small"))
    vocoder = {"upsample_rates": (16, 8), "upsample_kernel_sizes": (32, 16), "upsample_initial_channel": 16}
    blocks = {"resblock_kernel_sizes": (3,), "resblock_dilation_sizes": ((1,),)}
    voice = small_voice(replace(M4SINGER_24K, **vocoder, **blocks))

    def ready():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COMOSVC_HOME", home)
            return ready_voice(voice, "small", "a small one")

    ready.voice = voice
    return ready


def test_our_system_of_another_size_is_exported_counted_and_kept(monkeypatch, small):
    voice, ready = small.voice, small()
    assert ready.facts.title == "a small one"
    assert ready.facts.export_s > 0.0
    # a dilated convolution over 3 frames and the projections to 2 x 24: what is certain to be in it, per mel frame
    least = 187.5 * 2 * 2 * (24 * 48 * 3 + 12 * 48 + 24 * 48) / 1e9
    assert least < ready.facts.gflop_per_s["acoustic"] < 2 * least
    assert ready.facts.parameters["acoustic"] == sum(weight.numel() for weight in voice.acoustic.parameters())
    turn = VoiceChain(ready.model, 1, "cpu", "fp32", ready.facts).prepare(0.5, 1)(None)
    assert turn["content"].wall_s > 0.0
    monkeypatch.setattr(full_size, "_files", lambda *_: pytest.fail("exported again"))
    assert small() == ready


def test_the_full_size_records_weights_let_the_input_through(small):
    """`full_size_fp16` takes graphs as they are exported today, and no convolution of them is nearly nothing."""
    model = onnx.load_from_string(open_bundle(small().model).graph_bytes("vocoder"))
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 3:
            tensor.CopyFrom(numpy_helper.from_array(1e-3 * numpy_helper.to_array(tensor), tensor.name))
    model = onnx.load_from_string(shaken(model.SerializeToString()))
    onnx.checker.check_model(model)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    convolutions = [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 5
    for kernel in convolutions:
        assert kernel.std() == pytest.approx(kernel[0].size ** -0.5, rel=1e-3)


def test_our_system_in_fp16_is_made_as_a_users_is_but_not_judged(monkeypatch, small):
    """Random weights may miss any budget, and are as fast."""
    monkeypatch.setitem(BUDGETS, "vocoder", (Budget("snr_db", 1e3, "nothing is that good"),))
    voice = ready_precision(small, "fp16")
    bundle = open_bundle(voice.model)
    bundle.verify()
    made = set(bundle.manifest.variants["fp16"])
    assert made >= {"content", "acoustic", "vocoder"}
    assert fp32_graphs(bundle.manifest, "fp16") == tuple(name for name in bundle.manifest.graphs if name not in made)
    assert recorded(bundle) == []
    counted = {p: ready_counted(partial(with_precision, small(), "fp16"), p).facts.weights_mb for p in ("fp32", "fp16")}
    assert 0.49 < counted["fp16"]["acoustic"] / counted["fp32"]["acoustic"] < 0.6
    shared = voice.model / "acoustic.onnx"
    assert shared.stat().st_nlink == 2, "half a gigabyte is there once"
    judged = open_bundle(with_precision(small(), "fp16", judged=True).model)
    assert "vocoder" in {graph for _, graph, _ in kept_fp32(judged)}
    assert "vocoder" not in judged.manifest.variants.get("fp16", {})
    monkeypatch.setattr(full_size.precision, "add_precisions", lambda *_, **__: pytest.fail("made again"))
    assert ready_precision(small, "fp16") == voice


def test_graphs_that_stay_in_fp32_are_said(tmp_path):
    files = tiny_files()
    manifest = from_json(files[MANIFEST_FILE], "tiny")
    one = {"acoustic": replace(manifest.graphs["acoustic"], precision="int8")}  # in name only: nobody looks inside
    files[MANIFEST_FILE] = to_json(replace(manifest, variants={"int8": one})).encode()
    model = write_folder(tmp_path / "tiny", files)
    others = tuple(name for name in manifest.graphs if name != "acoustic")
    assert VoiceChain(model, 1, "cpu", "int8").loaded.fp32_graphs == others
    assert VoiceChain(model, 1, "cpu", "fp32").loaded.fp32_graphs == ()
    rows = loading_table(report([], systems=(facts("demo", fp32_graphs=("content", "vocoder")), facts("other")))).rows
    assert [row[-1] for row in rows] == ["the demo; in fp32: content, vocoder", "the other"]


def test_a_measurement_asks_for_tensorrts_engines(monkeypatch):
    monkeypatch.setenv(BUILD, "")  # so that it is put back
    monkeypatch.delenv(BUILD)
    seen = []

    def refuse(*_, **__):
        seen.append(os.environ.get(BUILD))
        raise ProviderError("for the test")

    monkeypatch.setattr(voices, "Converter", refuse)
    monkeypatch.setattr(voices, "Device", lambda: SimpleNamespace(used_bytes=lambda: 0))
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(ProviderError, match="for the test"):
            VoiceChain("demo", 1, provider, "fp32")
    assert seen == [None, "1"]


def test_engines_are_shown_with_what_their_build_took(tiny_path, home):
    """A real build, by TensorRT RTX, which needs no GPU for it."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed")
    bundle = open_bundle(tiny_path, home)
    target = replace(build_target("rtx"), compute_capabilities=("8.6",))
    built = build_engines(bundle, engine_spec(bundle, target, "fp32", ("stream",)))
    on_disk = sum(path.stat().st_size for path in built.folder.glob("*.plan")) / 1e6
    found = facts("tiny", engine="tensorrt", **engine_facts(built.record))
    (row,) = engine_table(report([], systems=(found, facts("tiny")))).rows
    assert row == ("tiny (tensorrt fp32)", "1", f"{built.record.seconds:.3g}", f"{on_disk:.0f}")
    assert engine_facts(None) == {}


@pytest.mark.parametrize("n", [1, 7])
def test_a_voice_with_another_cast(tiny_path, home, n):
    ready = with_singers(ReadyVoice(str(tiny_path)), n)
    assert ready.model.is_relative_to(home)
    with Converter(ready.model) as converter:
        assert len(converter.singers) == n
    assert with_singers(ReadyVoice(str(tiny_path)), n) == ready
    with Converter(with_singers(ready, 2).model) as converter:
        assert len(converter.singers) == 2


def test_the_clip_is_sung_throughout():
    clip = sung_clip(2.0, 16_000)
    assert len(clip) == 32_000
    assert np.abs(clip).max() == pytest.approx(0.5)
    loudness = np.sqrt((clip.reshape(-1, 800) ** 2).mean(axis=1))
    assert loudness.min() > 0.05, "the gate of a voice would skip silence"


def test_totals_are_whole_chains(fake_run):
    assert {row.stage for row in fake_run(lengths_s=(1.0,)).totals()} == {TOTAL}
