"""comosvc-convert and comosvc-doctor, as somebody at a terminal meets them."""

import errno
import importlib
import io
import json
import os
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny_bundle import SPEC, edited, write_zip
from typer.testing import CliRunner

from comosvc.runtime import Converter, __version__
from comosvc.runtime.audio import sources
from comosvc.runtime.cli import doctor
from comosvc.runtime.cli.convert import _app
from comosvc.runtime.cli.plot import Panel, draw
from comosvc.runtime.errors import install
from comosvc.runtime.providers import PROVIDERS
from comosvc.runtime.providers.self_test import vowel

GLIDE, _ = vowel(SPEC)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with two songs and a broken one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lieder").mkdir()
    soundfile.write("lieder/a ü.wav", GLIDE[:9_000], 24_000)
    soundfile.write("lieder/b.flac", GLIDE[:12_000], 44_100)
    (tmp_path / "broken.wav").write_text("x")
    return tmp_path


@pytest.fixture
def convert(bundle_path, folder):
    """Runs the command with the tiny voice: exit code, standard output, standard error."""

    def run(*arguments):
        result = CliRunner().invoke(_app, [*arguments, "-m", str(bundle_path), "--threads", "1"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


PANELS = ["Arguments", "Input and output", "Voice and pitch", "Live", "Engine", "Information"]


def test_help_groups_the_options_in_panels_with_examples_that_fit_80_columns(monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    lines = CliRunner().invoke(_app, ["--help"]).stdout.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("╭")]
    assert [lines[number].strip("╭─╮ ") for number in heads] == PANELS
    assert all(end - start < 24 for start, end in pairwise([*heads, len(lines)]))
    in_panel = {line.split()[1] for line in lines[heads[-1] :] if " --" in line}
    assert in_panel == {"--info", "--verbose", "--version", "--install-completion", "--show-completion", "--help"}
    examples = [line.rstrip() for line in lines[lines.index(" Examples:".ljust(80)) + 1 : heads[0]]]
    assert all(line.startswith("   ") for line in examples if line), "a line of them was broken"
    assert "   comosvc-convert song.wav -o out.wav -s alto -k -3  three semitones down" in examples
    assert {"--live", "--json", "--latency"} <= {word for line in lines for word in line.split()}


def test_version():
    assert CliRunner().invoke(_app, ["--version"]).stdout.strip() == __version__


def test_one_file_to_one_file(convert, folder):
    code, out, err = convert("lieder/a ü.wav", "-o", "ergebnis.flac", "-s", "bass", "-k", "-3")
    assert (code, out) == (0, "")
    assert "lieder/a ü.wav -> ergebnis.flac" in err
    assert "key -3" in err
    assert soundfile.info("ergebnis.flac").frames == 9_000


@pytest.mark.parametrize("key", [("-k", "-3"), ("-k-3",), ("--key=-3",), ("--key", "-3.0")])
def test_negative_keys_are_keys(convert, key):
    code, out, _ = convert("lieder/a ü.wav", "-o", "a.wav", "--json", *key)
    assert code == 0
    assert json.loads(out)["results"][0]["options"]["key"] == -3.0


def test_folders_patterns_and_files_in_one_go(convert, folder):
    code, _, err = convert("lieder", "lieder/*.flac", "broken.wav", "gone.wav", "-o", "out", "-k", "auto")
    assert code == 1
    assert names(folder / "out") == ["a ü_alto_8key.wav", "b_alto_-3key.wav"]
    assert "broken.wav is not audio" in err
    assert "gone.wav: no such file" in err
    assert err.count("b.flac ->") == 1


def test_a_folder_is_searched_for_all_that_is_read_and_for_nothing_hidden(convert, folder, monkeypatch):
    monkeypatch.setattr(sources, "has_pyav", lambda: False)
    (folder / "lieder" / "._a ü.wav").write_bytes(b"Mac OS X")
    (folder / "lieder" / "c.m4a").write_bytes(b"any")
    (folder / "lieder" / "cover.jpg").write_bytes(b"any")
    soundfile.write("lieder/d.aiff", GLIDE[:9_000], 24_000)
    code, out, err = convert("lieder", "-o", "out", "--json")
    assert code == 0
    assert names(folder / "out") == ["a ü_alto_0key.wav", "b_alto_0key.wav", "d_alto_0key.wav"]
    assert "skipped: lieder/c.m4a: .m4a files need PyAV" in err
    assert [entry["source"] for entry in json.loads(out)["skipped"]] == ["lieder/c.m4a"]
    assert "cover" not in err
    assert "._a" not in err


def test_standard_input_and_output(convert, folder, bundle_path):
    command = [sys.executable, "-c", "from comosvc.runtime.cli.convert import main; main()", "-m", str(bundle_path)]
    wav = (folder / "lieder" / "a ü.wav").read_bytes()
    done = subprocess.run([*command, "-", "-o", "-", "--format", "flac"], input=wav, capture_output=True, check=True)
    assert soundfile.info(io.BytesIO(done.stdout)).frames == 9_000
    assert done.stdout[:4] == b"fLaC"
    streamed = wav[: wav.index(b"data") + 4] + b"\xff\xff\xff\xff" + wav[wav.index(b"data") + 8 :]
    subprocess.run([*command, "-", "-o", "out"], input=streamed, capture_output=True, check=True)
    assert names(folder / "out") == ["stdin_alto_0key.wav"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("- -o a.wav <&-", "standard input is closed"),
        ("lieder/b.flac -o - >&-", "standard output is closed"),
        ("lieder/b.flac -o a.wav --json >&-", "standard output is closed"),
        ("lieder/b.flac -o - >/dev/full", "<stdout> cannot be written: No space left on device"),
        ("lieder/b.flac -o a.wav --json >/dev/full", "standard output cannot be written: No space left on device"),
        ("--info >/dev/full", "standard output cannot be written: No space left on device"),
    ],
)
def test_standard_input_or_output_that_cannot_be_used_is_one_clear_error(folder, bundle_path, arguments, words):
    command = f"{sys.executable} -c 'from comosvc.runtime.cli.convert import main; main()' -m {bundle_path} {arguments}"
    # Buffered, as users run it: what cannot be written would be tried again at the end, and give exit code 120.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=buffered, check=False)
    assert (done.returncode, done.stderr.count("error: "), words in done.stderr) == (1, 1, True)
    assert "Exception ignored" not in done.stderr


def test_a_pattern_names_files_once_and_no_folders(convert, folder):
    (folder / "lieder" / "loop").symlink_to(folder / "lieder")
    code, _, err = convert("lieder/**", "-o", "out")
    assert (code, err.count(" -> ")) == (0, 2)
    assert "loop" not in err


def test_a_second_run_skips_what_is_done(convert, folder):
    assert convert("lieder/b.flac", "-o", "out")[0] == 0
    code, out, err = convert("lieder", "-o", "out", "--skip-existing", "--json")
    assert code == 0
    assert "skipped: lieder/b.flac: out/b_alto_0key.wav exists" in err
    assert {r["source"]: r["skipped"] for r in json.loads(out)["results"]} == {
        "lieder/a ü.wav": False,
        "lieder/b.flac": True,
    }
    assert convert("lieder/b.flac", "-o", "out/b_alto_0key.wav", "--skip-existing")[0] == 0


def test_channel_and_its_warning(convert, folder):
    soundfile.write("o.wav", np.stack([GLIDE[:9_000], -GLIDE[:9_000]], axis=1), 24_000)
    assert "opposite phase" in convert("o.wav", "-o", "out")[2]
    assert "opposite phase" not in convert("o.wav", "-o", "out2", "--channel", "right")[2]


def test_names_that_the_system_refuses_stop_only_themselves(convert, folder):
    code, _, err = convert("x" * 300, "lieder/b.flac/c.wav", "lieder/b.flac", "-o", "out")
    assert code == 1
    assert "File name too long" in err
    assert "Not a directory" in err
    assert names(folder / "out") == ["b_alto_0key.wav"]


def test_a_folder_that_cannot_be_read_stops_only_itself(convert, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied") if path.name == "closed" else AssertionError(path)

    (folder / "closed").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    code, out, err = convert("closed", "lieder/b.flac", "-o", "out", "--json")
    assert (code, "closed cannot be read: Permission denied" in err) == (1, True)
    assert [r["error"] is None for r in json.loads(out)["results"]] == [True, False]
    assert convert("closed", "-o", "a.wav")[0] == 1


def test_without_output_the_result_comes_here(convert, folder):
    assert convert("lieder/b.flac", "--format", "flac")[0] == 0
    assert "b_alto_0key.flac" in names(folder)


def test_json_is_all_of_standard_output(convert, folder):
    code, out, _ = convert("lieder", "broken.wav", "-o", "out", "--json", "--seed", "4", "--steps", "2")
    summary = json.loads(out)
    assert code == 1
    assert summary["version"] == __version__
    results = {result["source"]: result for result in summary["results"]}
    assert "is not audio" in results["broken.wav"]["error"]
    good = results["lieder/a ü.wav"]
    assert good["error"] is None
    assert good["output"] == "out/a ü_alto_0key.wav"
    assert (good["options"]["seed"], good["options"]["steps"]) == (4, 2)
    assert set(good["timings_ms"]) == {"resample", "content", "pitch", "acoustic", "vocoder", "total"}
    assert good["rtf"] > 0
    assert any("very short" in warning or "lies at" in warning for warning in good["warnings"]) or not good["warnings"]


def test_overwriting_needs_force(convert, folder):
    (folder / "a.wav").write_text("mine")
    code, _, err = convert("lieder/b.flac", "-o", "a.wav")
    assert code == 1
    assert "a.wav exists" in err
    assert "--force" in err
    assert (folder / "a.wav").read_text() == "mine"
    assert convert("lieder/b.flac", "-o", "a.wav", "--force")[0] == 0
    assert soundfile.info("a.wav").frames == 12_000


def test_info_folds_what_is_too_long_for_the_screen(convert, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert "…" not in convert("--info")[1]


def test_info_prints_singers_licences_and_graphs(convert):
    code, out, _ = convert("--info")
    assert code == 0
    for word in ("Ténor 1", "110 Hz (A2)", "swift-f0", "steps: 1, 2, 4", "acoustic_n", "runs on: ", "no recordings"):
        assert word in out
    assert "confidence" not in out
    assert out.count("CC0") == 1
    assert "singers alto, bass, Ténor 1: CC0; nobody" in out
    for word in ("audio -> f0_hz, confidence", "5 frames before, 2 after"):
        assert word in convert("--info", "--verbose")[1]


def test_info_says_the_lag_that_a_stream_has(convert, bundle_path):
    with Converter(bundle_path, provider="cpu", threads=1) as converter, converter.stream(24_000) as stream:
        lag_ms = stream.latency_samples / 24.0
    out = convert("--info")[1]
    assert f"the output lags {lag_ms:.1f} ms behind the input" in out
    assert out.count("behind the input") == 1


def test_tables_of_the_shipped_voice_fit_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(_app, ["--info", "--provider", "cpu"]).stdout
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(rows) == 4 + 6  # a line for each singer and each graph
    assert max(map(len, shown.splitlines())) <= 80


def test_the_singer_that_was_taken_is_named(convert):
    code, out, err = convert("lieder/b.flac", "-o", "out", "--json")
    assert code == 0
    assert "(as alto, " in err
    assert json.loads(out)["results"][0]["options"]["singer"] == {"alto": 1.0}
    code, out, err = convert("lieder/b.flac", "-o", "out", "-s", "alto=3,bass=1", "--json")
    assert "(as alto 75 %, bass 25 %, " in err
    assert json.loads(out)["results"][0]["options"]["singer"] == {"alto": 0.75, "bass": 0.25}


def test_files_can_be_converted_as_a_stream_would(convert):
    code, out, _ = convert("lieder/b.flac", "-o", "b.wav", "--latency", "low", "--json")
    assert code == 0
    assert json.loads(out)["results"][0]["options"]["latency"] == "low"


def test_plot_draws_one_conversion(convert, folder):
    assert convert("lieder/b.flac", "-o", "b.wav", "--plot", "bild ü.png")[0] == 0
    assert (folder / "bild ü.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = convert("lieder/b.flac", "-o", "c.wav", "--plot", "bild ü.png")
    assert (code, "bild ü.png exists" in err) == (1, True)
    assert not (folder / "c.wav").exists()


def picture_of(folder, seconds, title="song"):
    """Size of a picture of a panel above another, in pixels; warnings are errors."""
    clip = np.resize(GLIDE, round(seconds * SPEC.sample_rate))
    panels = [Panel(title, clip, SPEC.sample_rate, np.zeros(SPEC.frames(len(clip)), np.float32))] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(folder / "picture.png", panels, SPEC)
    return Image.open(folder / "picture.png").size


def test_a_long_clip_is_drawn_in_several_rows(folder):
    for seconds, size in ((2.0, (800, 640)), (12.0, (2400, 640)), (13.0, (1300, 2 * 640))):
        assert picture_of(folder, seconds) == size


@pytest.mark.parametrize(
    "name", ["歌声の魔法.wav", "עברית ไทย 🎤.wav", "cost $5 and $x^$.wav", "$x^$.wav", r"alpha {b"]
)
def test_names_of_every_script_are_drawn_without_a_warning(folder, name):
    assert picture_of(folder, 1.0, name) == (800, 640)


def test_a_picture_appears_whole_or_not_at_all(convert, folder, monkeypatch):
    def full(figure, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    (folder / "out").mkdir()
    code, _, err = convert("lieder/b.flac", "-o", "out/b.wav", "--plot", "out/x.png")
    assert code == 1
    assert "out/x.png cannot be written: No space left on device" in err
    assert names(folder / "out") == ["b.wav"]


def test_plot_without_matplotlib_says_what_to_install(convert, folder, monkeypatch):
    def without_matplotlib(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without_matplotlib)
    code, _, err = convert("lieder/b.flac", "-o", "b.wav", "--plot", "x.png")
    assert code == 1
    assert install("plot") in err
    assert not (folder / "b.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to convert"),
        (("lieder/b.flac", "-k", "high"), "'high' is neither a number of semitones nor auto"),
        (("lieder/b.flac", "-k", "99"), "it must be -36 to 36"),
        (("lieder/b.flac", "-s", "nobody"), "no singer 'nobody' in this voice; it has alto"),
        (("lieder/b.flac", "-s", "alto=much"), "is no blend"),
        (("lieder/b.flac", "-o", "a.mp3"), "written as .wav or .flac, or into a folder"),
        (("lieder/b.flac", "--format", "mp3"), "known: wav, flac"),
        (("lieder/b.flac", "--steps", "7"), "this voice can do 1, 2, 4"),
        (("lieder/b.flac", "--provider", "gpu"), "unknown provider 'gpu'"),
        (("lieder/b.flac", "--precision", "int8"), "tiny.comosvc has no graphs in int8"),
        (("lieder", "-o", "one.wav"), "cannot all become one.wav"),
        (("*.ogg",), "*.ogg: no file matches"),
        ((".",), "no audio files in this folder"),
        (("--info", "my voice.comosvc"), "hint: comosvc-convert --info -m 'my voice.comosvc'"),
        (("lieder/b.flac", "--latency", "none"), "known: default, low"),
        (("lieder/b.flac", "--channel", "both"), "channel is 'both'"),
        (("lieder/b.flac", "-o", "-", "--json"), "writes to standard output"),
        (("lieder", "-o", "out", "--plot", "x.png"), "draws one conversion"),
        (("lieder/b.flac", "-o", "d.wav", "--plot", "x.txt"), "x.txt: pictures are written as .png"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(convert, folder, arguments, words):
    (folder / "broken.wav").unlink()
    code, out, err = convert(*arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert len(names(folder)) == 2


def test_a_wrong_voice_is_one_clear_error(folder):
    result = CliRunner().invoke(_app, ["lieder/b.flac", "-m", "lieder/b.flac"])
    assert result.exit_code == 1
    assert "is not a voice bundle" in result.stderr


# --- comosvc-doctor


def examine(*arguments):
    return CliRunner().invoke(doctor._app, list(arguments))


def test_doctor_says_what_works(bundle_path):
    result = examine("-m", str(bundle_path), "--provider", "cpu")
    assert result.exit_code == 0
    for word in ("onnxruntime", "libsndfile", "provider cpu", "runs on cpu in fp32", "provider cuda"):
        assert word in " ".join(result.stdout.split())


def test_doctor_refuses_an_unknown_provider_at_once(monkeypatch):
    monkeypatch.setattr(doctor, "check_provider", None)
    result = examine("--provider", "foo")
    assert result.exit_code == 1
    assert " ".join(result.stderr.split()) == "error: unknown provider 'foo'; known: " + ", ".join(PROVIDERS)
    assert result.stdout == ""


def test_doctor_really_converts(files, tmp_path):
    path = write_zip(
        tmp_path / "broken.comosvc", edited(files, lambda m: m["graphs"]["vocoder"].update(sha256="0" * 64))
    )
    result = examine("-m", str(path))
    assert result.exit_code == 1
    assert "damaged or changed" in " ".join(result.stderr.split())
