"""Foreign checkpoints become a voice, and it computes the authors' formulas.

The reference is `reference.authors`: float64 numpy under the checkpoints' own names, nothing of the packages.
"""

import importlib.util
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_files import (
    COMMIT,
    TINY,
    TINY_44K,
    comosvc_weights,
    contentvec_weights,
    fill_hub_cache,
    vocoder_weights,
    write_comosvc,
    write_contentvec,
    write_m4singer_vocoder,
    write_openvpi_vocoder,
)
from huggingface_hub import constants
from typer.testing import CliRunner

from comosvc.export.archive import pack, share, write_zip
from comosvc.export.bundle.assemble import build_files
from comosvc.export.bundle.facts import Facts, changed
from comosvc.export.bundle.statements import Statements
from comosvc.export.bundle.verify import verify
from comosvc.export.cli import app
from comosvc.export.errors import ExportError
from comosvc.export.importing import ImportRequest, load_imported_voice, parse_steps
from comosvc.runtime import Converter
from comosvc.runtime.audio.resampling import resample
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.runtime.conversion.low_latency import latency_samples
from comosvc.runtime.conversion.source import noise_frames, sine_source
from comosvc.runtime.errors import BundleError, OptionError
from comosvc.runtime.providers.self_test import vowel
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.training.errors import ForeignFileError
from comosvc.training.foreign import comosvc_file, content_file, vocoder_file
from comosvc.training.loop.log import MinuteLines

_SPEC = importlib.util.spec_from_file_location("authors", Path(__file__).parents[2] / "reference" / "authors.py")
authors = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(authors)

MEL_TOLERANCE, AUDIO_TOLERANCE = 1e-5, 1e-5
"""Relative, float32 graphs against float64; 1e-6 and 2e-6 seen."""
RATE, HOP = 24_000, 128
VOCODER = (TINY, TINY.upsample_rates, TINY.upsample_kernels, 80)
OPENVPI = (TINY_44K, (8, 8, 2, 2, 2), (16, 16, 4, 4, 4), 128)


def float64(weights) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().astype(np.float64) for name, tensor in weights.items()}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """COMOSVC_HOME and the cache of huggingface_hub in a folder of the tests."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMOSVC_HOME", str(folder))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, home) -> SimpleNamespace:
    """The authors' files: a student's and a teacher's folder, the vocoder at the Hub, fairseq's ContentVec."""
    folder = tmp_path_factory.mktemp("theirs")
    checkpoint = write_m4singer_vocoder(folder / "vocoder", TINY)
    inside = {f"m4/{path.name}": path.read_bytes() for path in checkpoint.parent.iterdir()}
    fill_hub_cache(home / "hub", "somebody/m4singer_hifigan", inside, small=["m4/config.yaml"])
    return SimpleNamespace(
        student=str(write_comosvc(folder / "como", TINY)),
        teacher=str(write_comosvc(folder / "teacher", replace(TINY, n_spk=1), student=False, pitch_aug=False)),
        vocoder=f"hf://somebody/m4singer_hifigan@{COMMIT}/m4/{checkpoint.name}",
        content=str(write_contentvec(folder / "checkpoint_best_legacy_500.pt", TINY)),
    )


@pytest.fixture(scope="module")
def reported() -> list[str]:
    """What was reported while `student` was imported."""
    return []


@pytest.fixture(scope="module")
def student(files, tmp_path_factory, reported) -> Path:
    path = tmp_path_factory.mktemp("voices") / "student.comosvc"
    parts = ["--como", files.student, "--vocoder", files.vocoder, "--content", files.content, "-o", str(path)]
    says = ["--consent", "signed form", "--licence", "CC-BY-4.0", "--credit", "A. Singer"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MinuteLines, "report", lambda lines, text, share=None: reported.append(text))
        done = CliRunner().invoke(app, ["import", *parts, *says, "--f0-median", "Singer-1=220", "--precision", "fp16"])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def teacher(files, student, import_with, tmp_path_factory) -> Path:
    """Imported as the student is, but with the graphs that it has in common with that one."""
    request = ImportRequest(como=files.teacher, vocoder=files.vocoder, content=files.content)
    return import_with(("content", "vocoder"), request, tmp_path_factory.mktemp("voices") / "teacher.comosvc")


@pytest.fixture(scope="module")
def import_with(student, known_graphs):
    """`import_with(known, request, path)` writes what the command does; graphs `known` are equal to the student's."""
    bundle = open_bundle(student)

    def write(known: Collection[str], request: ImportRequest, path: Path) -> Path:
        voice = load_imported_voice(request, Statements(consent="signed form"))
        with known_graphs({name: bundle.graph_bytes(name) for name in known}):
            manifest, inside = build_files(voice, path.stem)
        write_zip(path, share(manifest, inside, ["content"])[1])
        return path

    return write


def mel_of(weights, units, f0, volume, singer, noises, *, is_teacher: bool) -> np.ndarray:
    """The reference's mel. A teacher's further noises are not its own: it has only the first."""
    cond = authors.condition(weights, units, f0, volume, singer)
    if is_teacher:
        return authors.teacher_mel(weights, cond, noises[0], len(noises))
    return authors.student_mel(weights, cond, noises)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def sessions(path: Path) -> dict:
    bundle = open_bundle(path)
    return {
        name: onnxruntime.InferenceSession(bundle.graph_bytes(name), providers=["CPUExecutionProvider"])
        for name in bundle.manifest.graphs
    }


@pytest.mark.parametrize("n_frames", [6, 61, 230])
@pytest.mark.parametrize("steps", [1, 4])
def test_graphs_are_the_formulas(student, n_frames, steps):
    """Audio to audio with everything injected: content, mel and audio of each length, edges included."""
    rng, graphs = np.random.default_rng([n_frames, steps]), sessions(student)
    schedule = () if steps == 1 else open_bundle(student).manifest.model.schedules[str(steps)]
    audio = 0.3 * rng.standard_normal(n_frames * HOP * 2 // 3)
    units = graphs["content"].run(None, {"audio": audio.astype(np.float32)[None]})[0][0]
    wanted_units = authors.contentvec(float64(contentvec_weights(TINY)), audio.astype(np.float32), 2, 16)
    assert relative(units, wanted_units) < MEL_TOLERANCE
    f0, volume = rng.uniform(80, 700, n_frames), rng.uniform(0, 0.3, n_frames)
    noises = rng.standard_normal((steps, n_frames, 80)).astype(np.float32)
    weights = comosvc_weights(TINY, student=True)
    condition = {
        "content": units[None],
        "content_index": (np.arange(n_frames) * len(units) // n_frames).astype(np.int32)[None],
        "f0_hz": f0.astype(np.float32)[None],
        "loudness": volume.astype(np.float32)[None],
        "singer": weights["spk_embed.weight"][2:3].numpy(),
    }
    mel = graphs["acoustic"].run(None, {**condition, "noise": noises[:1]})[0]
    for index, noise in zip(schedule, noises[1:], strict=True):
        step = {"mel": mel, "noise": noise[None], "step_index": np.array(index, np.int32)}
        mel = graphs["acoustic_n"].run(None, {**condition, **step})[0]
    wanted_mel = mel_of(float64(weights), wanted_units, f0, volume, 2, noises.astype(np.float64), is_teacher=False)
    assert relative(mel[0], wanted_mel) < MEL_TOLERANCE
    source = authors.sines(f0, rng.random(9), rng.standard_normal((n_frames * HOP, 9)), HOP, RATE)
    sung = graphs["vocoder"].run(None, {"mel": mel, "source": source.astype(np.float32)[None]})[0][0]
    shape = authors.Vocoder(TINY.upsample_rates, TINY.resblock_kernels, (TINY.dilations,), normalised_source=True)
    assert (
        relative(sung, authors.vocode(float64(vocoder_weights(*VOCODER)), shape, wanted_mel, source)) < AUDIO_TOLERANCE
    )


@pytest.mark.parametrize(
    ("kind", "steps"), [("student", 1), ("student", 4), ("teacher", 1), ("teacher", 4), ("teacher", 50)]
)
@pytest.mark.parametrize("seconds", [0.8, 2.4])
def test_conversions_are_the_formulas(student, teacher, kind, steps, seconds):
    """`Converter.convert` with the noise and the melody given, against the same from the audio on."""
    rng = np.random.default_rng(steps)
    n_frames = round(seconds * RATE / HOP)
    audio = (0.2 * rng.standard_normal(n_frames * HOP)).astype(np.float32)
    f0 = (220 * 2 ** np.sin(np.arange(n_frames) / 30)).astype(np.float32)
    f0[n_frames // 3 : n_frames // 2] = 0.0  # bridged by a straight line, as the authors do
    noise = rng.standard_normal((n_frames, 80)).astype(np.float32)
    is_teacher = kind == "teacher"
    with Converter(teacher if is_teacher else student) as converter:
        singer = "Singer-0" if is_teacher else "Singer-1"
        out = converter.convert(audio, RATE, singer=singer, key=2.0, seed=5, steps=steps, f0_hz=f0, noise=noise)
    sizes = replace(TINY, n_spk=1) if is_teacher else TINY
    weights = float64(comosvc_weights(sizes, not is_teacher, pitch_aug=not is_teacher))
    at_16k = resample(audio, RATE, 16_000)
    units = authors.contentvec(float64(contentvec_weights(TINY)), at_16k.astype(np.float64), 2, 16)
    # In float32 from here on: a rounding error of F0 adds up in the phase of the sines.
    sung = authors.interpolated_f0(f0.astype(np.float64)).astype(np.float32) * np.float32(2 ** (2 / 12))
    noises = [noise, *(noise_frames(5, 0, n_frames, 80, step) for step in range(1, steps))]
    mel = mel_of(
        weights,
        units,
        sung.astype(np.float64),
        authors.loudness(audio.astype(np.float64), HOP),
        None if is_teacher else 1,
        [draw.astype(np.float64) for draw in noises],
        is_teacher=is_teacher,
    )
    # At its end a clip goes on in silence here, and simply ends there: so far as the networks see, they differ.
    seen = 2 * steps
    assert relative(out.mel[: n_frames - seen], mel[: n_frames - seen]) < MEL_TOLERANCE
    source = sine_source(sung, converter.spec, 5)[0]
    shape = authors.Vocoder(TINY.upsample_rates, TINY.resblock_kernels, (TINY.dilations,), normalised_source=True)
    wanted = authors.vocode(float64(vocoder_weights(*VOCODER)), shape, mel, source.astype(np.float64))
    whole = (n_frames - seen - 15) * HOP
    assert relative(out.audio[:whole], wanted[:whole]) < 5 * AUDIO_TOLERANCE


@pytest.mark.parametrize(("kind", "steps"), [("student", 1), ("teacher", None)])
@pytest.mark.parametrize("n_samples", [RATE + 100, 2 * RATE + 27, RATE // 4 + 127])
def test_the_whole_path_is_the_authors(student, teacher, kind, steps, n_samples):
    """From samples that are no multiple of the hop: frames, F0, loudness, content and the row of each frame, mel.

    A teacher takes its 50 steps without being asked.
    """
    glide, _ = vowel(COMOSVC_24K)
    audio, n_frames = np.resize(glide, n_samples), n_samples // HOP
    noise = np.random.default_rng(n_samples).standard_normal((n_frames, 80)).astype(np.float32)
    is_teacher = kind == "teacher"
    with Converter(teacher if is_teacher else student) as converter:
        assert converter.frames(n_samples, RATE) == n_frames
        out = converter.convert(audio, RATE, singer="Singer-0", noise=noise)
    assert (len(out.audio), out.options.steps, out.warnings[:0]) == (n_samples, steps or 50, ())
    assert not [warning for warning in out.warnings if "trained on F0" in warning]
    assert out.mel.shape == (n_frames, 80)
    sizes = replace(TINY, n_spk=1) if is_teacher else TINY
    weights = float64(comosvc_weights(sizes, not is_teacher, pitch_aug=not is_teacher))
    at_16k = resample(audio, RATE, 16_000).astype(np.float64)
    units = authors.contentvec(float64(contentvec_weights(TINY)), at_16k, 2, 16)
    f0 = authors.interpolated_f0(authors.dio_f0(audio.astype(np.float64), HOP, RATE))
    volume = authors.loudness(audio.astype(np.float64), HOP)
    noises = [noise.astype(np.float64)] * out.options.steps
    mel = mel_of(weights, units, f0, volume, None if is_teacher else 0, noises, is_teacher=is_teacher)
    # At its end a clip goes on in silence here, and simply ends there. 50 steps see 100 frames, the far ones hardly.
    seen = 2 if steps else 20
    assert relative(out.mel[: n_frames - seen], mel[: n_frames - seen]) < (MEL_TOLERANCE if steps else 1e-4)


def test_the_common_weights_are_stored_once(student, tmp_path):
    """In both precisions, and every graph is still whole for whoever opens it."""
    bundle = open_bundle(student)
    files = bundle.all_files()
    for entries, suffix in ((bundle.manifest.graphs, ""), (bundle.manifest.variants["fp16"], ".fp16")):
        pair = [entries[name] for name in ("acoustic", "acoustic_n")]
        assert [entry.weights for entry in pair] == [f"acoustic_weights{suffix}.onnx"] * 2
        weights = len(files[pair[0].weights])
        for name, entry in zip(("acoustic", "acoustic_n"), pair, strict=True):
            whole = bundle.entry_bytes(name, entry)
            assert len(whole) == len(files[entry.file]) + weights
            tensors = [t for t in onnx.load_from_string(whole).graph.initializer if len(t.raw_data) >= 256]
            assert sum(len(t.raw_data) for t in tensors) > 0.8 * weights
        assert weights > 0
        own = [onnx.load_from_string(files[entry.file]).graph.initializer for entry in pair]
        large = [{t.raw_data for t in tensors if len(t.raw_data) >= 256} for tensors in own]
        assert not large[0] & large[1]
    damaged = bytearray(files["acoustic_weights.onnx"])
    damaged[len(damaged) // 2] ^= 1
    write_zip(tmp_path / "damaged.comosvc", {**files, "acoustic_weights.onnx": bytes(damaged)})
    with pytest.raises(BundleError, match=r"acoustic.onnx \+ acoustic_weights.onnx has SHA-256"):
        Converter(tmp_path / "damaged.comosvc")


def test_one_step_needs_no_graph_of_further_steps(files, student, import_with, tmp_path):
    request = ImportRequest(como=files.student, vocoder=files.vocoder, content=files.content, steps=parse_steps("1"))
    path = import_with(("content", "acoustic", "vocoder"), request, tmp_path / "one.comosvc")
    manifest = open_bundle(path).manifest
    assert set(manifest.graphs) == {"content", "pitch", "acoustic", "vocoder"}
    assert manifest.model.step_counts == (1,)
    verify(path)
    hum = (0.3 * np.sin(np.arange(RATE // 2) / 17)).astype(np.float32)
    with Converter(path) as converter, Converter(student) as other:
        wanted = other.convert(hum, RATE, steps=1)
        np.testing.assert_array_equal(converter.convert(hum, RATE).audio, wanted.audio)
        with pytest.raises(OptionError, match=r"steps is 4; this voice can do 1$"):
            converter.convert(hum, RATE, steps=4)
    for text in ("0", "1,x", "", "201", "99999999"):
        with pytest.raises(ForeignFileError, match=r"--steps .*: must be numbers from 1 to 200"):
            parse_steps(text)


@pytest.fixture(scope="module")
def at_44k(files, import_with, tmp_path_factory) -> Path:
    """A student of 128 mel bands at 44.1 kHz with openvpi's vocoder, whose mels have the natural logarithm."""
    folder = tmp_path_factory.mktemp("44k")
    como, vocoder = write_comosvc(folder / "como", TINY_44K), write_openvpi_vocoder(folder / "nsf", TINY_44K)
    request = ImportRequest(como=str(como), vocoder=str(vocoder), content=files.content, steps=(1,))
    return import_with(("content",), request, folder / "44k.comosvc")


def test_conversions_at_another_rate_are_the_formulas(at_44k):
    rng, n_frames, rate, hop = np.random.default_rng(1), 60, 44_100, 512
    audio = (0.2 * rng.standard_normal(n_frames * hop)).astype(np.float32)
    f0 = (220 * 2 ** np.sin(np.arange(n_frames) / 30)).astype(np.float32)
    f0[20:30] = 0.0
    noise = rng.standard_normal((n_frames, 128)).astype(np.float32)
    with Converter(at_44k) as converter:
        out = converter.convert(audio, rate, singer="Singer-1", key=2.0, seed=5, f0_hz=f0, noise=noise)
    assert (out.sample_rate, len(out.audio)) == (rate, len(audio))
    at_16k = resample(audio, rate, 16_000).astype(np.float64)
    units = authors.contentvec(float64(contentvec_weights(TINY_44K)), at_16k, 2, 16)
    sung = authors.interpolated_f0(f0.astype(np.float64)).astype(np.float32) * np.float32(2 ** (2 / 12))
    volume = authors.loudness(audio.astype(np.float64), hop)
    weights = float64(comosvc_weights(TINY_44K, student=True))
    draws = [noise.astype(np.float64)]
    mel = mel_of(weights, units, sung.astype(np.float64), volume, 1, draws, is_teacher=False)
    seen = 2
    assert relative(out.mel[: n_frames - seen], mel[: n_frames - seen]) < MEL_TOLERANCE
    shape = authors.Vocoder(OPENVPI[1], TINY.resblock_kernels, (TINY.dilations,), normalised_source=False)
    source = sine_source(sung, converter.spec, 5)[0].astype(np.float64)
    wanted = authors.vocode(float64(vocoder_weights(*OPENVPI)), shape, mel * np.log(10.0), source)
    whole = (n_frames - seen - 15) * hop
    assert relative(out.audio[:whole], wanted[:whole]) < 5 * AUDIO_TOLERANCE


def test_a_guessed_vocoder_is_said_unless_the_model_names_it(files, tmp_path, caplog):
    says = Statements(consent="x")
    content = {"vocoder": files.vocoder, "content": files.content}
    load_imported_voice(ImportRequest(como=files.student, **content), says)
    assert "M4Singer's" not in caplog.text
    config = Path(files.student).with_name("config.yaml").read_text()
    (tmp_path / "silent.yaml").write_text(config.replace("type: m4-gan", "kind: m4-gan"))
    load_imported_voice(ImportRequest(como=files.student, config=str(tmp_path / "silent.yaml"), **content), says)
    assert "is taken for M4Singer's vocoder" in caplog.text
    (tmp_path / "other.yaml").write_text(config.replace("type: m4-gan", "type: nsf-hifigan"))
    with pytest.raises(ForeignFileError, match=r"vocoder: type is 'nsf-hifigan'; CoMoSVC knows 'm4-gan' only"):
        load_imported_voice(ImportRequest(como=files.student, config=str(tmp_path / "other.yaml"), **content), says)


def test_import_says_what_it_does(student, reported):
    assert reported[0] == "reading the checkpoints"
    assert {f"tracing {graph}" for graph in ("content", "acoustic", "acoustic_n", "vocoder")} < set(reported)
    assert {"comparing content with torch", "precisions fp16"} < set(reported)


def test_what_the_manifest_says(student, teacher):
    manifest = open_bundle(student).manifest
    assert manifest.model.objective == "imported CoMoSVC student, online network, step 800000"
    assert {name: singer.f0_median_hz for name, singer in manifest.singers.items()} == {
        "Singer-0": None,
        "Singer-1": 220.0,
        "Singer-2": None,
    }
    assert (manifest.singers["Singer-0"].licence, manifest.consent) == ("CC-BY-4.0", "signed form")
    assert (manifest.context.acoustic.past, manifest.context.acoustic.future) == (2, 2)
    imported = manifest.provenance["imported"]
    assert imported["vocoder"]["file"].startswith(f"hf://somebody/m4singer_hifigan@{COMMIT}/")
    assert imported["acoustic"]["file"] == "model_800000.pt"
    assert len(imported["content"]["sha256"]) == 64
    assert imported["acoustic"]["ignored_weights"]["pitch extractor: loaded by the authors' training, never run"] == 2
    assert manifest.provenance["export"]["peak_memory_bytes"] > 1e8
    assert (manifest.model.default_steps, manifest.model.f0_extractor) == (1, "dio")
    model = open_bundle(teacher).manifest.model
    assert set(model.schedules) == {"2", "4", "8", "16", "50"}
    assert (model.default_steps, model.f0_extractor) == (50, "dio")


def test_commands_that_describe_a_voice_take_imported_ones(student, teacher):
    """They have no live encoder, no F0 statistics, and their content graph in the cache."""
    for path in (student, teacher):
        for command in (["inspect"], ["inspect", "--verbose"], ["verify"]):
            done = CliRunner().invoke(app, [*command, str(path)], env={"COLUMNS": "80"})
            assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["inspect", str(student)], env={"COLUMNS": "80"}).output
    manifest = open_bundle(student).manifest
    lag_ms = latency_samples(manifest, RATE) / RATE * 1e3
    assert f"lags {lag_ms:.1f} ms behind" in shown
    assert "20000" not in shown
    assert "windows of 20 s" in shown
    parts = manifest.lookahead_ms
    assert 0.0 <= parts.total - lag_ms < 50.0  # of a stream, whose windows end 240 ms after a frame's centre


def test_inspect_describes_a_voice_whose_shared_graph_is_missing(student, tmp_path, monkeypatch):
    monkeypatch.setenv("COMOSVC_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["inspect", str(student)])
    assert done.exit_code == 0, done.output
    assert "not in the cache" in done.output


def test_parity_is_stored_and_verified(student):
    rows = json.loads(open_bundle(student).read("parity.json"))["rows"]
    worst = {row["graph"]: max(r["relative"] for r in rows if r["graph"] == row["graph"]) for row in rows}
    assert set(worst) == {"content", "acoustic", "acoustic_n", "vocoder", "end_to_end"}
    assert max(worst.values()) <= 1e-5
    assert {row.graph for row in verify(student)} == {"content", "pitch", "acoustic", "acoustic_n", "vocoder"}


def test_two_voices_keep_their_content_encoder_once(student, teacher, home, tmp_path):
    half = open_bundle(student).manifest.variants["fp16"]["content"].sha256
    blobs = [path for path in (home / "blobs").iterdir() if path.name != half]
    assert (home / "blobs" / half).is_file()
    assert len(blobs) == 1  # traced twice, to the same bytes
    hashes = {open_bundle(path).manifest.graphs["content"].sha256 for path in (student, teacher)}
    assert hashes == {blobs[0].name}
    full = tmp_path / "full.comosvc"
    pack(student, full, full=True)
    assert full.stat().st_size > student.stat().st_size + blobs[0].stat().st_size
    elsewhere = tmp_path / "elsewhere"
    assert open_bundle(full, elsewhere).graph_bytes("content") == blobs[0].read_bytes()
    with pytest.raises(BundleError, match=r"the content graph is not inside .*\nhint: put the file .* pack --full"):
        open_bundle(student, elsewhere).graph_bytes("content")
    elsewhere.joinpath("blobs").mkdir(parents=True)
    (elsewhere / "blobs" / blobs[0].name).write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"has SHA-256 .* damaged or changed"):
        open_bundle(student, elsewhere).graph_bytes("content")


def test_key_auto_wants_the_pitch(student):
    hum = (0.3 * np.sin(np.arange(RATE) / 17)).astype(np.float32)
    with Converter(student) as converter:
        converter.convert(hum, RATE, singer="Singer-1", key="auto")
        with pytest.raises(OptionError, match=r"the pitch that Singer-0 sings at is not known"):
            converter.convert(hum, RATE, singer="Singer-0", key="auto")


def imported(files, tmp_path: Path, **changes: str) -> str:
    """What the command says when it refuses; it must leave no file."""
    parts = {
        "--como": files.student,
        "--vocoder": files.vocoder,
        "--content": files.content,
        "--consent": "signed form",
    }
    parts |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    out = tmp_path / "x.comosvc"
    arguments = [word for option in parts.items() if option[1] for word in option]
    done = CliRunner().invoke(app, ["import", *arguments, "-o", str(out)], env={"COLUMNS": "2000"})
    assert done.exit_code == 1, done.output
    assert not out.exists()
    return done.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"consent": ""}, "Singer-0 is a recorded person"),
        ({"f0_median": "Nobody=200"}, "--f0-median names Nobody; the model's singers are Singer-0, Singer-1, Singer-2"),
        ({"f0_median": "Singer-0=high"}, "must be NAME=HZ with 20 to 2000 Hz"),
        ({"vocoder": "hf://somebody/m4singer_hifigan@main/m4/model.ckpt"}, "'main' is a branch"),
        ({"como": "nowhere.pt"}, "nowhere.pt is not there"),
        ({"network": "ema", "como": "teacher"}, "is a teacher: it has no averaged network"),
    ],
)
def test_refusals(files, tmp_path, changes, message):
    if changes.get("como") == "teacher":
        changes = {**changes, "como": files.teacher}
    assert message in imported(files, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"como": "folder"}, "is a folder; a file is needed\nhint: "),
        ({"content": "folder"}, "como/model.safetensors is not there"),
        ({"content": "como"}, "it is a CoMoSVC checkpoint\nhint: a CoMoSVC model is --como of comosvc-export import"),
        ({"config": "como"}, "is a PyTorch checkpoint, no configuration"),
        ({"como": "voice"}, "is a voice, no checkpoint\nhint: it is finished: comosvc-convert song.wav -m "),
        ({"content": "voice"}, "is a voice, no checkpoint"),
    ],
)
def test_other_files_are_named_with_their_option(files, student, tmp_path, changes, message):
    places = {"folder": str(Path(files.student).parent), "como": files.student, "voice": str(student)}
    changes = {option: places[name] for option, name in changes.items()}
    if changes.get("como") == str(student):
        changes["config"] = str(Path(files.student).with_name("config.yaml"))
    assert message in imported(files, tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"consent": ""}, {"f0_median": "Nobody=200"}, {"content": "nowhere.pt"}, {"vocoder_config": "nowhere.yaml"}],
)
def test_no_checkpoint_is_opened_before_the_arguments_are_checked(files, tmp_path, monkeypatch, changes):
    opened = []
    for module in (vocoder_file, comosvc_file, content_file):
        monkeypatch.setattr(module, "read_checkpoint", opened.append)
    imported(files, tmp_path, **changes)
    assert not opened


def test_a_place_that_takes_no_files_is_said_first(files, tmp_path):
    (tmp_path / "file").touch()
    parts = ["--como", files.student, "--vocoder", files.vocoder, "--content", files.content, "--consent", "x"]
    done = CliRunner().invoke(app, ["import", *parts, "-o", str(tmp_path / "file" / "x.comosvc")])
    assert done.exit_code == 1
    assert "is no folder" in done.output


def test_facts_that_are_set_later_are_those_of_an_import(files, student, tmp_path):
    request = ImportRequest(como=files.student, vocoder=files.vocoder, content=files.content)
    bare = load_imported_voice(request, Statements(consent="?"))
    manifest = open_bundle(student).manifest
    before = replace(manifest, singers=bare.singers, licences=bare.licences, consent=bare.consent)
    facts = Facts(consent="signed form", licence="CC-BY-4.0", credit="A. Singer", f0_medians_hz={"Singer-1": 220.0})
    assert changed(before, facts) == manifest


def test_parts_of_different_systems_are_refused(files, tmp_path):
    lonely = tmp_path / "model_1.pt"
    lonely.write_bytes(Path(files.student).read_bytes())
    with pytest.raises(ForeignFileError, match=r"no configuration beside .*model_1.pt: looked for config.yaml"):
        load_imported_voice(
            ImportRequest(como=str(lonely), vocoder=files.vocoder, content=files.content), Statements(consent="x")
        )
    with pytest.raises(ForeignFileError, match=r"is no CoMoSVC checkpoint: .*; it is a vocoder checkpoint"):
        load_imported_voice(
            ImportRequest(como=files.vocoder, vocoder=files.vocoder, content=files.content), Statements(consent="x")
        )
    other = write_contentvec(tmp_path / "narrow.pt", replace(TINY, n_content=16))
    with pytest.raises(ForeignFileError, match=r"gives 16 content channels; .* was trained with 32"):
        load_imported_voice(
            ImportRequest(como=files.student, vocoder=files.vocoder, content=str(other)), Statements(consent="x")
        )
    with pytest.raises(ExportError, match=r"Singer-0 is a recorded person"):
        load_imported_voice(
            ImportRequest(como=files.student, vocoder=files.vocoder, content=files.content), Statements()
        )
