"""Synthetic singers: what a voice adds to a performance, and the singers of the demo corpus."""

from dataclasses import asdict, dataclass, replace

import numpy as np

N_FORMANTS = 12


@dataclass(frozen=True, kw_only=True)
class Singer:
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


def draw_singer(rng: np.random.Generator, name: str) -> Singer:
    """A random singer from the whole range of voices."""
    spread = np.array([0.03, 0.03, 0.04, 0.05] + [0.06] * (N_FORMANTS - 4))
    return Singer(
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
    Singer(
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
    Singer(
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
    Singer(
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
    Singer(
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


def held_out_singers(seed: int, count: int) -> tuple[Singer, ...]:
    """Singers that no training sees; beyond the four designed ones they are drawn."""
    drawn = (draw_singer(np.random.default_rng([seed, 7001, n]), f"unseen-{n + 1}") for n in range(count))
    return tuple(replace(s, **asdict(_UNSEEN[n])) if n < len(_UNSEEN) else s for n, s in enumerate(drawn))


def training_singers(seed: int, count: int) -> tuple[Singer, ...]:
    """`count` drawn singers for variety; the tract lengths are spread evenly rather than left to chance."""
    scales = np.random.default_rng([seed, 7002]).permutation(np.linspace(0.86, 1.2, max(count, 1)))
    return tuple(
        replace(
            draw_singer(np.random.default_rng([seed, 7003, index]), f"singer-{index + 1:02d}"),
            tract_scale=float(scales[index]),
        )
        for index in range(count)
    )
