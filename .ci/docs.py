"""Generates parts of the documentation: `python .ci/docs.py messages|figures|assets`.

messages  the table of error messages, from the source of the packages, into build/docs/messages.md (`make docs`)
figures   the README's figures and the chart of stages, from benchmarks/results
assets    picture and sounds of the README, from demo-out/ (`make demo`)
"""

import ast
import json
import re
import sys
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ASSETS = ROOT / "docs" / "assets"
PACKAGES = ("runtime", "training", "export", "benchmarks")
ANY = "…"
"""Stands for a value in a message."""


class Message(NamedTuple):
    text: str
    hint: str
    error: str
    file: str


def messages() -> list[Message]:
    """Every message that an error of the packages is made with, in alphabetical order, each once."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    errors = {
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }
    found: dict[tuple[str, str], Message] = {}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors and node.args:
                text, _, hint = _text(node.args[0]).partition("\nhint: ")
                message = Message(" ".join(text.split()), " ".join(hint.split()), node.func.id, file)
                if re.search(r"\w", text):
                    found.setdefault((message.text, message.error), message)
    return sorted(found.values(), key=lambda message: (message.text.strip(f"{ANY} :'").lower(), message))


def _text(node: ast.expr) -> str:
    """A string expression with `ANY` in place of its values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ANY


def messages_table() -> str:
    rows = [f"| {_cell(m.text)} | {_cell(m.hint)} | `{m.error}`, `{m.file}` |" for m in messages()]
    return "\n".join(["| Message | Hint | Raised as, in |", "|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return escape(re.sub(r"([\\|*_`\[\]])", r"\\\1", text), quote=False)


SYSTEMS = {
    ("comosvc-authors", "torch"): "the authors' CoMoSVC, in torch",
    ("sovits-flow", "torch"): "so-vits-svc's flow, in torch",
    ("comosvc", "openvino"): "comosvc with the authors' vocoder, in OpenVINO",
    ("comosvc-light", "openvino"): "comosvc with its light vocoder, in OpenVINO",
}
PRECISIONS = ("fp32", "bf16", "int8")
BEGIN, END = "<!-- figures: written by python .ci/docs.py figures -->", "<!-- /figures -->"


def figures() -> str:
    """The README's table of speed and line of quality."""
    speed = json.loads((RESULTS / "rtf-engines.json").read_text("utf-8"))
    rtf = {
        (row["system"], row["engine"], row["precision"]): row["derived"]["rtf"]
        for row in speed["rows"]
        if row["stage"] == "total" and row["threads"] == 1
    }
    lines = ["| Seconds of work per second of song, one core | fp32 | bf16 | int8 |", "|---|---:|---:|---:|"]
    for key, title in SYSTEMS.items():
        cells = [rtf.get((*key, precision)) for precision in PRECISIONS]
        lines.append(f"| {title} | {' | '.join('–' if cell is None else f'{cell:.3g}' for cell in cells)} |")
    quality = json.loads((RESULTS / "quality-demo-fp32.json").read_text("utf-8"))["details"]["one_step"]
    flow = rtf["sovits-flow", "onnx", "fp32"]
    return "\n".join(
        [
            *lines,
            "",
            f"At the published size, with random weights, on an {speed['provenance']['machine']['cpu']} "
            f"(`benchmarks/results/rtf-engines.json`). Exported as ours is, the flow takes {flow:.3g} in fp32.",
            "",
            "Quality of the demo voice on synthetic singers and songs that no training saw: the distance of the mel to "
            f"the target singer's own rendering is {quality['relative_l1_audio']:.2f} of the unconverted song's; "
            f"{100.0 * quality['f0']['gross']:.1f} % of the F0 frames are more than 50 cents off; a classifier names "
            f"the target singer in {100.0 * quality['identified']:.0f} % of the conversions.",
        ]
    )


def write_figures() -> None:
    """Renew the README's figures and docs/assets/stages.png."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{figures()}\n{END}{rest.partition(END)[2]}", "utf-8")
    _draw_stages(ASSETS / "stages.png")


def _draw_stages(path: Path) -> None:
    from dataclasses import replace

    from comosvc.benchmarks.report import load
    from comosvc.benchmarks.speed.charts import stacked_stages
    from comosvc.benchmarks.speed.results import SpeedReport

    report = load(RESULTS / "rtf-engines.json", [SpeedReport])
    order = list(SYSTEMS)
    shown = [row for row in report.rows if (row.system, row.engine) in order and row.threads == 1]
    shown.sort(key=lambda row: order.index((row.system, row.engine)))
    figure = stacked_stages(replace(report, rows=tuple(shown)), shown[0].cell)
    figure.savefig(path, dpi=90)
    _shrink(path, colours=64)


EXCERPT_S = 4.2
"""Of the demo's song; a phrase ends there."""


def write_assets() -> None:
    """Crop the demo's picture to source, conversion and truth, and encode the first seconds of its sounds."""
    import soundfile

    demo = ROOT / "demo-out"
    for name, source in {"source": "source_unseen-1", "converted": "source_unseen-1_to_alto"}.items():
        audio, rate = soundfile.read(demo / f"{source}.wav", dtype="float32")
        soundfile.write(ASSETS / f"{name}.mp3", audio[: round(EXCERPT_S * rate)], rate)
    _crop(demo / "demo.png", ASSETS / "conversion.png")


def _crop(source: Path, path: Path) -> None:
    from PIL import Image

    with Image.open(source) as picture:
        width, height = picture.size
        cut = picture.convert("RGB").crop((0, 0, round(0.424 * width), round(0.592 * height)))
    cut.resize((cut.width * 4 // 5, cut.height * 4 // 5)).save(path)
    _shrink(path, colours=32)


def _shrink(path: Path, colours: int) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(colours)
    small.save(path, optimize=True)


def write_messages() -> None:
    path = ROOT / "build" / "docs" / "messages.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(messages_table(), "utf-8")


COMMANDS = {"messages": write_messages, "figures": write_figures, "assets": write_assets}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]]()
