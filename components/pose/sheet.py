"""A contact sheet: many pictures on one page, each with a caption."""

from __future__ import annotations

import math

import numpy as np

from components.pose.labels import INK, PAPER

CELL = (360, 480)  # height and width of one picture, px
CAPTION, GAP = 28, 12  # px
WIDEST = 5  # pictures in a row, at most
LETTERS = 58  # of a caption, at most
FAINT = (236, 236, 236)  # RGB behind pictures of another shape


class Sheet:
    """Pictures are reduced as they are added, so that large ones are not held."""

    def __init__(self) -> None:
        self.cells: list[np.ndarray] = []

    def add(self, picture: np.ndarray, caption: str) -> None:
        """Add (H, W, 3) uint8 RGB."""
        import cv2

        height, width = picture.shape[:2]
        factor = min(CELL[0] / height, CELL[1] / width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        cell = np.full((CELL[0] + CAPTION, CELL[1], 3), PAPER, np.uint8)
        cell[: CELL[0]] = FAINT
        top, left = (CELL[0] - size[1]) // 2, (CELL[1] - size[0]) // 2
        cell[top : top + size[1], left : left + size[0]] = small
        text = caption if len(caption) <= LETTERS else f"...{caption[3 - LETTERS :]}"
        cv2.putText(cell, text, (2, CELL[0] + CAPTION - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.46, INK, 1, cv2.LINE_AA)
        self.cells.append(cell)

    def page(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the pictures added so far, at least one, in rows of equal length."""
        columns = min(WIDEST, math.ceil(math.sqrt(len(self.cells))))
        rows = math.ceil(len(self.cells) / columns)
        height, width = CELL[0] + CAPTION + GAP, CELL[1] + GAP
        page = np.full((rows * height + GAP, columns * width + GAP, 3), PAPER, np.uint8)
        for place, cell in enumerate(self.cells):
            top, left = place // columns * height + GAP, place % columns * width + GAP
            page[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        return page
