"""Text of a file on a terminal."""

import pytest
from tiny_bundle import edited, write_folder
from typer.testing import CliRunner

from comosvc.export.cli import app as export_app
from comosvc.runtime import BundleError, Converter
from comosvc.runtime.cli.convert import _app as convert_app
from comosvc.runtime.errors import ComosvcError, printable

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31mred\r\u202e[red]\u2066"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Ténor 声 नमस्ते \u200d\u3000\xa0", "Ténor 声 नमस्ते \u200d\u3000\xa0"),
        ("two\nlines\tand columns", "two\nlines\tand columns"),
        ("\x1b[2J\x07\r\x7f\x00", r"\x1b[2J\x07\x0d\x7f\x00"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("a\u202eb\u2066c\u2028d\ufeff", r"a\u202eb\u2066c\u2028d\ufeff"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_text(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    shown.encode("utf-8")


def test_an_error_is_as_long_as_can_be_read():
    path = f"/{'x' * 5_000}"
    assert str(ComosvcError(f"{path} cannot be read: File name too long\nhint: {path}")) == (
        f"/{'x' * 99}...{'x' * 100} cannot be read: File name too long\nhint: /{'x' * 99}...{'x' * 100}"
    )
    assert len(str(ComosvcError("a name, " * 100_000))) < 5_000
    usual = "\n".join(["a line of a log"] * 1_000)
    assert str(ComosvcError(usual)) == usual


def test_an_error_is_safe_to_print():
    assert str(ComosvcError(f"no {EVIL}\nhint: none")).count("\x1b") == 0
    assert str(ComosvcError("\nhint: none")) == "\nhint: none"
    with pytest.raises(BundleError) as caught:
        Converter(f"{EVIL}.comosvc")
    assert r"\x1b]0;owned\x07" in str(caught.value)


@pytest.fixture
def evil_voice(files, tmp_path):
    def edit(manifest):
        manifest["name"] = manifest["consent"] = manifest["model"]["objective"] = f"x{EVIL}"
        manifest["model"]["departures"] = [EVIL]
        manifest["provenance"] = {"versions": {EVIL: EVIL}, "commit": EVIL}
        manifest["licences"] = [{"part": EVIL, "licence": EVIL, "credit": EVIL}]
        manifest["singers"] = {EVIL: {**manifest["singers"]["alto"], "licence": EVIL, "credit": EVIL}}

    return write_folder(tmp_path / "voice", edited(files, edit))


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (convert_app, ["--info", "-m"]),
        (export_app, ["inspect"]),
        (export_app, ["verify"]),
        (convert_app, ["no-such-file.wav", "-m"]),
        (convert_app, ["no-such-file.wav", "-s", EVIL, "-m"]),
    ],
)
def test_texts_of_a_voice_reach_the_terminal_as_text(evil_voice, app, arguments):
    done = CliRunner().invoke(app, [*arguments, str(evil_voice)], env={"COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit)
    shown = done.output
    assert not set("\x1b\x07\x9b\r\u202e\u2066") & set(shown)
    if arguments[0] in ("--info", "inspect"):
        assert r"x\x1b]0;owned\x07" in shown
        assert "[red]" in shown
