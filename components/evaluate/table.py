"""The table of a comparison as Markdown and as an HTML page: its columns, and the notes below it."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from components.evaluate.headline import boxes_of, headline
from components.evaluate.leading import AP, BESIDE, PCKH, label_of, leading, leading_interval, leading_key, leading_value
from components.evaluate.ranking import LEVEL, Row

SAME = "≈"  # marks a row that cannot be told apart from the best
PEER = "†"  # marks predictions of another network


@dataclass(frozen=True)
class Column:
    """A column of the table for people.

    Attributes:
        text: how a row fills it; empty where the row has no such number.
        page_only: shown on the page, not in the narrower Markdown table.
    """

    heading: str
    text: Callable[[Row], str]
    page_only: bool = False


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
    low, high = leading_interval(row)
    value = f"{100 * leading_value(row):.1f}"
    return value if low is None or high is None else f"{value} ({100 * low:.1f}–{100 * high:.1f})"


def _spread(row: Row) -> str:
    value = row.get(f"{leading_key(row)}_spread")
    return "" if value is None else f"{row['seeds']}, ±{100 * value:.1f}"


def _difference(row: Row) -> str:
    if row.get("difference") is None:
        return "best" if row.get("best") else ""
    value, low, high = (_signed(row[f"difference{end}"]) for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high}){'' if row['difference_p_holm'] < LEVEL else f' {SAME}'}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _pck(row: Row) -> str:
    kind = _pck_kind(row)
    return _own(f"PCK_{kind}")(row) if kind else ""


def _pck_kind(row: Row) -> str | None:
    return next((kind for kind in ("head", "torso") if row.get(f"PCK_{kind}_{headline(row)}") is not None), None)


def _pck_heading(rows: Sequence[Row]) -> str:
    kinds = sorted({kind for row in rows if (kind := _pck_kind(row))})
    return f"PCK, ½ {' or '.join(kinds)}"


def paper_marks(rows: Sequence[Row]) -> dict[str, str]:
    """The papers' boxes and start → the letter that marks them; no letter where they are the same for all."""
    said = list(dict.fromkeys(_paper_note(row) for row in rows if row.get(paper_key(row)) is not None))
    return {note: f" [{letter}]" if len(said) > 1 else "" for note, letter in zip(said, string.ascii_lowercase, strict=False)}


def paper_key(row: Row) -> str:
    """The key of what the variant's paper prints."""
    return f"paper_{leading(row).name}"


def _paper(row: Row) -> str:
    return _percent(paper_key(row))(row)


def _paper_note(row: Row) -> str:
    return str(row.get("paper_note") or "boxes and start not stated")


def name_of(row: Row) -> str:
    """The variant's name, marked where the row is another network's."""
    return f"{row['variant']} {PEER}" if row.get("peer_note") else str(row["variant"])


def columns(rows: Sequence[Row], wide: bool) -> list[Column]:
    """The columns that some row fills; the `wide` table has more."""
    marks, led = paper_marks(rows), label_of(rows)
    paper = next(iter(marks)) if len(marks) == 1 else "boxes and start differ"
    known = [
        Column("variant", name_of),
        *([Column("boxes given", boxes_of)] if several_protocols(rows) else []),
        Column(f"{led} (95 % interval)", _interval),
        Column("seeds, spread", _spread),
        Column("difference to best (95 % interval)", _difference),
        *(Column(number.label, _own(number.name)) for number in BESIDE),
        *([] if led == AP.label else [Column("AP", _own("AP"))]),
        Column("AP50", _own("AP50")),
        Column("AP75", _own("AP75")),
        Column("AP(M)", _own("AP_M"), page_only=True),
        Column("AP(L)", _own("AP_L"), page_only=True),
        Column("AR", _own("AR")),
        Column("mean OKS", _own("mean_OKS")),
        Column(_pck_heading(rows), _pck),
        Column("AP, detector boxes", _percent("AP_detector_boxes")),
        Column("target AP", _percent("target_AP")),
        Column("bound AP", _percent("bound_AP")),
        Column(f"paper's {led} ({paper})", lambda row: _paper(row) and _paper(row) + marks[_paper_note(row)]),
        Column("recipe", lambda row: str(row.get("recipe") or "")),
        Column("params, M", _number("params_m", ".2f")),
        Column("GMACs", _number("gmacs", ".3f")),
        Column("persons", _number("persons", ",.0f")),
    ]
    return [column for column in known if (wide or not column.page_only) and any(column.text(row) for row in rows)]


def notes_of(rows: Sequence[Row], note: str = "") -> list[str]:
    """What a reader of the table must know, one paragraph each; only what its columns need."""
    led = label_of(rows)
    notes = [f"{led} in percent with its 95 % bootstrap interval over images."]
    if several_protocols(rows):
        notes[0] += (
            f" Each row's {led} is under its own protocol, named by the boxes that the model was given: annotated ones (top-down), or "
            "none, where the model finds the persons of a whole image itself (bottom-up). Rows are ranked within a protocol: a number with "
            "boxes and one without do not compare methods."
        )
    else:
        notes[0] += f" Boxes given: {boxes_of(rows[0])}."
    if any(leading(row) == PCKH for row in rows):
        notes.append(
            "PCKh: the labelled joints, but for pelvis and thorax, within half (@0.5) or a tenth (@0.1) of the head's size, as MPII's "
            "authors count. AP over OKS is not a number of MPII; it is shown for comparison with other data."
        )
    compared = [row for row in rows if row.get("difference") is not None]
    if compared:
        count = f" for the {len(compared)} comparisons" if len(compared) > 1 else ""
        notes.append(
            f"Difference to the best row of the protocol, with its own 95 % interval: both rows are scored on the same resampled images "
            f"(paired bootstrap). The intervals of the {led} column say nothing about a difference. {SAME}: cannot be told apart from the "
            f"best (p ≥ {LEVEL:g} after Holm's correction{count})."
        )
    if any(row.get("seeds") for row in rows):
        notes.append(f"Rows of several seeds are means; the spread is the standard deviation of {led} over seeds.")
    if any(_pck_kind(row) or row.get(f"mean_OKS_{headline(row)}") is not None for row in rows):
        notes.append(
            "Mean OKS and PCK (labelled joints within half of the head's or torso's size) measure localisation alone; AP mixes it with "
            "the ranking of persons."
        )
    if any(row.get("target_AP") is not None or row.get("bound_AP") is not None for row in rows):
        notes.append(
            "Target AP: of the method's own perfect targets through its decoder, unranked; a network's maps may score more. Bound AP: no "
            "maps score more through this decoder."
        )
    marks = paper_marks(rows)
    if marks:
        listed = "".join(f"{letter.strip()} {said}; " for said, letter in marks.items() if letter)
        notes.append(f"The paper's {led}: {listed}on its own data and crops, so it compares with a row only in part.")
    peers = "; ".join(f"{row['variant']}: {row['peer_note']}" for row in rows if row.get("peer_note"))
    if peers:
        notes.append(f"{PEER} Another network's predictions, scored as they are on the same persons. {peers}.")
    return [*notes, note] if note else notes


def several_protocols(rows: Sequence[Row]) -> bool:
    return len({headline(row) for row in rows}) > 1


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
