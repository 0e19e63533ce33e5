"""Boxes of a stated IoU with the annotated ones."""

from __future__ import annotations

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate.conditions import Condition
from components.evaluate.jitter import box_iou, jittered


def boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.hstack([rng.uniform(-50, 500, (count, 2)), np.exp(rng.uniform(*np.log((2, 400)), (count, 2)))])


def counted_iou(a: np.ndarray, b: np.ndarray, cells: int = 2000) -> float:
    """By counting cells of a grid over both boxes."""
    low, high = np.minimum(a[:2], b[:2]), np.maximum(a[:2] + a[2:], b[:2] + b[2:])
    x, y = (low[k] + (np.arange(cells) + 0.5) / cells * (high[k] - low[k]) for k in (0, 1))
    inside = [np.outer((y >= t) & (y < t + h), (x >= left) & (x < left + w)) for left, t, w, h in (a, b)]
    return float((inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum())


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_every_box_has_the_stated_iou(iou: float) -> None:
    given, ids = boxes(300), np.arange(300)
    found = jittered(given, iou, ids)
    assert box_iou(given, found) == pytest.approx(np.full(300, iou), abs=1e-9) and (found[:, 2:] > 0).all()
    for row in range(4):
        assert counted_iou(given[row], found[row]) == pytest.approx(iou, abs=2e-3)


def test_boxes_miss_to_all_sides_and_both_sizes() -> None:
    given = boxes(400)
    found = jittered(given, 0.7, np.arange(400))
    shift = found[:, :2] + found[:, 2:] / 2 - given[:, :2] - given[:, 2:] / 2
    growth = found[:, 2:] / given[:, 2:]
    assert all(0.4 < (values > 0).mean() < 0.6 for values in (shift[:, 0], shift[:, 1], np.log(growth[:, 0]), np.log(growth[:, 1])))


def test_a_person_keeps_its_box_in_any_subset_and_order() -> None:
    given, ids = boxes(50), np.arange(1000, 1050)
    rows = np.random.default_rng(1).permutation(50)[:20]
    assert (jittered(given[rows], 0.6, ids[rows]) == jittered(given, 0.6, ids)[rows]).all()
    near, far = (box_iou(given, jittered(given, iou, ids)) for iou in (0.8, 0.6))
    assert (near > far).all() and len(jittered(given[:0], 0.5, ids[:0])) == 0


def test_the_condition_names_its_iou() -> None:
    assert Condition.of("iou70").box_iou == 0.7 and Condition.of("iou55").box_iou == 0.55
    with pytest.raises(FarposeError, match=r"unknown condition 'iou7' .*iou70 .any IoU in percent"):
        Condition.of("iou7")
