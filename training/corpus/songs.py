"""Random songs and invented English sentences."""

from dataclasses import dataclass

import numpy as np

from .phones import ARTICULATIONS, DIPHTHONGS, SILENCE, VOWELS

_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_MINOR = (0, 2, 3, 5, 7, 8, 10)
_PENTATONIC = (0, 2, 4, 7, 9)
_SCALES = (_MAJOR, _MINOR, _PENTATONIC)


def _phones(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _phones("b d g p t k f v th dh s z sh zh h m n l r w y")
_CLUSTERS = tuple(
    tuple(pair.split("+")) for pair in _phones("s+t s+k s+p p+l p+r t+r k+l k+r b+l b+r d+r g+r f+l s+w t+w s+n")
)
_CODAS = _phones("m n ng l r s z t d k g p b v f th sh dh zh")
_NOTE_LENGTHS = (0.22, 0.3, 0.4, 0.55, 0.8, 1.2, 1.7)
_NOTE_WEIGHTS = (0.12, 0.2, 0.24, 0.2, 0.14, 0.07, 0.03)


@dataclass(frozen=True)
class NoteRange:
    """Lowest and highest note of a song in Hz."""

    low_hz: float
    high_hz: float


@dataclass(frozen=True)
class Segment:
    """One phone for a time. `note` counts the notes of the score; -1 in rests."""

    phone: str
    duration_s: float
    note: int
    breath: bool = False


@dataclass(frozen=True)
class Score:
    """`pitch_midi` per note (fractional), `phrase_of` per note, and the phones in order with their notes."""

    pitch_midi: tuple[float, ...]
    phrase_of: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def seconds(self) -> float:
        """Length of the song."""
        return sum(segment.duration_s for segment in self.segments)


def hz_to_midi(hz: float) -> float:
    """MIDI note number (A4 = 69 = 440 Hz)."""
    return float(69 + 12 * np.log2(hz / 440.0))


def compose(rng: np.random.Generator, seconds: float, notes: NoteRange) -> Score:
    """A song of about `seconds` (at most one note longer) whose melody stays within `notes`."""
    ladder = _note_ladder(rng, notes)
    position = int(rng.integers(len(ladder)))
    segments = [Segment(SILENCE, float(rng.uniform(0.12, 0.25)), -1)]
    elapsed = segments[0].duration_s
    pitches: list[float] = []
    phrases: list[int] = []
    phrase = 0
    left_in_phrase = int(rng.integers(5, 11))
    tempo = float(rng.uniform(0.8, 1.2))
    while elapsed < seconds - 0.5:
        position = _step(rng, position, len(ladder))
        length = tempo * float(rng.choice(_NOTE_LENGTHS, p=_NOTE_WEIGHTS))
        new = _syllable(rng, length, len(pitches))
        pitches.append(ladder[position])
        phrases.append(phrase)
        left_in_phrase -= 1
        if left_in_phrase <= 0:
            phrase += 1
            left_in_phrase = int(rng.integers(5, 11))
            new += _rest(rng)
        segments += new
        elapsed += sum(segment.duration_s for segment in new)
    segments.append(Segment(SILENCE, float(rng.uniform(0.2, 0.3)), -1))
    return Score(tuple(pitches), tuple(phrases), tuple(segments))


def _note_ladder(rng: np.random.Generator, notes: NoteRange) -> list[float]:
    low, high = hz_to_midi(notes.low_hz), hz_to_midi(notes.high_hz)
    scale = _SCALES[int(rng.integers(len(_SCALES)))]
    root = float(rng.uniform(0, 12)) - 12  # singers are not tuned to A440
    ladder = [root + 12 * octave + degree for octave in range(11) for degree in scale]
    return [pitch for pitch in ladder if low <= pitch <= high]


def _step(rng: np.random.Generator, position: int, size: int) -> int:
    step = int(rng.choice((-4, -3, -2, -1, 0, 1, 2, 3, 4), p=(0.04, 0.07, 0.14, 0.21, 0.08, 0.21, 0.14, 0.07, 0.04)))
    moved = position + step
    return moved if 0 <= moved < size else max(0, min(size - 1, position - step))


def _rest(rng: np.random.Generator) -> list[Segment]:
    if rng.random() < 0.45:
        breath = Segment(SILENCE, float(rng.uniform(0.18, 0.28)), -1, breath=True)
        return [Segment(SILENCE, 0.05, -1), breath, Segment(SILENCE, 0.05, -1)]
    return [Segment(SILENCE, float(rng.uniform(0.12, 0.3)), -1)]


def _duration(rng: np.random.Generator, phone: str) -> float:
    return float(rng.uniform(*ARTICULATIONS[phone].duration_s))


def _syllable(rng: np.random.Generator, length_s: float, note: int) -> list[Segment]:
    """Onset, vowel or diphthong, sometimes a coda; consonants give way where the note is too short for them."""
    draw = rng.random()
    onset: tuple[str, ...] = ()
    if draw < 0.16 and length_s > 0.35:
        onset = _CLUSTERS[int(rng.integers(len(_CLUSTERS)))]
    elif draw < 0.90:
        onset = (str(rng.choice(_ONSETS)),)
    coda = (str(rng.choice(_CODAS)),) if rng.random() < 0.42 and length_s > 0.28 else ()
    before = [Segment(phone, _duration(rng, phone), note) for phone in onset]
    after = [Segment(phone, _duration(rng, phone), note) for phone in coda]
    vowel_s = max(0.11, length_s - sum(segment.duration_s for segment in before + after))
    if vowel_s > 0.24 and rng.random() < 0.25:
        first, second = DIPHTHONGS[str(rng.choice(tuple(DIPHTHONGS)))]
        second_s = float(np.clip(0.35 * vowel_s, 0.09, 0.2))
        return [*before, Segment(first, vowel_s - second_s, note), Segment(second, second_s, note), *after]
    return [*before, Segment(str(rng.choice(VOWELS)), vowel_s, note), *after]


def _words(text: str) -> list[str]:
    return text.split()


_DETERMINERS = _words("""
    the a this that every another some one your my our their his her
""")
_ADJECTIVES = _words("""
    quiet loud yellow purple young old noisy joyful cheap rich smooth rough usual strange golden silver gentle
    huge narrow wide beige thick thin thirsty foggy windy sunny royal loyal proud brown blue green good bad
    happy angry bright early late warm cool fresh soft sharp curious northern southern fuzzy shallow leisurely
    vivid
""")
_NOUNS = _words("""
    river mountain voice boy toy coin treasure measure vision garage house mouse cloud town judge church
    bridge watch kitchen fish ship shoe bush book foot woman child father mother brother bird word world nurse
    girl year beer ear chair bear fire hour flower tower moon spoon room food fruit school zoo shoe cat map
    hand lamp bag apple cup sun thumb mud lunch song wing ring king finger dog fog law water ball cloth tooth
    bath path breath weather feather leather five wave glove van view yard yacht yolk onion wheel queen wagon
    window winter rose boat road stone bone gate lake rain plate day knife light night eye sky island thought
    north horse corner door jar car garden heart
""")
_VERBS = _words("""
    sees finds loves hears takes brings holds makes pushes pulls catches watches teaches reaches joins enjoys
    avoids follows borrows touches judges changes washes buys sells knows shows throws draws leaves moves
    proves measures carries marries visits questions answers thanks paints cooks eats drinks wants needs
    fetches breathes uses
""")
_ADVERBS = _words("""
    slowly quickly loudly softly always never often usually rarely today tonight tomorrow together alone again
    outside inside upstairs anyhow somehow perhaps yesterday beautifully
""")
_PREPOSITIONS = _words("""
    in on under over behind beside near through above below along around without with before after
""")
_OPENINGS = _words("""
    now then so yes well and but oh once maybe soon there here
""")


def sentence(rng: np.random.Generator) -> str:
    """A sentence of 5 to 14 words, grammatical enough for a speech synthesiser's intonation."""

    def pick(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    def thing() -> str:
        adjective = f" {pick(_ADJECTIVES)}" if rng.random() < 0.6 else ""
        return f"{pick(_DETERMINERS)}{adjective} {pick(_NOUNS)}"

    parts = [thing(), pick(_VERBS), thing()]
    if rng.random() < 0.3:
        parts.insert(0, f"{pick(_OPENINGS)},")
    if rng.random() < 0.5:
        parts.append(f"{pick(_PREPOSITIONS)} {thing()}")
    if rng.random() < 0.35:
        parts.append(pick(_ADVERBS))
    return " ".join(parts) + ("?" if rng.random() < 0.12 else ".")


def few_words(rng: np.random.Generator) -> str:
    """One to three words to be sung on one note."""
    words = _ADJECTIVES + _NOUNS + _ADVERBS + _VERBS
    return " ".join(words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(1, 4))))
