"""Tracing keeps to the contracts, or says where it does not."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from comosvc.export.bundle.assemble import TorchGraphs
from comosvc.export.errors import ExportError, ParityError
from comosvc.export.graphs.parity import ParityRow, compare, onnx_runner, require
from comosvc.export.graphs.trace import baked_schedules, check_contract, trace
from comosvc.runtime.voice.graphs import GRAPHS
from comosvc.training.acoustic.diffusion import consistency_sample, sampling_sigmas
from comosvc.training.acoustic.model import Condition


@pytest.mark.parametrize("name", GRAPHS)
def test_files_have_their_contract_and_say_so(files, name):
    model = onnx.load_from_string(files[f"{name}.onnx"])
    check_contract(GRAPHS[name], model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["graph"] == name
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims[:2] == list(GRAPHS[name].inputs[0].dims[:2])


@pytest.mark.parametrize("name", GRAPHS)
def test_no_double_and_no_randomness(files, name):
    graph = onnx.load_from_string(files[f"{name}.onnx"]).graph
    assert not any(tensor.data_type == onnx.TensorProto.DOUBLE for tensor in graph.initializer)
    assert not any(node.op_type.startswith("Random") for node in graph.node)


@pytest.mark.parametrize("name", ["content", "acoustic", "acoustic_n", "vocoder"])
def test_nothing_is_computed_that_no_input_reaches(files, name):
    graph = onnx.load_from_string(files[f"{name}.onnx"]).graph
    reached = {value.name for value in graph.input}
    for node in graph.node:
        assert reached.intersection(node.input), node
        reached.update(node.output)


@pytest.mark.parametrize("name", ["acoustic", "acoustic_n"])
def test_the_step_network_is_gone(files, name):
    """At fixed sigmas its weights are dead; what it gives for each sigma remains."""
    graph = onnx.load_from_string(files[f"{name}.onnx"]).graph
    assert not [tensor.name for tensor in graph.initializer if "step_" in tensor.name]
    assert not any(node.op_type == "Mish" for node in graph.node)


class _FixedLength(nn.Module):
    def forward(self, audio):
        return audio[:, :160].reshape(audio.shape[0], 1, 160)


class _WrongRank(nn.Module):
    def forward(self, audio):
        return audio * 2.0


@pytest.mark.parametrize(
    ("module", "message"),
    [(_FixedLength(), "dimension S came out fixed at 1"), (_WrongRank(), "has 2 dimensions; its contract says")],
)
def test_broken_contracts_are_named(module, message):
    with pytest.raises(ExportError, match=message):
        trace(GRAPHS["content"], module, {"audio": torch.zeros(2, 320)})


def test_names_must_be_those_of_the_contract(files):
    model = onnx.load_from_string(files["content.onnx"])
    model.graph.output[0].name = "units"
    with pytest.raises(ExportError, match=r"outputs \['units'\]; its contract says \['content'\]"):
        check_contract(GRAPHS["content"], model)


def test_schedules_index_the_samplers_sigmas(voice):
    sigmas, schedules = baked_schedules(voice.acoustic)
    for steps, indices in schedules.items():
        torch.testing.assert_close(sigmas[indices], sampling_sigmas(steps, voice.acoustic.config.sigma)[1:])


@pytest.mark.parametrize("steps", [2, 4])
def test_graphs_chained_are_the_sampler(files, voice, steps):
    """acoustic, then acoustic_n along a schedule, is the consistency sampler of training."""
    side = TorchGraphs.of(voice)
    inputs = side.maker.make(GRAPHS["acoustic"], 2, 33, seed=5)
    rng = np.random.default_rng(0)
    noises = [
        inputs["noise"],
        *(rng.standard_normal(inputs["noise"].shape).astype(np.float32) for _ in range(steps - 1)),
    ]
    mel = onnx_runner(files["acoustic.onnx"])(inputs)["mel"]
    further = onnx_runner(files["acoustic_n.onnx"])
    for index, noise in zip(side.schedules[steps], noises[1:], strict=True):
        step_index = np.array(index, np.int32)
        mel = further({**inputs, "mel": mel, "noise": noise, "step_index": step_index})["mel_out"]
    model = voice.acoustic
    names = ("content", "content_index", "f0_hz", "loudness", "singer")
    with torch.inference_mode():
        embedded = model.embed(Condition(*(torch.from_numpy(inputs[name]) for name in names)))
        z = [torch.from_numpy(noise) for noise in noises]
        z[0] = voice.noise_scale * z[0]
        x = consistency_sample(lambda x, sigma: model.denoise(x, sigma, embedded), z, model.config.sigma)
        expected = model.denormalise(x).numpy()
    np.testing.assert_allclose(mel, expected, rtol=1e-4, atol=1e-5)


def test_a_miss_names_graph_length_and_error():
    row = ParityRow("vocoder", "cpu", "fp32", 3, 129, 2.5e-3, 1e-2, 1e-5)
    with pytest.raises(ParityError, match=r"vocoder at batch 3, length 129: relative error 2\.50e-03, at most 1e-05"):
        require([row])


def test_nan_is_a_miss():
    good = np.ones((1, 4), np.float32)
    row = compare("vocoder", {"audio": np.array([[1, 1, np.nan, 1]], np.float32)}, {"audio": good}, 1, 4)
    assert not row.ok
