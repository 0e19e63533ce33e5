"""The curves of `usefulness` as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_file
from components.evaluate.curves import tick_sizes
from components.evaluate.usefulness import FEWEST, INPUT, PCK, SIZES, Curves, Model


def plot(path: Path, found: Curves, models: Sequence[Model], title: str = "") -> bool:
    """Write the numbers shown (rows) over each size (columns) as PNG, with 95 % intervals; peers are dashed, bins of few persons hollow.

    Returns:
        Whether there is a curve to draw; else nothing is written.
    """
    from matplotlib.figure import Figure

    sizes = {over: {point.size for point in found.points if point.over == over} for over in SIZES}
    shown = [over for over in SIZES if len(sizes[over]) > (over == INPUT)]  # one input size is no curve; the table names it
    if not shown:
        return False
    figure = Figure(figsize=(4.6 * len(shown) + 0.6, 8.6), dpi=110, layout="constrained")
    grid = figure.subplots(3, len(shown), squeeze=False)
    colours = {model.name: f"C{place % 10}" for place, model in enumerate(models)}
    for column, over in enumerate(shown):
        for row, number in enumerate(found.shown):
            _panel(grid[row][column], found, models, over, number.name, colours)
        grid[2][column].set_xlabel(SIZES[over])
    for row, number in enumerate(found.shown):
        grid[row][0].set_ylabel(f"{number.label}{f', ½ {found.pck}' if number is PCK else ''}, %")
    figure.legend(*_legend(grid), loc="outside upper left", ncols=max(1, len(shown)), frameon=False, fontsize=8, title=title or None)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def _legend(grid: Any) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axes in grid.ravel():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _panel(axes: Any, found: Curves, models: Sequence[Model], over: str, number: str, colours: Mapping[str, str]) -> None:
    for model in models:
        points = [p for p in found.points if p.over == over and p.model == model.name and getattr(p, number) is not None]
        few, points = [p for p in points if p.persons < FEWEST], [p for p in points if p.persons >= FEWEST]
        colour = colours[model.name]
        axes.plot([p.size for p in few], [100 * getattr(p, number) for p in few], "o", color=colour, fillstyle="none", markersize=4)
        if not points:
            continue
        sizes, values = [p.size for p in points], [100 * getattr(p, number) for p in points]
        low, high = ([100 * getattr(p, f"{number}_{end}") for p in points] for end in ("low", "high"))
        style = "o--" if model.peer else "o-"
        axes.plot(sizes, values, style, color=colour, markersize=4, linewidth=1.6, label=model.name)
        if over == INPUT:
            axes.errorbar(sizes, values, [np.subtract(values, low), np.subtract(high, values)], fmt="none", ecolor=colour)
        else:
            axes.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)
    if over == INPUT:
        _join(axes, found, models, number)
    ticks = sorted({p.size for p in found.points if p.over == over})
    spread = [size for i, size in enumerate(ticks) if i == 0 or size > 1.15 * ticks[i - 1]]
    tick_sizes(axes, [round(size) for size in spread])
    for one in found.limits if number == found.shown[0].name else ():
        if one.over == over and one.height:
            axes.axvline(one.height, color=colours[one.model], linewidth=0.9, linestyle=":")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _join(axes: Any, found: Curves, models: Sequence[Model], number: str) -> None:
    """Lines between models that differ in their input alone."""
    for family in {model.family for model in models if model.family}:
        names = [model.name for model in models if model.family == family]
        points = sorted(
            (p.size, 100 * getattr(p, number)) for p in found.points if p.over == INPUT and p.model in names and getattr(p, number)
        )
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), color="0.6", linewidth=1.0, zorder=0)
