"""What the originals do without a network: F0, and a checkpoint read again."""

import numpy as np
import pytest
import torch

from comosvc.benchmarks.baselines import comosvc as reread
from comosvc.benchmarks.baselines.parts import f0_stage, through_unvoiced
from comosvc.runtime.audio.spec import COMOSVC_24K, OPENVPI_44K
from comosvc.training.vocoder.hifigan import M4SINGER_24K, HifiGanConfig, NsfHifiGan


@pytest.mark.parametrize("spec", [COMOSVC_24K, OPENVPI_44K])
def test_f0_of_a_tone(spec):
    stage = f0_stage(spec)
    time_s = np.arange(stage.sample_rate) / stage.sample_rate
    tone = sum(0.2 / n * np.sin(2 * np.pi * 220.0 * n * time_s) for n in range(1, 6))
    found = np.asarray(stage.run(tone))
    assert len(found) == spec.frames(len(tone))
    assert np.abs(np.median(found) - 220.0) < 1.0
    assert not np.asarray(stage.run(np.zeros_like(tone))).any()


def test_unvoiced_stretches_are_bridged():
    f0_hz = np.array([0.0, 100.0, 0.0, 0.0, 130.0, 0.0])
    np.testing.assert_allclose(through_unvoiced(f0_hz), [100, 100, 110, 120, 130, 130])


def test_the_vocoder_is_read_as_it_was_written(monkeypatch):
    monkeypatch.setattr(reread, "_PERIOD_CONVOLUTIONS", ((4, 1, 5, 1),))
    monkeypatch.setattr(reread, "_SCALE_CONVOLUTIONS", ((4, 1, 15),))
    config = HifiGanConfig(upsample_rates=(4, 2), upsample_kernel_sizes=(8, 4), upsample_initial_channel=8)
    overhead = reread.RereadVocoder(config)
    torch.manual_seed(0)
    first = overhead().state_dict()
    assert set(first) == set(NsfHifiGan(config).state_dict())
    for name, value in overhead().state_dict().items():
        torch.testing.assert_close(value, first[name])
    stored = torch.load(overhead.path(), weights_only=True)["state_dict"]["model_gen"]
    g, v = stored["conv_pre.weight_g"], stored["conv_pre.weight_v"]
    torch.testing.assert_close(first["conv_pre.weight"], g * v / v.norm(dim=(1, 2), keepdim=True))
    path = overhead.path()
    del overhead
    assert not path.exists()


def test_the_file_has_the_published_ones_size():
    """1.02 GB; 12 bytes for each of 13.95 + 41.11 + 29.62 million weights."""

    def n_bytes(part):
        if isinstance(part, torch.Tensor):
            return part.nbytes
        return sum(map(n_bytes, part.values() if isinstance(part, dict) else part))

    with torch.device("meta"):
        assert n_bytes(reread.checkpoint_of(M4SINGER_24K)) / 1e9 == pytest.approx(1.0160, rel=1e-3)
