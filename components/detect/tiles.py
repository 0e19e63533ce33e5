"""Overlapping tiles of a large image: far persons are seen in small tiles, near ones in larger tiles and in the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

OVERLAP = 0.3  # of a tile's side, at least: a person lower than that is whole in one tile
GROWTH = 2.5  # a tile's side over that of the next smaller level, at most: who is cut in small tiles is whole in larger ones


@dataclass(frozen=True)
class Tile:
    """A part of an image, px: it spans columns left to right and rows top to bottom, the ends excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def cut_off(self, boxes: np.ndarray, width: int, height: int, within: float) -> np.ndarray:
        """(N,) bool: boxes that end at an edge of the tile inside the image, where a person may go on.

        Args:
            boxes: (N, 4) left, top, right, bottom, px of the image.
            width, height: of the image.
            within: distance from an edge that counts as ending there, px.
        """
        inner = np.array([self.left > 0, self.top > 0, self.right < width, self.bottom < height])
        edges = np.array([self.left, self.top, self.right, self.bottom])
        return (inner & (np.abs(boxes - edges) <= within)).any(1)


def tiles(width: int, height: int, side: int | None) -> list[Tile]:
    """The whole image, then levels of overlapping tiles that shrink to `side`.

    Args:
        width, height: of the image, px.
        side: of the smallest tiles, px; None or one that is not smaller than the image: the whole image alone.
    """
    longer = max(width, height)
    whole = [Tile(0, 0, width, height)]
    if side is None or side >= longer:
        return whole
    levels = math.ceil(math.log(longer / side, GROWTH))
    sides = [round(side * (longer / side) ** (level / levels)) for level in range(levels)]
    return whole + [tile for each in reversed(sides) for tile in _level(width, height, each)]


def _level(width: int, height: int, side: int) -> list[Tile]:
    """Squares of one side, evenly spread; where the image is smaller than that, they are as long as it is."""
    columns, rows = _starts(width, side), _starts(height, side)
    return [Tile(left, top, min(left + side, width), min(top + side, height)) for top in rows for left in columns]


def _starts(length: int, side: int) -> list[int]:
    count = max(1, math.ceil((length - side) / (side * (1 - OVERLAP))) + 1)
    return np.linspace(0, max(length - side, 0), count).round().astype(int).tolist()
