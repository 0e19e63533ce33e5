"""Runs as rows of a comparison: seeds of one variant become one row, and every row is compared with the best of its protocol."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.evaluate.headline import PROTOCOLS, boxes_of, headline
from components.evaluate.leading import label_of, leading_key, leading_value
from components.evaluate.resampling import Outcome
from components.evaluate.significance import Difference, bootstrap_ap, holm, paired_bootstrap

Row = Mapping[str, Any]
LEVEL = 0.05  # two runs differ significantly where the p-value is below it


def merged(rows: Sequence[Row], matches: Mapping[str, Outcome]) -> tuple[list[dict[str, Any]], dict[str, list[Outcome]]]:
    """One row per group of seeds, and the matches of each row that has them for all its seeds.

    Rows of one `group` (their variants differ in the seed alone) and recipe become one row of that name: numbers are means,
    `AP_<boxes>_spread` (or that of another leading number) is the standard deviation over seeds, `seeds` their number; the interval is
    that of their mean over images and seeds.

    Args:
        rows: as in `compare.compare`.
        matches: by variant.
    Raises:
        FarposeError: seeds of one group were scored under different protocols, or a seed appears twice.
    """
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row.get("group") or row["variant"]), row.get("recipe")), []).append(row)
    found, runs = [], {}
    for (group, recipe), members in groups.items():
        alone = len(members) == 1
        same_name = sum(other == group and len(groups[other, kind]) > 1 for other, kind in groups) > 1
        name = str(members[0]["variant"]) if alone else f"{group} ({recipe})" if same_name else group
        known = [matches[row["variant"]] for row in members if row["variant"] in matches]
        if len(known) == len(members):
            runs[name] = known
        found.append(dict(members[0]) if alone else _mean(name, members, runs.get(name)))
    return found, runs


def _mean(name: str, members: Sequence[Row], runs: list[Outcome] | None) -> dict[str, Any]:
    suffixes = {headline(row) for row in members}
    seeds = [row.get("seed") for row in members]
    if len(suffixes) > 1 or len(set(seeds)) < len(seeds):
        problem = "its seeds were scored under different protocols" if len(suffixes) > 1 else f"seeds {seeds} are not all different"
        raise FarposeError(problem, where=f"comparison: {name}", fix="evaluate them alike, under different seeds")
    key_of = leading_key(members[0])
    row: dict[str, Any] = dict(members[0])
    for key, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            values = [float(other[key]) for other in members if other.get(key) is not None]
            row[key] = statistics.fmean(values) if len(values) == len(members) else None
    for key in ("seed", "by_height", f"{key_of}_low", f"{key_of}_high"):
        row.pop(key, None)
    spread = statistics.stdev(leading_value(member) for member in members)
    row |= {"variant": name, "seeds": len(members), f"{key_of}_spread": spread}
    if runs:
        interval = bootstrap_ap(runs)
        row |= {f"{key_of}_low": interval.low, f"{key_of}_high": interval.high}
    return row


def ranked(rows: Sequence[Row], runs: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """Rows best first within each protocol, each with its paired difference to the best.

    A row gains `best` (that row's name), `difference`, `difference_low`, `difference_high`, `difference_p` and
    `difference_p_holm`, corrected for the number of comparisons with that best, where both have matches on the same images.
    """
    order = sorted(rows, key=lambda row: (list(PROTOCOLS).index(headline(row)), -leading_value(row), row["variant"]))
    found = [dict(row) for row in order]
    for suffix in PROTOCOLS:
        same = [row for row in found if headline(row) == suffix]
        differences = dict(_differences([row["variant"] for row in same], runs))
        for row in same:
            if row["variant"] in differences:
                row |= {"best": same[0]["variant"], **differences[row["variant"]]}
        if differences:
            same[0]["best"] = same[0]["variant"]
    return found


def _differences(names: Sequence[str], runs: Mapping[str, Sequence[Outcome]]) -> list[tuple[str, dict[str, float]]]:
    """For each name after the first one, its difference to the first."""
    if not names or names[0] not in runs:
        return []
    best = runs[names[0]]
    others = [name for name in names[1:] if name in runs and _comparable(runs[name], best)]
    found = [paired_bootstrap(runs[name], best) for name in others]
    adjusted = holm([difference.p_value for difference in found])
    return [(name, _as_row(difference, p)) for name, difference, p in zip(others, found, adjusted, strict=True)]


def _as_row(difference: Difference, adjusted: float) -> dict[str, float]:
    values = {"": difference.value, "_low": difference.low, "_high": difference.high, "_p": difference.p_value, "_p_holm": adjusted}
    return {f"difference{end}": value for end, value in values.items()}


def _comparable(first: Sequence[Outcome], second: Sequence[Outcome]) -> bool:
    """Whether the same number was made on the same images."""
    return all(type(run) is type(second[0]) and np.array_equal(run.image_ids, second[0].image_ids) for run in first)


def verdict(first: Row, second: Row, difference: Difference) -> str:
    """In words, which of two rows is better, by how much and how sure that is.

    Args:
        first, second: rows with their `variant` and leading number.
        difference: first minus second.
    """
    if difference.value < 0:
        first, second = second, first
        difference = -difference
    ends = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    by = f"{100 * difference.value:.1f} {label_of([first, second])}"
    sure = f"95 % interval {ends}, p = {difference.p_value:.2g}, n = {difference.images:,} images"
    a, b = str(first["variant"]), str(second["variant"])
    if difference.p_value < LEVEL:
        text = f"{a} is better than {b} by {by} ({sure})."
    else:
        text = f"{a} and {b} cannot be told apart: {a} is {by} above ({sure})."
    return "\n".join([text, *_remarks(first, second)])


def _remarks(first: Row, second: Row) -> list[str]:
    both = (first, second)
    values = ", ".join(f"{row['variant']} {100 * leading_value(row):.1f}{_seeds(row)}" for row in both)
    paired = "The interval is of the difference: both are scored on the same resampled images (paired bootstrap)."
    lines = [f"{label_of(both)}: {values}. {paired}"]
    if boxes_of(first) != boxes_of(second):
        given = "; ".join(f"{row['variant']}: {boxes_of(row)}" for row in both)
        lines.append(f"Boxes given differ ({given}), so this compares two systems, not two methods.")
    if any(row.get("seeds", 1) < 2 for row in both):
        lines.append("A run of one seed: how much another seed would change is not part of the interval.")
    return lines


def _seeds(row: Row) -> str:
    spread = row.get(f"{leading_key(row)}_spread")
    return "" if spread is None else f" (mean of {row['seeds']} seeds, standard deviation {100 * spread:.1f})"
