"""NanoDet-g at 416 px: pixels to its input, its raw outputs to boxes of persons.

A cell at stride s predicts, for each side of the box, a distribution over the distances 0, s, …, 10 s from the cell's middle; the side
lies at its mean. Source: Lyu, NanoDet (configuration nanodet-g, Apache-2.0); Li et al. 2020, Generalized Focal Loss, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIDE = 416  # px of the square input
STRIDES = (8, 16, 32)  # px of the input per cell, of the three levels
BINS = 11  # distances that a side's distribution is over
PERSON = 0  # class; the others are not read
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of blue, green and red


def as_input(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The network's input (1, 3, 416, 416) float32 and px of the input per px of the image.

    The aspect ratio is kept: the image lies at the top left, the rest is the training images' mean.

    Args:
        image: (H, W, 3) uint8 BGR.
    """
    import cv2

    height, width = image.shape[:2]
    factor = SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    padded = np.zeros((1, 3, SIDE, SIDE), np.float32)
    padded[0, :, : size[1], : size[0]] = ((scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(2, 0, 1)
    return padded, factor


def decode(outputs: Sequence[np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of persons (N, 4) left, top, right, bottom, px of the input, and their scores (N,); repeats are not dropped.

    Args:
        outputs: per stride the scores of all classes (1, cells, 80), then per stride the sides' logits (1, cells, 4 · 11).
        threshold: cells that score lower give no box.
    """
    levels = list(zip(STRIDES, outputs[: len(STRIDES)], outputs[len(STRIDES) :], strict=True))
    boxes, scores = zip(*(_level(stride, of[0, :, PERSON], sides[0], threshold) for stride, of, sides in levels), strict=True)
    return np.concatenate(boxes), np.concatenate(scores)


def _level(stride: int, scores: np.ndarray, sides: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    cells = np.flatnonzero(scores >= threshold)
    row, column = np.divmod(cells, SIDE // stride)
    middle = (np.stack([column, row], -1) + 0.5) * stride  # (n, 2)
    logits = sides[cells].reshape(-1, 4, BINS).astype(np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    distances = shares @ np.arange(BINS) * stride  # (n, 4) to the left, top, right and bottom
    return np.concatenate([middle - distances[:, :2], middle + distances[:, 2:]], -1), scores[cells].astype(np.float64)
