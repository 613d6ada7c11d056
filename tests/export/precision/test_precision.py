"""Graphs in fp16: what is float16 in them, whether the gate sees it, and what becomes of a bundle that has them."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_bundle import edited
from typer.testing import CliRunner

from comosvc.export.archive import pack, share, write_zip
from comosvc.export.bundle.verify import verify
from comosvc.export.cli import app
from comosvc.export.errors import ExportError, ParityError
from comosvc.export.graphs.parity import onnx_runner
from comosvc.export.graphs.trace import check_contract
from comosvc.export.precision import fp16, half
from comosvc.export.precision.fp16 import FP16, extreme_inputs, fp16_runner, largest, make_fp16, rounded
from comosvc.export.precision.half import FLOAT, FLOAT16, HEAVY, element_types, island_of, to_float16
from comosvc.export.precision.precision import PRECISIONS, add_to_bundle, find_precisions, recorded
from comosvc.export.precision.variants import (
    Made,
    Precision,
    StaysFloat32Error,
    VariantRow,
    check_variant,
    figures,
    input_maker,
)
from comosvc.runtime import Converter
from comosvc.runtime.errors import BundleError, ProviderError
from comosvc.runtime.storage import sha256
from comosvc.runtime.voice.bundle import open_bundle, shipped_voices
from comosvc.runtime.voice.graphs import GRAPHS

runner = CliRunner()


def unused(graph):
    raise AssertionError(f"fp16 needs no float32 {graph}")


@pytest.fixture(scope="module")
def plain(files, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "tiny.comosvc"
    write_zip(path, files)
    return path


@pytest.fixture(scope="module")
def both(plain, tmp_path_factory) -> Path:
    """The tiny voice with fp16 besides."""
    path = tmp_path_factory.mktemp("fp16") / "tiny.comosvc"
    add_to_bundle(plain, path, ["fp16"])
    return path


@pytest.fixture(scope="module")
def maker(plain):
    bundle = open_bundle(plain)
    return input_maker(bundle.manifest, bundle.embeddings)


@pytest.fixture(scope="module")
def demo():
    return open_bundle(shipped_voices()["demo"])


def chain_of(*steps: tuple[str, ...]) -> onnx.ModelProto:
    """A graph that says float16 between its two ends; `c` is 3000, `eye` a unit matrix, `w` a unit convolution."""
    nodes = [helper.make_node("Cast", ["x"], ["v0"], to=FLOAT16)]
    for i, (op, *constants) in enumerate(steps):
        nodes.append(helper.make_node(op, [f"v{i}", *constants], [f"v{i + 1}"]))
    nodes.append(helper.make_node("Cast", [f"v{len(steps)}"], ["y"], to=FLOAT))
    constants = {"c": np.array(3000), "eye": np.eye(4), "w": np.ones((1, 1, 1))}
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", FLOAT, [1, 1, 4])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 1, 4])],
        [numpy_helper.from_array(value.astype(np.float16), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


CHAINS = {
    "small parts lost": chain_of(("Add", "c"), ("Sub", "c")),
    "behind a product": chain_of(("MatMul", "eye"), ("Add", "c"), ("MatMul", "eye"), ("Sub", "c")),
    "behind a convolution": chain_of(("Conv", "w"), ("Add", "c"), ("Conv", "w"), ("Sub", "c")),
    "too large": chain_of(("Mul", "c"), ("Mul", "c"), ("Div", "c"), ("Div", "c")),
}
X = {"x": np.array([[[1.2345, 2.7, 30.123, 0.01234]]], np.float32)}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_rounding_is_real(name):
    """Against onnx's reference, which computes in numpy's float16; without our casts ONNX Runtime gives X back."""
    model = CHAINS[name]
    wanted = ReferenceEvaluator(model).run(None, X)[0]
    found = onnx_runner(rounded(model).SerializeToString())(X)["y"]
    np.testing.assert_array_equal(found, wanted)
    assert np.abs(wanted - X["x"]).max() > 0.1
    hidden = onnx_runner(model.SerializeToString())(X)["y"]
    np.testing.assert_allclose(hidden, X["x"], rtol=1e-2)  # else the gate would not need `rounded`


def test_a_graph_is_half_where_it_is_heavy_and_float32_in_islands(demo):
    """What can be seen in the file: types at each node, and no cast where none is needed."""
    for name in demo.manifest.graphs:
        model = onnx.load_from_string(demo.graph_bytes(name))
        made = to_float16(model, name)
        check_contract(GRAPHS[name], made)  # float32 at the boundary
        kinds = element_types(made)
        heavy = [node for node in made.graph.node if node.op_type in HEAVY]
        for node in heavy:
            wanted = FLOAT if island_of(_original(model, node), name) else FLOAT16
            assert {kinds[x] for x in (*node.input, *node.output) if x} == {wanted}, node.name
        for node in made.graph.node:
            if island_of(node, name):
                assert FLOAT16 not in {kinds[x] for x in (*node.input, *node.output) if x}, node
        casts = {node.output[0]: node for node in made.graph.node if node.op_type == "Cast"}
        assert not [cast for cast in casts.values() if cast.input[0] in casts and kinds[cast.input[0]] == FLOAT16]
        assert any(kinds[node.output[0]] == FLOAT16 for node in heavy)


def _original(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.NodeProto:
    output = node.output[0].removesuffix(".half")
    return next(found for found in model.graph.node if found.output[0] == output)


def test_every_graph_of_the_demo_is_within_budget(demo):
    """At the shortest lengths that show anything; `comosvc-export precision` does them all."""
    maker = input_maker(demo.manifest, demo.embeddings)
    for name in demo.manifest.graphs:
        data = demo.graph_bytes(name)
        run = fp16_runner(to_float16(onnx.load_from_string(data), name).SerializeToString())
        inputs = maker.make(GRAPHS[name], 1, 4_001 if GRAPHS[name].inputs[0].name == "audio" else 64, seed=1)
        rows = list(_figures(name, run(inputs), onnx_runner(data)(inputs), maker))
        assert rows
        assert all(row.ok for row in rows), [str(row) for row in rows]


def _figures(name, got, wanted, maker):
    return figures(name, FP16, got, wanted, (1, 64), maker.audio)


def test_without_islands_the_gate_refuses(demo, monkeypatch):
    """The demo's vocoder takes spectra apart: in float16 they overflow, and loud voices are not numbers."""
    maker = input_maker(demo.manifest, demo.embeddings)
    monkeypatch.setattr(half, "ISLANDS", ())
    data = demo.graph_bytes("vocoder")
    run = fp16_runner(to_float16(onnx.load_from_string(data), "vocoder").SerializeToString())
    inputs = maker.make(GRAPHS["vocoder"], 1, 64, seed=1)
    rows = list(_figures("vocoder", run(inputs), onnx_runner(data)(inputs), maker))
    assert rows
    assert not any(row.ok for row in rows)


def test_an_infinite_sum_is_found_before_it_happens(files, maker):
    """A layer of the acoustic model made ten thousand times louder: out of float16's range, within float32's."""
    model = onnx.load_from_string(files["acoustic.onnx"])
    loud = _scaled(model, "model.denoiser.input_projection.weight", 1e4)
    peaks = largest(loud, extreme_inputs(GRAPHS["acoustic"], maker))
    assert max(peaks.values()) > fp16.FLOAT16_MAX
    made = make_fp16("acoustic", loud, maker, unused)
    kept = made.facts["kept_for_their_range"]
    assert isinstance(kept, dict)
    assert max(kept.values()) > fp16.FLOAT16_MAX
    rows = check_variant("acoustic", FP16, fp16_runner(made.data), onnx_runner(loud.SerializeToString()), maker)
    assert all(np.isfinite(row.value) for row in rows)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_an_overflow_that_the_search_passed_over_keeps_the_graph_in_fp32(files, maker, monkeypatch):
    model = onnx.load_from_string(files["acoustic.onnx"])
    loud = _scaled(model, "model.denoiser.input_projection.weight", 1e6)
    monkeypatch.setattr(fp16, "SHARE", np.inf)
    with pytest.raises(StaysFloat32Error, match="mel is not finite in float16 with extreme input"):
        make_fp16("acoustic", loud, maker, unused)


def test_a_weight_that_is_no_number_is_found(files, maker):
    model = onnx.load_from_string(files["acoustic.onnx"])
    broken = _scaled(model, "model.denoiser.input_projection.weight", np.nan)
    with pytest.raises(StaysFloat32Error, match=r"model\.denoiser\.input_projection\.weight and \d+ more are not numb"):
        make_fp16("acoustic", broken, maker, unused)


def _scaled(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array((factor * numpy_helper.to_array(tensor)).astype(np.float32), name))
    return model


def test_the_bundle_holds_both(both, plain, files):
    manifest = open_bundle(both).manifest
    assert manifest.has("fp16")
    assert set(manifest.variants["fp16"]) == set(GRAPHS)
    new = open_bundle(both).all_files()
    assert all(new[name] == data for name, data in files.items() if name not in ("bundle.json", "parity.json"))
    record = json.loads(new["parity.json"])["variants"]["fp16"]
    rows = [VariantRow(**row) for row in record["rows"]]
    assert {row.graph for row in rows} == {*GRAPHS, "end_to_end"}
    assert {row.precision for row in rows} == {"fp16"}
    assert all(row.ok for row in rows)
    assert {row.batch for row in rows} == {1, 3}
    for name in ("acoustic", "content"):
        kinds = {t.data_type for t in onnx.load_from_string(new[f"{name}.fp16.onnx"]).graph.initializer}
        assert TensorProto.FLOAT16 in kinds


def test_the_cpu_computes_in_fp32(both):
    with Converter(both) as converter:
        assert converter.precision == "fp32"
    with pytest.raises(ProviderError, match="does not compute in fp16"):
        Converter(both, provider="cpu", precision="fp16")


def test_verify_checks_every_precision(both, tmp_path):
    rows = verify(both)
    assert {row.graph for row in rows if row.precision == "fp16"} == set(GRAPHS)
    files = open_bundle(both).all_files()
    changed = _perturbed(files["acoustic.fp16.onnx"])
    path = tmp_path / "tiny.comosvc"
    write_zip(path, {**files, "acoustic.fp16.onnx": changed})
    with pytest.raises(BundleError, match=r"acoustic.fp16.onnx has SHA-256"):
        verify(path)
    manifest = json.loads(files["bundle.json"])
    del manifest["digest"]  # a forger could write it too
    manifest["variants"]["fp16"]["acoustic"]["sha256"] = sha256(changed)
    files = {**files, "acoustic.fp16.onnx": changed, "bundle.json": json.dumps(manifest).encode()}
    write_zip(path, files)
    with pytest.raises(ParityError, match="not measured on this fp16 acoustic graph"):
        verify(path)
    parity = json.loads(files["parity.json"])
    parity["variants"]["fp16"]["graphs"]["acoustic"] = sha256(changed)
    files["parity.json"] = json.dumps(parity).encode()
    manifest["provenance"]["files"]["parity.json"] = sha256(files["parity.json"])
    write_zip(path, {**files, "bundle.json": json.dumps(manifest).encode()})
    with pytest.raises(ParityError, match=r"acoustic in fp16 at batch \d, length \d+: mel_nepers"):
        verify(path)


def _perturbed(graph: bytes) -> bytes:
    """The graph with the last layer's bias moved by as much as it has."""
    model = onnx.load_from_string(graph)
    tensor = next(t for t in model.graph.initializer if t.name.startswith("model.denoiser.output_projection.bias"))
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value + 0.1).astype(value.dtype), tensor.name))
    return model.SerializeToString()


@pytest.fixture
def shared(both, tmp_path, monkeypatch) -> Path:
    """The voice with its content encoders in the cache."""
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path / "home"))
    manifest, files = share(open_bundle(both).manifest, open_bundle(both).all_files(), ["content"])
    assert manifest.graphs["content"].file is None
    assert manifest.variants["fp16"]["content"].file is None
    assert not {"content.onnx", "content.fp16.onnx"} & files.keys()
    write_zip(tmp_path / "shared.comosvc", files)
    return tmp_path / "shared.comosvc"


def test_shared_graphs_are_shared_in_every_precision(both, shared, tmp_path):
    verify(shared)
    full = tmp_path / "full.comosvc"
    pack(shared, full, full=True)
    for blob in (tmp_path / "home" / "blobs").iterdir():
        blob.unlink()
    assert open_bundle(full).all_files()["content.fp16.onnx"] == open_bundle(both).all_files()["content.fp16.onnx"]
    verify(full)
    with pytest.raises(BundleError, match="content graph is not inside the bundle"):
        verify(shared)


def test_a_graph_beyond_its_budget_stays_in_fp32_and_the_bundle_says_so(shared, tmp_path, monkeypatch, caplog):
    """A vocoder whose inverse transform is rounded to two digits, added in the place of a good one by the command."""

    def careless(graph, model, maker, open_fp32):
        made = make_fp16(graph, model, maker, open_fp32)
        if graph != "vocoder":
            return made
        worse = onnx.load_from_string(made.data)
        tensor = next(tensor for tensor in worse.graph.initializer if tensor.name == "spectra.inverse")
        values = np.round(numpy_helper.to_array(tensor), 2).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return Made(worse.SerializeToString(), made.facts)

    monkeypatch.setitem(PRECISIONS, "fp16", Precision("fp16", careless, fp16_runner))
    out = tmp_path / "again.comosvc"
    result = _invoke("precision", shared, "--add", "fp16", "-o", out)
    assert result.exit_code == 0, result.output
    said = [line for line in [*caplog.messages, *result.output.splitlines()] if "stays in fp32" in line]
    assert len(said) == 1  # once, by the log
    assert said[0].startswith("fp16: vocoder stays in fp32: at batch 1, length 1: snr_db")
    bundle = open_bundle(out)
    assert set(bundle.manifest.variants["fp16"]) == GRAPHS.keys() - {"vocoder"}
    assert bundle.manifest.variants["fp16"]["content"].file is None
    assert bundle.manifest.entries("fp16")["vocoder"].precision == "fp32"
    assert "vocoder.fp16.onnx" not in open_bundle(out).all_files()
    assert "vocoder" not in {row.graph for row in recorded(bundle)}
    assert "at least 40 allowed" in _invoke("inspect", out).output
    verify(out)


def with_record(files, text):
    changed = edited(files, lambda m: m["provenance"]["files"].update({"parity.json": sha256(text)}))
    return {**changed, "parity.json": text}


@pytest.mark.parametrize("text", [b"[]", b"{}", b"nothing", b'{"graphs": {}, "rows": [], "variants": 3}'])
def test_a_damaged_record_is_refused_before_the_work(files, tmp_path, text):
    write_zip(tmp_path / "x.comosvc", with_record(files, text))
    with pytest.raises(BundleError, match=r"parity.json is not what an export writes"):
        add_to_bundle(tmp_path / "x.comosvc", tmp_path / "y.comosvc", ["int8"])
    assert not (tmp_path / "y.comosvc").exists()


def test_a_record_with_other_rows_and_a_graph_that_fails_are_errors_of_the_bundle(files, tmp_path):
    row = {"graphs": {}, "versions": {}, "kept_fp32": {}, "facts": {}, "rows": [{"x": 1}]}
    text = json.dumps({"graphs": {}, "rows": [], "variants": {"int8": row}}).encode()
    write_zip(tmp_path / "x.comosvc", with_record(files, text))
    with pytest.raises(BundleError, match=r"parity.json fails: parity.json has unknown keys: x"):
        recorded(open_bundle(tmp_path / "x.comosvc"))
    data = files["content.onnx"].replace(b"Softmax", b"Hardmux")
    changed = edited(files, lambda m: m["graphs"]["content"].update(sha256=sha256(data)))
    write_zip(tmp_path / "y.comosvc", {**changed, "content.onnx": data})
    with pytest.raises(BundleError, match=r"one of its graphs fails: .*Hardmux"):
        add_to_bundle(tmp_path / "y.comosvc", tmp_path / "z.comosvc", ["int8"])


def test_unknown_precisions_are_refused(plain, tmp_path):
    assert [found.name for found in find_precisions(["fp32,fp16", "fp16"])] == ["fp16"]
    with pytest.raises(ExportError, match="unknown precision 'fp17'"):
        find_precisions(["fp17"])
    refused = _invoke("precision", plain, "--add", "fp8", "-o", tmp_path / "added.comosvc")
    assert refused.exit_code == 1
    assert "unknown precision 'fp8'" in refused.output
    with pytest.raises(ExportError, match="bf16 needs no graphs of its own: provider openvino computes those of fp32"):
        find_precisions(["int8,bf16"])


def _invoke(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "240"})
