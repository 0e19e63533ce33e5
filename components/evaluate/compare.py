"""One table of all variants, and the two plots that go with it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from components.base.errors import FarposeError
from components.base.files import atomic_file, write_json
from components.evaluate import curves
from components.evaluate.headline import GT, LETTERBOX, NONE, PROTOCOLS, boxes_of, headline, headline_ap

Row = Mapping[str, Any]
BARS = {GT: "#4c78a8", NONE: "#b279a2", LETTERBOX: "#d8b5d0"}  # by whose boxes the model was given
MARKS = {"ceiling_AP": ("ceiling of the codec", "#e45756"), "paper_AP": ("paper's AP", "#54a24b")}


@dataclass(frozen=True)
class Column:
    """A column of the table for people: its heading and how a row fills it (empty where the row has no such number)."""

    heading: str
    text: Callable[[Row], str]


def _percent(key: str) -> Callable[[Row], str]:
    return lambda row: _format(row.get(key), lambda value: f"{100 * value:.1f}")


def _own(name: str) -> Callable[[Row], str]:
    """The number `name` under the row's own protocol."""
    return lambda row: _percent(f"{name}_{headline(row)}")(row)


def _number(key: str, form: str) -> Callable[[Row], str]:
    return lambda row: _format(row.get(key), lambda value: format(value, form))


def _format(value: Any, form: Callable[[float], str]) -> str:
    return "" if value is None or pd.isna(value) else form(value)


def _interval(row: Row) -> str:
    low, high = _ends(row)
    value = f"{100 * headline_ap(row):.1f}"
    return value if low is None or high is None else f"{value} ({100 * low:.1f}–{100 * high:.1f})"


def _ends(row: Row) -> tuple[float | None, float | None]:
    """Ends of the main AP's interval."""
    name = f"AP_{headline(row)}"
    return row.get(f"{name}_low"), row.get(f"{name}_high")


COLUMNS = (
    Column("variant", lambda row: str(row["variant"])),
    Column("boxes given", boxes_of),
    Column("AP (95 % interval)", _interval),
    Column("AP50", _own("AP50")),
    Column("AP75", _own("AP75")),
    Column("AP(M)", _own("AP_M")),
    Column("AP(L)", _own("AP_L")),
    Column("AR", _own("AR")),
    Column("AP, detector boxes", _percent("AP_detector_boxes")),
    Column("ceiling", _percent("ceiling_AP")),
    Column("paper's AP", _percent("paper_AP")),
    Column("params, M", _number("params_m", ".2f")),
    Column("GMACs", _number("gmacs", ".3f")),
    Column("images/s", _number("images_per_s", ",.0f")),
    Column("training, min", lambda row: _format(row.get("training_s"), lambda value: f"{value / 60:.1f}")),
    Column("persons", _number("persons", ",.0f")),
)
NOTE = (
    "AP in percent with its 95 % bootstrap interval over images. Each row's AP is under its own protocol, named by the boxes that "
    "the model was given: annotated ones (top-down; a detector's where the column says so), or none, where the model finds the persons "
    "of a whole image itself (bottom-up). Rows are ranked within a protocol: an AP with boxes and one without do not compare methods. "
    "The ceiling is the AP of perfect outputs through the same codec and protocol. The paper's AP is on its own data, boxes and crops."
)


def compare(rows: Sequence[Row], out: Path, note: str = "") -> pd.DataFrame:
    """Write the table of all variants, best first within each protocol, into the directory `out`, and return it.

    Files: comparison.csv and .json (all keys, fractions of 1), comparison.md and .html (for people, percent),
    comparison.png (AP with intervals and ceilings), by_height.png (all variants' AP by person height).

    Args:
        rows: one mapping per variant: `variant` and a main AP (see `headline`) at least; what `evaluate.stage.evaluate` or
            `evaluate.bottom_up_stage.evaluate_images` returns; where known `params_m` (millions), `gmacs`, `images_per_s`,
            `training_s` (s), `paper_AP` (fraction of 1) and `by_height` (list of `curves.Point` mappings). Other keys are
            kept in CSV and JSON.
        note: added below the table, such as the hardware and the data.
    Raises:
        FarposeError: no rows, a row without its name or AP, or a variant twice.
    """
    _check(rows)
    rows = sorted(rows, key=lambda row: (list(PROTOCOLS).index(headline(row)), -headline_ap(row), row["variant"]))
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{key: value for key, value in row.items() if key != "by_height"} for row in rows])
    shown = [column for column in COLUMNS if any(column.text(row) for row in rows)]
    cells = [[column.text(row) for column in shown] for row in rows]
    headings, notes = [column.heading for column in shown], [text for text in (NOTE, note) if text]
    write_json(out / "comparison.json", [dict(row) for row in rows])
    with atomic_file(out / "comparison.csv") as temporary:
        table.to_csv(temporary, index=False)
    for name, text in (("md", markdown(headings, cells, notes)), ("html", page(headings, cells, notes))):
        with atomic_file(out / f"comparison.{name}") as temporary:
            temporary.write_text(text)
    _plot(out / "comparison.png", rows)
    by_height = {_label(row, rows): row["by_height"] for row in rows if row.get("by_height")}
    if by_height:
        curves.plot(out / "by_height.png", by_height, "person height, px of the image")
    return table


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + "\n\n".join(notes) + "\n"


def page(headings: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """The table as one self-contained HTML page."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;width:100%}th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
        "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #444}"
        "tbody tr:hover{background:#f4f7fb}p{color:#555;font-size:13px}td{white-space:nowrap}"
    )
    line = lambda tag, texts: "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"  # noqa: E731
    body = "\n".join(line("td", row) for row in cells)
    below = "\n".join(f"<p>{html.escape(text)}</p>" for text in notes)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison of variants</title><style>{style}</style></head>\n'
        f"<body><h1>Comparison of variants</h1>\n<table><thead>{line('th', headings)}</thead>\n<tbody>\n{body}\n</tbody></table>\n{below}\n"
        "</body></html>\n"
    )


def _check(rows: Sequence[Row]) -> None:
    if not rows:
        raise FarposeError("no variants to compare", fix="evaluate at least one")
    for row in rows:
        if row.get("variant") is None:
            raise FarposeError("variant is missing", where="metrics of a variant", fix="evaluate it again")
        headline(row)
    names = [row["variant"] for row in rows]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise FarposeError(f"variant {repeated!r} appears twice", where="comparison")


def _label(row: Row, rows: Sequence[Row]) -> str:
    """The variant's name; with whose boxes where the rows differ in that."""
    several = len({headline(other) for other in rows}) > 1
    return f"{row['variant']}, boxes given: {boxes_of(row)}" if several else str(row["variant"])


def _plot(path: Path, rows: Sequence[Row]) -> None:
    """AP with its interval per variant, best on top, and the ceiling as a tick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.2 + 0.42 * len(rows)), dpi=130, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        value, (low, high) = headline_ap(row), _ends(row)
        axes.barh(place, value, height=0.55, color=BARS[headline(row)], zorder=2)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color="#222", linewidth=1.6, zorder=3)
        axes.text(max(value, high or 0) + 0.01, place, f"{100 * value:.1f}", va="center", fontsize=8, zorder=4)
        for key, (_, colour) in MARKS.items():
            if row.get(key) is not None:
                axes.plot([row[key]] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2.2, zorder=3)
    for suffix in dict.fromkeys(headline(row) for row in rows):
        axes.plot([], [], color=BARS[suffix], linewidth=4, label=f"AP, boxes given: {PROTOCOLS[suffix]}")
    axes.plot([], [], color="#222", linewidth=1.6, label="95 % interval")
    for key, (label, colour) in MARKS.items():
        if any(row.get(key) is not None for row in rows):
            axes.plot([], [], color=colour, linewidth=4, label=label)
    axes.set(xlim=(0, 1), yticks=range(len(rows)), xlabel="AP")
    axes.set_yticklabels([str(row["variant"]) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
