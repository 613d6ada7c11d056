from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from comosvc.benchmarks.held_out import load_held_out
from comosvc.benchmarks.report import Figures, load, save
from comosvc.benchmarks.trained import vocoders
from comosvc.benchmarks.trained.vocoders import RIVALS, VocodersOptions, measure_vocoders
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.data.prepare import analyse
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, feature_path, save_arrays
from comosvc.training.errors import ConfigError
from comosvc.training.loop.checkpoint import read_metadata, require_checkpoint
from comosvc.training.vocoder.light import vocoder_config
from comosvc.training.vocoder.losses import AdversaryConfig

SPEC = replace(COMOSVC_24K, content_hop_length=160)
TINY = {
    "light": {"channels": 16, "dilations": [1], "lookahead_frames": 0},
    "nsf-hifigan-128": {"upsample_initial_channel": 16},
}


def tiny(name):
    adversary = AdversaryConfig(periods=(2,), period_channels=(2,), resolutions=(512,), resolution_channels=2)
    loop = replace(RIVALS[name].loop, batch_size=2)
    return replace(RIVALS[name], network=TINY[name], adversary=adversary, loop=loop, crop_frames=24)


@pytest.fixture(scope="module")
def options(songs, held_out_config, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    (run / "features").mkdir()
    for name, audio in songs[0].targets.items():
        save_arrays(feature_path(run / "features", name), arrays := analyse(audio, SPEC))
    frames = len(arrays["mel"])
    clips = tuple(PreparedClip(name, name, name, "song", "train", frames) for name in songs[0].targets)
    singers = {
        name: PreparedSinger("synthetic", "train", True, index, 0.03, 220.0, (110.0, 440.0))
        for index, name in enumerate(sorted(songs[0].targets))
    }
    FeatureIndex(run / "features", SPEC, singers, clips).save()
    cache = tmp_path_factory.mktemp("cache")
    load_held_out(held_out_config, cache)
    rivals = {name: tiny(name) for name in RIVALS}
    return VocodersOptions(run=run, cpu_minutes=0.1, rivals=rivals, corpus=held_out_config, cache=cache)


@pytest.fixture(scope="module", autouse=True)
def _traced_once():
    """A network of the same weights is traced once."""
    graphs, trace = {}, vocoders._graph_of

    def graph_of(vocoder, spec):
        key = tuple(float(weight.detach().double().sum()) for weight in vocoder.parameters())
        if key not in graphs:
            graphs[key] = trace(vocoder, spec)
        return graphs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocoders, "_graph_of", graph_of)
        yield


@pytest.fixture(scope="module")
def report(options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            vocoders, "step_cost", lambda stage, console: {"light": 2.0}.get(stage.config["vocoder"]["kind"], 3.0)
        )
        return measure(options)


def measure(options):
    return measure_vocoders(options, "the command", lambda what: None, Console(file=StringIO()))


def test_each_gets_the_steps_that_the_time_buys(options, report):
    steps = {name: read_metadata(require_checkpoint(options.run / "vocoders" / name))[0] for name in RIVALS}
    assert steps == {"light": 3, "nsf-hifigan-128": 2}
    found = report.details["vocoders"]
    assert {name: found[name]["steps"] for name in RIVALS} == steps
    assert all(found[name]["training_cpu_s"] == 6.0 and found[name]["spent_cpu_s"] > 0.0 for name in RIVALS)
    assert found["demo"]["steps"] is None


def test_run_again_it_trains_nothing_and_measures_the_same(options, report, monkeypatch):
    monkeypatch.setattr(vocoders, "step_cost", lambda *_: pytest.fail("another pilot"))
    again = measure(options)
    for name, figures in report.details["vocoders"].items():
        assert again.details["vocoders"][name]["mel"] == figures["mel"]
        assert again.details["vocoders"][name]["spent_cpu_s"] == figures["spent_cpu_s"]


def test_another_budget_is_refused(options, report):
    with pytest.raises(ConfigError, match="begun with 6 processor seconds"):
        measure(replace(options, cpu_minutes=1.0))


def test_the_shipped_vocoder_copies_well_and_an_untrained_hifigan_does_not(report):
    found = report.details["vocoders"]
    assert found["demo"]["mel"]["l1"] < 0.15
    assert found["light"]["mel"]["l1"] < 0.2  # mel matching needs no training
    assert found["nsf-hifigan-128"]["mel"]["l1"] > 0.5
    assert found["demo"]["f0"]["gross"] < 0.05
    assert all(0.0 < one["rtf"] < 10.0 for one in found.values())


def test_rows_can_be_kept(report, tmp_path):
    save(report, tmp_path / "vocoders.json")
    assert load(tmp_path / "vocoders.json", [Figures]).rows == report.rows
    work = {row.what: row for row in report.rows if row.what.endswith("work")}
    assert work["light: work"].met
    assert work["nsf-hifigan-128: work"].goal == ""
    assert all(row.value is None or np.isfinite(row.value) for row in report.rows)


def test_the_rivals_do_the_same_work_with_the_same_losses():
    light, rival = RIVALS["light"], RIVALS["nsf-hifigan-128"]
    assert (light.adversary, light.draws, light.crop_frames) == (rival.adversary, rival.draws, rival.crop_frames)
    assert light.sizes == vocoder_config("light", {}, "here")
    work = [vocoders._gflop_per_s(vocoders.build_vocoder(one.sizes, SPEC), SPEC) for one in (light, rival)]
    assert work[0] == pytest.approx(work[1], rel=0.05)
    assert work[0] <= vocoders.GFLOP_ALLOWED
