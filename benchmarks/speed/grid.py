"""A table of words, once, for the terminal, for Markdown and for HTML."""

from dataclasses import dataclass
from html import escape

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape as plain
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Grid:
    """A table; the first column says what a row is about. A cell nobody has measured is empty."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def for_terminal(self) -> Table:
        table = Table(title=plain(self.title), caption=plain(self.note) or None, title_justify="left")
        table.caption_justify = "left"
        for number, head in enumerate(self.heads):
            table.add_column(plain(head), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(plain, row))
        return table

    def as_markdown(self) -> str:
        """With the title as a paragraph before it and the note after it."""
        lines = [f"**{self.title}**", "", _line(self.heads), "|---" + "|---:" * (len(self.heads) - 1) + "|"]
        lines += map(_line, self.rows)
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def as_html(self) -> str:
        heads = "".join(f"<th>{escape(head)}</th>" for head in self.heads)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.rows)
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return f"<h2>{escape(self.title)}</h2>\n<table><tr>{heads}</tr>\n{rows}</table>\n{note}"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "; ") for cell in cells) + " |"


def show(table: Table) -> None:
    """Print a table no narrower than its longest words: figures that wrap with the terminal's lines can be read, those
    that are broken every three letters cannot.
    """
    for column in table.columns:
        cells = (Text.from_markup(str(cell)).plain for cell in (column.header, *column.cells))
        column.min_width = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    console = Console()
    width = console.width
    while (needed := _rendered_width(console, table, width)) > width:
        width = needed
    Console(width=width).print(table)


def _rendered_width(console: Console, table: Table, width: int) -> int:
    """Of the table's longest line where `width` is offered."""
    lines = Segment.split_lines(console.render(table, console.options.update(width=width)))
    return max(map(Segment.get_line_length, lines))
