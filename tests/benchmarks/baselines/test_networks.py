"""The networks of so-vits-svc and diff-svc against their formulas written out."""

import math

import numpy as np
import pytest
import torch
from baseline_stages import CONTENT, PLAIN, SOVITS

from comosvc.benchmarks.baselines.authors import Layer
from comosvc.benchmarks.baselines.diffsvc import HubertSoft, UnitsAndPitch
from comosvc.benchmarks.baselines.sovits_networks import CouplingLayer, Decoder, Flow, RelativeAttention, coarse_f0
from comosvc.training.vocoder.hifigan import NsfHifiGan


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("length", [1, 3, 20])
def test_relative_attention_is_its_formula(length):
    """With windows longer and shorter than the clip: score q (k + r_k[j - i]), value v + r_v[j - i]. Shaw, eq. 3, 4."""
    module, x = RelativeAttention(6, 2, window=4), torch.randn(1, 6, length)
    q, k, v = (conv(x)[0].view(2, 3, length) for conv in (module.conv_q, module.conv_k, module.conv_v))
    found = torch.zeros(2, 3, length)
    for head in range(2):
        for i in range(length):
            near = {j: j - i + 4 for j in range(length) if abs(j - i) <= 4}
            keys, values = k[head].T.clone(), v[head].T.clone()
            for j, row in near.items():
                keys[j] += module.emb_rel_k[0, row]
                values[j] += module.emb_rel_v[0, row]
            found[head, :, i] = (keys @ q[head, :, i] / math.sqrt(3)).softmax(0) @ values
    torch.testing.assert_close(module(x), module.conv_o(found.view(1, 6, length)), rtol=1e-4, atol=1e-5)


def test_the_flow_runs_backwards():
    """What it undoes: each layer adds the mean to one half, then the channels turn round."""
    flow, z, speaker = Flow(SOVITS), torch.randn(2, 12, 9), torch.randn(2, 10, 1)
    x = z
    for layer in flow.flows:
        if isinstance(layer, CouplingLayer):
            known, moved = x.chunk(2, dim=1)
            x = torch.cat((known, moved + layer.post(layer.enc(layer.pre(known), speaker))), dim=1)
        else:
            x = x.flip(1)
    assert not torch.allclose(x, z, atol=0.1)
    torch.testing.assert_close(flow(x, speaker), z, rtol=1e-4, atol=1e-5)


def test_a_decoder_without_a_speaker_is_the_vocoder():
    decoder, latent, source = Decoder(PLAIN, 5), torch.randn(2, 7, 8), torch.randn(2, 7 * 16, 9)
    vocoder = NsfHifiGan(PLAIN)
    vocoder.load_state_dict(decoder.generator.state_dict())
    speaker = torch.randn(2, 5)
    assert not torch.allclose(decoder(latent, source, speaker), decoder(latent, source, -speaker), atol=1e-6)
    torch.nn.init.zeros_(decoder.cond.weight)
    torch.nn.init.zeros_(decoder.cond.bias)
    torch.testing.assert_close(decoder(latent, source, speaker), vocoder(latent, source))


def test_bins_of_f0():
    """The ends of the scale, and a bin for each 1/254 of it between."""
    assert coarse_f0(torch.tensor([0.0, 50.0, 1100.0])).tolist() == [1, 1, 255]
    mel = np.linspace(*(1127 * np.log(1 + f0 / 700) for f0 in (50, 1100)), 255)
    f0_hz = torch.tensor(700 * (np.exp(mel / 1127) - 1), dtype=torch.float32)
    assert coarse_f0(f0_hz).tolist() == list(range(1, 256))


def test_dilated_layers_reach_further():
    x = torch.zeros(1, 4, 21)
    x[0, :, 10] = 1.0
    layer = Layer(4, 3, dilation=4)
    condition, step = torch.zeros(1, 3, 21), torch.zeros(1, 4)
    moved = (layer(x, condition, step)[0] - layer(0 * x, condition, step)[0]).abs().sum(dim=(0, 1))
    assert moved.nonzero().flatten().tolist() == [6, 10, 14]


def test_units_and_pitch_are_added():
    module = UnitsAndPitch(3)
    content, index = torch.randn(1, 2, 3), torch.tensor([[0, 0, 1]], dtype=torch.int32)
    f0_hz = torch.tensor([[0.0, 220.0, 1100.0]])
    found = module(content, index, f0_hz)
    torch.testing.assert_close(found[0, 2], content[0, 1] + module.pitch_embed.weight[255])
    torch.testing.assert_close(found[0, 0], content[0, 0] + module.pitch_embed.weight[1])


def test_soft_units_come_at_every_hop():
    assert HubertSoft(CONTENT, 5).eval()(torch.randn(1, 320 * 7)).shape == (1, 7, 5)
