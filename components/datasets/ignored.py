"""Annotations of people → ignore regions as COCO's run lengths, in px of the image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from components.datasets.records import Records
from components.pose.ignored import IGNORED_COLUMNS, IgnoredRegions, decode
from components.pose.persons import Persons

CROWD, UNLABELLED = "crowd region", "no labelled joint"
FURTHEST_PX = 1e6  # polygons further out are mistakes, whose outlines would fill the memory


def ignored_regions(persons: Persons, records: Records, reasons: np.ndarray) -> IgnoredRegions:
    """The regions of the persons with a reason to be ignored, in the file's order.

    A region is the annotation's `segmentation` (polygons, run lengths or compressed run lengths). If that is missing or
    empty, the region is every pixel that the box touches.

    Args:
        persons: N persons as read, boxes uncut.
        records: their N annotations.
        reasons: (N,) text; empty: the person is not ignored.
    Raises:
        FarposeError: a segmentation is not in one of COCO's forms, or not of its image's size. Names the annotation.
    """
    rows = np.flatnonzero(reasons != "")
    of_image = persons.frame.iloc[rows]
    counts = [
        _counts(records, row, persons.bbox_xywh[row], int(height), int(width))
        for row, height, width in zip(rows.tolist(), of_image["image_height"], of_image["image_width"], strict=True)
    ]
    columns = {name: of_image[name].to_numpy() for name in ("image_id", "annotation_id", "split")}
    sizes = {"height": of_image["image_height"].to_numpy(), "width": of_image["image_width"].to_numpy()}
    return IgnoredRegions(pd.DataFrame({**columns, "reason": reasons[rows], **sizes, "counts": counts}).astype(IGNORED_COLUMNS))


def _counts(records: Records, row: int, bbox_xywh: np.ndarray, height: int, width: int) -> str:
    from pycocotools import mask as coco_mask

    shape = records.items[row].get("segmentation") or []
    if isinstance(shape, dict):
        region = _run_lengths(records, row, shape, height, width)
        if isinstance(region["counts"], list):
            region = coco_mask.frPyObjects(region, height, width)
    elif polygons := _polygons(records, row, shape):
        region = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    else:
        region = coco_mask.encode(np.asfortranarray(_touched(bbox_xywh, height, width), dtype=np.uint8))
    counts = region["counts"]
    return counts.decode() if isinstance(counts, bytes) else str(counts)


def _polygons(records: Records, row: int, shape: Any) -> list[list[float]]:
    """COCO's polygons, each x, y, x, y, … in px; empty ones are left out."""
    if not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
        raise records.error(row, "'segmentation' is neither a list of polygons nor run lengths")
    polygons = [polygon for polygon in shape if polygon]
    for polygon in polygons:
        if not all(type(number) in (int, float) and abs(number) < FURTHEST_PX for number in polygon):
            raise records.error(row, f"'segmentation' holds a polygon with values that are not numbers below {FURTHEST_PX:g} px")
        if len(polygon) < 6 or len(polygon) % 2:
            raise records.error(row, f"'segmentation' holds a polygon of {len(polygon)} numbers, expected x and y of at least 3 points")
    return polygons


def _run_lengths(records: Records, row: int, shape: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """COCO's run lengths, checked, because pycocotools would read out of bounds."""
    size, counts = shape.get("size"), shape.get("counts")
    if size != [height, width]:
        fix = "scale the segmentation with its image, or leave it out"
        raise records.error(row, f"'segmentation' is of size {size} (height, width), its image of {[height, width]}", fix)
    if isinstance(counts, list):
        whole = all(type(run) is int and run >= 0 for run in counts) and sum(counts) == height * width
        if not whole:
            raise records.error(row, f"the run lengths of 'segmentation' do not fill {width} x {height} px")
    elif isinstance(counts, str):
        try:
            decode(counts, height, width)
        except ValueError as error:
            raise records.error(row, f"'segmentation': {error}") from None
    else:
        raise records.error(row, "'segmentation' has no run lengths ('counts')")
    return {"size": size, "counts": counts}


def _touched(bbox_xywh: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool: pixels that the box touches; none if the box has no area."""
    mask = np.zeros((height, width), dtype=bool)
    left, top, box_width, box_height = bbox_xywh.tolist()
    if box_width > 0 and box_height > 0:
        mask[_pixels(top, top + box_height, height), _pixels(left, left + box_width, width)] = True
    return mask


def _pixels(near: float, far: float, size: int) -> slice:
    return slice(max(0, math.floor(near)), max(0, min(size, math.ceil(far))))
