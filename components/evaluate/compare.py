"""One table of all variants, and the two plots that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from components.base.errors import FarposeError
from components.base.files import atomic_file, write_json
from components.evaluate import curves
from components.evaluate.headline import GT, LETTERBOX, NONE, PROTOCOLS, boxes_of, headline
from components.evaluate.leading import AP, label_of, leading, leading_interval, leading_value
from components.evaluate.ranking import LEVEL, Row, merged, ranked
from components.evaluate.resampling import Outcome
from components.evaluate.table import PEER, columns, markdown, name_of, notes_of, page, paper_key, several_protocols

PEER_BAR = "#8c8c8c"
BARS = {GT: "#4c78a8", NONE: "#b279a2", LETTERBOX: "#d8b5d0"}  # by the boxes that the model was given
PAPER = "paper"
MARKS = {  # what is marked beside the leading number → legend and colour
    "target_AP": ("AP of the method's own perfect targets", "#f2a541"),
    "bound_AP": ("bound of the decoder: best AP of any maps", "#e45756"),
    PAPER: ("paper's number, on its own data, boxes and start", "#54a24b"),
}


def compare(rows: Sequence[Row], out: Path, note: str = "", matches: Mapping[str, Outcome] | None = None) -> pd.DataFrame:
    """Write the table of all variants, best first within each protocol, into the directory `out`, and return it.

    Files: comparison.csv and .json (all keys, fractions of 1), comparison.md and .html (for people, percent; the page has more
    columns), comparison.png (the leading number with intervals, target AP and bound AP), by_height.png (the same by person height).

    Args:
        rows: one mapping per variant: `variant` and a main AP (see `headline`) at least; what an evaluation returns; where known
            `group` and `seed` (rows of one group are seeds of one variant and become one row), `recipe`, `params_m` (millions),
            `gmacs`, `paper_AP` (fraction of 1), `paper_note` (the paper's boxes and start, in words), `by_height` (list of
            `curves.Point` mappings) and `peer_note` (another network's predictions: whose, and their licence). Other keys are kept in
            CSV and JSON.
        note: added below the table, such as the hardware and the data.
        matches: of the variants' evaluations (`significance.read_outcome`), for their differences to the best.
    Raises:
        FarposeError: no rows, a row without its name or AP, a variant twice, or seeds that do not go together.
    """
    _check(rows)
    by_height = {_label(row, rows): row["by_height"] for row in rows if row.get("by_height")}
    rows = ranked(*merged(rows, matches or {}))
    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{key: value for key, value in row.items() if key != "by_height"} for row in rows])
    write_json(out / "comparison.json", [dict(row) for row in rows])
    with atomic_file(out / "comparison.csv") as temporary:
        table.to_csv(temporary, index=False)
    notes = notes_of(rows, note)
    for name, write, wide in (("md", markdown, False), ("html", page, True)):
        shown = columns(rows, wide)
        text = write([column.heading for column in shown], [[column.text(row) for column in shown] for row in rows], notes)
        with atomic_file(out / f"comparison.{name}") as temporary:
            temporary.write_text(text)
    _plot(out / "comparison.png", rows)
    if by_height:
        peers = {_label(row, rows) for row in rows if row.get("peer_note")}
        curves.plot(out / "by_height.png", by_height, curves.HEIGHT_LABEL, peers)
    return table


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
    """The variant's name, with the kind of boxes where the rows differ in it."""
    return f"{name_of(row)}, boxes given: {boxes_of(row)}" if several_protocols(rows) else name_of(row)


def _plot(path: Path, rows: Sequence[Row]) -> None:
    """The leading number with its interval per variant, best on top, and marks; next to it the differences to the best."""
    from matplotlib.figure import Figure

    compared = any(row.get("difference") is not None for row in rows)
    figure = Figure(figsize=(10.5 if compared else 7.5, 1.5 + 0.42 * len(rows)), dpi=130, layout="constrained")
    axes, *beside = figure.subplots(1, 1 + compared, width_ratios=[1.0, 0.42][: 1 + compared], sharey=True, squeeze=False)[0]
    for place, row in enumerate(rows):
        value, (low, high) = leading_value(row), leading_interval(row)
        axes.barh(place, value, height=0.55, color=_colour(row), zorder=2)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color="#222", linewidth=1.6, zorder=3)
        inside = (low or value) > 0.09  # else the interval would cross it
        at, colour = (0.01, "white") if inside else (max(value, high or 0) + 0.01, "#222")
        axes.text(at, place, f"{100 * value:.1f}", va="center", fontsize=8, color=colour, zorder=4)
        for key, marked in _marks(row).items():
            colour = MARKS[key][1]
            axes.plot([marked] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2.2, zorder=3)
    _legend(axes, rows)
    axes.set(xlim=(0, 1.01), xticks=[i / 5 for i in range(6)], yticks=range(len(rows)), xlabel=f"{label_of(rows)} in percent")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    axes.set_yticklabels([name_of(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    for other in beside:
        _plot_differences(other, rows)
    for each in (axes, *beside):
        each.grid(axis="x", alpha=0.25, zorder=0)
        each.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _marks(row: Row) -> dict[str, float]:
    """What is marked beside the leading number, by the keys of `MARKS`: of AP what its targets and its decoder reach, and the paper's."""
    reached = {key: row.get(key) for key in ("target_AP", "bound_AP")} if leading(row) == AP else {}
    return {key: float(value) for key, value in {**reached, PAPER: row.get(paper_key(row))}.items() if value is not None}


def _colour(row: Row) -> str:
    return PEER_BAR if row.get("peer_note") else BARS[headline(row)]


def _legend(axes: Any, rows: Sequence[Row]) -> None:
    led = label_of(rows)
    for suffix in dict.fromkeys(headline(row) for row in rows if not row.get("peer_note")):
        axes.plot([], [], color=BARS[suffix], linewidth=4, label=f"{led}, boxes given: {PROTOCOLS[suffix]}")
    if any(row.get("peer_note") for row in rows):
        axes.plot([], [], color=PEER_BAR, linewidth=4, label=f"{PEER} {led} of another network's predictions")
    if any(leading_interval(row)[0] is not None for row in rows):
        axes.plot([], [], color="#222", linewidth=1.6, label="95 % interval of the row alone")
    for key, (label, colour) in MARKS.items():
        if any(key in _marks(row) for row in rows):
            axes.plot([], [], color=colour, linewidth=4, label=label)


def _plot_differences(axes: Any, rows: Sequence[Row]) -> None:
    """Each row's difference to the best with its interval, in percent; grey where the difference is not significant."""
    axes.axvline(0, color="#222", linewidth=0.8, zorder=1)
    for place, row in enumerate(rows):
        if row.get("difference") is None:
            continue
        colour = "#222" if row["difference_p_holm"] < LEVEL else "#999"
        low, value, high = (100 * row[f"difference{end}"] for end in ("_low", "", "_high"))
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6, zorder=3)
        axes.plot(value, place, "o", color=colour, markersize=4.5, zorder=4)
    axes.set_xlabel(f"difference to best, {label_of(rows)} in percent\n95 % interval\ngrey: cannot be told apart", fontsize=9)
    axes.tick_params(axis="y", left=False, labelleft=False)
