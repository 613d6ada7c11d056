"""The quality table of a voice on the held-out parallel set, with the goal of each row."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...runtime import Converter
from ...runtime.errors import ComosvcError
from ...runtime.storage import sha256
from ...runtime.voice.bundle import Bundle, comosvc_home, open_bundle
from ...training.corpus import CorpusConfig
from ..held_out import (
    SAMPLE_RATE,
    HeldOutPair,
    HeldOutSong,
    Score,
    load_held_out,
    pairs,
    pool,
    rotated_pairs,
    score_conversion,
)
from ..install import measure_install
from ..metrics import PitchMeter, SingerMeter
from ..report import Figures, Provenance, Row
from .bundle_parts import (
    bounded_pitch_errors,
    content_accuracy,
    copy_synthesis,
    held_out_singers_clips,
    one_core_rtf,
    recorded_clips,
    worst_parity,
)
from .distillation import PUBLISHED, TEACHER_STEPS, measure_distillation
from .goals import GOALS


@dataclass(frozen=True)
class Found:
    """A figure; `value` None where it could not be measured, and `note` says why and how to."""

    value: float | None
    note: str


def filled(key: str, found: Found) -> Row:
    """The row `key` of the table with a figure."""
    return replace(GOALS[key], value=found.value, note=found.note)


Say = Callable[[str], None]
Rows = dict[str, Found]


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    """Choices of `comosvc-bench quality`."""

    model: str = "demo"
    provider: str = "cpu"
    precision: str = "auto"
    """The two of the conversions and the RTF; the parts are measured as ONNX graphs in fp32 on the CPU."""
    run: Path | None = None
    """A run folder, for the rows that need torch: teacher, published student, distances to the ODE."""
    install: str | None = None
    """Requirement of the slim install, for pip: ".[cpu]" in a checkout, or a wheel with [cpu]."""
    constraint: Path | None = None
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    cache: Path = field(default_factory=lambda: comosvc_home() / "benchmarks")


@dataclass(frozen=True)
class _QualityBench:
    """A loaded voice, the held-out songs and the meters."""

    options: QualityOptions
    converter: Converter
    bundle: Bundle
    songs: list[HeldOutSong]
    meter: PitchMeter
    say: Say
    details: dict[str, Any]


def measure_quality(options: QualityOptions, command: str, say: Say) -> Figures:
    """Measure every row that `options` allow; the others stay empty and say how. `say` is called with progress."""
    say("held-out songs")
    songs = load_held_out(options.corpus, options.cache, lambda song: say(f"rendered {song}"))
    details: dict[str, Any] = {}
    chosen: dict[str, Any] = {"provider": options.provider, "precision": options.precision}
    with Converter(options.model, **chosen, threads=1) as converter:
        bench = _QualityBench(options, converter, open_bundle(options.model), songs, PitchMeter(), say, details)
        _require_targets(bench)
        rows = {**_conversions(bench), **_parts(bench), **_distillation(bench), **_install(bench)}
        voice = _voice(bench)
    assert rows.keys() == GOALS.keys()
    table = tuple(filled(key, rows[key]) for key in GOALS)
    return Figures(provenance=Provenance.here(command), rows=table, voice=voice, details=details)


def _require_targets(bench: _QualityBench) -> None:
    wanted = set(bench.songs[0].targets)
    if missing := sorted(wanted - set(bench.converter.singers)):
        raise ComosvcError(
            f"the held-out set has targets for {', '.join(sorted(wanted))}; this voice lacks {', '.join(missing)}\n"
            "hint: the quality table is about demo voices, trained on the demo corpus"
        )


def _conversions(bench: _QualityBench) -> Rows:
    every = list(pairs(bench.songs))
    one = pool(_score(bench, every, steps=1), bench.converter.spec)
    few = rotated_pairs(bench.songs)
    n_sources, n_targets = len(bench.songs[0].sources), len(bench.songs[0].targets)
    on = f"{one.n} conversions: {n_sources} unseen singers × {len(bench.songs)} unseen songs × {n_targets} targets"
    bench.details["one_step"] = asdict(one)
    return {
        "student": Found(one.relative_l1, f"{on}; unconverted {one.unconverted_l1:.3f} nepers"),
        "audio": Found(one.relative_l1_audio, "the same"),
        "smoothed": Found(one.relative_smoothed_l1, "the same"),
        "two_steps": _more_steps(bench, few, 2),
        "four_steps": _more_steps(bench, few, 4),
        "texture": Found(one.texture, "the same conversions"),
        "texture_audio": Found(one.texture_audio, "the same"),
        "f0_gross": Found(100 * one.f0.gross, f"swift-f0 on the output, {one.f0.n_frames} frames"),
        "f0_rmse": Found(one.f0.rmse_cents, "the same"),
        "f0_voicing": Found(100 * one.f0.voicing, "the same, ±20 ms around changes left out"),
        "identified": Found(100 * one.identified, f"{one.n} clips, own classifier of {n_targets} voices and others"),
    }  # fmt: skip


def _more_steps(bench: _QualityBench, chosen: Sequence[HeldOutPair], steps: int) -> Found:
    if str(steps) not in bench.bundle.manifest.model.schedules:
        return Found(None, f"the bundle has no schedule of {steps} steps")
    found = pool(_score(bench, chosen, steps), bench.converter.spec)
    return Found(found.relative_l1, f"{found.n} of them; texture {found.texture:.2f}")


def _score(bench: _QualityBench, chosen: Sequence[HeldOutPair], steps: int) -> list[Score]:
    identify = SingerMeter()
    scores = []
    for seed, pair in enumerate(chosen):
        scores.append(score_conversion(bench.converter, pair, seed, steps, bench.meter, identify))
        bench.say(f"{pair.name}, {steps} step{'s' if steps > 1 else ''}")
    bench.details[f"conversions_{steps}"] = [
        {"pair": s.pair, "identified": s.identified, "mel": asdict(s.mel), "audio": asdict(s.audio)} for s in scores
    ]
    return scores


def _parts(bench: _QualityBench) -> Rows:
    bundle, songs, say = bench.bundle, bench.songs, bench.say
    say("vocoder")
    clips = sum(len(song.sources) + len(song.targets) for song in songs)
    copy = copy_synthesis(bundle, songs, bench.meter)
    say("content encoder")
    content = _content(bench, "content") | _content(bench, "content_low")
    say("pitch with bounded look-ahead")
    bounded = bounded_pitch_errors(songs, bench.meter, bench.converter.spec)
    say("speed")
    source = next(iter(songs[0].sources.values()))
    rtf = one_core_rtf(bench.converter, source, next(iter(bench.converter.singers)))
    parity = worst_parity(bundle)
    graphs = {name: error for name, error in parity.items() if name != "end_to_end"}
    ahead = bundle.manifest.lookahead_ms
    live_content = ahead.content if ahead.content_low_latency is None else ahead.content_low_latency
    return {
        "copy": Found(copy.l1, f"{clips} held-out clips, tracked F0; texture {copy.texture:.2f}{_apart(bench)}"),
        **content,
        "parity": Found(max(graphs.values()), ", ".join(f"{name} {error:.1e}" for name, error in parity.items())),
        "rtf": Found(rtf, f"one thread, processor time, {len(source) / SAMPLE_RATE:.1f} s clip"),
        "lookahead": Found(
            ahead.total,
            f"content {live_content:.1f}, F0 {ahead.pitch_low_latency:.1f}, acoustic {ahead.acoustic:.1f}, "
            f"vocoder {ahead.vocoder:.1f}",
        ),
        "bounded_gross": Found(100 * bounded.gross, "sources of the held-out set; for information"),
        "bounded_rmse": Found(bounded.rmse_cents, "the same"),
        "bounded_voicing": Found(100 * bounded.voicing, "the same"),
    }


def _apart(bench: _QualityBench) -> str:
    """In a table of another provider or precision: that the parts are not measured in it."""
    same = (bench.converter.provider, bench.converter.precision) == ("cpu", "fp32")
    return "" if same else "; in fp32 on the CPU"


def _content(bench: _QualityBench, graph: str) -> Rows:
    """Frame accuracy of a content graph."""
    if graph not in bench.bundle.manifest.graphs:
        none = Found(None, "the bundle has no encoder of its own for live use")
        return {f"{graph}_synthetic": none, f"{graph}_recorded": none}
    synthetic = content_accuracy(bench.bundle, held_out_singers_clips(bench.songs), graph)
    rows: Rows = {
        f"{graph}_synthetic": Found(
            synthetic.all, f"{synthetic.n_frames} frames; sounding ones {synthetic.sounding:.3f}{_apart(bench)}"
        )
    }
    try:
        found = content_accuracy(bench.bundle, recorded_clips(bench.options.corpus), graph)
        note = f"rms of flite, {found.n_frames} frames; sounding ones {found.sounding:.3f}{_apart(bench)}"
        return rows | {f"{graph}_recorded": Found(found.all, note)}
    except ComosvcError as error:
        return rows | {f"{graph}_recorded": Found(None, str(error).replace("\n", "; "))}


def _distillation(bench: _QualityBench) -> Rows:
    keys = ("published", "teacher", "ode", "ode_fine", "ode_published", "other_z")
    run = bench.options.run
    if run is None:
        return {key: Found(None, "comosvc-bench quality --run RUN") for key in keys}
    chosen = rotated_pairs(bench.songs)
    found = measure_distillation(run, chosen, lambda pair: bench.say(f"teacher and students: {pair}"))
    bench.details["distillation"] = asdict(found)
    baseline = found.unconverted.l1
    sampled = {name: score for name, score in found.samplers.items() if name.startswith("teacher ")}
    best = min((f"teacher {n}" for n in TEACHER_STEPS), key=lambda name: sampled[name].l1)
    steps = ", ".join(f"{name.split()[1]}: {s.l1 / baseline:.3f} ({s.texture:.2f})" for name, s in sampled.items())
    rows: Rows = {
        "teacher": Found(sampled[best].l1 / baseline, f"{found.n} conversions; by Euler steps, with texture: {steps}")
    }
    if PUBLISHED in found.ode:
        score, ode = found.samplers[PUBLISHED], found.ode[PUBLISHED]
        rows["published"] = Found(score.l1 / baseline, f"{found.n} conversions; texture {score.texture:.2f}")
        rows["ode_published"] = Found(ode.student / ode.undistilled, f"{found.n} conversions")
    else:
        missing = Found(None, "comosvc-train student --published -o RUN, then comosvc-bench quality --run RUN")
        rows |= {"published": missing, "ode_published": missing}
    ode = found.ode["student"]
    rows["ode"] = Found(ode.student / ode.undistilled, f"{found.n} conversions; the ODE on the student's own ladder")
    rows["ode_fine"] = Found(ode.student_published_ladder / ode.undistilled_published_ladder, "the same")
    rows["other_z"] = Found(ode.student / ode.student_other_noise, "the same")
    return rows


def _install(bench: _QualityBench) -> Rows:
    options = bench.options
    if options.install is None:
        return {key: Found(None, "comosvc-bench quality --install '.[cpu]'") for key in ("size", "import")}
    bench.say("slim install")
    measured = measure_install(options.cache / "bare", options.install, options.constraint)
    return {
        "size": Found(measured.size_mb, f"{len(measured.packages)} packages, and pip and setuptools"),
        "import": Found(measured.import_s, "from comosvc.runtime import Converter; median of fresh processes"),
    }


def _voice(bench: _QualityBench) -> dict[str, Any]:
    manifest = bench.bundle.manifest
    return {
        "name": manifest.name,
        "provider": bench.converter.provider,
        "precision": bench.converter.precision,
        "objective": manifest.model.objective,
        "departures": list(manifest.model.departures),
        "initial_noise_scale": manifest.model.initial_noise_scale,
        "bundle_id": sha256("".join(g.sha256 for g in manifest.graphs.values()).encode())[:16],
        "commit": manifest.provenance.get("commit"),
    }
