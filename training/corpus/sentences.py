"""Invented English sentences with all phones in them, so that no text has to be taken from anywhere."""

import numpy as np


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
