"""Parts of a bundle measured alone: vocoder, content encoder, pitch (also with bounded look-ahead), parity, speed."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from ...runtime import Converter
from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.pitch import (
    BOUNDED_SILENCE_HOPS,
    BOUNDED_WINDOW_HOPS,
    PITCH_HOP_LENGTH,
    PITCH_SAMPLE_RATE,
    VOICED_CONFIDENCE,
    PitchSession,
    held_pitch_frames,
)
from ...runtime.audio.spec import AudioSpec
from ...runtime.conversion.source import clip_source, noise_samples
from ...runtime.providers import sessions
from ...runtime.voice.bundle import PARITY_FILE, Bundle
from ...training.corpus import PHONES, CorpusConfig, Labels
from ...training.corpus.recorded import speak_plan, spoken_clips
from ..held_out import SAMPLE_RATE, HeldOutSong
from ..metrics import F0Errors, MelScore, PitchMeter, f0_errors, mean_of, score_mel

_BATCH = 128


def track_pitch_bounded(
    session: PitchSession, audio: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in Hz and confidence of `audio` (N,) at 16 kHz, each (P,).

    Frame p is centred on sample 256 p and made from samples 256 (p - 11) to 256 (p + 1) alone.
    """
    n_frames = max(1, len(audio) // PITCH_HOP_LENGTH)
    lead = (BOUNDED_WINDOW_HOPS - 1) * PITCH_HOP_LENGTH
    padded = np.zeros(lead + n_frames * PITCH_HOP_LENGTH, np.float32)
    used = audio[: n_frames * PITCH_HOP_LENGTH]
    padded[lead : lead + len(used)] = used
    views = np.lib.stride_tricks.sliding_window_view(padded, BOUNDED_WINDOW_HOPS * PITCH_HOP_LENGTH)[::PITCH_HOP_LENGTH]
    silence = ((0, 0), (0, BOUNDED_SILENCE_HOPS * PITCH_HOP_LENGTH))
    parts: list[list[NDArray[np.float32]]] = []
    for start in range(0, n_frames, _BATCH):
        windows = np.pad(views[start : start + _BATCH], silence)
        results = session.run(["f0_hz", "confidence"], {"audio": windows})
        parts.append([result[:, BOUNDED_WINDOW_HOPS - 1] for result in results])
    f0_hz, confidence = (np.concatenate(part) for part in zip(*parts, strict=True))
    return f0_hz, confidence


def f0_held(
    f0_hz: NDArray[np.float32], confidence: NDArray[np.float32], n_frames: int, spec: AudioSpec
) -> NDArray[np.float32]:
    """F0 in Hz at each mel frame, (T,), 0 where unvoiced: that of the last pitch frame, never of a later one."""
    index = np.minimum(held_pitch_frames(0, n_frames, spec), len(f0_hz) - 1)
    return np.where(confidence[index] >= VOICED_CONFIDENCE, f0_hz[index], 0.0).astype(np.float32)


RTF_REPEATS = 5


def open_graph(bundle: Bundle, name: str) -> sessions.OnnxGraph:
    """A graph of the bundle on one thread."""
    return sessions.open_graph(bundle, name, bundle.manifest.graphs[name], threads=1)


def copy_synthesis(bundle: Bundle, songs: Iterable[HeldOutSong], meter: PitchMeter) -> MelScore:
    """True mels through the vocoder, with the F0 that the pitch graph finds; means over all singers of all songs."""
    vocoder, spec = open_graph(bundle, "vocoder"), bundle.manifest.audio
    return mean_of([copy_of(vocoder.run, clip, spec, meter)[1] for clip in held_out_clips(songs, spec)])


@dataclass(frozen=True)
class HeldOutClip:
    """audio (L,) at the rate of a voice, and the true F0 at its frames, (T,) in Hz. `seed` is its number."""

    seed: int
    audio: NDArray[np.float32]
    f0_hz: NDArray[np.float32]


def held_out_clips(songs: Iterable[HeldOutSong], spec: AudioSpec) -> Iterable[HeldOutClip]:
    """All singers of all songs."""
    every = ((song, audio) for song in songs for audio in (song.sources | song.targets).values())
    for seed, (song, audio) in enumerate(every):
        yield HeldOutClip(seed, soxr.resample(audio, SAMPLE_RATE, spec.sample_rate), song.f0_at_frames(spec))


def copy_of(
    run: Callable[[dict[str, NDArray]], Sequence[NDArray]],
    clip: HeldOutClip,
    spec: AudioSpec,
    meter: PitchMeter,
    source_kind: str = "pulse",
) -> tuple[NDArray[np.float32], MelScore]:
    """The clip's own mel through the vocoder graph that `run` runs, with the F0 that the pitch graph finds: the audio
    (L,) and its distance to the clip.
    """
    inputs = copy_inputs(clip, spec, meter, source_kind)
    (copied,) = run({name: array[None] for name, array in inputs.items()})
    return copied[0], score_mel(mel_spectrogram(copied[0], spec), inputs["mel"], spec.mel_log_base)


def copy_inputs(clip: HeldOutClip, spec: AudioSpec, meter: PitchMeter, source_kind: str) -> dict[str, NDArray]:
    """mel (T, M), f0_hz (T,), source (L, H) and noise (L,)."""
    mel, f0_hz = mel_spectrogram(clip.audio, spec), meter(clip.audio, spec.sample_rate, spec)
    source = clip_source(source_kind, f0_hz, spec, clip.seed)
    noise = noise_samples(clip.seed, 0, spec.samples(len(mel)))
    return {"mel": mel, "f0_hz": f0_hz, "source": source, "noise": noise}


@dataclass(frozen=True)
class FrameAccuracy:
    """Share of content frames whose most probable phone is the right one."""

    all: float
    sounding: float
    """Without the frames that are silence by the label."""
    n_frames: int


def content_accuracy(
    bundle: Bundle, clips: Iterable[tuple[NDArray[np.float32], Labels]], name: str = "content"
) -> FrameAccuracy:
    """The content graph, or `content_low`, on clips (audio (L,) at 24 kHz, labels)."""
    graph, spec = open_graph(bundle, name), bundle.manifest.audio
    labels = bundle.manifest.model.content_labels
    if labels != PHONES:
        raise ValueError(f"the content channels of this bundle are not the corpus' phones: {labels}")
    right, truth = [], []
    for audio, label in clips:
        at_16k = soxr.resample(audio, SAMPLE_RATE, spec.content_sample_rate)
        (content,) = graph.run({"audio": at_16k[None]})
        times_s = (np.arange(content.shape[1]) + 0.5) * spec.content_hop_length / spec.content_sample_rate
        phones = label.phones_at(times_s)
        truth.append(phones)
        right.append(content[0].argmax(axis=1) == phones)
    hits, phones = np.concatenate(right), np.concatenate(truth)
    sounding = phones != PHONES.index("sil")
    return FrameAccuracy(float(hits.mean()), float(hits[sounding].mean()), len(hits))


def held_out_singers_clips(songs: Iterable[HeldOutSong]) -> Iterable[tuple[NDArray[np.float32], Labels]]:
    """Clips of singers that no training saw."""
    return ((audio, song.labels) for song in songs for audio in song.sources.values())


def recorded_clips(config: CorpusConfig) -> Iterable[tuple[NDArray[np.float32], Labels]]:
    """Clips of the recorded voice that no training saw. Raises `DataError` without flite."""
    return (speak_plan(config, plan) for plan in spoken_clips(config) if plan.split == "test")


def bounded_pitch_errors(songs: Iterable[HeldOutSong], meter: PitchMeter, spec: AudioSpec) -> F0Errors:
    """F0 of the held-out singers with one pitch frame of look-ahead, held until the next."""

    def curves() -> Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        for song in songs:
            truth = song.f0_at_frames(spec)
            for audio in song.sources.values():
                at_16k = soxr.resample(audio, SAMPLE_RATE, PITCH_SAMPLE_RATE)
                yield f0_held(*track_pitch_bounded(meter.session, at_16k), len(truth), spec), truth

    return f0_errors(curves(), spec.frame_rate_hz)


def worst_parity(bundle: Bundle) -> dict[str, float]:
    """Largest relative error of each graph against torch, from the bundle's own `parity.json`."""
    worst: dict[str, float] = {}
    for row in json.loads(bundle.read(PARITY_FILE))["rows"]:
        worst[row["graph"]] = max(worst.get(row["graph"], 0.0), row["relative"])
    return worst


def one_core_rtf(converter: Converter, audio: NDArray[np.float32], singer: str) -> float:
    """Processor seconds per second of audio, the whole of `convert`: median of several, after one to warm up.

    Process time, all threads together, so that neither a second core nor a busy machine flatters or spoils it.
    """
    seconds = []
    for _ in range(1 + RTF_REPEATS):
        start = time.process_time()
        converter.convert(audio, SAMPLE_RATE, singer=singer)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:])) / (len(audio) / SAMPLE_RATE)
