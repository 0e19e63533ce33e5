"""The study in one table: each method at each size of the crop, from each start and on one network per column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.lowres_rows import BASELINE, GROUPS, value_of
from components.models import zoo

ABOVE, BELOW = "▲", "▼"


@dataclass(frozen=True)
class Column:
    """Rows of one of `GROUPS` with one network.

    Attributes:
        title: start and size.
        group: key of `GROUPS`.
        backbone: of the network.
        tag: end of the rows' names; of ours, followed by "_averaged".
    """

    title: str
    group: str
    backbone: str
    tag: str | None = None


COLUMNS = (
    Column("MoveNet's weights, 64x48", "movenet_lightning", "mobilenet_fpn", "x4"),
    Column("128x96", "movenet_lightning, 128x96", "mobilenet_fpn", "x2"),
    Column("256x192", "movenet_lightning, 256x192", "mobilenet_fpn"),
    Column("random, small network, 64x48", "he", "hrnet_tiny"),
    Column("128x96", "he, 128x96", "hrnet_tiny"),
    Column("256x192", "he, 256x192", "hrnet_tiny"),
    Column("random, HRNet-W32, 64x48", "he, published", "hrnet_w32"),
)
OURS = "dark_ranked"
METHODS = {  # as a variant names it: as the table does
    OURS: "DARK, ranked by visible joints (ours, mean of three longer trainings)",
    "categorical": "categorical maps (ours)",
    "srpose": "SRPose",
    "sr_head": "SR head",
    "cal": "CAL",
    "udp_gaussian": "UDP, Gaussian maps",
    "udp_offset": "UDP, offsets",
    "dark": "DARK",
    "simcc": "SimCC",
    "siu": "SIU",
    "simple": "plain heatmaps",
    "hrnet": "plain heatmaps",
}


def table(runs: Iterable[dict[str, Any]]) -> str:
    """AP of every method, marked where it is told apart from plain heatmaps after Holm's correction; a column's best in bold.

    Args:
        runs: files of results/lowres.
    """
    every = list(runs)
    columns = [_column(column, every) for column in COLUMNS]
    lines = ["| method | " + " | ".join(column.title for column in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for method in dict.fromkeys(METHODS.values()):
        if any(method in column for column in columns):
            lines.append(f"| {method} | " + " | ".join(_cell(column, method) for column in columns) + " |")
    return "\n".join(lines)


def _column(column: Column, every: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The column's rows by the method's name in the table."""
    found = {}
    for run in GROUPS[column.group].of(every):
        variant = zoo.variant(run["run"])
        tag = "_".join(filter(None, (column.tag, "averaged" if variant.method == OURS else None))) or None
        if variant.backbone == column.backbone and variant.tag == tag and variant.method in METHODS:
            found[METHODS[variant.method]] = run
    return found


def _cell(column: dict[str, dict[str, Any]], method: str) -> str:
    if method not in column:
        return ""
    values = {name: value_of(run["metrics"], "AP") or 0.0 for name, run in column.items()}
    text = f"{100 * values[method]:.1f}"
    if values[method] == max(values.values()):
        text = f"**{text}**"
    plain = column[method].get(BASELINE)
    if plain and plain["p_holm"] < 0.05:
        text += f" {ABOVE if plain['difference'] > 0 else BELOW}"
    return text
