"""How good a content encoder is: frames named right, and how much of the singer its output still tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .content_data import LabelledClip
from .corpus import PHONES

Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Audio (N,) within ±1 at the content rate -> posteriorgram (S, C)."""


@dataclass(frozen=True)
class FrameScore:
    """Share of frames whose most probable phone is the right one."""

    accuracy: float
    """Over all frames, silence included."""
    accuracy_sounding: float
    """Over the frames that are not silence."""
    cross_entropy_nats: float
    """Mean -ln p of the right phone: it sees a posteriorgram that is wrong with confidence."""
    n_frames: int


def score_frames(encode: Encode, clips: Sequence[LabelledClip], hop: int, sample_rate: int) -> FrameScore:
    """Compare the posteriorgrams of `clips` with their labels at the centres of the content frames."""
    probability, right, truth = [], [], []
    for clip in clips:
        posterior = encode(clip.waveform)
        phones = clip.frame_phones(hop, sample_rate)
        probability.append(posterior[np.arange(len(phones)), phones])
        right.append(posterior.argmax(axis=1) == phones)
        truth.append(phones)
    hits, sounding = np.concatenate(right), np.concatenate(truth) != PHONES.index("sil")
    nats = -np.log(np.maximum(np.concatenate(probability), 1e-9))
    return FrameScore(float(hits.mean()), float(hits[sounding].mean()), float(nats.mean()), len(hits))


@dataclass(frozen=True)
class ProbeScore:
    """How often a linear classifier names the singer of a single frame, against always naming the commonest."""

    accuracy: float
    chance: float


def probe_singer(
    encode: Encode, fitted: Sequence[LabelledClip], held_out: Sequence[LabelledClip], *, seed: int, steps: int = 300
) -> ProbeScore:
    """Fit a logistic regression from posteriorgram frames of `fitted` to their singers and score it on `held_out`.

    The two must hold the same singers and different songs, or the probe learns songs. Chance is counted on `held_out`.
    """
    singers = sorted({clip.singer for clip in fitted})
    frames, labels = _frames_by_singer(encode, fitted, singers)
    test_frames, test_labels = _frames_by_singer(encode, held_out, singers)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(frames.shape[1], len(singers), requires_grad=True)
    bias = torch.zeros(len(singers), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=0.05)
    for _ in range(steps):
        picked = torch.randint(len(frames), (4096,), generator=generator)
        loss = F.cross_entropy(frames[picked] @ weight + bias, labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    named = (test_frames @ weight + bias).argmax(dim=1)
    counts = torch.bincount(test_labels, minlength=len(singers))
    return ProbeScore((named == test_labels).float().mean().item(), (counts.max() / counts.sum()).item())


def _frames_by_singer(
    encode: Encode, clips: Sequence[LabelledClip], singers: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    posteriors = [encode(clip.waveform) for clip in clips]
    labels = np.repeat([singers.index(clip.singer) for clip in clips], [len(p) for p in posteriors])
    return torch.from_numpy(np.concatenate(posteriors)), torch.from_numpy(labels)
