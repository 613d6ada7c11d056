"""The written tables are the networks', and add up to the originals' sizes."""

from functools import cache
from math import prod
from pathlib import Path

import pytest
from weight_names import TRAINING_ONLY, WRITTEN, parameter_table, written

WEIGHTS = Path(__file__).parents[2] / "reference" / "weights"

MILLIONS = {
    "comosvc-authors": 54.95 + 0.2,
    "sovits-flow": 52.4,
    "sovits-diff": 55.2,
    "diffsvc": 15.1 + 0.0768 + 1.663,  # with its pitch embedding, and the unused predictor
}


@pytest.fixture(scope="module", params=WRITTEN)
def id(request):
    return request.param


def test_the_written_table_is_the_networks(id):
    text = (WEIGHTS / f"{id}.txt").read_text("utf-8")
    assert text == written(id), f"if it should be: python tests/weight_names.py {id} > reference/weights/{id}.txt"


def test_the_table_adds_up(id):
    table = parameter_table(id)
    parts = {"acoustic", "condition", TRAINING_ONLY} | ({"vocoder"} if id == "sovits-flow" else set())
    weights = sum(prod(shape) for part in parts & set(table) for shape in table[part].values())
    assert weights / 1e6 == pytest.approx(MILLIONS[id], rel=0.002)


def test_names_are_the_checkpoints():
    """Some of each kind, as they stand in the public files."""
    table = cache(parameter_table)
    flow = table("sovits-flow")
    assert flow["vocoder"]["dec.ups.0.weight_v"] == (512, 256, 16)
    assert flow["vocoder"]["dec.ups.0.weight_g"] == (512, 1, 1)
    assert flow["vocoder"]["dec.m_source.l_linear.weight"] == (1, 9)
    assert flow["acoustic"]["enc_p.enc_.attn_layers.5.emb_rel_k"] == (1, 9, 96)
    assert flow["acoustic"]["flow.flows.6.enc.in_layers.3.weight_v"] == (384, 192, 5)
    assert flow[TRAINING_ONLY]["enc_q.enc.res_skip_layers.15.weight_v"] == (192, 192, 1)
    diffusion = table("sovits-diff")
    assert diffusion["acoustic"]["decoder.denoise_fn.residual_layers.19.dilated_conv.weight"] == (1024, 512, 3)
    assert diffusion["condition"]["unit_embed.weight"] == (256, 768)
    assert "spk_embed.weight" not in diffusion["condition"]
    student = table("comosvc-authors")
    assert student["acoustic"]["spk_embed.weight"] == (20, 256)
    assert student["acoustic"]["decoder.denoise_fn.mlp.0.weight"] == (2048, 512)
    assert table("diffsvc")["condition"] == {"fs2.pitch_embed.weight": (300, 256)}
    shallow = table("sovits-diff-shallow")
    assert shallow["first_vocoder"] == flow["vocoder"]
    assert shallow["acoustic"] == diffusion["acoustic"]
    assert table("diffsvc-20x512")["acoustic"] == table("comosvc-teacher")["acoustic"]
