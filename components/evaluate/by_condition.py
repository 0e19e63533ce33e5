"""All rows of a comparison under further conditions, such as persons of limited height: a table for each, and curves over the height."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_file, write_json
from components.evaluate.conditions import HEIGHT
from components.evaluate.curves import tick_sizes
from components.evaluate.headline import GT
from components.evaluate.leading import label_of, leading_interval, leading_value
from components.evaluate.ranking import Row, merged, ranked
from components.evaluate.resampling import Outcome
from components.evaluate.table import columns, markdown, name_of, notes_of

KEPT = ("variant", "group", "seed", "recipe", "peer_note")


def by_condition(rows: Sequence[Row], out: Path, matches: Mapping[str, Mapping[str, Outcome]]) -> dict[str, list[dict[str, Any]]]:
    """Write conditions.md, conditions.json and, for two heights or more, by_limited_height.png into `out`; return the ranked rows.

    Nothing is written where no row was scored under a condition.

    Args:
        rows: as `compare.compare` takes them, with the numbers of `evaluate.conditions`, `AP_gt_boxes_<condition>`.
        matches: by condition and variant, for the paired differences to the best under the same condition.
    """
    found = {name: ranked(*merged(own, matches[name])) for name in matches if (own := _under(name, rows))}
    if not found:
        return found
    write_json(out / "conditions.json", found)
    parts = []
    for name, own in found.items():
        shown = columns(own, wide=False)
        text = markdown([column.heading for column in shown], [[column.text(row) for column in shown] for row in own], notes_of(own))
        parts.append(f"## {title_of(name)}\n\n{text}")
    with atomic_file(out / "conditions.md") as temporary:
        temporary.write_text("\n".join(parts))
    heights = {int(match[1]): own for name, own in found.items() if (match := HEIGHT.fullmatch(name))}
    if len(heights) > 1:
        plot_heights(out / "by_limited_height.png", dict(sorted(heights.items())))
    return found


def title_of(condition: str) -> str:
    """A condition in words."""
    height = HEIGHT.fullmatch(condition)
    return f"Persons at most {height[1]} px high" if height else f"Crops of protocol {condition}"


def _under(condition: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows that have numbers under a condition, with these in place of their main numbers."""
    own = re.compile(rf"(?P<name>\w+_{GT})_{re.escape(condition)}(?P<end>_low|_high)?")
    found = []
    for row in rows:
        numbers = {f"{part['name']}{part['end'] or ''}": value for key, value in row.items() if (part := own.fullmatch(key))}
        if f"AP_{GT}" in numbers:
            found.append({key: row[key] for key in KEPT if key in row} | numbers)
    return found


def plot_heights(path: Path, heights: Mapping[int, Sequence[Row]]) -> None:
    """The leading number with its interval, and mean OKS, of every row over the height that persons are limited to; peers are dashed.

    Args:
        heights: px → the rows under that limit, ascending.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(str(row["variant"]) for rows in heights.values() for row in rows):
        known = {height: row for height, rows in heights.items() for row in rows if row["variant"] == name}
        first = next(iter(known.values()))
        style = {"linestyle": "--" if first.get("peer_note") else "-", "marker": "o", "markersize": 4, "linewidth": 1.8}
        (line,) = left.plot(list(known), [100 * leading_value(row) for row in known.values()], label=name_of(first), **style)
        ends = {height: leading_interval(row) for height, row in known.items() if None not in leading_interval(row)}
        low, high = 100 * np.array(list(ends.values()), float).reshape(-1, 2).T
        left.fill_between(list(ends), low, high, color=line.get_color(), alpha=0.13, linewidth=0)
        means = {height: row[f"mean_OKS_{GT}"] for height, row in known.items() if row.get(f"mean_OKS_{GT}") is not None}
        right.plot(list(means), list(means.values()), color=line.get_color(), **style)
    label = label_of([row for rows in heights.values() for row in rows])
    left.set(ylabel=f"{label} in percent, with its 95 % interval", ylim=(0, None))
    right.set(ylabel="mean OKS", ylim=(0, None))
    for axes in (left, right):
        tick_sizes(axes, list(heights))
        axes.set(xlabel="height that persons are limited to, px")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
