"""Errors: their texts on a terminal, and the commands that install missing packages."""

import importlib
import json
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import typer
from tiny_bundle import edited, write_folder
from typer.testing import CliRunner

from comosvc.export.cli import app as export_app
from comosvc.runtime import BundleError, Converter
from comosvc.runtime.cli import exit
from comosvc.runtime.cli.convert import _app as convert_app
from comosvc.runtime.errors import ComosvcError, install, pip_install, printable

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


def importing(module):
    """A command that imports `module` when it runs."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(lambda: importlib.import_module(module))
    return app


def test_a_missing_package_is_one_line_with_the_way_out(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["comosvc-train"])
    with pytest.raises(SystemExit) as exit_:
        exit.run(importing("nowhere_to_be_found"), "comosvc-train", "train")
    assert exit_.value.code == (
        f"error: comosvc-train needs the package nowhere_to_be_found, which is not installed\nhint: {install('train')}"
    )


def test_a_module_of_our_own_that_is_missing_is_no_matter_of_extras(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["comosvc-train"])
    with pytest.raises(ModuleNotFoundError, match=r"comosvc.nowhere"):
        exit.run(importing("comosvc.nowhere"), "comosvc-train", "train")


@pytest.mark.parametrize(
    ("noted", "wanted"),
    [
        ({"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}}, "pip install '/home/me/my clone[cpu]'"),
        ({"url": "https://host/comosvc.whl", "archive_info": {}}, "pip install 'comosvc[cpu]'"),
        (None, "pip install 'comosvc[cpu]'"),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came_from(monkeypatch, noted, wanted):
    text = None if noted is None else json.dumps(noted)
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: text))
    assert install("cpu") == wanted


def test_outside_of_an_installation_the_name_has_to_do(monkeypatch):
    def none(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "distribution", none)
    assert install("cpu") == "pip install 'comosvc[cpu]'"


@pytest.mark.parametrize("wanted", [install, lambda extra: pip_install(f"--upgrade {extra}")])
def test_a_frozen_application_has_no_pip_and_no_folder_of_the_machine_that_built_it(monkeypatch, wanted):
    noted = json.dumps({"url": "file:///home/builder/clone", "dir_info": {}})
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: noted))
    assert "pip install" in wanted("cpu")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "pip" not in wanted("cpu")
    assert "builder" not in wanted("cpu")
    assert "has to be built again" in wanted("cpu")
