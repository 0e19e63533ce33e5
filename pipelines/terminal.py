"""What a person reads in a terminal: tables that fit its width, and colour. Through a pipe the same text comes plain and unbroken."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

BEST, EXACT = "best", ":"  # of a table's cells: of the leading row; in the line below the headings: numbers stand at the right
GAP = 2  # columns between two of a table
TEXT_WIDTH = 24  # columns that a text beside a name keeps at least


def watched() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout.isatty()


def console() -> Console:
    """Of rich: colours where a person reads, unless NO_COLOR is set."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not watched())


def say(text: str, style: str = "") -> None:
    """Print lines; in a terminal in a style, broken between words."""
    if not watched():
        return print(text)
    from rich.text import Text

    return console().print(Text(text, style=style))


def listed(rows: Iterable[tuple[str, str]], width: int, style: str = "") -> None:
    """Print names and what is said of them; in a terminal what is said keeps its own column.

    Args:
        rows: name and text; a name that begins with blanks keeps them.
        width: of the names' column.
        style: of the texts.
    """
    for name, text in rows:
        if not watched():
            print(f"{name:{width}}{text}")
            continue
        from rich.text import Text

        columns = console().width
        indent = width if columns - width >= TEXT_WIDTH else 4
        lines = textwrap.wrap(f"{name:{width}}{text}", columns, subsequent_indent=" " * indent, break_on_hyphens=False) or [""]
        whole = Text("\n".join(lines))
        if style:
            whole.stylize(style, len(name))
        console().print(whole)


def markdown(text: str) -> None:
    """Print markdown with one table or more; its columns are padded, and in a terminal also broken so that the table fits."""
    if not watched():
        return print(aligned(text))
    from rich.console import Group
    from rich.text import Text

    own, lines = console(), text.splitlines()
    while lines:
        table = []
        while lines and lines[0].startswith("|"):
            table.append([cell.strip() for cell in lines.pop(0).strip("|").split("|")])
        if table:
            for place, part in enumerate(_tables(table, own.width)):
                own.print(part if place == 0 else Group("", part))
        else:
            own.print(Text(lines.pop(0)))
    return None


def _tables(rows: list[list[str]], width: int) -> Iterator[Any]:
    """Tables of rich from headings, the line below them, and cells: as many as it takes for all columns to fit, each with the names."""
    from rich.table import Table
    from rich.text import Text

    body = [rows[0], *rows[2:]]
    sizes = [max(_widest(rows[0][place]), *(len(row[place]) for row in rows[2:]), 1) for place in range(len(rows[0]))]
    sizes[0] = min(sizes[0], width // 2)
    rest = list(range(1, len(sizes)))
    while rest:
        part, left = [0], width - sizes[0]
        while rest and (len(part) == 1 or sizes[rest[0]] + GAP <= left):
            left -= sizes[rest[0]] + GAP
            part.append(rest.pop(0))
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        for place in part:
            justify: Any = "right" if rows[1][place].endswith(EXACT) else "left"
            table.add_column(Text(body[0][place]), justify=justify, overflow="fold", width=sizes[place])
        for cells in body[1:]:
            table.add_row(*(Text(cells[place]) for place in part), style="green" if BEST in cells else "")
        yield table


def _widest(heading: str) -> int:
    """Columns of a heading's longest word: headings are broken between words, cells are not."""
    return max(map(len, heading.split()), default=0)


def aligned(text: str) -> str:
    """Markdown with padded table columns."""
    lines = text.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = []
    for line in lines:
        if not line.startswith("|"):
            shown.append(line)
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if set("".join(cells)) <= set("-:"):
            cells = ["-" * width for width in widths]
        shown.append(
            "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        )
    return "\n".join(shown)
