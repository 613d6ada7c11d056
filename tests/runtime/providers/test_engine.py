"""Engines, really built by TensorRT RTX, which needs no GPU for that: their folders, and when they are used."""

import dataclasses
import json
import multiprocessing
import os
import shlex
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tiny_bundle import write_folder

from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.cli.doctor import check_provider
from comosvc.runtime.conversion.shapes import USES
from comosvc.runtime.errors import CancelledError, EngineError, NoEnginesError
from comosvc.runtime.providers import tensorrt
from comosvc.runtime.providers.gpu import Gpu
from comosvc.runtime.providers.tensorrt import build as engine
from comosvc.runtime.providers.tensorrt import cache as engine_files
from comosvc.runtime.providers.tensorrt import target as engine_target
from comosvc.runtime.providers.tensorrt.build import build_engines, load_engines
from comosvc.runtime.providers.tensorrt.target import BuildTarget, build_target, engine_spec
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.manifest import to_json

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed")

ONE_GPU = replace(build_target("rtx"), compute_capabilities=("8.6",))
"""One compute capability and one profile: builds that take a second."""
ADA = Gpu("Test Ada", "8.9", 8 << 30, (13, 0))


@pytest.fixture(autouse=True)
def no_other_engines(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_files, "user_cache", lambda: tmp_path / "user" / "engines")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))  # of builders in processes of their own


@pytest.fixture
def bundle(files, tmp_path):
    return open_bundle(write_folder(tmp_path / "voice", files), tmp_path / "home")


def spec_of(bundle, *uses, **changes):
    return replace(engine_spec(bundle, ONE_GPU, "fp32", uses or ("stream",)), **changes)


def command_of(bundle, profiles="stream", precision="fp32"):
    """The command in errors on a machine whose cache is not the bundle's."""
    where = f"COMOSVC_HOME={bundle.home} comosvc-export engines {bundle.origin} --flavour rtx"
    return f"{where} --precision {precision} --profile {profiles}"


def only(bundle, *names, **entries):
    """The bundle with few graphs, so that builds are short."""
    entries = {name: bundle.manifest.graphs[name] for name in names} | entries
    object.__setattr__(bundle.manifest, "entries", lambda precision: entries)
    return bundle


def in_fp16(bundle):
    """The bundle with an fp16 graph that is that of fp32."""
    bundle.manifest.variants["fp16"] = {"pitch": replace(bundle.manifest.graphs["pitch"], precision="fp16")}
    Path(bundle.origin, "bundle.json").write_text(to_json(bundle.manifest), "utf-8")


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


def test_an_engine_is_half_because_its_graph_is():
    """There is no flag to ask for it."""
    from comosvc.export.precision.half import to_float16

    demo = open_bundle("demo")
    half = to_float16(onnx.load_from_string(demo.graph_bytes("acoustic")), "acoustic").SerializeToString()
    _, plan = engine._build(trt, "acoustic", demo.manifest.graphs["acoustic"], half, spec_of(demo), None, None)
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
    assert [field.name for field in dataclasses.fields(BuildTarget)] == [
        "flavour",
        "version",
        "gpu",
        "compute_capabilities",
    ]
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
    wanted = spec_of(small, target=BuildTarget("rtx", "9.9", None, ("8.9",)))
    with pytest.raises(EngineError) as error:
        load_engines(small, [wanted], build=False)
    text = str(error.value)
    assert "are not for TensorRT RTX 9.9 for compute capability 8.9, fp32, profiles stream" in text
    assert f"{built.record.fingerprint}: TensorRT RTX {trt.__version__} for compute capability 8.6, fp32" in text
    assert f"hint: {command_of(small)}\nor set COMOSVC_BUILD_ENGINES=1" in text
    assert "from other graphs" not in text
    other = spec_of(small, graphs={"acoustic": "0" * 64})
    with pytest.raises(EngineError, match="from other graphs"):
        load_engines(small, [other], build=False)


def test_missing_ones_are_an_error_or_are_built(small):
    with pytest.raises(EngineError, match="has no engines for TensorRT RTX"):
        load_engines(small, [spec_of(small)], build=False)
    assert list(load_engines(small, [spec_of(small)], build=True).plans) == ["acoustic"]
    assert load_engines(small, [spec_of(small)], build=False).folder.parent == small.home / "engines"


def test_the_command_of_the_error_repairs_it(bundle, monkeypatch):
    """It is run as it stands, on a machine that has another cache and for a precision that is not the default."""
    from typer.testing import CliRunner

    from comosvc.export.cli import app

    monkeypatch.setattr(engine_target, "build_target", lambda flavour: ONE_GPU)
    in_fp16(bundle)
    spec = spec_of(bundle, precision="fp16")
    with pytest.raises(NoEnginesError) as error:
        load_engines(bundle, [spec], build=False)
    line = next(line for line in str(error.value).splitlines() if line.startswith("hint: "))
    setting, program, *arguments = shlex.split(line.removeprefix("hint: "))
    assert program == "comosvc-export"
    done = CliRunner().invoke(app, arguments, env=dict([setting.split("=", 1)]))
    assert done.exit_code == 0, done.output
    assert load_engines(bundle, [spec], build=False).record.precision == "fp16"


def test_the_command_is_plain_where_the_cache_is_the_usual_one(small, monkeypatch):
    monkeypatch.setenv("COMOSVC_HOME", str(small.home))
    assert engine.build_command(small, spec_of(small)).startswith("comosvc-export engines /")
    spaced = replace(small, origin="a voice.comosvc")
    assert "engines 'a voice.comosvc' --flavour rtx" in engine.build_command(spaced, spec_of(small))


def test_engines_of_fewer_uses_are_taken_the_most_useful_first(small):
    """Unless any length may come: then those of a stream alone are too short."""
    everything = spec_of(small, *USES)
    for uses in (("stream",), ("clip",), ("stream", "clip"), tuple(USES)):
        folder = build_engines(small, spec_of(small, *uses)).folder
        for any_use in (True, False):
            if uses == ("stream",) and not any_use:
                words = r"(?s)fp32, profiles stream, clip, batch:\n.*fp32, profiles stream\n"
                with pytest.raises(NoEnginesError, match=words):
                    load_engines(small, [everything], build=False, any_use=False)
                continue
            plans = load_engines(small, [everything], build=False, any_use=any_use)
            assert plans.folder == folder, uses
            assert tuple(plans.record.profiles) == uses
            assert plans.build_all == command_of(small, "stream,clip,batch")


def test_a_build_on_demand_is_for_all_uses(small, built):
    assert tuple(load_engines(small, [spec_of(small, *USES)], build=True).record.profiles) == tuple(USES)


def test_engines_of_other_shapes_are_not_taken(small, built):
    profiles = spec_of(small, *USES).profiles
    profiles["stream"]["acoustic"]["T"] = replace(profiles["stream"]["acoustic"]["T"], most=2_000)
    with pytest.raises(NoEnginesError):
        load_engines(small, [spec_of(small, profiles=profiles)], build=False)


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


# --- What a Converter does with them


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """A machine on which TensorRT RTX runs, up to where an engine would be deserialized."""
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: ADA)
    monkeypatch.setattr(tensorrt, "_probe_library", lambda: [ONE_GPU])
    monkeypatch.delenv(engine.BUILD, raising=False)
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "home"))


def test_a_voice_without_engines_is_an_error_of_provider_tensorrt(on_a_gpu, bundle):
    with pytest.raises(NoEnginesError, match=r"\nhint: comosvc-export .* --precision fp32 --profile stream,clip"):
        Converter(bundle.origin, provider="tensorrt", threads=1)
    assert not (bundle.home / "engines").exists(), "nothing was built unasked"


@pytest.mark.parametrize("uses", [(), ("stream",)])
def test_auto_takes_the_next_best_and_the_log_says_how_to_get_engines(on_a_gpu, bundle, uses, caplog):
    if uses:
        build_engines(bundle, spec_of(bundle, *uses))
    with Converter(bundle.origin, threads=1) as converter:
        assert (converter.provider, converter.precision) == ("cpu", "fp32")
        assert converter.engines is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "the voice opens on cpu; tensorrt, which may be faster, would need engines" in record.message
    assert "hint: comosvc-export engines" in record.message


def test_where_nothing_else_computes_in_that_precision_engines_are_asked_for(on_a_gpu, bundle):
    in_fp16(bundle)
    with pytest.raises(NoEnginesError, match=r"hint: .*comosvc-export engines .* --precision fp16"):
        Converter(bundle.origin, precision="fp16", threads=1)


class LoadedError(Exception):
    """Engines were found, and would be deserialized now."""


def test_engines_are_built_when_the_environment_asks(on_a_gpu, bundle, monkeypatch):
    def device():
        raise LoadedError

    monkeypatch.setattr(tensorrt, "Device", device)
    monkeypatch.setenv(engine.BUILD, "1")
    with pytest.raises(LoadedError):
        Converter(bundle.origin, threads=1)
    monkeypatch.delenv(engine.BUILD)
    monkeypatch.setattr(engine, "_build", None)
    with pytest.raises(LoadedError):
        Converter(bundle.origin, threads=1)


def test_damaged_engines_are_an_error_under_auto_too(on_a_gpu, bundle):
    folder = build_engines(bundle, spec_of(bundle, "clip")).folder
    damage(folder, *CUT[:2])
    with pytest.raises(EngineError, match=r"acoustic.plan has \d+ bytes.*\nhint: comosvc-export .* --rebuild"):
        Converter(bundle.origin, threads=1)


def test_the_doctor_says_that_tensorrt_works_and_what_the_voice_needs(on_a_gpu, bundle):
    finding = check_provider("tensorrt", bundle.origin)
    assert finding.works
    assert "works, but not with this voice yet" in finding.detail
    assert "hint: comosvc-export engines" in finding.detail


# --- Damage


def changed(**changes):
    """The record with these entries."""
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


def renamed(data):
    record = json.loads(data)
    record["plans"]["acoustic"]["file"] = "../../elsewhere.plan"
    return json.dumps(record).encode()


PLAN, RECORD = "acoustic.plan", "engine.json"
CUT = (PLAN, lambda data: data[:-7], "bytes, the build wrote")


def damage(folder, file, harm):
    path = folder / file
    data = harm(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [
        CUT,
        (PLAN, lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "has SHA-256 .* the build wrote"),
        (PLAN, lambda data: None, "acoustic.plan cannot be read"),
        (RECORD, lambda data: b"{", "engine.json cannot be read"),
        (RECORD, changed(format_version=9), "of format 9, this reads 1"),
        (RECORD, changed(fingerprint="0" * 32), "its record is that of 00000000"),
        (RECORD, renamed, "it names '../../elsewhere.plan'"),
    ],
)
def test_damaged_engines_are_refused_before_the_library_sees_them(small, built, file, harm, words):
    damage(built.folder, file, harm)
    with pytest.raises(EngineError, match=words) as error:
        load_engines(small, [spec_of(small)], build=True)  # never rebuilt without a request
    assert str(error.value).endswith(f"hint: {command_of(small)} --rebuild")
    build_engines(small, spec_of(small), rebuild=True)
    assert load_engines(small, [spec_of(small)], build=False).plans


# --- Places


def test_engines_go_into_the_bundle_and_are_found_there_but_not_packed(small, tmp_path):
    """In a file they would be code among data."""
    from comosvc.export.archive import pack

    report = build_engines(small, spec_of(small), into_bundle=True)
    assert report.folder.parent == Path(small.origin) / "engines"
    assert load_engines(small, [spec_of(small)], build=False).folder == report.folder
    pack(Path(small.origin), tmp_path / "packed.comosvc", full=False)
    packed = only(open_bundle(tmp_path / "packed.comosvc", tmp_path / "another home"), "acoustic")
    with pytest.raises(EngineError, match="has no engines"):
        load_engines(packed, [spec_of(packed)], build=False)


@pytest.mark.parametrize("into_bundle", [False, True])
def test_a_place_that_cannot_be_written_to_falls_back_to_the_next(small, tmp_path, into_bundle, monkeypatch):
    first, second = (Path(small.origin), small.home) if into_bundle else (small.home, tmp_path / "user")
    first.mkdir(exist_ok=True)
    (first / "engines").write_text("a file in the place of the folder: not even root can write there")
    report = build_engines(small, spec_of(small), into_bundle=into_bundle)
    assert report.folder.parent == second / "engines"
    assert f"{first / 'engines'} cannot be written to" in report.notes[0]
    assert str(report.folder.parent) in report.notes[0]
    assert load_engines(small, [spec_of(small)], build=False).folder == report.folder
    monkeypatch.setattr(engine, "_build", None)
    again = build_engines(small, spec_of(small), into_bundle=into_bundle)
    assert (again.was_there, again.folder) == (True, report.folder)


def test_what_lies_in_the_cache_is_built_again_into_the_bundle(small, built):
    report = build_engines(small, spec_of(small), into_bundle=True)
    assert (report.was_there, report.folder.parent) == (False, Path(small.origin) / "engines")
    damage(report.folder, *CUT[:2])
    with pytest.raises(EngineError, match=r"--into-bundle --rebuild$"):
        load_engines(small, [spec_of(small)], build=False)


def test_no_place_at_all_is_an_error(small, tmp_path):
    for place in (small.home, tmp_path / "user"):
        place.write_text("a file")
    with pytest.raises(EngineError, match=r"(?s)no place for engines.*hint: set COMOSVC_HOME"):
        build_engines(small, spec_of(small))


def _builder(folder, home, barrier, replace_it, results):
    bundle = only(open_bundle(folder, home), "acoustic")
    barrier.wait()
    report = build_engines(bundle, spec_of(bundle), rebuild=replace_it)
    results.put((str(report.folder), report.was_there))


@pytest.mark.parametrize("replace_it", [False, True])
def test_two_builders_at_once_leave_one_sound_engine(small, replace_it, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # the builders', whose cache is no place that they should need
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
    assert [Path(folder) for folder, _ in found] == 2 * list((small.home / "engines").iterdir())
    assert load_engines(small, [spec_of(small)], build=False).plans


def test_folders_of_killed_builds_are_removed_after_a_day(small):
    old = small.home / "engines" / ".x.partial"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    young = small.home / "engines" / ".y.partial"
    young.mkdir()
    build_engines(small, spec_of(small))
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(("flavour", "name"), [("rtx", None), ("tensorrt", "timing-11-4-Test---GPU.cache")])
def test_the_full_tensorrt_alone_has_a_timing_cache_for_each_version_and_gpu(tmp_path, flavour, name):
    found = engine._timing_cache(tmp_path, BuildTarget(flavour, "11.4", "Test / GPU", ("8.9",)))
    assert found == (name and tmp_path / name)


def test_the_record_reads_back_and_says_everything(small, built):
    assert to_json(small.manifest)  # `only` did not break it
    record = json.loads((built.folder / "engine.json").read_text())
    assert set(record) == {field.name for field in dataclasses.fields(engine_files.EngineRecord)}
    assert engine_files.read_plans(built.folder, built.record.fingerprint, "").record == built.record
