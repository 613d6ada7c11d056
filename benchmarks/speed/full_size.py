"""Our system at the authors' size with random weights, exported as any voice is: the system `comosvc` of benchmarks.

Speed does not depend on the values of weights, and no trained ones of this size are public. The parity matrix and the
stored probes are left out; they take minutes, and tests cover them. For fp16 and int8 there are such graphs too, as
`comosvc-export precision` makes them, without its comparison with fp32, which random weights make meaningless.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ...export.bundle.assemble import TorchGraphs
from ...export.bundle.describe import EMBEDDING_FILE, make_manifest
from ...export.bundle.statements import PITCH_LICENCE
from ...export.bundle.voice import TrainedVoice
from ...export.precision import precision
from ...runtime.audio.spec import AUTHORS_FRONT_END, COMOSVC_24K
from ...runtime.storage import sha256
from ...runtime.voice import graphs as contracts
from ...runtime.voice.bundle import PARITY_FILE, open_bundle, shipped_voices
from ...runtime.voice.manifest import MANIFEST_FILE, LicenceEntry, SingerEntry, to_json
from ...training.acoustic.model import AUTHORS_ACOUSTIC, AcousticConfig, AcousticModel
from ...training.content.encoders import ContentVec, ContentVecConfig
from ...training.vocoder.hifigan import M4SINGER_24K, HifiGanConfig
from ...training.vocoder.light import LIGHT_24K, VocoderConfig, build_vocoder
from .engines import of_voice
from .exported import cache_folder, content_key, mark_used, remove_unused, source_hash
from .results import Loaded
from .voices import STAGE_OF, ReadyVoice

N_SINGERS = 20
_COUNTED_S = 10
"""Attention grows with the clip; FLOP per second are those of a clip this long."""
_STAGES = ("content", "acoustic", "vocoder")


@dataclass(frozen=True)
class FullSize:
    """A voice of the authors' sizes by the name of its bundle, with this vocoder."""

    name: str
    title: str
    vocoder: HifiGanConfig | VocoderConfig

    def ready(self) -> ReadyVoice:
        """Its unpacked bundle, exported unless it is there."""
        return ready_voice(random_voice(vocoder_config=self.vocoder), self.name, self.title)


_TITLE = "CoMoSVC, this SDK: ContentVec, 20 x 512 student in one step, "
AUTHORS_SIZE = FullSize("full-size", f"{_TITLE}NSF-HiFi-GAN 24 kHz", M4SINGER_24K)
LIGHT_SIZE = FullSize("full-size-light", f"{_TITLE}light vocoder 24 kHz", LIGHT_24K)


def random_voice(
    content_config: ContentVecConfig | None = None,
    acoustic_config: AcousticConfig = AUTHORS_ACOUSTIC,
    vocoder_config: HifiGanConfig | VocoderConfig = M4SINGER_24K,
) -> TrainedVoice:
    """The same random weights at each call. Raises `ConfigError` without `transformers`."""
    torch.manual_seed(0)
    content = ContentVec(content_config).fold()
    acoustic = AcousticModel(acoustic_config, COMOSVC_24K, content.n_content, N_SINGERS)
    singers = {
        f"singer-{row}": SingerEntry(
            index=row, f0_median_hz=200.0, f0_range_hz=(80.0, 800.0), licence="MIT", credit="nobody: random weights"
        )
        for row in range(N_SINGERS)
    }
    return TrainedVoice(
        audio=COMOSVC_24K,
        content=content,
        content_low=None,
        acoustic=acoustic,
        vocoder=build_vocoder(vocoder_config, COMOSVC_24K),
        noise_scale=1.0,
        content_labels=(),
        embeddings=np.ascontiguousarray(acoustic.singer_embed.weight.detach().numpy(), np.float32),
        singers=singers,
        objective="none: random weights",
        departures=(),
        licences=(LicenceEntry(part="weights", licence="MIT", credit="nobody: they are random"), PITCH_LICENCE),
        consent="not needed: nobody was recorded",
        data_card="",
        preview_source=np.zeros(0, np.float32),
        provenance={},
        front_end=AUTHORS_FRONT_END,
    )


def ready_voice(voice: TrainedVoice, name: str, title: str) -> ReadyVoice:
    """`voice` as an unpacked bundle in the cache, with the work and the parameters of its networks."""
    parts = nn.ModuleList([voice.content, voice.acoustic, voice.vocoder])
    facts = voice.audio, voice.front_end, voice.source
    folder = cache_folder() / "voices" / f"{name}-{content_key(parts, *facts)}"
    about = folder.with_name(f"{folder.name}.json")
    if not about.is_file():
        start = time.perf_counter()
        torch_graphs = TorchGraphs.of(voice)
        files = _files(voice, name, torch_graphs)
        export_s = time.perf_counter() - start
        with _all_or_nothing(folder) as made:
            for file, data in files.items():
                (made / file).write_bytes(data)
        about.write_text(json.dumps({"export_s": export_s, **_count(torch_graphs)}), "utf-8")  # last: all is there then
        remove_unused()
    mark_used(about)
    facts = json.loads(about.read_text("utf-8"))
    return ReadyVoice(folder, Loaded(title=title, sample_rate=voice.audio.sample_rate, **facts))


def _files(voice: TrainedVoice, name: str, torch_graphs: TorchGraphs) -> dict[str, bytes]:
    graphs = {"pitch": Path(contracts.__file__).parents[1].joinpath("data").joinpath("pitch.onnx").read_bytes()}
    for graph in torch_graphs.modules:
        graphs[graph] = torch_graphs.trace(graph).SerializeToString(deterministic=True)
    files = {f"{graph}.onnx": data for graph, data in graphs.items()}
    files[EMBEDDING_FILE] = save({"embedding": voice.embeddings})
    manifest = make_manifest(voice, name, files, torch_graphs.schedules, torch_graphs.sigmas)
    return {**files, MANIFEST_FILE: to_json(manifest).encode()}


def _count(torch_graphs: TorchGraphs) -> dict[str, dict[str, float]]:
    """FLOP per second of audio of the networks before the exporter folds anything, and their parameters."""
    gflop, parameters = {}, {}
    audio = torch_graphs.maker.audio
    for name in _STAGES:
        module, contract = torch_graphs.modules[name], contracts.GRAPHS[name]
        n = _COUNTED_S * audio.content_sample_rate if name == "content" else round(_COUNTED_S * audio.frame_rate_hz)
        arrays = torch_graphs.maker.make(contract, 1, n, seed=0)
        forward = {key: torch.from_numpy(arrays[key]) for key in signature(module.forward).parameters}
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            module.eval()(**forward)
        gflop[name] = counter.get_total_flops() / _COUNTED_S / 1e9
        parameters[name] = sum(weight.numel() for weight in module.parameters())
    return {"gflop_per_s": gflop, "parameters": parameters}


def with_precision(voice: ReadyVoice, name: str, judged: bool = False) -> ReadyVoice:
    """An unpacked voice of the cache with graphs in fp16 or int8 besides; a minute at first, two where `judged`."""
    source = Path(voice.model)
    key = source_hash("export/graphs", "export/precision")[:16]
    folder = source.with_name(f"{source.name}-{name}-{key}" + ("-judged" if judged else ""))
    if not folder.is_dir():
        bundle = open_bundle(source)
        no_parity = {PARITY_FILE: json.dumps({"graphs": {}, "rows": []}).encode()}
        voice_parts = bundle.graph_bytes, bundle.embeddings
        _, files = precision.add_precisions(bundle.manifest, no_parity, [name], *voice_parts, judged)
        with _all_or_nothing(folder) as made:
            for path in source.iterdir():
                if path.name not in files:
                    os.link(path, made / path.name)  # half a gigabyte that need not be there once more
            for file, data in files.items():
                (made / file).write_bytes(data)
        remove_unused()
    mark_used(folder)
    return dataclasses.replace(voice, model=folder)


def ready_precision(ready: Callable[[], ReadyVoice], name: str) -> ReadyVoice:
    """The voice of `ready` with such graphs; importable by other processes."""
    return with_precision(ready(), name)


def ready_counted(ready: Callable[[], ReadyVoice], precision: str) -> ReadyVoice:
    """The voice of `ready` with its traffic in `precision`; importable too."""
    voice = ready()
    bundle = open_bundle(voice.model)
    facts = voice.facts or Loaded(title=f"voice {bundle.manifest.name}", sample_rate=bundle.manifest.audio.sample_rate)
    return dataclasses.replace(voice, facts=dataclasses.replace(facts, **of_voice(bundle, precision, STAGE_OF)))


def with_singers(voice: ReadyVoice, n: int) -> ReadyVoice:
    """The same voice with `n` singers, their embeddings repeated, to measure the cost of a large cast."""
    model = shipped_voices().get(str(voice.model), Path(voice.model))
    bundle = open_bundle(model)
    any_singer = next(iter(bundle.manifest.singers.values()))
    rows = np.resize(bundle.embeddings, (n, bundle.embeddings.shape[1]))
    embeddings = save({"embedding": np.ascontiguousarray(rows)})
    manifest = dataclasses.replace(
        bundle.manifest,
        singers={f"singer-{row}": dataclasses.replace(any_singer, index=row) for row in range(n)},
        singer_embedding_file=EMBEDDING_FILE,
        singer_embedding_sha256=sha256(embeddings),
    )
    text = to_json(manifest).encode()
    folder = cache_folder() / "voices" / f"{manifest.name}-{n}-singers-{sha256(text)[:16]}"
    if not folder.is_dir():
        with _all_or_nothing(folder) as made:
            every = (manifest.graphs, *manifest.variants.values())
            for file in {name for entries in every for entry in entries.values() for name in entry.files}:
                if model.is_relative_to(cache_folder()):
                    os.link(model / file, made / file)  # half a gigabyte that need not be there once more
                else:
                    (made / file).write_bytes(bundle.read(file))
            (made / EMBEDDING_FILE).write_bytes(embeddings)
            (made / MANIFEST_FILE).write_bytes(text)
    return dataclasses.replace(voice, model=folder)


def ready_cast(ready: Callable[[], ReadyVoice], singers: int) -> ReadyVoice:
    """The voice of `ready` with another cast; importable too."""
    return with_singers(ready(), singers)


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when it is full."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as partial:
        made = Path(partial) / "made"
        made.mkdir()
        yield made
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
