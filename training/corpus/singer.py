"""Synthetic singers: their parameters, glottal pulse, vocal tract and frication noise."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .performance import Performance
from .phones import NOISE_NAMES, NOISE_SHAPES

N_FORMANTS = 12


@dataclass(frozen=True, kw_only=True)
class SyntheticSinger:
    """Parameters of a synthetic voice. Loudness is no part of it: that belongs to the performance."""

    name: str
    tract_scale: float
    """Factor on all resonances: 0.86 a long vocal tract, 1.2 a short one."""
    formant_offsets: tuple[float, ...] = (1.0,) * N_FORMANTS
    """Further factor per formant."""
    bandwidth: float = 1.0
    open_quotient: float = 0.6
    asymmetry: float = 0.7
    tilt_db: float = 9.0
    """Loss of the glottal source at 3 kHz at medium effort."""
    breath_db: float = -30.0
    """Aspiration relative to the harmonic part at medium effort."""
    ring: float = 0.3
    """0..1 clustering of formants 3 to 5 (singer's formant)."""
    nasality: float = 0.0
    """0..1 coupling of the nose in vowels."""
    slope_db: float = 0.0
    """dB per octave above 3 kHz."""
    sibilance: float = 1.0
    """Factor on the frequencies of frication noise."""
    jitter: float = 0.0015
    """Deviation of a pulse's place, in periods; it does not accumulate."""
    shimmer: float = 0.01

    def parameters(self) -> dict:
        """All parameters but the name, ready for JSON."""
        values = asdict(self)
        values.pop("name")
        values["formant_offsets"] = list(self.formant_offsets)
        return values


def draw_singer(rng: np.random.Generator, name: str) -> SyntheticSinger:
    """A random singer from the whole range of voices."""
    spread = np.array([0.03, 0.03, 0.04, 0.05] + [0.06] * (N_FORMANTS - 4))
    return SyntheticSinger(
        name=name,
        tract_scale=float(rng.uniform(0.86, 1.2)),
        formant_offsets=tuple(float(x) for x in 1 + spread * np.clip(rng.standard_normal(N_FORMANTS), -1.5, 1.5)),
        bandwidth=float(rng.uniform(0.75, 1.5)),
        open_quotient=float(rng.uniform(0.42, 0.8)),
        asymmetry=float(rng.uniform(0.62, 0.8)),
        tilt_db=float(rng.uniform(2, 18)),
        breath_db=float(rng.uniform(-46, -28)),
        ring=float(rng.uniform(0, 1)),
        nasality=float(rng.uniform(0, 0.6)),
        slope_db=float(rng.uniform(-6.5, 5.5)),
        sibilance=float(rng.uniform(0.85, 1.2)),
        jitter=float(rng.uniform(0.0005, 0.0025)),
        shimmer=float(rng.uniform(0.004, 0.02)),
    )


_BASE_OFFSETS = {
    "alto": (1.02, 0.97, 1.03, 0.96, 1.05, 0.97, 1.03, 1.0, 0.97, 1.04, 0.98, 1.0),
    "bass": (0.97, 1.03, 0.96, 1.05, 0.95, 1.04, 0.97, 1.03, 1.0, 0.96, 1.03, 1.0),
    "tenor": (1.0, 1.02, 1.05, 0.95, 0.97, 1.05, 1.02, 0.96, 1.04, 1.0, 0.97, 1.0),
    "soprano": (1.03, 1.0, 0.97, 1.04, 1.02, 0.96, 1.0, 1.05, 0.96, 1.02, 1.0, 1.0),
}

# Far apart from each other on every axis that survives equal loudness: resonances, tilt, slope, ring, breath.
DEMO_SINGERS = (
    SyntheticSinger(
        name="alto",
        tract_scale=1.06,
        formant_offsets=_BASE_OFFSETS["alto"],
        bandwidth=1.5,
        open_quotient=0.78,
        asymmetry=0.64,
        tilt_db=16,
        breath_db=-33,
        ring=0.0,
        nasality=0.1,
        slope_db=2.5,
        sibilance=1.0,
        jitter=0.0015,
        shimmer=0.012,
    ),
    SyntheticSinger(
        name="bass",
        tract_scale=0.86,
        formant_offsets=_BASE_OFFSETS["bass"],
        bandwidth=0.85,
        open_quotient=0.5,
        asymmetry=0.76,
        tilt_db=9,
        breath_db=-44,
        ring=1.0,
        nasality=0.0,
        slope_db=-6.0,
        sibilance=0.86,
        jitter=0.001,
        shimmer=0.006,
    ),
    SyntheticSinger(
        name="tenor",
        tract_scale=0.96,
        formant_offsets=_BASE_OFFSETS["tenor"],
        bandwidth=0.8,
        open_quotient=0.42,
        asymmetry=0.8,
        tilt_db=1.5,
        breath_db=-40,
        ring=0.5,
        nasality=0.55,
        slope_db=3.5,
        sibilance=1.1,
        jitter=0.001,
        shimmer=0.008,
    ),
    SyntheticSinger(
        name="soprano",
        tract_scale=1.2,
        formant_offsets=_BASE_OFFSETS["soprano"],
        bandwidth=1.1,
        open_quotient=0.65,
        asymmetry=0.68,
        tilt_db=10,
        breath_db=-36,
        ring=0.3,
        nasality=0.2,
        slope_db=-4.5,
        sibilance=1.2,
        jitter=0.001,
        shimmer=0.008,
    ),
)


@dataclass(frozen=True)
class _Unseen:
    tract_scale: float
    tilt_db: float
    breath_db: float
    ring: float
    open_quotient: float
    sibilance: float
    nasality: float
    slope_db: float


# Combinations that no demo voice has: long and bright, short and pressed, dark and breathy, short and dark.
_UNSEEN = (
    _Unseen(0.90, 3.0, -38.0, 0.0, 0.45, 0.95, 0.3, 5.0),
    _Unseen(1.15, 2.0, -40.0, 1.0, 0.44, 1.10, 0.0, 4.0),
    _Unseen(1.01, 18.0, -32.0, 0.0, 0.75, 0.90, 0.4, -5.5),
    _Unseen(1.18, 15.0, -34.0, 0.7, 0.70, 1.15, 0.5, -1.0),
)


def held_out_singers(seed: int, count: int) -> tuple[SyntheticSinger, ...]:
    """Singers that no training sees; beyond the four designed ones they are drawn."""
    drawn = (draw_singer(np.random.default_rng([seed, 7001, n]), f"unseen-{n + 1}") for n in range(count))
    return tuple(replace(s, **asdict(_UNSEEN[n])) if n < len(_UNSEEN) else s for n, s in enumerate(drawn))


def training_singers(seed: int, count: int) -> tuple[SyntheticSinger, ...]:
    """`count` drawn singers for variety; the tract lengths are spread evenly rather than left to chance."""
    scales = np.random.default_rng([seed, 7002]).permutation(np.linspace(0.86, 1.2, max(count, 1)))
    return tuple(
        replace(
            draw_singer(np.random.default_rng([seed, 7003, index]), f"singer-{index + 1:02d}"),
            tract_scale=float(scales[index]),
        )
        for index in range(count)
    )


_UPPER_FORMANTS_HZ = (4400.0, 5350.0, 6300.0, 7250.0, 8200.0, 9150.0, 10100.0, 11050.0)
_BANDWIDTHS_HZ = (60.0, 85.0, 120.0, 160.0, 220.0, 300.0, 360.0, 420.0, 480.0, 540.0, 600.0, 660.0)
Complex = NDArray[np.complex64]
Float = NDArray[np.float32]


def glottal_pulses(pitch_hz: Float, effort: Float, singer: SyntheticSinger, bins_hz: Float) -> Complex:
    """Derivative of the glottal flow (P, F) of pulses at `pitch_hz` (P,): the causal-anticausal linear model.

    Doval, d'Alessandro, Henrich, "The voice source as a causal/anticausal linear filter", 2003. The opening phase is a
    growing oscillation (anticausal pole pair), the return phase a low-pass. Effort closes the glottis and flattens the
    tilt.
    """
    quotient = np.clip(singer.open_quotient * (1.12 - 0.24 * effort), 0.3, 0.9)
    open_rate = pitch_hz / quotient  # 1 / duration of the open phase
    real = np.pi * open_rate / np.tan(np.pi * singer.asymmetry)  # negative: asymmetry > 0.5
    imaginary = np.pi * open_rate
    s = (2j * np.pi * bins_hz).astype(np.complex64)
    # s + real with real < 0: poles at +|real| +- j imaginary, i.e. a response that grows until closure.
    formant = (s[None, :] + real[:, None].astype(np.float32)) ** 2 + (imaginary[:, None] ** 2).astype(np.float32)
    tilt_db = singer.tilt_db * (1.45 - 0.9 * effort)
    corner = 3000.0 / np.sqrt(10 ** (np.maximum(tilt_db, 0.2) / 10) - 1)
    tilt = 1 + 1j * bins_hz[None, :] / corner[:, None].astype(np.float32)
    scale = (imaginary**2).astype(np.float32)[:, None]
    return (s[None, :] / (2 * np.pi * 200.0) * scale / formant / tilt).astype(np.complex64)


def singer_formants(performance: Performance, singer: SyntheticSinger) -> tuple[Float, Float]:
    """Formant frequencies and bandwidths (K, N_FORMANTS) in Hz of this singer singing this performance."""
    frames = len(performance.pitch_hz)
    upper = np.broadcast_to(np.asarray(_UPPER_FORMANTS_HZ), (frames, len(_UPPER_FORMANTS_HZ)))
    formants = np.concatenate([performance.formants_hz, upper], axis=1)
    bandwidths = np.asarray(_BANDWIDTHS_HZ) * singer.bandwidth * performance.bandwidth[:, None]
    gather = singer.ring * np.array([0, 0, 0.06, 0.12, 0.22, 0.12])
    formants[:, :6] += gather * (3000.0 - formants[:, :6])
    bandwidths[:, 2:5] *= 1 - 0.45 * singer.ring
    formants *= singer.tract_scale * np.asarray(singer.formant_offsets[:N_FORMANTS])
    # Above its first formant a voice would fall silent; singers raise the jaw's formant with the pitch.
    open_mouth = performance.damp_db < 2.0
    tuned = np.maximum(formants[:, 0], 1.02 * performance.pitch_hz)
    formants[:, 0] = np.where(open_mouth, tuned, formants[:, 0])
    formants[:, 1] = np.maximum(formants[:, 1], formants[:, 0] + 150.0)
    return formants.astype(np.float32), (bandwidths + 0.012 * formants).astype(np.float32)


def tract_frames(performance: Performance, singer: SyntheticSinger, bins_hz: Float) -> Complex:
    """Transfer function (K, F) of the vocal tract: resonators, nasal branch, closed-mouth loss, singer's slope."""
    formants, bandwidths = singer_formants(performance, singer)
    square = (bins_hz**2)[None, :]
    spectrum = np.ones((len(formants), len(bins_hz)), dtype=np.complex64)
    denominator = np.empty_like(spectrum)
    for n in range(formants.shape[1]):
        centre2 = (formants[:, n] ** 2)[:, None]
        denominator.real = 1 - square / centre2
        denominator.imag = bins_hz[None, :] * (bandwidths[:, n, None] / centre2)
        spectrum *= denominator
    np.reciprocal(spectrum, out=spectrum)
    spectrum *= _nasal_branch(performance, singer, bins_hz)
    spectrum *= _shelf(performance, singer, bins_hz) * _higher_poles(singer, bins_hz)[None, :]
    return spectrum


def _higher_poles(singer: SyntheticSinger, bins_hz: Float) -> Float:
    """What the resonances above the modelled ones add below them (F,); without it a cascade falls far too steeply."""
    centres_hz = singer.tract_scale * (_UPPER_FORMANTS_HZ[-1] + 950.0 * np.arange(1, 40))
    ratio = np.minimum(bins_hz[None, :] / centres_hz[:, None], 0.85)
    return (1 / np.prod(1 - ratio**2, axis=0)).astype(np.float32)


def _nasal_branch(performance: Performance, singer: SyntheticSinger, bins_hz: Float) -> Complex:
    """Antiformant in nasals and l, and a weak pole-zero pair near 300 Hz in the vowels of a nasal singer."""
    depth = performance.side_branch.astype(np.float32)[:, None]
    zero = (performance.zero_hz * singer.tract_scale).astype(np.float32)[:, None]
    ratio = bins_hz[None, :] / zero
    numerator = 1 - ratio**2 + 1j * ratio * np.float32(0.10)
    denominator = 1 - ratio**2 + 1j * ratio * np.float32(0.75)
    branch = 1 + depth * (numerator / denominator - 1)
    pole, antipole = 270.0 * singer.tract_scale, (270.0 + 260.0 * singer.nasality) * singer.tract_scale
    fixed = _resonance(bins_hz, antipole, 110.0) / _resonance(bins_hz, pole, 110.0)
    return (branch * fixed[None, :]).astype(np.complex64)


def _resonance(bins_hz: Float, centre_hz: float, bandwidth_hz: float) -> NDArray[np.complex128]:
    return 1 - (bins_hz / centre_hz) ** 2 + 1j * bins_hz * bandwidth_hz / centre_hz**2


def _shelf(performance: Performance, singer: SyntheticSinger, bins_hz: Float) -> Float:
    octaves_above_1k = np.log2(np.maximum(bins_hz, 1000.0) / 1000.0)
    octaves_above_3k = np.log2(np.maximum(bins_hz, 3000.0) / 3000.0)
    loss_db = -performance.damp_db[:, None] * np.minimum(octaves_above_1k, 3.0)[None, :] / 2
    return (10 ** ((loss_db + singer.slope_db * octaves_above_3k[None, :]) / 20)).astype(np.float32)


def noise_shapes(singer: SyntheticSinger, bins_hz: Float) -> Float:
    """Magnitudes (len(NOISE_NAMES) - 1, F) of the frication spectra at this singer's mouth, each of unit power."""
    rows = []
    for name in NOISE_NAMES[1:]:
        hz, db = np.asarray(NOISE_SHAPES[name]).T
        level = np.interp(bins_hz / singer.sibilance, hz, db)
        slope = 0.5 * singer.slope_db * np.log2(np.maximum(bins_hz, 3000.0) / 3000.0)
        magnitude = 10 ** ((level + slope) / 20)
        rows.append(magnitude / np.sqrt(np.mean(magnitude**2)))
    return np.asarray(rows, dtype=np.float32)
