"""The data card: what the corpus is, where it comes from, what may be done with it, in words."""

_SYNTHETIC = """\
Synthetic singers ({minutes:.0f} min, {singers} voices). A source-filter synthesiser in comosvc.training.corpus composes
random melodies with invented syllables and sings them: glottal pulses and noise through twelve resonances. No recording
of a person is in it. F0, phones and timing are exact. It is robotically clean; a model trained on it alone does not
know people.
Licence: MIT, as this software; no one's likeness is used."""

_RECORDED = """\
Recorded voices ({minutes:.0f} min, {singers} voices: {names}).
Invented sentences spoken, and a few words at a time drawn out on single notes, by speech synthesisers whose voices were
built from recordings of people: of flite, slt, awb and rms from the CMU ARCTIC databases and kal16 from the KAL diphone
recordings; of Festival, ked_diphone from the KED diphone recordings. Band limited to 8 kHz. Phone times are the
synthesisers' own; F0 is not labelled. rms is held
out: nothing is trained on it. Only the content encoder needs these voices; none of them is offered as a target.
Licence: CMU's and CSTR's permissive terms (use, copy, modify and distribute freely, with their notice; no endorsement).
Credit: flite, Alan W Black and Kevin Lenzo; CMU ARCTIC, John Kominek and Alan W Black, Language Technologies Institute,
Carnegie Mellon University; Festival and KED, Centre for Speech Technology Research, University of Edinburgh."""

_SPLITS = """\
Splits. train: training singers on their own songs. valid: the demo voices on held-out songs. test: held-out singers on
the same held-out songs, in step sample by sample with valid (the ground truth of a conversion), and the held-out
recorded voice. Not for: claims about real singers. All follows from the configuration and seed in corpus.json."""


def data_card(clips: list[dict], singers: dict[str, dict]) -> str:
    """The card of a corpus with these clips and singers (as in corpus.json)."""
    parts = []
    for kind, text in (("synthetic", _SYNTHETIC), ("recorded", _RECORDED)):
        names = sorted(name for name, singer in singers.items() if singer["kind"] == kind)
        if names:
            minutes = sum(clip["seconds"] for clip in clips if clip["singer"] in names) / 60
            parts.append(text.format(minutes=minutes, singers=len(names), names=", ".join(names)))
    return "\n\n".join([*parts, _SPLITS])
