"""A page of tables and charts that needs nothing but itself."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

from .grid import Grid

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem } .note { color: #666 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal }
th { color: #666 } th:first-child, td:first-child { text-align: left } img { max-width: 100%; display: block }
"""


def section(title: str, note: str, charts: Mapping[str, bytes], grids: Sequence[Grid]) -> str:
    """A run: its charts (PNG by what they show), then its tables."""
    images = "".join(
        f'<h2>{escape(name)}</h2>\n<img alt="{escape(name)}" src="data:image/png;base64,{b64encode(png).decode()}">\n'
        for name, png in charts.items()
    )
    tables = "\n".join(grid.as_html() for grid in grids)
    return f'<h1>{escape(title)}</h1>\n<p class="note">{escape(note)}</p>\n{images}{tables}\n'


def page(title: str, sections: Sequence[str]) -> str:
    """The whole of it."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{"".join(sections)}</body>
</html>
"""
