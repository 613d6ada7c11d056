"""The phone set of the content encoder, and how the synthetic voice articulates each phone.

A phone is a sequence of states. Frequencies are those of a reference vocal tract; a singer scales and bends them.
Levels are in dB relative to the dynamics curve of the performance, at which vowels are sung.
"""

from dataclasses import dataclass

SILENCE = "sil"
VOWELS = ("aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "uh", "uw")
CONSONANTS = tuple(
    ["b", "d", "g", "p", "t", "k", "f", "v", "th", "dh", "s", "z", "sh", "zh", "h", "m", "n", "ng", "l", "r", "w", "y"]
)
PHONES = (SILENCE, *VOWELS, *CONSONANTS)
"""Order of the content channels: a released encoder depends on it."""
PHONE_INDEX = {phone: index for index, phone in enumerate(PHONES)}

DIPHTHONGS = {"ay": ("aa", "ih"), "aw": ("aa", "uh"), "ey": ("eh", "ih"), "ow": ("ao", "uh"), "oy": ("ao", "ih")}
"""Sung as two phones: the content encoder sees single frames and has no use for a third label."""

OFF_DB = -80.0
ASPIRATION = "aspiration"

NOISE_SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    # (Hz, dB) of the frication spectrum at the reference tract; aspiration goes through the whole tract instead.
    # The s of recorded voices lies at 3.5-5 kHz in men; a higher one teaches the encoder to hear theirs as sh.
    "s": ((0, -50), (2500, -30), (3300, -10), (4200, -1), (5200, 0), (6500, -2), (8500, -6), (12000, -12)),
    "sh": ((0, -45), (1400, -28), (2100, -6), (2600, 0), (3300, -2), (4000, -7), (6000, -14), (12000, -30)),
    "f": ((0, -25), (700, -14), (1500, -9), (4000, -6), (8000, 0), (12000, -3)),
    "th": ((0, -35), (900, -16), (1500, -4), (2200, 0), (3200, -3), (5000, -9), (8000, -14), (12000, -20)),
    "p": ((0, -10), (400, 0), (1200, -4), (2500, -14), (6000, -25), (12000, -34)),
    "t": ((0, -40), (1500, -25), (3000, -8), (4200, 0), (6500, -3), (12000, -12)),
    "k": ((0, -30), (900, -14), (1500, 0), (2100, -2), (3200, -14), (4200, -10), (8000, -24), (12000, -30)),
}
NOISE_NAMES = (ASPIRATION, *NOISE_SHAPES)


@dataclass(frozen=True, kw_only=True)
class State:
    """A steady articulation. `formants_hz` None: borrowed from the following vowel (as h does)."""

    formants_hz: tuple[float, float, float, float] | None = None
    voice_db: float = OFF_DB
    noise: str = ASPIRATION
    noise_db: float = OFF_DB
    bandwidth: float = 1.0
    """Factor on all formant bandwidths."""
    damp_db: float = 0.0
    """Loss of the mouth-closed tract at 4 kHz, growing by as much per further two octaves."""
    zero_hz: float = 0.0
    """Antiformant of a side branch (nasals, l); 0: none."""
    share: float = 1.0
    """Part of the phone's duration."""


@dataclass(frozen=True)
class Articulation:
    """States of a phone and its usual duration range in seconds (vowels: as long as the note)."""

    states: tuple[State, ...]
    duration_s: tuple[float, float]
    voiced: bool


def _vowel(f1: float, f2: float, f3: float, f4: float, level_db: float = 0.0) -> Articulation:
    return Articulation((State(formants_hz=(f1, f2, f3, f4), voice_db=level_db),), (0.09, 2.0), True)


def _voiced(duration_s: tuple[float, float], **state) -> Articulation:
    return Articulation((State(**state),), duration_s, True)


def _fricative(shape: str, noise_db: float, formants_hz, voice_db: float = OFF_DB) -> Articulation:
    state = State(formants_hz=formants_hz, noise=shape, noise_db=noise_db, voice_db=voice_db, bandwidth=1.5, damp_db=8)
    return Articulation((state,), (0.085, 0.14) if voice_db == OFF_DB else (0.075, 0.11), voice_db > OFF_DB)


def _voiceless_stop(shape: str, formants_hz) -> Articulation:
    # The faint leak makes the place of the closure audible before the burst: look-ahead is only 20 ms.
    states = (
        State(formants_hz=formants_hz, noise=shape, noise_db=-38, share=0.50),
        State(formants_hz=formants_hz, noise=shape, noise_db=-12, share=0.25),
        State(formants_hz=None, noise=ASPIRATION, noise_db=-17, share=0.25),
    )
    return Articulation(states, (0.090, 0.125), False)


def _voiced_stop(shape: str, formants_hz) -> Articulation:
    states = (
        State(formants_hz=formants_hz, voice_db=-15, bandwidth=1.6, damp_db=16, noise=shape, noise_db=-40, share=0.75),
        State(formants_hz=formants_hz, voice_db=-10, damp_db=6, noise=shape, noise_db=-17, share=0.25),
    )
    return Articulation(states, (0.070, 0.095), True)


_LABIAL = (220.0, 850.0, 2150.0, 3300.0)
_ALVEOLAR = (220.0, 1750.0, 2750.0, 3700.0)
_VELAR = (220.0, 2050.0, 2350.0, 3300.0)
_POSTALVEOLAR = (260.0, 1950.0, 2500.0, 3400.0)
_DENTAL = (260.0, 1350.0, 2550.0, 3500.0)

ARTICULATIONS: dict[str, Articulation] = {
    SILENCE: Articulation((State(),), (0.1, 1.0), False),
    "aa": _vowel(780, 1120, 2700, 3500),
    "ae": _vowel(740, 1720, 2450, 3500),
    "ah": _vowel(620, 1360, 2500, 3450),
    "ao": _vowel(560, 840, 2550, 3350),
    "eh": _vowel(540, 1860, 2600, 3600),
    "er": _vowel(470, 1330, 1680, 3200, -1),
    "ih": _vowel(400, 2050, 2700, 3600, -1),
    "iy": _vowel(290, 2320, 3050, 3700, -2),
    "uh": _vowel(430, 1080, 2300, 3300, -1),
    "uw": _vowel(310, 760, 2200, 3300, -2),
    "b": _voiced_stop("p", _LABIAL),
    "d": _voiced_stop("t", _ALVEOLAR),
    "g": _voiced_stop("k", _VELAR),
    "p": _voiceless_stop("p", _LABIAL),
    "t": _voiceless_stop("t", _ALVEOLAR),
    "k": _voiceless_stop("k", _VELAR),
    "f": _fricative("f", -15, _LABIAL),
    "v": _fricative("f", -16, _LABIAL, -8),
    "th": _fricative("th", -17, _DENTAL),
    "dh": _fricative("th", -17, _DENTAL, -8),
    "s": _fricative("s", -10, _ALVEOLAR),
    "z": _fricative("s", -12, _ALVEOLAR, -9),
    "sh": _fricative("sh", -9, _POSTALVEOLAR),
    "zh": _fricative("sh", -11, _POSTALVEOLAR, -9),
    "h": Articulation((State(noise_db=-13),), (0.065, 0.095), False),
    "m": _voiced(
        (0.07, 0.13), formants_hz=(250, 950, 2150, 3200), voice_db=-5, bandwidth=1.6, damp_db=12, zero_hz=1650
    ),
    "n": _voiced(
        (0.07, 0.13), formants_hz=(260, 1650, 2650, 3600), voice_db=-5, bandwidth=1.6, damp_db=10, zero_hz=850
    ),
    "ng": _voiced(
        (0.08, 0.14), formants_hz=(280, 2200, 2700, 3400), voice_db=-5, bandwidth=1.6, damp_db=10, zero_hz=1250
    ),
    "l": _voiced(
        (0.07, 0.11), formants_hz=(370, 1130, 2850, 3600), voice_db=-3, bandwidth=1.2, damp_db=4, zero_hz=2100
    ),
    "r": _voiced((0.07, 0.11), formants_hz=(330, 1050, 1450, 2900), voice_db=-3, bandwidth=1.1, damp_db=3),
    "w": _voiced((0.07, 0.10), formants_hz=(280, 600, 2100, 3200), voice_db=-6, bandwidth=1.2, damp_db=8),
    "y": _voiced(
        (0.07, 0.10), formants_hz=(235, 2300, 3300, 3900), voice_db=-7, bandwidth=1.5, noise="sh", noise_db=-30
    ),
}

BREATH = State(formants_hz=(600, 1250, 2450, 3500), noise_db=-24, bandwidth=1.6, damp_db=4)
"""Audible inhalation in a rest; labelled silence."""
