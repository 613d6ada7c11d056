from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from toy_systems import TOYS
from typer.testing import CliRunner

from comosvc.benchmarks.baselines import BASELINES
from comosvc.benchmarks.cli import app
from comosvc.benchmarks.speed import systems as resolution
from comosvc.benchmarks.speed.chain import VariantKey
from comosvc.benchmarks.speed.full_size import AUTHORS_SIZE, LIGHT_SIZE, ready_counted, ready_precision
from comosvc.benchmarks.speed.options import (
    PRESETS,
    RtfOptions,
    parse_counts,
    parse_lengths,
    parse_systems,
    preset,
    within_limits,
)
from comosvc.benchmarks.speed.paper import TABLE_3
from comosvc.benchmarks.speed.systems import find_subjects, plan
from comosvc.runtime.errors import BundleError, OptionError
from comosvc.training.vocoder.hifigan import M4SINGER_24K
from comosvc.training.vocoder.light import LIGHT_24K


def test_numbers_with_commas():
    assert parse_lengths("1,5, 0.5,5") == (1.0, 5.0, 0.5)
    assert parse_lengths("250,1000", "--clips", "ms") == (250.0, 1000.0)
    assert parse_counts("1,4", "--batch") == (1, 4)
    assert parse_systems("a, b,a") == ("a", "b")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "abc", "", "1,,2", "1,0", "3601"])
def test_impossible_lengths(text):
    with pytest.raises(OptionError, match="--lengths"):
        parse_lengths(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_impossible_counts(text):
    with pytest.raises(OptionError, match="--batch"):
        parse_counts(text, "--batch")


def test_all_stops_at_30_seconds_unless_full():
    long = RtfOptions(lengths_s=(1.0, 30.0, 180.0))
    assert within_limits(long, lengths_given=False).lengths_s == (1.0, 30.0), "a preset's lengths are cut"
    with pytest.raises(OptionError, match="180 with --systems all"):
        within_limits(long, lengths_given=True)
    full = RtfOptions(lengths_s=(180.0,), full=True)
    named = RtfOptions(lengths_s=(180.0,), systems=("comosvc",))
    for allowed in (full, named):
        assert within_limits(allowed, lengths_given=True) == allowed


def test_presets():
    assert preset("gpu").device == "cuda"
    assert {"torch", "torch-compile", "onnx", "onnx-nograph", "tensorrt"} == set(preset("gpu").engines)
    assert (min(preset("gpu").lengths_s), max(preset("gpu").lengths_s)) == (0.1, 180.0)
    assert (min(preset("gpu").batches), max(preset("gpu").batches)) == (1, 32)
    assert preset("cpu") is PRESETS["cpu"]
    with pytest.raises(OptionError, match="known: cpu, gpu"):
        preset("tpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--systems", "nope"], "unknown system 'nope'; known: all, comosvc"),
        (["--systems", "comosvc:nowhere"], "no voice 'nowhere'"),
        (["--lengths", "0"], "'0' is not allowed"),
        (["--lengths", "1,180"], "--lengths 180 with --systems all"),
        (["--preset", "x"], "unknown preset 'x'"),
        (["--engines", "torch,x"], "unknown engine 'x'"),
        (["--precision", "fp64"], "unknown precision 'fp64'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["-m", "demo", "--engines", "torch"], "nothing of what was asked for"),
        (["-m", "demo", "--precision", "int8"], "demo has no graphs in int8"),
        (["-m", "demo", "--engines", "openvino", "--precision", "fp16"], "does not compute in fp16"),
    ],
)
def test_what_cannot_be_measured_is_one_readable_message(options, message):
    done = CliRunner().invoke(app, ["rtf", *options])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_cuda_without_a_gpu_is_said_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(resolution, "find_subjects", pytest.fail)
    for options in (["--device", "cuda"], ["--preset", "gpu"]):
        done = CliRunner().invoke(app, ["rtf", *options])
        assert done.exit_code == 1
        assert "sees no CUDA GPU" in done.stderr
        assert "hint: --device cpu" in done.stderr


def test_on_a_gpu_everything_has_a_row_or_a_reason(monkeypatch):
    monkeypatch.setattr(resolution, "choose_provider", lambda name: name)
    options = replace(preset("gpu"), systems=("toy", "comosvc:demo"))
    variants, skipped = plan(find_subjects(options.systems, TOYS), options)
    assert [str(variant.key) for variant in variants] == [
        *(f"toy ({engine} {precision})" for engine in ("torch", "torch-compile") for precision in ("fp32", "fp16")),
        *(f"comosvc:demo ({engine} fp32)" for engine in ("onnx", "onnx-nograph", "tensorrt")),
    ]
    assert [variant.provider for variant in variants[4:]] == ["cuda", "cuda", "tensorrt"]
    why = {str(skip.key): skip.why for skip in skipped}
    where = {str(skip.key): skip.device for skip in skipped}
    assert (where["toy (onnx fp32)"], where["comosvc:demo (onnx fp16)"]) == ("cpu", "cuda")
    assert (where["toy (onnx fp16)"], where["toy (tensorrt fp32)"]) == (None, None)
    assert "run on the CPU only" in why["toy (onnx fp32)"]
    assert "has no graphs in fp16" in why["comosvc:demo (tensorrt fp16)"]


def test_all_is_ours_and_every_baseline():
    assert [subject.id for subject in find_subjects(("all",), TOYS)] == ["comosvc", "comosvc-light", "toy", "toy-many"]
    ours = ["comosvc", "comosvc-light"]
    assert [subject.id for subject in find_subjects(("toy", "all"), TOYS)] == ["toy", *ours, "toy-many"]


def test_the_light_system_is_the_full_one_but_for_its_vocoder():
    authors, light = find_subjects(("comosvc", "comosvc-light"), TOYS)
    assert (authors.full_size.vocoder, light.full_size.vocoder) == (M4SINGER_24K, LIGHT_24K)
    assert authors.full_size.name != light.full_size.name


def test_the_papers_table_names_systems_that_exist():
    there = {"comosvc", *BASELINES}
    for published in TABLE_3:
        assert {published.on_its_own, published.on_20x512 or "comosvc"} <= there, published


def test_results_do_not_name_where_a_voice_lies(tiny_path):
    (subject,) = find_subjects((f"comosvc:{tiny_path}",), TOYS)
    assert subject.id == "comosvc:tiny"
    with pytest.raises(BundleError, match="gone"):
        find_subjects(("comosvc:gone",), TOYS)


def test_two_voices_of_one_name_are_refused(tiny_path, tmp_path):
    other = tmp_path / tiny_path.name
    other.write_bytes(tiny_path.read_bytes())
    with pytest.raises(OptionError, match="two voices are called comosvc:tiny"):
        find_subjects((f"comosvc:{tiny_path}", f"comosvc:{other}"), TOYS)


def of_processor(monkeypatch, *units):
    """A processor with these units for matrix products, whatever the tests run on."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True))
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)


def test_a_precision_that_the_processor_imitates_is_left_out_with_the_reason(monkeypatch):
    options = RtfOptions(engines=("torch", "openvino"), precisions=("fp32", "bf16"))
    subjects = find_subjects(("toy", "comosvc"), TOYS)

    def left_out():
        variants, skipped = plan(subjects, options)
        reasons = {str(skip.key): skip.why for skip in skipped if skip.key.precision == "bf16"}
        assert {str(v.key) for v in variants if v.key.precision == "bf16"}.isdisjoint(reasons)
        return [reasons.get(name) for name in ("toy (torch bf16)", "comosvc (openvino bf16)")]

    of_processor(monkeypatch, "avx512_bf16")
    assert left_out() == [None, None]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert left_out() == ["ONEDNN_MAX_CPU_ISA=AVX2 takes the bf16 unit away"] * 2
    of_processor(monkeypatch, "avx2")
    assert left_out() == ["this processor has no bf16 unit (avx512_bf16 or amx_bf16)"] * 2


def test_every_system_in_every_engine_and_precision(monkeypatch):
    of_processor(monkeypatch, "avx512_bf16")
    options = RtfOptions(precisions=("fp32", "bf16"), singers=(5,))
    variants, skipped = plan(find_subjects(("toy", "comosvc:demo"), TOYS), options)
    assert [variant.key for variant in variants] == [
        VariantKey("toy", "torch", "fp32"),
        VariantKey("toy", "torch", "bf16"),
        VariantKey("toy", "onnx", "fp32"),
        VariantKey("comosvc:demo", "onnx", "fp32"),
        VariantKey("comosvc:demo", "onnx", "fp32", singers=5),
    ]
    assert {str(skip.key) for skip in skipped} == {"toy (onnx bf16)", "comosvc:demo (onnx bf16)"}
    assert all(skip.why for skip in skipped)


def test_the_full_size_voice_runs_in_what_an_engine_computes(monkeypatch):
    of_processor(monkeypatch, "avx512_bf16")
    options = RtfOptions(engines=("onnx", "openvino"), precisions=("fp32", "bf16", "fp16"))
    variants, skipped = plan(find_subjects(["comosvc"]), options)
    assert [str(variant.key) for variant in variants] == [
        "comosvc (onnx fp32)",
        "comosvc (openvino fp32)",
        "comosvc (openvino bf16)",
    ]
    assert {str(skip.key): skip.why for skip in skipped} == {
        "comosvc (onnx bf16)": "provider 'cpu' does not compute in bf16",
        "comosvc (onnx fp16)": "provider 'cpu' does not compute in fp16",
        "comosvc (openvino fp16)": "provider 'openvino' does not compute in fp16",
    }


def test_fp16_graphs_are_made_where_a_row_asks_for_them(monkeypatch):
    monkeypatch.setattr(resolution, "choose_provider", lambda name: name)
    options = replace(preset("gpu"), systems=("comosvc", "comosvc-light"), singers=(5,))
    variants, skipped = plan(find_subjects(options.systems), options)
    assert not skipped
    engines, precisions = ("onnx", "onnx-nograph", "tensorrt"), ("fp32", "fp16")
    assert [(v.key.system, v.key.engine, v.key.precision) for v in variants[::2]] == [
        *product(options.systems, engines, precisions)
    ]
    for variant, with_cast in zip(variants[::2], variants[1::2], strict=True):
        size = AUTHORS_SIZE if variant.key.system == "comosvc" else LIGHT_SIZE
        ready = partial(ready_precision, size.ready, "fp16") if variant.key.precision == "fp16" else size.ready
        assert repr(variant.make_ready) == repr(partial(ready_counted, ready, variant.key.precision))
        assert with_cast.make_ready.args[1] == 5
