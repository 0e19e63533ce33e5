"""Everything that a comparison found, as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.evaluate.params import EvaluateParams
from components.evaluate.ranking import LEVEL, Row
from components.evaluate.resampling import Outcome, ends, measure_of, once, resampled, rows_in
from components.evaluate.significance import holm
from components.evaluate.table import columns

TEMPLATE = Path(__file__).with_name("report_page.html.j2")
QUALITY = 82  # of photographs, JPEG
WIDEST = 1600  # px of a photograph
NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?")


@dataclass(frozen=True)
class Cell:
    """A text, what its column is sorted by (None comes last), and whether it is set in bold."""

    text: str
    value: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table that sorts by every column; of the first one its texts."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A picture with its caption; `uri` holds its bytes. `wide` ones are scrolled on a narrow screen rather than reduced."""

    uri: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of its anchor, one word.
        tiles: small pictures, side by side.
        parts: sections inside it, each folded.
    """

    name: str
    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    tiles: Sequence[Picture] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[Section] = ()


def write(path: Path, title: str, lead: Sequence[str], sections: Sequence[Section]) -> None:
    """Write the page.

    Args:
        lead: sentences below the title.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(TEMPLATE.read_text()).render(title=title, lead=lead, sections=sections)
    with atomic_file(path) as temporary:
        temporary.write_text(html)


def table_of(headings: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> Table:
    """A table of texts, sorted by the first number in each; the best row's difference is 0."""
    return Table(headings, [[Cell(text, 0.0 if text == "best" else number_in(text)) for text in row] for row in cells], notes)


def number_in(text: str) -> float | None:
    """The first number of a text; None without one."""
    found = NUMBER.search(text)
    return float(found[0].replace(",", "").replace("−", "-")) if found else None


def leaderboard(rows: Sequence[Row], notes: Sequence[str]) -> Table:
    """All columns of the comparison's table; the best row has difference 0."""
    shown = columns(rows, wide=True)
    return table_of([column.heading for column in shown], [[column.text(row) for column in shown] for row in rows], notes)


def pairs(runs: Mapping[str, Sequence[Outcome]], params: EvaluateParams, note: str = "", label: str = "AP") -> Table | None:
    """AP, or another leading number, of each row minus that of each column, with its interval; None for fewer than two rows.

    Of several seeds the mean counts. Rows of other images than the first one's are left out.

    Args:
        note: added below the table.
        label: of the number.
    """
    images = next((group[0].image_ids for group in runs.values()), np.zeros(0))
    kept = {name: group for name, group in runs.items() if all(np.array_equal(run.image_ids, images) for run in group)}
    if len(kept) < 2:
        return None
    measures = {f"{i} {j}": measure_of(run) for i, group in enumerate(kept.values()) for j, run in enumerate(group)}
    most = max(rows_in(run) for group in kept.values() for run in group)
    draws = resampled(measures, len(images), params.bootstrap_resamples, params.bootstrap_seed, most)
    of = lambda i, values: np.mean([value for name, value in values.items() if name.startswith(f"{i} ")], axis=0)  # noqa: E731
    whole = {name: np.float64(once(measure, len(images))) for name, measure in measures.items()}
    order = [(i, j) for i in range(len(kept)) for j in range(i + 1, len(kept))]
    found = {(i, j): (of(i, draws) - of(j, draws), float(of(i, whole) - of(j, whole))) for i, j in order}
    adjusted = dict(zip(order, holm([_p(drawn) for drawn, _ in found.values()]), strict=True))
    rows = []
    for i, name in enumerate(kept):
        cells = [Cell(f"{i + 1}  {name}")]
        for j in range(len(kept)):
            cells.append(Cell("") if i == j else _pair(*found[min(i, j), max(i, j)], adjusted[min(i, j), max(i, j)], 1 if i < j else -1))
        rows.append(cells)
    rule = (
        f"{label} of the row minus {label} of the column, in points, with its 95 % interval over the same resampled images; bold: "
        f"p < {LEVEL:g} after Holm's correction for all {len(order)} pairs. Rows of several seeds count with their mean."
    )
    return Table(["row minus column", *(f"{i + 1}" for i in range(len(kept)))], rows, [f"{rule} {note}".strip()])


def _p(draws: np.ndarray) -> float:
    known = draws[np.isfinite(draws)]
    beyond = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2 * (beyond + 1) / (len(known) + 1))


def _pair(draws: np.ndarray, value: float, p_value: float, sign: int) -> Cell:
    low, high = ends(sign * draws)
    if low is None or high is None:
        return Cell("")
    return Cell(f"{_signed(sign * value)} ({_signed(low)} to {_signed(high)})", 100 * sign * value, p_value < LEVEL)


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def png(path: Path, caption: str, wide: bool = True) -> Picture:
    """A plot, as it is.

    Raises:
        FarposeError: there is no such file.
    """
    if not path.is_file():
        raise FarposeError("a picture of the report is missing", where=path, fix="run the stage that makes it again")
    return Picture(_uri("png", path.read_bytes()), caption, wide)


def photograph(pixels: np.ndarray, caption: str, wide: bool = False) -> Picture:
    """(H, W, 3) uint8 RGB as JPEG, reduced to `WIDEST`."""
    import cv2

    factor = WIDEST / pixels.shape[1]
    shown = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else pixels
    done, content = cv2.imencode(".jpg", shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return Picture(_uri("jpeg", content.tobytes()), caption, wide)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
