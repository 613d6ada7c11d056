"""`comosvc`: one command for all, and the names that `import comosvc` offers."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shellingham
from typer.testing import CliRunner

import comosvc
import comosvc.runtime
from comosvc.__main__ import app
from comosvc.benchmarks.report import typed_command
from comosvc.runtime import errors as extras
from comosvc.runtime.cli import convert as cli

COMMAND = Path(sys.executable).with_name("comosvc")
COMMANDS = ["convert", "live", "train", "export", "bench", "doctor"]


def run(*arguments, **environment):
    result = CliRunner().invoke(app, list(arguments), prog_name="comosvc", env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_names_are_those_of_the_runtime():
    assert comosvc.__all__ == comosvc.runtime.__all__
    for name in comosvc.__all__:
        assert getattr(comosvc, name) is getattr(comosvc.runtime, name)
    assert set(comosvc.__all__) < set(dir(comosvc))
    with pytest.raises(AttributeError, match=r"'comosvc' has no attribute 'nothing'"):
        _ = comosvc.nothing


HELP = "from typer.testing import CliRunner; assert 'Usage' in CliRunner().invoke(app, ['--help']).stdout"
ENGINES = {"torch", "onnxruntime", "openvino", "tensorrt", "matplotlib", "scipy", "sounddevice", "av", "pyworld"}


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import comosvc", {"numpy", "soundfile", "comosvc.runtime", *ENGINES}),
        (f"from comosvc.__main__ import app; {HELP}", {"numpy", "soundfile", "comosvc.runtime", *ENGINES}),
        (f"from comosvc.runtime.cli.convert import _app as app; {HELP}", ENGINES),
        (f"from comosvc.runtime.cli.doctor import _app as app; {HELP}", ENGINES),
    ],
)
def test_importing_the_package_and_help_are_light(code, heavy):
    code += f"; import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HEAVY = {"torch", "lightning", "transformers", "onnx", "onnxruntime", "onnxscript", "scipy", "matplotlib", "psutil"}
RESULTS = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize(
    ("package", "arguments", "needs"),
    [
        ("export", ["--help"], set()),
        ("export", ["bundle", "--help"], set()),
        ("benchmarks", ["--help"], set()),
        ("benchmarks", ["rtf", "--help"], set()),
        ("benchmarks", ["report", *map(str, RESULTS)], {"matplotlib"}),
    ],
)
def test_help_and_reports_import_nothing_heavy(package, arguments, needs):
    code = f"""
import sys
from typer.testing import CliRunner
from comosvc.{package}.cli import app
done = CliRunner().invoke(app, {arguments})
assert done.exit_code == 0, done.output
print(sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted(needs))


def test_help_lists_the_commands_in_the_order_of_their_use():
    lines = run("--help").stdout.splitlines()
    assert [line.split()[0] for line in lines[lines.index("Commands:") + 1 :]] == COMMANDS
    assert "--install-completion" in run("--help").stdout


@pytest.mark.parametrize("start", [[COMMAND], [sys.executable, "-m", "comosvc"]], ids=["console script", "module"])
def test_it_runs(start):
    done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == comosvc.__version__


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("convert", ["Usage: comosvc convert [OPTIONS] [IN]...", "--singer"]),
        ("live", ["Usage: comosvc live [OPTIONS]  ", "--input-device", "--singer"]),
        ("export", ["Usage: comosvc export", "inspect"]),
        ("doctor", ["Usage: comosvc doctor", "--provider"]),
    ],
)
def test_each_command_is_the_one_of_its_own_name(command, words):
    said = run(command, "--help").stdout
    for word in words:
        assert word in said


def test_live_is_convert_live_without_what_is_for_files(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "sound_devices", lambda: None)
    monkeypatch.setattr(cli, "_sing_live", lambda converter, options, console: asked.append(options))
    assert run("live", "-s", "alto", "-k", "3").exit_code == 0
    assert (asked[0].singer, asked[0].key) == ("alto", 3.0)
    assert run("live", "song.wav").exit_code == 2
    assert not {"--plot", "--channel", "--install-completion"} & set(run("live", "--help").stdout.split())


def test_an_unknown_command_names_the_nearest():
    assert "Did you mean 'convert'?" in run("convrt").stderr


def test_a_missing_package_is_one_line_with_the_way_out(monkeypatch):
    def without_torch(name, *rest, **named):
        if "training" in name:
            raise ModuleNotFoundError(f"No module named 'torch', for {name}", name="torch")
        return real(name, *rest, **named)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without_torch)
    result = CliRunner().invoke(app, ["train", "student"])
    assert result.exit_code == 1
    assert "error: comosvc train needs the package torch, which is not installed" in str(result.exception)
    assert extras.install("train") in str(result.exception)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("comosvc ", COMMANDS),
        ("comosvc do", ["doctor"]),
        ("comosvc convert --sin", ["--singer"]),
        ("comosvc-convert --sin", ["--singer"]),
        ("comosvc-doctor --prov", ["--provider"]),
    ],
)
def test_the_shell_completes_commands_and_their_options(typed, offered):
    words, command = len(typed.split()) - (not typed.endswith(" ")), typed.split()[0]
    asked = {f"_{command.upper().replace('-', '_')}_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment = {**os.environ, **asked, "COMP_CWORD": str(words)}
    start = COMMAND.with_name(command)
    done = subprocess.run([start], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == offered


@pytest.mark.parametrize("home", ["a file", None])
@pytest.mark.parametrize(
    "module", ["__main__", "runtime.cli.convert", "runtime.cli.doctor", "training.cli", "export.cli", "benchmarks.cli"]
)
def test_completion_without_a_home_folder_is_an_error_in_words(tmp_path, monkeypatch, module, home):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "a file").touch()
    if home is None:
        monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setenv("HOME", str(tmp_path / (home or "")))
    monkeypatch.setattr(sys, "argv", ["comosvc", "--install-completion", "bash"])
    monkeypatch.setattr(cli, "end_on_signals", lambda: None)
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("bash", "/bin/bash"))  # make test may have none above it
    with pytest.raises(SystemExit, match=r"^error: completion cannot be installed into your home folder: ") as exit_:
        importlib.import_module(f"comosvc.{module}").main()
    assert "--show-completion" in str(exit_.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_module_of_our_own_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "comosvc.runtime.cli.doctor", None)
    with pytest.raises(ModuleNotFoundError, match=r"comosvc\.runtime\.cli\.doctor"):
        run("doctor")


def test_the_shell_is_not_written_to_where_a_package_is_missing(tmp_path):
    (tmp_path / "soxr.py").write_text("raise ModuleNotFoundError('No module named soxr', name='soxr')", "utf-8")
    asked = {"_COMOSVC_COMPLETE": "complete_bash", "COMP_WORDS": "comosvc convert ", "COMP_CWORD": "2"}
    environment = {**os.environ, **asked, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([COMMAND], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize(
    "arguments", [["/bin/comosvc", "bench", "rtf", "--quick"], ["/bin/comosvc-bench", "rtf", "--quick"]]
)
def test_a_result_names_the_same_command_either_way(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", arguments)
    assert typed_command() == "comosvc-bench rtf --quick"
