"""Statements on rights in a bundle: licence and credit of every part, consent of the singers, and the data card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.voice.manifest import LicenceEntry
from ...training.corpus import Corpus
from ...training.data.prepared import FeatureIndex
from ..errors import ExportError

SYNTHETIC, RECORDED = "synthetic", "recorded"
TARGET_DATA = "training data: target singers"
"""`part` of the licence entry of the target singers' recordings."""
_IMPORTED = "imported from "
_OURS = "the comosvc authors"
_SYNTHETIC_CREDIT = "no person: a voice of the synthesiser in comosvc.training.corpus"
_SYNTHETIC_CONSENT = "not needed: the voices are synthetic and imitate no person"
_RECORDED_LICENCE = (
    "CMU's and CSTR's permissive terms: use, copy, modify and distribute freely with their notice; no endorsement"
)
_RECORDED_CREDIT = (
    "flite, Alan W Black and Kevin Lenzo; CMU ARCTIC, John Kominek and Alan W Black, Language Technologies Institute, "
    "Carnegie Mellon University; Festival and KED, Centre for Speech Technology Research, University of Edinburgh"
)
PITCH_LICENCE = LicenceEntry(
    part="pitch graph", licence="MIT", credit="swift-f0 0.3.0, Lars Nieradzik: NOTICE-swift-f0.txt"
)


@dataclass(frozen=True)
class Statements:
    """Statements of the exporting person on recorded singers: licence, credit and consent."""

    licence: str | None = None
    credit: str | None = None
    consent: str | None = None

    def of_singer(self, name: str, kind: str) -> tuple[str, str]:
        """Licence and credit of a target singer. Raises `ExportError` for a recorded singer without `consent`."""
        if kind == SYNTHETIC:
            return "MIT", _SYNTHETIC_CREDIT
        if self.consent is None:
            raise ExportError(
                f"{name} is a recorded person; a voice of a person is not exported without a word on their consent\n"
                'hint: --consent "how they agreed", --licence "terms of the voice" and --credit "whom to thank"'
            )
        return self.licence or "not stated", self.credit or "not stated"

    def consent_text(self, kinds: set[str]) -> str:
        """The manifest's consent for target singers of these kinds."""
        return self.consent or _SYNTHETIC_CONSENT if RECORDED in kinds else _SYNTHETIC_CONSENT

    def licences(self, features: FeatureIndex, taken_from: Mapping[str, str]) -> tuple[LicenceEntry, ...]:
        """One entry for each part: networks, pitch graph and every kind of training material. `taken_from`: the file of
        each network that was not trained here.
        """
        ours = [part for part in ("content", "acoustic", "vocoder") if part not in taken_from]
        own_graphs = f"{_listed(ours)} graph{'s' * (len(ours) > 1)}"
        entries = [
            *([LicenceEntry(part=own_graphs, licence="MIT", credit=_OURS)] if ours else []),
            *(imported_part(part, file) for part, file in taken_from.items()),
            PITCH_LICENCE,
        ]
        singers = features.singers.values()
        if any(singer.kind == SYNTHETIC for singer in singers):
            entries.append(LicenceEntry(part="training data: synthetic singers", licence="MIT", credit=_OURS))
        if any(singer.kind == RECORDED and not singer.demo for singer in singers):
            entries.append(
                LicenceEntry(part="training data: recorded voices", licence=_RECORDED_LICENCE, credit=_RECORDED_CREDIT)
            )
        if any(singer.kind == RECORDED and singer.demo for singer in singers):
            own = (self.licence or "not stated", self.credit or "not stated")
            entries.append(LicenceEntry(part=TARGET_DATA, licence=own[0], credit=own[1]))
        return tuple(entries)


def imported_part(part: str, file: str, licence: str | None = None) -> LicenceEntry:
    """The licence entry of a network from the file `file`."""
    return LicenceEntry(part=f"{part} graph", licence=licence or "not stated", credit=f"{_IMPORTED}{file}")


def is_imported(entry: LicenceEntry, part: str) -> bool:
    """True if `imported_part` made this entry for `part`."""
    return entry.part == imported_part(part, "").part and entry.credit.startswith(_IMPORTED)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def data_card(run: Path, features: FeatureIndex) -> str:
    """The training data of the voice in words, with the card of the corpus if there is one."""
    minutes = sum(singer.minutes for singer in features.singers.values())
    lines = [
        "# What this voice was trained on",
        "",
        f"{minutes:.0f} minutes of {len(features.singers)} voices.",
        "",
        "| Target singer | Kind | Minutes | F0 median, Hz | F0 range, Hz |",
        "|---|---|---|---|---|",
    ]
    for name, singer in features.singers.items():
        if singer.demo:
            low, high = singer.f0_range_hz
            f0 = f"{singer.f0_median_hz:.0f} | {low:.0f}-{high:.0f}"
            lines.append(f"| {name} | {singer.kind} | {singer.minutes:.1f} | {f0} |")
    if (run / "corpus" / "corpus.json").is_file():
        lines += ["", Corpus.open(run / "corpus").data_card]
    return "\n".join(lines) + "\n"
