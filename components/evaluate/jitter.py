"""Boxes that miss the annotated ones by a stated amount, as a detector's do: every one has the same IoU with its own."""

from __future__ import annotations

import numpy as np

SHIFT, GROWTH = 0.5, 0.8  # of a random direction: most shift, in sides of the box; most change of a side, as the logarithm of its factor
STEPS = 60  # halvings: to the last bit of a double


def jittered(bbox_xywh: np.ndarray, iou: float, ids: np.ndarray) -> np.ndarray:
    """(N, 4) boxes moved and resized in a random direction of their own, so far that their IoU with the given ones is `iou`.

    A box's direction depends on its id alone, so boxes of other IoUs lie on the same way, and a person keeps its box in any subset.

    Args:
        bbox_xywh: (N, 4) left, top, width, height, px, with an area.
        iou: above 0, at most 1.
        ids: (N,) whole numbers from 0 upwards, such as those of the annotations.
    """
    draws = np.array([np.random.default_rng(int(one)).uniform(-1, 1, 4) for one in ids]).reshape(-1, 4)
    way = draws / np.maximum(np.abs(draws).max(1, keepdims=True), 1e-9) * [SHIFT, SHIFT, GROWTH, GROWTH]
    low, high = np.zeros(len(way)), np.ones(len(way))
    while (far := box_iou(bbox_xywh, _moved(bbox_xywh, way, high)) > iou).any():
        high[far] *= 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        near = box_iou(bbox_xywh, _moved(bbox_xywh, way, middle)) >= iou
        low, high = np.where(near, middle, low), np.where(near, high, middle)
    return _moved(bbox_xywh, way, low)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of N pairs of boxes (left, top, width, height)."""
    near = np.maximum(first[:, :2], second[:, :2])
    far = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    common = np.clip(far - near, 0, None).prod(1)
    return np.asarray(common / (first[:, 2:].prod(1) + second[:, 2:].prod(1) - common))


def _moved(bbox_xywh: np.ndarray, way: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """The boxes, `amount` (N,) along their way (N, 4): shift of the middle in sides, logarithms of the sides' factors."""
    sides = bbox_xywh[:, 2:]
    middle = bbox_xywh[:, :2] + sides / 2 + way[:, :2] * amount[:, None] * sides
    size = sides * np.exp(way[:, 2:] * amount[:, None])
    return np.hstack([middle - size / 2, size])
