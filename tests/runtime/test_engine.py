"""Engines, really built by TensorRT RTX, which needs no GPU for that; where they lie and when they are used."""

import dataclasses
import json
import multiprocessing
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_bundle import write_folder

from comosvc.runtime import ProviderError, engine, engine_files, engine_target
from comosvc.runtime.bundle import open_bundle, shipped_voices
from comosvc.runtime.engine import build_engines, load_engines
from comosvc.runtime.engine_target import Target, build_target, engine_spec
from comosvc.runtime.errors import CancelledError, EngineError
from comosvc.runtime.gpu import Gpu
from comosvc.runtime.manifest import to_json

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed")

ONE = ("8.6",)
"""One compute capability and one profile: builds that take a second."""
ADA = Gpu("Test Ada", "8.9", 8 << 30, (13, 0))


@pytest.fixture(autouse=True)
def no_other_engines(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_files, "user_cache", lambda: tmp_path / "user" / "engines")


@pytest.fixture
def bundle(files, tmp_path):
    return open_bundle(write_folder(tmp_path / "voice", files), tmp_path / "home")


def spec_of(bundle, **changes):
    target = replace(build_target("rtx"), compute_capabilities=ONE)
    return replace(engine_spec(bundle, target, "fp32", ("stream",)), **changes)


def only(bundle, *names):
    """The voice's manifest without graphs that take long to build, where what is tested is not the graph."""
    entries = {name: bundle.manifest.graphs[name] for name in names}
    manifest = bundle.manifest
    object.__setattr__(manifest, "entries", lambda precision: entries)
    return bundle


@pytest.fixture
def small(bundle):
    return only(bundle, "acoustic")


@pytest.fixture
def built(small):
    return build_engines(small, spec_of(small))


# --- What is built


@pytest.mark.parametrize("graph", ["content", "content_low", "pitch", "acoustic", "acoustic_n", "vocoder"])
def test_every_graph_of_the_demo_is_parsed_and_built(graph, tmp_path):
    bundle = only(open_bundle("demo", tmp_path), graph)
    seen = []
    report = build_engines(bundle, spec_of(bundle), progress=lambda name, share: seen.append((name, share)))
    plan = report.record.plans[graph]
    data = (report.folder / plan.file).read_bytes()
    assert len(data) == plan.size_bytes > len(bundle.graph_bytes(graph)) / 2
    assert plan.layers == sum(plan.layer_types.values()) > 100
    assert plan.layer_types["FLOAT"] > 0
    assert "HALF" not in plan.layer_types
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert (shares[-1], {name for name, _ in seen}) == (1.0, {graph})


def test_an_engine_is_half_because_its_graph_is(tmp_path):
    """There is no flag to ask for it."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from comosvc.export.archive import read_files

    model = onnx.load_from_string(open_bundle("demo").graph_bytes("acoustic"))
    half = convert_float_to_float16(model, keep_io_types=True).SerializeToString()
    files, manifest = read_files(shipped_voices()["demo"]), open_bundle("demo").manifest
    entry = replace(
        manifest.graphs["acoustic"], precision="fp16", sha256=sha256(half).hexdigest(), file="acoustic.fp16.onnx"
    )
    manifest = replace(manifest, variants={"fp16": {"acoustic": entry}})
    files |= {"bundle.json": to_json(manifest).encode(), "acoustic.fp16.onnx": half}
    bundle = open_bundle(write_folder(tmp_path / "voice", files), tmp_path)
    spec = engine_spec(bundle, replace(build_target("rtx"), compute_capabilities=ONE), "fp16", ("stream",))
    assert spec.graphs["acoustic"] == entry.sha256
    assert spec.graphs["vocoder"] == manifest.graphs["vocoder"].sha256  # which stays as it was
    entries = {"acoustic": entry}
    object.__setattr__(bundle.manifest, "entries", lambda precision: entries)
    plan = build_engines(bundle, spec).record.plans["acoustic"]
    assert plan.layer_types["HALF"] > 50
    assert plan.size_bytes < 1.2 * len(half) + 8e6  # half of the weights, and the kernels


def test_a_graph_that_cannot_be_parsed_names_the_node(bundle):
    node = helper.make_node("Celebrate", ["mel"], ["audio"], name="party", domain="nobody")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "T"]) for name in ("mel", "audio")]
    graph = helper.make_graph([node], "bad", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("nobody", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    said = engine.make_logger(trt)
    with pytest.raises(EngineError, match=r"bad graph cannot be parsed.*Celebrate"):
        engine.parse(trt, trt.Builder(said), "bad", model, said)
    with pytest.raises(EngineError, match="cut graph cannot be parsed"):
        engine.parse(trt, trt.Builder(said), "cut", model[:20], said)


def test_what_the_library_says_is_in_the_error(small):
    """RTX has no float32 matrix product for Turing, which is why nothing is built for it ahead of time."""
    small = only(open_bundle("demo", small.home), "acoustic")
    turing = spec_of(small, target=replace(build_target("rtx"), compute_capabilities=("7.5",)))
    with pytest.raises(EngineError, match=r"cannot build the acoustic graph.*FP32 GEMM is not supported"):
        build_engines(small, turing)
    assert "7.5" not in build_target("rtx").compute_capabilities
    assert not list((small.home / "engines").iterdir())


def test_a_pitch_graph_without_an_engine_is_no_end_but_a_vocoder_is(bundle, monkeypatch):
    real = engine.parse

    def parse(trt, builder, name, *rest):
        if name == refused:
            raise EngineError(f"the {name} graph cannot be parsed: for the test")
        return real(trt, builder, name, *rest)

    monkeypatch.setattr(engine, "parse", parse)
    only(bundle, "pitch", "acoustic")
    refused = "pitch"
    record = build_engines(bundle, spec_of(bundle)).record
    assert (list(record.plans), list(record.not_built)) == (["acoustic"], ["pitch"])
    assert "for the test" in record.not_built["pitch"]
    refused = "acoustic"
    with pytest.raises(EngineError, match="acoustic graph cannot be parsed"):
        build_engines(bundle, spec_of(bundle), rebuild=True)


def test_the_progress_function_can_cancel(small):
    with pytest.raises(CancelledError, match="while the engine of acoustic"):
        build_engines(small, spec_of(small), progress=lambda name, share: False)
    assert not list((small.home / "engines").iterdir())


def test_a_shape_that_the_graph_forbids_is_refused(small):
    profiles = spec_of(small).profiles
    profiles["stream"]["acoustic"]["T"] = replace(profiles["stream"]["acoustic"]["T"], least=9, usual=2)
    with pytest.raises(EngineError, match="acoustic graph does not take profile stream"):
        build_engines(small, spec_of(small, profiles=profiles))


# --- When they fit


def test_the_fingerprint_is_of_all_that_decides(small):
    spec = spec_of(small)
    target = spec.target
    others = [
        replace(spec, precision="fp16"),
        replace(spec, graphs={"acoustic": "0" * 64}),
        replace(spec, profiles={}),
        replace(spec, target=replace(target, version="9.9")),
        replace(spec, target=replace(target, gpu="another")),
        replace(spec, target=replace(target, compute_capabilities=("8.9",))),
        replace(spec, target=replace(target, flavour="tensorrt")),
    ]
    assert {field.name for field in dataclasses.fields(Target)} == {"flavour", "version", "gpu", "compute_capabilities"}
    assert len({spec.fingerprint, *(other.fingerprint for other in others)}) == 8
    assert spec.fingerprint == spec_of(small).fingerprint


def test_right_ones_are_used_and_not_built_again(small, built, monkeypatch):
    monkeypatch.setattr(engine, "_build", None)
    again = build_engines(small, spec_of(small))
    assert again.was_there
    assert again.record == built.record
    plans = load_engines(small, [spec_of(small, precision="fp16"), spec_of(small)], build=False)
    assert list(plans.plans) == ["acoustic"]


def test_wrong_ones_are_named_with_what_they_are_for(small, built):
    wanted = spec_of(small, target=Target("rtx", "9.9", None, ("8.9",)))
    with pytest.raises(EngineError) as error:
        load_engines(small, [wanted], build=False)
    text = str(error.value)
    assert "are not for TensorRT RTX 9.9 for compute capability 8.9, fp32, profiles stream" in text
    assert f"{built.record.fingerprint}: TensorRT RTX {trt.__version__} for compute capability 8.6, fp32" in text
    assert "hint: comosvc-export engines" in text
    assert "from other graphs" not in text
    other = spec_of(small, graphs={"acoustic": "0" * 64})
    with pytest.raises(EngineError, match="from other graphs"):
        load_engines(small, [other], build=False)


def test_missing_ones_are_an_error_or_are_built(small):
    with pytest.raises(EngineError, match="has no engines for TensorRT RTX"):
        load_engines(small, [spec_of(small)], build=False)
    assert list(load_engines(small, [spec_of(small)], build=True).plans) == ["acoustic"]
    assert load_engines(small, [spec_of(small)], build=False).folder.parent == small.home / "engines"


def test_what_rtx_engines_fit_a_gpu():
    own, general = engine_target.fitting_targets("rtx", ADA)
    assert own.compute_capabilities == ("8.9",)
    assert general == build_target("rtx")
    turing = engine_target.fitting_targets("rtx", replace(ADA, compute_capability="7.5"))
    assert [target.compute_capabilities for target in turing] == [("7.5",)]
    with pytest.raises(ProviderError, match=r"no code for Test Hopper, compute capability 9.0; it knows 7.5, 8.0"):
        engine_target.fitting_targets("rtx", replace(ADA, name="Test Hopper", compute_capability="9.0"))


def test_a_library_that_is_missing_or_too_old_is_named(monkeypatch):
    with pytest.raises(ProviderError, match="tensorrt cannot be imported"):
        engine_target.library("tensorrt")
    monkeypatch.setattr(trt, "__version__", "0.9.1")
    with pytest.raises(ProviderError, match=r"tensorrt_rtx is 0.9.1; 1.0 or later is needed"):
        engine_target.library("rtx")


# --- Damage


def damage(folder, how):
    plan, record = folder / "acoustic.plan", folder / "engine.json"
    if how == "cut short":
        plan.write_bytes(plan.read_bytes()[:-7])
    elif how == "one bit":
        data = bytearray(plan.read_bytes())
        data[len(data) // 2] ^= 1
        plan.write_bytes(data)
    elif how == "gone":
        plan.unlink()
    elif how == "no record":
        record.write_text("{")
    elif how == "newer record":
        record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": 9}))
    elif how == "another's record":
        record.write_text(json.dumps({**json.loads(record.read_text()), "fingerprint": "0" * 32}))
    else:
        data = json.loads(record.read_text())
        data["plans"]["acoustic"]["file"] = "../../elsewhere.plan"
        record.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut short", "bytes, the build wrote"),
        ("one bit", "the build wrote"),
        ("gone", "acoustic.plan cannot be read"),
        ("no record", "engine.json cannot be read"),
        ("newer record", "of format 9, this reads 1"),
        ("another's record", "its record is that of 00000000"),
        ("another file", "it names '../../elsewhere.plan'"),
    ],
)
def test_damaged_engines_are_refused_before_the_library_sees_them(small, built, how, words):
    damage(built.folder, how)
    with pytest.raises(EngineError, match=words) as error:
        load_engines(small, [spec_of(small)], build=True)  # never built anew in silence: somebody may have meant it
    assert "hint: comosvc-export engines BUNDLE --rebuild" in str(error.value)
    build_engines(small, spec_of(small), rebuild=True)
    assert load_engines(small, [spec_of(small)], build=False).plans


# --- Places


def test_engines_go_into_the_bundle_and_are_found_there(small):
    report = build_engines(small, spec_of(small), into_bundle=True)
    assert report.folder.parent == Path(small.origin) / "engines"
    assert load_engines(small, [spec_of(small)], build=False).folder == report.folder


def test_a_place_that_cannot_be_written_to_falls_back_to_the_users(small, tmp_path):
    small.home.mkdir()
    (small.home / "engines").write_text("a file where the folder would be: no writing, whoever runs this")
    report = build_engines(small, spec_of(small))
    assert report.folder.parent == tmp_path / "user" / "engines"
    assert "cannot be written to" in report.notes[0]
    assert str(report.folder.parent) in report.notes[0]
    assert load_engines(small, [spec_of(small)], build=False).folder == report.folder


def test_no_place_at_all_is_an_error(small, tmp_path):
    for place in (small.home, tmp_path / "user"):
        place.write_text("a file")
    with pytest.raises(EngineError, match=r"(?s)no place for engines.*hint: set COMOSVC_HOME"):
        build_engines(small, spec_of(small))


def _builder(folder, home, barrier, replace_it, results):
    bundle = only(open_bundle(folder, home), "acoustic")
    barrier.wait()
    report = build_engines(bundle, spec_of(bundle), rebuild=replace_it)
    results.put((report.folder.name, report.was_there))


@pytest.mark.parametrize("replace_it", [False, True])
def test_two_builders_at_once_leave_one_sound_engine(small, replace_it):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (small.origin, small.home, barrier, replace_it, results)
    builders = [context.Process(target=_builder, args=arguments) for _ in range(2)]
    for builder in builders:
        builder.start()
    found = [results.get(timeout=120) for _ in builders]
    for builder in builders:
        builder.join()
        assert builder.exitcode == 0
    assert len({name for name, _ in found}) == 1
    assert load_engines(small, [spec_of(small)], build=False).plans
    assert [path.name for path in (small.home / "engines").iterdir()] == [found[0][0]]


def test_what_died_in_the_middle_is_removed_one_day(small):
    old = small.home / "engines" / ".x.partial"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    young = small.home / "engines" / ".y.partial"
    young.mkdir()
    build_engines(small, spec_of(small))
    assert (old.exists(), young.exists()) == (False, True)


def test_a_zip_brings_no_engines(files, tmp_path, small, built):
    """They would be code that came with data."""
    from comosvc.export.archive import pack

    build_engines(small, spec_of(small), into_bundle=True)
    pack(Path(small.origin), tmp_path / "packed.comosvc", full=False)
    packed = only(open_bundle(tmp_path / "packed.comosvc", tmp_path / "another home"), "acoustic")
    with pytest.raises(EngineError, match="has no engines"):
        load_engines(packed, [spec_of(packed)], build=False)


def test_the_timing_cache_is_kept_per_version_and_gpu(small, monkeypatch):
    """RTX times nothing, but takes the calls: what the full TensorRT will do with them is not tested."""
    named = spec_of(small, target=replace(spec_of(small).target, gpu="Test / GPU"))
    build_engines(small, named)
    cache = small.home / "engines" / f"timing-{trt.__version__.replace('.', '-')}-Test---GPU.cache"
    assert cache.stat().st_size > 0
    build_engines(small, named, rebuild=True)


def test_the_record_reads_back_and_says_everything(small, built):
    assert to_json(small.manifest)  # `only` did not break it
    record = json.loads((built.folder / "engine.json").read_text())
    assert set(record) == {field.name for field in dataclasses.fields(engine_files.EngineRecord)}
    assert engine_files.read_plans(built.folder, built.record.fingerprint).record == built.record
