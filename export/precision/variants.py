"""Graphs of a voice in another precision: allowed losses against float32, and the measured ones.

Torch has no part in this: float32 graphs are compared with torch when they are exported, and these with the float32
graphs, so that a voice whose training is elsewhere can be given another precision too.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import soxr
from numpy.typing import NDArray
from onnx import ModelProto

from ...runtime.audio.pitch import PITCH_SAMPLE_RATE, VOICED_CONFIDENCE
from ...runtime.audio.spec import AudioSpec
from ...runtime.voice.graphs import GRAPHS
from ...runtime.voice.manifest import Manifest
from ...training.content.encoders import ContentVecConfig
from ..errors import ExportError, ParityError
from ..graphs.inputs import Arrays, InputMaker
from ..graphs.parity import BATCHES, LENGTHS, Runner, chain_graphs, chain_inputs, chain_step, lengths, relative_error

Measure = Callable[[Arrays, Arrays, AudioSpec], float | None]
"""Takes the outputs in this precision and those in float32; None if they cannot be compared."""
OpenFp32 = Callable[[str], Runner]
"""Opens a float32 graph of a voice by its name."""


class StaysFloat32Error(ExportError):
    """A graph that cannot be had in a precision; says why, without its name."""


@dataclass(frozen=True)
class Budget:
    """An allowed loss of a graph. `limit` is the largest allowed value of `measure`, or the smallest of one in dB."""

    measure: str
    limit: float
    reason: str

    def allows(self, value: float) -> bool:
        return value >= self.limit if self.measure in _AT_LEAST else value <= self.limit  # False for NaN


def _relative(got: Arrays, wanted: Arrays, _: AudioSpec) -> float:
    return max(relative_error(got[name], value) for name, value in wanted.items())


def _mel_nepers(got: Arrays, wanted: Arrays, spec: AudioSpec) -> float:
    """Root mean square difference of log-mel spectra, to base e."""
    square = [np.square(got[name].astype(np.float64) - value).mean() for name, value in wanted.items()]
    return float(np.sqrt(max(square)) * np.log(spec.mel_log_base))


def _snr_db(got: Arrays, wanted: Arrays, _: AudioSpec) -> float:
    """20 log10(||b|| / ||a - b||)."""
    return float(-20.0 * np.log10(max(relative_error(got["audio"], wanted["audio"]), 1e-15)))


def _f0_cents(got: Arrays, wanted: Arrays, _: AudioSpec) -> float | None:
    """95th percentile of the difference in F0 over the frames that are voiced in both."""
    both = (got["confidence"] >= VOICED_CONFIDENCE) & (wanted["confidence"] >= VOICED_CONFIDENCE)
    if not both.any():
        return None
    return float(np.percentile(np.abs(1200.0 * np.log2(got["f0_hz"][both] / wanted["f0_hz"][both])), 95.0))


def _confidence(got: Arrays, wanted: Arrays, _: AudioSpec) -> float:
    return float(np.abs(got["confidence"] - wanted["confidence"]).max())


MEASURES: dict[str, Measure] = {
    "relative": _relative,
    "mel_nepers": _mel_nepers,
    "snr_db": _snr_db,
    "f0_cents": _f0_cents,
    "confidence": _confidence,
}
_AT_LEAST = ("snr_db",)

_CONTENT = Budget("relative", 5e-3, "noise of this size on the content moves the demo's mel by 0.004 nepers")
_MEL = Budget("mel_nepers", 0.01, "0.09 dB: a tenth of the difference in level that is just heard")
_F0 = Budget("f0_cents", 1.0, "a fifth of the smallest difference in pitch that is heard, 5 cents")
BUDGETS = {
    "content": (_CONTENT,),
    "content_low": (_CONTENT,),
    "pitch": (_F0, Budget("confidence", 0.02, "a frame this near to 0.5 is voiced or not by chance anyway")),
    "acoustic": (_MEL,),
    "acoustic_n": (_MEL,),
    "vocoder": (Budget("snr_db", 40.0, "a voice masks noise of its own spectrum 20 dB below it"),),
    "end_to_end": (
        Budget("snr_db", 30.0, "three graphs in a row, and a vocoder that follows each difference in the mel"),
        Budget("f0_cents", 3.0, "below the 5 cents that are heard, and the tracker itself errs on what is hardly sung"),
    ),
}


@dataclass(frozen=True)
class Precision:
    """Makes graphs in a precision, and runs them."""

    name: str
    make: Callable[[str, ModelProto, InputMaker, OpenFp32], "Made"]
    """Graph's name, its float32 model, inputs for it, every float32 graph. Raises `StaysFloat32Error`."""
    runner: Callable[[bytes], Runner]
    budgets: Mapping[str, tuple[Budget, ...]] = field(default_factory=lambda: BUDGETS)


@dataclass(frozen=True)
class Made:
    """A graph in another precision: the file, and further facts for its record in parity.json."""

    data: bytes
    facts: Mapping[str, object]


@dataclass(frozen=True)
class VariantRow:
    """One figure of a graph in another precision against float32. `length` as in `ParityRow`."""

    graph: str
    provider: str
    precision: str
    batch: int
    length: int
    measure: str
    value: float
    budget: float
    ok: bool

    def as_dict(self) -> dict[str, str | int | float]:
        return asdict(self)

    @property
    def figure(self) -> str:
        side = "at least" if self.measure in _AT_LEAST else "at most"
        where = f"at batch {self.batch}, length {self.length}"
        return f"{where}: {self.measure} {self.value:.3g}, {side} {self.budget:g} allowed"

    def __str__(self) -> str:
        return f"{self.graph} in {self.precision} {self.figure}"


def input_maker(manifest: Manifest, embeddings: NDArray[np.float32]) -> InputMaker:
    """Inputs for the graphs of a bundle."""
    model, front_end = manifest.model, manifest.front_end
    indices = [index for schedule in model.schedules.values() for index in schedule]
    return InputMaker(
        audio=manifest.audio,
        sizes={
            "C": model.content_channels,
            "D": model.singer_channels,
            "H": model.source.channels,
            "M": manifest.audio.n_mels,
        },
        n_sigmas=1 + max(indices, default=-1),
        source_kind=model.source.kind,
        phones=bool(model.content_labels),
        min_samples=ContentVecConfig().min_samples if front_end.content_window_s else manifest.audio.content_hop_length,
        embeddings=embeddings,
    )


def figures(
    graph: str, precision: Precision, got: Arrays, wanted: Arrays, size: tuple[int, int], audio: AudioSpec
) -> Iterator[VariantRow]:
    """Each measure of a graph's budgets that its outputs allow; `size` is batch and length."""
    finite = all(np.isfinite(value).all() for value in got.values())
    for budget in precision.budgets[graph]:
        value = MEASURES[budget.measure](got, wanted, audio) if finite else float("nan")
        if value is not None:
            ok = budget.allows(value)
            yield VariantRow(graph, "cpu", precision.name, *size, budget.measure, value, budget.limit, ok)


def check_variant(
    graph: str, precision: Precision, runner: Runner, reference: Runner, maker: InputMaker
) -> list[VariantRow]:
    """A graph at every length of `LENGTHS` and batch of `BATCHES` against the float32 one."""
    spec, rows = GRAPHS[graph], []
    for batch in BATCHES:
        for length in lengths(spec, maker):
            inputs = maker.make(spec, batch, length, seed=1)
            rows += figures(graph, precision, runner(inputs), reference(inputs), (batch, length), maker.audio)
    return rows


def check_chain(
    precision: Precision, open_variant: Callable[[str], Runner], open_fp32: OpenFp32, maker: InputMaker
) -> list[VariantRow]:
    """Audio to audio, and the F0 that the float32 pitch graph finds in both results. One graph is open at a time."""
    sizes = [(batch, length) for batch in BATCHES for length in LENGTHS["end_to_end"]]
    feeds = [chain_inputs(maker, *size) for size in sizes]
    got, wanted = ([{"audio": audio} for audio, _ in feeds] for _ in range(2))
    for states, opened in ((got, open_variant), (wanted, open_fp32)):
        for graph in chain_graphs(maker):
            runner = opened(graph)
            for state, (_, inputs) in zip(states, feeds, strict=True):
                state |= chain_step(graph, runner, state, inputs, maker.audio)
            del runner
    track = open_fp32("pitch")
    for state in (*got, *wanted):
        at_16k = [soxr.resample(row, maker.audio.sample_rate, PITCH_SAMPLE_RATE) for row in state["audio"]]
        state |= track({"audio": np.stack(at_16k).astype(np.float32)})
    found = zip(got, wanted, sizes, strict=True)
    return [row for a, b, size in found for row in figures("end_to_end", precision, a, b, size, maker.audio)]


def require_budgets(rows: list[VariantRow]) -> None:
    """`ParityError` with every row that misses its budget."""
    misses = [str(row) for row in rows if not row.ok]
    if misses:
        raise ParityError("a graph is further from float32 than its budget\n" + "\n".join(misses))


def variant_summary(rows: list[VariantRow]) -> list[tuple[str, ...]]:
    """Of each graph, precision and measure: those, number of figures, the worst, the budget."""
    groups: dict[tuple[str, str, str], list[VariantRow]] = {}
    for row in rows:
        groups.setdefault((row.graph, row.precision, row.measure), []).append(row)
    table = []
    for key, found in groups.items():
        worst = (min if key[2] in _AT_LEAST else max)(row.value for row in found)
        table.append((*key, str(len(found)), f"{worst:.3g}", f"{found[0].budget:g}"))
    return table
