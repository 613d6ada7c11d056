"""The manifest of a voice."""

import subprocess
from pathlib import Path

from ...runtime.conversion.low_latency import WINDOW_AHEAD_S
from ...runtime.storage import sha256
from ...runtime.voice.graphs import GRAPHS
from ...runtime.voice.manifest import Context, ContextEntry, LookaheadEntry, Manifest, ModelEntry, OdeEntry
from ...training.acoustic.model import AcousticModel
from ...training.content.encoders import ContentVec
from ..graphs.trace import graph_entry, versions
from .voice import TrainedVoice

EMBEDDING_FILE = "singers.safetensors"
DATA_CARD_FILE, PREVIEW_FILE = "data-card.md", "preview.flac"

PITCH_CONTEXT = Context(past=11, future=10)
"""swift-f0 uses 2815 samples before and after a frame's centre (its `core.py`); a frame's hop begins there."""
_PITCH_LOOKAHEAD_MS = 2815 / 16
_LOW_LATENCY_PITCH_MS = 16.0
"""One pitch frame: live, the newest F0 is held until the next one is there."""


def make_manifest(
    voice: TrainedVoice, name: str, files: dict[str, bytes], schedules: dict[int, list[int]], sigmas: list[float]
) -> Manifest:
    """The manifest of a bundle of `files`; those that its own fields do not name are listed in `provenance`.

    `sigmas` are the noise levels that `schedules` points into.
    """
    graphs = {graph: graph_entry(graph, files[f"{graph}.onnx"]) for graph in GRAPHS if f"{graph}.onnx" in files}
    named = {EMBEDDING_FILE, *(entry.file for entry in graphs.values())}
    return Manifest(
        name=name,
        audio=voice.audio,
        graphs=graphs,
        singers=voice.singers,
        singer_embedding_file=EMBEDDING_FILE,
        singer_embedding_sha256=sha256(files[EMBEDDING_FILE]),
        model=ModelEntry(
            content_channels=voice.acoustic.content_embed.in_features,
            singer_channels=voice.embeddings.shape[1],
            sigma_min=voice.acoustic.config.sigma.sigma_min,
            sigma_max=voice.acoustic.config.sigma.sigma_max,
            source=voice.source,
            objective=voice.objective,
            initial_noise_scale=voice.noise_scale,
            schedules={str(steps): tuple(indices) for steps, indices in schedules.items()},
            content_labels=voice.content_labels,
            departures=voice.departures,
            ode=_ode(voice.acoustic, sigmas) if voice.follows_ode else None,
            default_steps=voice.default_steps,
            f0_extractor=voice.f0_extractor,
        ),
        front_end=voice.front_end,
        context=contexts(voice),
        lookahead_ms=lookaheads(voice),
        licences=voice.licences,
        consent=voice.consent,
        provenance={
            **voice.provenance,
            "versions": versions(),
            "commit": commit(),
            "files": {file: sha256(data) for file, data in sorted(files.items()) if file not in named},
        },
    )


def _ode(acoustic: AcousticModel, sigmas: list[float]) -> OdeEntry:
    mean, scale = acoustic.mel_mean.double().tolist(), float(acoustic.mel_scale)
    return OdeEntry(sigmas=tuple(sigmas), mel_mean=tuple(mean), mel_scale=scale)


def contexts(voice: TrainedVoice) -> ContextEntry:
    """Context of each graph around a frame."""
    parts = {
        # An encoder that is given windows has none in frames: all of a window is seen.
        "content": (0, 0) if isinstance(voice.content, ContentVec) else voice.content.context_frames,
        **({"content_low": voice.content_low.context_frames} if voice.content_low else {}),
        "acoustic": voice.acoustic.denoiser.context_frames,
        "vocoder": voice.vocoder.context_frames,
    }
    return ContextEntry(pitch=PITCH_CONTEXT, **{part: Context(past=a, future=b) for part, (a, b) in parts.items()})


def lookaheads(voice: TrainedVoice) -> LookaheadEntry:
    """Look-ahead of each part in ms. The total is that of a live conversion, the parts simply added."""
    window_ms = 1e3 * voice.front_end.content_window_s
    content = window_ms if isinstance(voice.content, ContentVec) else voice.content.lookahead_ms
    live = content
    if voice.content_low:
        live = voice.content_low.lookahead_ms
    elif isinstance(voice.content, ContentVec):
        live = 1e3 * WINDOW_AHEAD_S
    vocoder = voice.vocoder.lookahead_ms
    acoustic = voice.acoustic.denoiser.context_frames[1] * 1e3 / voice.audio.frame_rate_hz
    return LookaheadEntry(
        content=content,
        pitch=_PITCH_LOOKAHEAD_MS,
        pitch_low_latency=_LOW_LATENCY_PITCH_MS,
        acoustic=acoustic,
        vocoder=vocoder,
        content_low_latency=voice.content_low.lookahead_ms if voice.content_low else None,
        total=live + _LOW_LATENCY_PITCH_MS + acoustic + vocoder,
    )


def commit() -> str:
    """The source's git commit, with "-dirty" where it was changed; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
