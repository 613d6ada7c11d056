"""The command `audition`: one page with a song rendered by every checkpoint of a run, to compare by ear."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ...runtime.audio.features import gate_loudness, mel_spectrogram
from ...runtime.audio.files import read_audio
from ...runtime.audio.gate import Gate
from ...runtime.audio.pitch import PitchStatistics
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import AudioSpec
from ...runtime.errors import OutputError
from ...runtime.storage import reason, replacing
from ...runtime.voice.file_kinds import not_a_run
from ...runtime.voice.singers import KEY_RANGE, auto_key
from ..content.stage import CONTENT
from ..data.prepared import EXTRACTORS, FeatureIndex, PreparedClip
from ..errors import DataError
from ..loop.checkpoint import missing_commands, read_metadata, require_checkpoint
from ..run.pictures import hz_ticks, mel_picture, png
from ..run.rendering import AnalysedSong, Renderer, Rendering, load_stage
from ..vocoder.stage import VOCODER
from .pages import Entry, page
from .scores import f0, f0_pearson, f0_rmse_cents, mel_l1

REFERENCE, TEACHER, STUDENT = "reference", "teacher", "student"
_MELODY, _PITCH, _VOCODER, _TEACHER, _SOURCE = (
    "melody", "pitch error, cents", "vocoder, dB", "from the teacher, dB", "from the source, dB",
)  # fmt: skip
_FIGURES = {
    _MELODY: "how well the pitch that sounds follows the pitch that was asked for: 1 is perfectly, 0 not at all",
    _PITCH: "how far the two are apart where both are sung (root mean square; 100 cents are a semitone)",
    _VOCODER: "how far the sound is from the spectrogram that the vocoder was given, on average",
    _TEACHER: "how far the spectrogram is from that of the teacher's last checkpoint, on average",
    _SOURCE: "how far the spectrogram is from the source's: how much the voice was changed",
}
_DB = 20.0 / np.log(10.0)  # dB in a neper
_IN_TUNE_CENTS, _OUT_OF_TUNE_CENTS = 30.0, 100.0


@dataclass(frozen=True, kw_only=True)
class AuditionOptions:
    """Options of the rendering."""

    singer: str | None = None
    """None: the first of the run."""
    key: str = "auto"
    """Semitones, or "auto": to where the singer sings, found from the whole song."""
    seconds: float = 15.0
    """From the song's beginning."""
    teacher_steps: int = 20
    student_steps: int = 1
    seed: int = 0


def find_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of every teacher and student of `run`, in order; `DataError` if there are none."""
    found = []
    for path in sorted(run.glob("*/*.safetensors")):
        kept = path.name.startswith("step_") or path.name == "best.safetensors"
        if kept and path.parent.name != CONTENT and "acoustic" in read_metadata(path)[1]:
            found.append(path)
    if not found:
        commands = missing_commands(run, (VOCODER, "teacher"))
        raise DataError(
            f"{run} holds no checkpoint of a teacher or a student\nhint: run {commands}; the recipe's keep (in "
            "[teacher.loop] and [student.loop]) says how many are kept"
        )
    return sorted(found, key=lambda path: ("student" in read_metadata(path)[1], path.parent.name, path.name))


def audition(
    run: Path,
    song: Path,
    output: Path,
    options: AuditionOptions,
    progress: Callable[[str], object] = lambda what: None,
) -> Path:
    """Write the page and return its path: `output` if that ends in .html, else `index.html` in that folder."""
    if run.exists() and (words := not_a_run(run)):
        raise DataError(words)
    path = output if output.suffix == ".html" else output / "index.html"
    checkpoints = find_checkpoints(run)
    require_checkpoint(run / VOCODER)
    renderer = Renderer(run)
    for checkpoint in checkpoints:
        renderer.require_own(checkpoint)
    progress(f"analysing {song.name}")
    audio, rate = read_audio(song)
    heard = renderer.listen(audio[: round(options.seconds * rate)], rate)
    stages = [load_stage(checkpoint) for checkpoint in checkpoints]
    singer = options.singer or stages[0].singers[0]
    key = _key(options.key, renderer, audio, rate, singer)
    entries = _references(renderer, heard, singer, options)
    spec, top = renderer.spec, float(heard.mel.max())
    renderings: list[tuple[str, str, str, Rendering]] = []
    for stage, checkpoint in zip(stages, checkpoints, strict=True):
        progress(f"{checkpoint.parent.name}/{checkpoint.name}")
        kind, steps = (TEACHER, options.teacher_steps) if stage.student is None else (STUDENT, options.student_steps)
        rendering = renderer.render(stage, heard, singer, key=key, steps=steps, seed=options.seed)
        name = f"{stage.name}, step {stage.step}" + (", best" if checkpoint.stem == "best" else "")
        renderings.append((kind, name, f"{steps} sampling step{'s' if steps > 1 else ''}", rendering))
    teacher = next((rendering for kind, *_, rendering in reversed(renderings) if kind == TEACHER), None)
    for kind, name, note, made in renderings:
        figures = _figures(made, heard, teacher, spec)
        entries.append(_entry(name, note, made.audio, made.mel, made.f0_hz, spec, top, figures=figures, kind=kind))
    title = f"{song.name} by {singer}, {key:+.0f} semitones"
    note = f"{run.resolve().name}: {len(stages)} checkpoints, seed {options.seed}"
    text = page(title, note, entries, _FIGURES, verdict=verdict(entries), ticks=hz_ticks(renderer.spec))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from None
    return path


def _key(wanted: str, renderer: Renderer, audio: NDArray[np.float32], rate: int, singer: str) -> float:
    """Semitones; "auto" is what `comosvc-convert` finds for the whole song."""
    if wanted != "auto":
        low, high = KEY_RANGE
        try:
            if low <= (key := float(wanted)) <= high:
                return key
        except ValueError:
            pass
        raise DataError(f"the key is {wanted!r}\nhint: {low:g} to {high:g} semitones, or auto")
    facts = renderer.features.singers.get(singer)
    if facts is None:
        return 0.0
    spec = renderer.spec
    signal = resample(audio, rate, spec.sample_rate)
    is_open = Gate(spec).push(gate_loudness(signal, spec), last=True)
    pitch = PitchStatistics()
    pitch.add(EXTRACTORS[renderer.features.f0](signal, spec, renderer.features.front_end) * is_open)
    return auto_key(pitch, facts.f0_median_hz)


def verdict(entries: Sequence[Entry]) -> str:
    """One line on the checkpoint to listen to first: the student that is nearest to its teacher, else the last."""
    measured = [entry for entry in entries if _SOURCE in entry.figures and entry.kind != REFERENCE]
    students = [entry for entry in measured if entry.kind == STUDENT and np.isfinite(entry.figures[_TEACHER])]
    if not measured:
        return ""
    best, why = measured[-1], "it is the last checkpoint"
    if students:
        best = min(students, key=lambda entry: entry.figures[_TEACHER])
        why = f"of the students it is nearest to the teacher, {best.figures[_TEACHER]:.1f} dB apart"
    cents = best.figures[_PITCH]
    if not np.isfinite(cents):
        tune = "no pitch was found in it"
    elif cents <= _IN_TUNE_CENTS:
        tune = "it sings in tune"
    else:
        where = "is off pitch in places" if cents > _OUT_OF_TUNE_CENTS else "is slightly off pitch"
        tune = f"it {where} ({cents:.0f} cents)"
    return f"Listen to {best.name} first: {why}, and {tune}."


def _references(renderer: Renderer, song: AnalysedSong, singer: str, options: AuditionOptions) -> list[Entry]:
    """The source, a recording of the singer, and the source through the vocoder alone."""
    spec, top = renderer.spec, float(song.mel.max())
    entries = [_entry("source", "", song.audio, song.mel, song.f0_hz, spec, top)]
    if (clip := recording_of(renderer.features, singer)) is not None:
        arrays = renderer.features.load(clip)
        n_frames = min(len(arrays["mel"]), round(options.seconds * spec.frame_rate_hz))
        audio = arrays["audio"][: n_frames * spec.hop_length].astype(np.float32) / np.float32(32768)
        mel, f0_hz = arrays["mel"][:n_frames], arrays["f0_hz"][:n_frames]
        note = f"a recording of the target singer, of another song: {clip.id}"
        entries.append(_entry(f"target: {singer}", note, audio, mel, f0_hz, spec, float(mel.max()), other_song=True))
    audio = renderer.sing(song.mel, song.f0_hz, options.seed)
    figures = _figures(Rendering(song.mel, song.f0_hz, audio), song, None, spec)
    note = "the source's own spectrogram and pitch through the vocoder: no checkpoint can sound cleaner"
    mel = mel_spectrogram(audio, spec)
    return [*entries, _entry("vocoder alone", note, audio, mel, song.f0_hz, spec, top, figures=figures)]


def recording_of(features: FeatureIndex, singer: str) -> PreparedClip | None:
    """A clip of `singer` of middle length, held out if there is one; None where there is none."""
    clips = [clip for clip in features.clips if clip.singer == singer]
    held_out = [clip for clip in clips if clip.split != "train"]
    ordered = sorted(held_out or clips, key=lambda clip: (clip.frames, clip.id))
    return ordered[len(ordered) // 2] if ordered else None


def _entry(
    name: str,
    note: str,
    audio: NDArray[np.float32],
    mel: NDArray[np.float32],
    f0_hz: NDArray[np.float32],
    spec: AudioSpec,
    top: float,
    **more: Any,
) -> Entry:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1.0, 1.0), spec.sample_rate, "PCM_16", format="FLAC")
    more = {"kind": REFERENCE, "figures": {}, **more}
    picture = _data_uri("image/png", png(mel_picture(mel, f0_hz, spec, top)))
    sound = _data_uri("audio/flac", buffer.getvalue())
    return Entry(name=name, note=note, audio=sound, picture=picture, seconds=len(mel) / spec.frame_rate_hz, **more)


def _figures(rendering: Rendering, song: AnalysedSong, teacher: Rendering | None, spec: AudioSpec) -> dict[str, float]:
    found = f0(rendering.audio, spec.sample_rate)
    asked = f0_at(rendering.f0_hz, len(found))
    values = [
        f0_pearson(found, asked),
        f0_rmse_cents(found, asked),
        _DB * mel_l1(mel_spectrogram(rendering.audio, spec), rendering.mel, spec.mel_log_base),
        float("nan") if teacher is None else _DB * mel_l1(rendering.mel, teacher.mel, spec.mel_log_base),
        _DB * mel_l1(rendering.mel, song.mel, spec.mel_log_base),
    ]
    return dict(zip(_FIGURES, values, strict=True))


def f0_at(f0_hz: NDArray[np.float32], n_frames: int) -> NDArray[np.float32]:
    """An F0 curve (T,) at `n_frames` frames of the same duration: the nearest value each."""
    return f0_hz[((np.arange(n_frames) + 0.5) * len(f0_hz) / n_frames).astype(int)]


def _data_uri(kind: str, data: bytes) -> str:
    return escape(f"data:{kind};base64,{base64.b64encode(data).decode()}")
