"""The clips that `make demo` converts, cut from material that no training saw. Written once, by a maintainer:

    python -m comosvc.benchmarks.demo_clips benchmarks/data

needs flite, as training does. Reading them needs neither flite nor the corpus.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from ..runtime.storage import decode

INDEX = "clips.json"
SAMPLE_RATE = 24_000
LABEL_RATE_HZ = 200
_TARGETS = ("alto", "bass")
_AT_LEAST_S = 7.0


@dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """A file of `clips.json`."""

    file: str
    singer: str
    content: str
    licence: str
    credit: str


@dataclass(frozen=True, kw_only=True)
class DemoClips:
    """The shipped clips: a sung source with its true F0 and its ground truth by two targets, and a recorded voice."""

    source: ClipEntry
    targets: tuple[ClipEntry, ...]
    recorded: ClipEntry
    f0_hz: tuple[float, ...]
    """Of the source and of both targets, at `LABEL_RATE_HZ` from time 0; 0 = unvoiced."""

    def f0_at(self, times_s: NDArray[np.floating]) -> NDArray[np.float32]:
        """True F0 in Hz at each of `times_s`, from the nearest label."""
        index = np.rint(np.asarray(times_s) * LABEL_RATE_HZ).astype(int)
        return np.array(self.f0_hz, np.float32)[np.minimum(index, len(self.f0_hz) - 1)]


def shipped_folder() -> Path:
    """Where the clips lie."""
    return Path(__file__).with_name("data")


def read_clips(folder: Path) -> DemoClips:
    """Read `clips.json`."""
    return decode(DemoClips, json.loads((folder / INDEX).read_text("utf-8")), INDEX)


def read_audio(folder: Path, entry: ClipEntry) -> NDArray[np.float32]:
    """(L,) at `SAMPLE_RATE`."""
    audio, _ = soundfile.read(folder / entry.file, dtype="float32")
    return np.asarray(audio, np.float32)


def write_clips(folder: Path) -> DemoClips:
    """Cut the clips from the first held-out song and the held-out recorded voice, and write them to `folder`."""
    from ..training.corpus import CorpusConfig, held_out_set
    from ..training.corpus.recorded import speak_plan, spoken_clips

    config = CorpusConfig(demo_singers=len(_TARGETS), held_out_singers=1, held_out_songs=1)
    song = next(held_out_set(config))
    performance = song.performance
    length_s = _next_rest_s(performance.phone, performance.phone_start_s)
    source, *targets = (
        _write(
            folder / f"{kind}_{singer}.flac",
            song.audio[singer][: round(length_s * SAMPLE_RATE)],
            ClipEntry(
                file=f"{kind}_{singer}.flac",
                singer=singer,
                content=f"{song.song} of the demo corpus, its first {length_s:.2f} s",
                licence="MIT",
                credit="synthesised by comosvc.training.corpus; no recording of a person is in it",
            ),
        )
        for kind, singer in (("source", song.sources[0]), *(("target", name) for name in _TARGETS))
    )
    plan = next(plan for plan in spoken_clips(config) if plan.split == "test")
    spoken, labels = speak_plan(config, plan)
    spoken_s = _next_rest_s(labels.phone, labels.phone_start_s)
    recorded = _write(
        folder / "source_recorded.flac",
        spoken[: round(spoken_s * SAMPLE_RATE)],
        ClipEntry(
            file="source_recorded.flac",
            singer=plan.voice.singer,
            content="an invented sentence spoken by flite's voice rms, which rests on recordings of a person",
            licence="CMU's permissive terms: NOTICE-flite.txt beside the file",
            credit="flite: Alan W Black and Kevin Lenzo; CMU ARCTIC rms: John Kominek and Alan W Black, "
            "Language Technologies Institute, Carnegie Mellon University",
        ),
    )
    f0_hz = performance.f0_hz[: round(length_s * LABEL_RATE_HZ)]
    clips = DemoClips(
        source=source,
        targets=tuple(targets),
        recorded=recorded,
        f0_hz=tuple(round(float(f), 3) for f in f0_hz),
    )
    (folder / INDEX).write_text(json.dumps(asdict(clips), indent=None, ensure_ascii=False) + "\n", "utf-8")
    return clips


def _next_rest_s(phone: NDArray[np.int32], start_s: NDArray[np.float64]) -> float:
    """The middle of the first rest from `_AT_LEAST_S` on, so that no note is cut; if there is none, the last phone."""
    from ..training.corpus import PHONES

    rests = [
        0.5 * (start + end)
        for sounding, start, end in zip(phone[:-1], start_s[:-1], start_s[1:], strict=True)
        if sounding == PHONES.index("sil") and start >= _AT_LEAST_S
    ]
    return float(rests[0] if rests else start_s[-1])


def _write(path: Path, audio: NDArray[np.float32], entry: ClipEntry) -> ClipEntry:
    soundfile.write(path, audio, SAMPLE_RATE, subtype="PCM_16")
    return entry


def main(folder: Annotated[Path, typer.Argument(help="where to write the clips")]) -> None:
    """Write the demo's clips again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clips(folder)


if __name__ == "__main__":
    typer.run(main)
