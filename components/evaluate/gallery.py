"""One page of the best, the median and the worst predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.base.files import atomic_file
from components.evaluate.approach import Tiles

GROUPS = ("best", "median", "worst")
DPI = 136  # shows a tile's px one to one


def gallery(path: str | Path, title: str, tiles: Tiles, size: int) -> None:
    """Draw `size` tiles of each group as PNG, ranked by their quality."""
    from matplotlib.figure import Figure

    groups = choose(tiles.quality, tiles.labelled, size)
    width = max(1, *map(len, groups.values()))
    tile_height, tile_width = tiles.shape
    inches = width * (tile_width / DPI + 0.1) + 0.3, 3 * (tile_height / DPI + 0.25) + 0.6
    figure = Figure(figsize=inches, dpi=DPI, facecolor="white")
    figure.suptitle(f"{title}\n{tiles.legend}", fontsize=10)
    axes = figure.subplots(3, width, squeeze=False)
    for row, (name, chosen) in enumerate(groups.items()):
        for column in range(width):
            axes[row][column].set_axis_off()
        for column, tile in enumerate(chosen.tolist()):
            axes[row][column].imshow(tiles.draw(tile))
            axes[row][column].set_title(tiles.caption(tile), fontsize=8, pad=3, color="0.15")
        axes[row][0].text(-0.03, 0.5, name, transform=axes[row][0].transAxes, rotation=90, va="center", ha="right", fontsize=11)
    figure.subplots_adjust(left=0.25 / width, right=0.995, top=0.92, bottom=0.01, wspace=0.03, hspace=0.1)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def choose(quality: np.ndarray, labelled: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Rows of the best, the median and the worst predictions, `size` each or fewer, without repeats.

    Rows with fewer than half of the most labelled joints are left out unless there are too few others: a person with one
    labelled joint would be best or worst.

    Args:
        quality: (R,), NaN rows are not shown.
        labelled: (R,).
    """
    rows = np.flatnonzero(np.isfinite(quality))
    rich = rows[labelled[rows] * 2 >= labelled.max(initial=0)]
    rows = rich if len(rich) >= 3 * size else rows
    rows = rows[np.argsort(-quality[rows], kind="stable")]
    size = min(size, -(-len(rows) // 3))
    middle = max(size, (len(rows) - size) // 2)
    chosen = (rows[:size], rows[middle : middle + size], rows[max(middle + size, len(rows) - size) :][::-1])
    return dict(zip(GROUPS, chosen, strict=True))
