"""A run folder as training leaves it, with untrained networks of a few thousand weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from comosvc.export.bundle.assemble import TorchGraphs, build_files
from comosvc.export.bundle.statements import Statements
from comosvc.export.bundle.voice import TrainedVoice, load_voice
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.conversion.source import pulse_source
from comosvc.training.acoustic.model import AcousticConfig, AcousticModel, DenoiserConfig
from comosvc.training.acoustic.teaching import StudentConfig, TeacherConfig
from comosvc.training.config import to_mapping
from comosvc.training.content.encoder import ContentConfig, ContentEncoder
from comosvc.training.corpus import PHONES
from comosvc.training.data.prepared import FeatureIndex, PreparedClip, PreparedSinger, save_arrays
from comosvc.training.loop.checkpoint import save_checkpoint
from comosvc.training.loop.loop import LoopConfig
from comosvc.training.run.acoustic_stages import load_content_encoders
from comosvc.training.vocoder.light import Vocoder, VocoderConfig

SPEC = replace(COMOSVC_24K, content_hop_length=160)
ACOUSTIC = AcousticConfig(
    denoiser=DenoiserConfig(
        channels=16, hidden=12, layers=2, lookahead_frames=2, dilation_cycle=(1, 2), input_skip=True
    ),
    harmonic_embedding=True,
    log_loudness=True,
)
LOOP = LoopConfig(steps=1, batch_size=1, learning_rate=1e-3, final_learning_rate=1e-4)


def shaken(module: nn.Module) -> nn.Module:
    """`module` without the zeros that networks begin with, which would hide whatever is behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.02, generator=generator)
    return module


def write_stage(folder: Path, module: nn.Module, config: dict) -> None:
    folder.mkdir(parents=True)
    save_checkpoint(folder, 1, {"model": module, "ema": module}, torch.optim.AdamW(module.parameters()), config)


def write_features(folder: Path, kind: str = "synthetic") -> FeatureIndex:
    folder.mkdir(parents=True)
    facts = {"split": "train", "minutes": 1.0, "f0_range_hz": (200.0, 500.0)}
    singers = {
        "bass": PreparedSinger(kind=kind, demo=True, index=0, f0_median_hz=220.0, **facts),
        "chorus": PreparedSinger(kind="synthetic", demo=False, index=1, f0_median_hz=300.0, **facts),
        "soprano": PreparedSinger(kind=kind, demo=True, index=2, f0_median_hz=400.0, **facts),
    }
    f0_hz = np.geomspace(200.0, 300.0, 187).astype(np.float32)
    audio = (1_000 * pulse_source(f0_hz, SPEC)[0][:, 0]).astype(np.int16)
    save_arrays(folder / "key.safetensors", {"audio": audio})
    clip = PreparedClip(key="key", id="clip", singer="chorus", song="song", split="test", frames=187)
    index = FeatureIndex(folder, SPEC, singers, (clip,))
    index.save()
    return index


MATCHING = VocoderConfig(channels=16, dilations=(1,), refinements=1)


def write_run(run: Path, kind: str = "synthetic", vocoder: VocoderConfig = MATCHING) -> Path:
    torch.manual_seed(0)
    features = write_features(run / "features", kind)
    audio = {"audio": to_mapping(SPEC)}
    content = ContentConfig(n_mels=20, channels=16, dilations=(2,), lookahead_frames=2, mean_frames=5)
    low = replace(content, channels=12, lookahead_frames=0)
    for name, network in (("content", content), ("content-low", low)):
        write_stage(run / name, ContentEncoder(network, SPEC), {**audio, "network": to_mapping(network)})
    named = {"kind": "light"} if vocoder.per_bin else {}
    write_stage(run / "vocoder", shaken(Vocoder(vocoder, SPEC)), {**audio, **named, "network": to_mapping(vocoder)})
    model = AcousticModel(ACOUSTIC, SPEC, len(PHONES), 3)
    model.mel_mean.fill_(-2.5)
    model.mel_scale.fill_(1.5)
    shared = {
        **audio,
        "acoustic": to_mapping(ACOUSTIC),
        "singers": features.trained_singers,
        "n_content": len(PHONES),
        "content_encoders": {name: digest for name, (_, digest) in load_content_encoders(run).items()},
    }
    write_stage(run / "teacher", shaken(model), {**shared, "teacher": to_mapping(TeacherConfig(loop=LOOP))})
    student = StudentConfig(loop=LOOP, noise_scale=0.9, data_l1_weight=0.5)
    write_stage(run / "student", model, {**shared, "student": to_mapping(student)})
    return run


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_run():
    """`make_run(folder, kind="synthetic", vocoder=MATCHING)` fills a run folder; target singers are of that kind."""
    return write_run


def _bytes_of(graph: bytes, deterministic: bool) -> bytes:
    return graph


@contextmanager
def traced_before(graphs: Mapping[str, bytes]) -> Iterator[None]:
    """Exports take these graphs instead of tracing equal networks again; each trace takes seconds."""
    trace = TorchGraphs.trace
    known = {name: SimpleNamespace(SerializeToString=partial(_bytes_of, graph)) for name, graph in graphs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchGraphs, "trace", lambda graphs, name: known.get(name) or trace(graphs, name))
        yield


@pytest.fixture(scope="session")
def known_graphs():
    """`with known_graphs({"content": data}):` as `traced_before`."""
    return traced_before


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "demo")


@pytest.fixture(scope="session")
def voice(run) -> TrainedVoice:
    return load_voice(run, Statements())


@pytest.fixture(scope="session")
def files(voice) -> dict[str, bytes]:
    """The files of the voice's bundle; tests change copies."""
    return build_files(voice, "tiny")[1]
