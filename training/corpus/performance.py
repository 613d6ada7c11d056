"""From a score to what a singer does with it: controls at 200 Hz that no singer's voice has entered yet.

The same performance rendered by two singers gives sample-aligned audio with the same F0, timing and dynamics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from .phones import ARTICULATIONS, BREATH, NOISE_NAMES, OFF_DB, PHONE_INDEX, SILENCE, State
from .songs import NoteRange, Score, compose

CONTROL_RATE_HZ = 200
_NEUTRAL = (550.0, 1450.0, 2500.0, 3500.0)
_FORMANT_GLIDE_FRAMES = 11  # Hann: half of a 55 ms transition lies on either side of the phone boundary
_LEVEL_GLIDE_FRAMES = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Performance:
    """Controls of K frames at `CONTROL_RATE_HZ`; frame k is at k / 200 s."""

    pitch_hz: Array
    """(K,) F0, running on through unvoiced phones and rests."""
    f0_hz: Array
    """(K,) F0, 0 where unvoiced: the label."""
    voice_db: Array
    """(K,) dBFS RMS of the voiced part (with its breathiness)."""
    noise_db: Array
    """(K,) dBFS RMS of frication, bursts and aspiration."""
    noise_mix: Array
    """(K, len(NOISE_NAMES)) power share of each noise shape."""
    effort: Array
    """(K,) vocal effort 0..1, a function of the dynamics alone so that loudness tells it."""
    formants_hz: Array
    """(K, 4) of the reference tract."""
    bandwidth: Array
    """(K,) factor."""
    damp_db: Array
    """(K,) loss at 4 kHz."""
    zero_hz: Array
    """(K,) antiformant."""
    side_branch: Array
    """(K,) 0..1 depth of the antiformant."""
    phone: NDArray[np.int32]
    """(P,) indices into PHONES."""
    phone_start_s: Array
    """(P,) acoustic midpoints of the transitions; the first is 0."""

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.pitch_hz) / CONTROL_RATE_HZ


@dataclass(frozen=True)
class _Timeline:
    states: tuple[State, ...]
    frames: NDArray[np.int64]
    phone: NDArray[np.int32]
    phone_start: NDArray[np.int64]
    note: NDArray[np.int64]  # per frame

    def track(self, values: list[float] | list[tuple[float, ...]]) -> Array:
        """Piecewise constant: one value (or row) per state, repeated over its frames."""
        return np.repeat(np.asarray(values, dtype=np.float64), self.frames, axis=0)


def perform_song(rng: np.random.Generator, seconds: float, notes: NoteRange) -> Performance:
    """Compose and perform a song of about `seconds` within `notes`."""
    return perform(compose(rng, seconds, notes), rng)


def perform(score: Score, rng: np.random.Generator) -> Performance:
    """Perform a score; portamento, vibrato, drift, dynamics and articulation drawn from `rng`."""
    timeline = _timeline(score)
    states = timeline.states
    frames = int(timeline.frames.sum())
    dynamics_db = _dynamics(rng, score, timeline, frames)
    voice_db = glide(timeline.track([s.voice_db for s in states]), _LEVEL_GLIDE_FRAMES)
    noise_db = glide(timeline.track([s.noise_db for s in states]), _LEVEL_GLIDE_FRAMES)
    voiced = timeline.track([float(s.voice_db > OFF_DB) for s in states]) > 0.5
    pitch_hz = _pitch(rng, score, timeline, frames)
    has_zero = timeline.track([float(s.zero_hz > 0) for s in states])
    return Performance(
        pitch_hz=pitch_hz,
        f0_hz=np.where(voiced, pitch_hz, 0.0),
        voice_db=voice_db + dynamics_db,
        noise_db=noise_db + dynamics_db,
        noise_mix=_noise_mix(timeline),
        effort=np.clip((dynamics_db + 26.0) / 11.0, 0.0, 1.0),
        formants_hz=_formants(rng, timeline, frames),
        bandwidth=glide(timeline.track([s.bandwidth for s in states]), _FORMANT_GLIDE_FRAMES),
        damp_db=glide(timeline.track([s.damp_db for s in states]), _LEVEL_GLIDE_FRAMES),
        zero_hz=_held(timeline.track([s.zero_hz for s in states])),
        side_branch=glide(has_zero, _LEVEL_GLIDE_FRAMES),
        phone=timeline.phone,
        phone_start_s=np.maximum(0.0, (timeline.phone_start - 0.5) / CONTROL_RATE_HZ),
    )


def glide(track: Array, frames: int) -> Array:
    """Smooth a piecewise constant track (K,) or (K, C) by a Hann kernel of `frames` (odd); midpoints stay in place."""
    kernel = np.hanning(frames + 2)[1:-1]
    kernel /= kernel.sum()
    half = frames // 2
    columns = track[:, None] if track.ndim == 1 else track
    padded = np.pad(columns, ((half, half), (0, 0)), mode="edge")
    smooth = np.zeros(columns.shape)
    for i, weight in enumerate(kernel):
        smooth += weight * padded[i : i + len(track)]
    return smooth[:, 0] if track.ndim == 1 else smooth


def slow_noise(rng: np.random.Generator, frames: int, cutoff_hz: float) -> Array:
    """Gaussian noise (frames,) of unit variance below about `cutoff_hz`, at the control rate."""
    pole = np.exp(-2 * np.pi * cutoff_hz / CONTROL_RATE_HZ)
    burn_in = int(2 * CONTROL_RATE_HZ / cutoff_hz)
    raw = rng.standard_normal(frames + burn_in)
    once = lfilter([1 - pole], [1, -pole], raw)
    smooth = lfilter([1 - pole], [1, -pole], once)
    gain = np.sqrt(
        (1 - pole) ** 4 * (1 + pole**2) / (1 - pole**2) ** 3
    )  # closed-form output deviation of two equal poles
    return smooth[burn_in:] / gain


def _timeline(score: Score) -> _Timeline:
    states: list[State] = []
    counts: list[int] = []
    phone: list[int] = []
    phone_start: list[int] = []
    notes: list[int] = []
    position = 0
    for segment in score.segments:
        index = PHONE_INDEX[segment.phone]
        if not phone or phone[-1] != index or index != PHONE_INDEX[SILENCE]:
            phone.append(index)
            phone_start.append(position)
        parts = (BREATH,) if segment.breath else ARTICULATIONS[segment.phone].states
        for part in parts:
            count = max(2, round(part.share * segment.duration_s * CONTROL_RATE_HZ))
            states.append(part)
            counts.append(count)
            notes += [segment.note] * count
            position += count
    return _Timeline(
        tuple(states),
        np.asarray(counts),
        np.asarray(phone, dtype=np.int32),
        np.asarray(phone_start),
        np.asarray(notes),
    )


def _held(track: Array) -> Array:
    """Replace zeros by the nearest non-zero value in time (all zero: a harmless constant)."""
    known = np.flatnonzero(track > 0)
    if len(known) == 0:
        return np.full_like(track, 1500.0)
    middle = (known[1:] + known[:-1]) // 2
    return track[known[np.searchsorted(middle, np.arange(len(track)))]]


def _formants(rng: np.random.Generator, timeline: _Timeline, frames: int) -> Array:
    targets: list[tuple[float, ...]] = []
    following: tuple[float, ...] = _NEUTRAL
    for state in reversed(timeline.states):
        following = state.formants_hz or following
        targets.append(following)
    tracks = glide(timeline.track(targets[::-1]), _FORMANT_GLIDE_FRAMES)
    note_count = int(timeline.note.max()) + 2
    per_note = 1 + np.array([0.02, 0.015, 0.01, 0.01]) * rng.standard_normal((note_count, 4))
    per_note = glide(per_note[timeline.note], _FORMANT_GLIDE_FRAMES)
    wander = np.stack([slow_noise(rng, frames, 1.5) for _ in range(4)], axis=1)
    return tracks * per_note * (1 + np.array([0.01, 0.008, 0.006, 0.006]) * wander)


def _noise_mix(timeline: _Timeline) -> Array:
    """Power shares; a state without noise keeps its neighbour's shape so that only the level moves."""
    index = timeline.track([NOISE_NAMES.index(s.noise) + 1.0 if s.noise_db > OFF_DB else 0.0 for s in timeline.states])
    index = _held(index) - 1 if (index > 0).any() else np.zeros_like(index)
    return glide(np.eye(len(NOISE_NAMES))[index.astype(int)], _LEVEL_GLIDE_FRAMES)


def _pitch(rng: np.random.Generator, score: Score, timeline: _Timeline, frames: int) -> Array:
    note = timeline.note
    known = np.flatnonzero(note >= 0)
    upcoming = known[np.minimum(np.searchsorted(known, np.arange(frames)), len(known) - 1)]
    target = np.asarray(score.pitch_midi)[note[upcoming]]
    # Second-order portamento with a slight overshoot, as singers make it.
    frequency = 2 * np.pi * rng.uniform(4.5, 7.0) / CONTROL_RATE_HZ
    damping = rng.uniform(0.7, 0.9)
    radius = np.exp(-damping * frequency)
    angle = frequency * np.sqrt(1 - damping**2)
    poles = np.array([1.0, -2 * radius * np.cos(angle), radius**2])
    melody = target[0] + lfilter([poles.sum()], poles, target - target[0])
    cents = _vibrato(rng, note[upcoming]) + 7.0 * slow_noise(rng, frames, 2.0)
    return 440.0 * 2 ** ((melody + cents / 100 - 69) / 12)


def _vibrato(rng: np.random.Generator, note: NDArray[np.int64]) -> Array:
    """Cents (K,): sets in on notes longer than about half a second, rate 5-6.5 Hz with some wobble."""
    frames = len(note)
    start = np.concatenate([[0], np.flatnonzero(np.diff(note)) + 1])
    since = np.arange(frames) - np.repeat(start, np.diff(np.append(start, frames)))
    delay = rng.uniform(0.2, 0.4) * CONTROL_RATE_HZ
    onset = np.clip((since - delay) / (0.35 * CONTROL_RATE_HZ), 0, 1)
    depth = np.asarray(rng.uniform(15, 70) * onset, dtype=np.float64)
    rate_hz = rng.uniform(5.0, 6.5) * (1 + 0.04 * slow_noise(rng, frames, 1.0))
    return glide(depth, 9) * np.sin(2 * np.pi * np.cumsum(rate_hz) / CONTROL_RATE_HZ)


def _dynamics(rng: np.random.Generator, score: Score, timeline: _Timeline, frames: int) -> Array:
    """dBFS (K,) at which vowels are sung: a level per phrase and note, slow wandering, a little more for high notes."""
    phrase_db = rng.normal(-20.0, 1.8, max(score.phrase_of, default=0) + 1)
    pitch = np.asarray(score.pitch_midi)
    note_db = phrase_db[np.asarray(score.phrase_of)] + rng.normal(0, 1.0, len(pitch)) + 0.15 * (pitch - pitch.mean())
    known = np.flatnonzero(timeline.note >= 0)
    upcoming = known[np.minimum(np.searchsorted(known, np.arange(frames)), len(known) - 1)]
    curve = glide(note_db[timeline.note[upcoming]], 41) + 0.8 * slow_noise(rng, frames, 1.0)
    return np.clip(curve, -26.0, -15.0)
