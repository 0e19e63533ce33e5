"""Repeated boxes: those of one tile that overlap, and those of several tiles that show the same person."""

from __future__ import annotations

import numpy as np

SAME = 0.5  # intersection over union above which the weaker of two boxes repeats the other; NanoDet's own 0.6 leaves persons found twice
INSIDE = 0.6  # share of a cut-off box that lies in another box, above which it is a part of that person


def intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) areas that boxes (N, 4) and (M, 4) have in common, px²; left, top, right, bottom."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,) px² of boxes (N, 4) left, top, right, bottom."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union; 0 for boxes without an area."""
    common = intersections(first, second)
    return common / np.maximum(areas(first)[:, None] + areas(second)[None] - common, np.finfo(float).tiny)


def suppress(boxes: np.ndarray, scores: np.ndarray, above: float = SAME) -> np.ndarray:
    """Rows that are kept, the best first: each drops all weaker boxes that overlap it by more than `above`."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[overlaps(boxes[best][None], boxes[order])[0] <= above]
    return np.array(kept, np.int64)


def merge(boxes: np.ndarray, scores: np.ndarray, tile: np.ndarray, cut_off: np.ndarray) -> np.ndarray:
    """Rows that are kept of all tiles' boxes, the best first.

    Whole persons come first. Two boxes of one tile are two persons, since its own repeats are dropped already; of two tiles the
    weaker is dropped where they overlap. A cut-off box is also dropped where most of it (`INSIDE`) lies in any box kept before it:
    of a person who is found whole in no tile the surest part is left, and none that repeats it.

    Args:
        boxes: (N, 4) left, top, right, bottom, px of the image.
        scores, tile: (N,) and the number of the tile that each is from.
        cut_off: (N,) bool, see `Tile.cut_off`.
    """
    kept: list[int] = []
    for row in np.lexsort((-scores, cut_off)).tolist():
        others = boxes[kept]
        same = (overlaps(boxes[row][None], others)[0] > SAME) & (tile[kept] != tile[row])
        if cut_off[row]:
            same |= intersections(boxes[row][None], others)[0] > INSIDE * areas(boxes[row][None])
        if not same.any():
            kept.append(row)
    found = np.array(kept, np.int64)
    return found[np.argsort(-scores[found], kind="stable")]
