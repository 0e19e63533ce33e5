"""Regions that were drawn in Label Studio: shapes with their labels, and whose a key point is.

A region is one shape. Its results share an id. `RectangleLabels` and `KeyPointLabels` write shape and label into one result; `Rectangle`
and `KeyPoint` write the shape (`rectangle`, `keypoint`), and a `Labels` beside them repeats it with the label (`labels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.base.errors import FarposeError
from components.datasets.drawn import upright_box
from components.datasets.records import DAMAGED
from components.pose.people import compact, is_people

HIDDEN_CHOICES = ("hidden", "occluded", "invisible", "notvisible")  # in small letters alone
RECTANGLES, POINTS = ("rectangle", "rectanglelabels"), ("keypoint", "keypointlabels")
LABELS, CHOICES, RELATION = "labels", "choices", "relation"
RECTANGLE, POINT, OTHER = "rectangle", "point", "other"  # kinds of regions
PLACED = (*RECTANGLES, *POINTS, LABELS)  # kinds of results that state a place

Problem = Callable[[str, str | None], FarposeError]  # problem, fix → the error that names the task


@dataclass
class Region:
    """The results of one region.

    Attributes:
        number: its id.
        kind: `RECTANGLE`, `POINT` or `OTHER`.
        parent: id of the region above it in the tool's list, if there is one.
        names: distinct labels, in the file's order.
    """

    number: str
    kind: str
    value: Mapping[str, Any]
    parent: str | None = None
    names: list[str] = field(default_factory=list)
    hidden: bool = False


def regions_of(results: Iterable[dict[str, Any]], error: Problem) -> dict[str, Region]:
    """Id → region, in the file's order. A result without an id is a region of its own.

    Raises:
        FarposeError: a result without its value, labels that are no texts, or results of one region that differ in their place.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for place, item in enumerate(results):
        if item.get("type") != RELATION:
            found.setdefault(f"#{place}" if item.get("id") is None else str(item["id"]), []).append(item)
    return {number: _region(number, items, error) for number, items in found.items()}


def _region(number: str, items: list[dict[str, Any]], error: Problem) -> Region:
    placed = [item for item in items if item.get("type") in PLACED]
    kinds = {_kind(item) for item in placed if item.get("type") != LABELS} or {_kind(item) for item in placed}
    if not kinds or LABELS in kinds:  # another shape, with or without its label
        return Region(number, OTHER, {})
    if len(kinds) > 1:
        raise error(f"the results {number!r} are a rectangle and a key point, expected one of them", DAMAGED)
    values = [_value(item, number, error) for item in placed]
    for key in ("x", "y", *(("width", "height", "rotation") if RECTANGLE in kinds else ())):
        stated = [value.get(key) or 0 for value in values]
        if any(other != stated[0] for other in stated):
            raise error(f"the results {number!r} of one region state {key!r} as {stated[0]!r} and otherwise", DAMAGED)
    names: dict[str, None] = {}
    for item, value in zip(placed, values, strict=True):
        labels = value.get(item["type"], [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise error(f"the result {number!r} has the labels {labels!r}, expected one", "label it once in Label Studio")
        names |= dict.fromkeys(labels)
    parents = [str(item["parentID"]) for item in items if item.get("parentID") is not None]
    hidden = any(item.get("type") == CHOICES and _says_hidden(_value(item, number, error)) for item in items)
    return Region(number, kinds.pop(), values[0], parents[0] if parents else None, list(names), hidden)


def _kind(item: dict[str, Any]) -> str:
    kind, value = item.get("type"), item.get("value")
    if kind == LABELS and isinstance(value, dict):  # the label alone: a rectangle has a height, a key point none
        return RECTANGLE if "height" in value else POINT if {"x", "width"} <= set(value) else LABELS
    return RECTANGLE if kind in RECTANGLES else POINT


def _value(item: dict[str, Any], number: str, error: Problem) -> dict[str, Any]:
    value = item.get("value")
    if not isinstance(value, dict):
        raise error(f"the result {number!r} has no 'value'", DAMAGED)
    return value


def _says_hidden(value: Mapping[str, Any]) -> bool:
    choices = value.get(CHOICES)
    return isinstance(choices, list) and any(isinstance(choice, str) and compact(choice) in HIDDEN_CHOICES for choice in choices)


def px(region: Region, keys: tuple[str, ...], size: tuple[int, int], error: Problem) -> list[float]:
    """Percent of the image's sides as px; `keys` are along x and y in turn."""
    found = []
    for place, key in enumerate(keys):
        number: Any = region.value.get(key)
        if type(number) not in (int, float) or not math.isfinite(number):
            raise error(f"{key!r} of the result {region.number!r} is {number!r}, expected a number", DAMAGED)
        found.append(number / 100 * size[place % 2])
    return found


def box_of(region: Region, size: tuple[int, int], error: Problem) -> tuple[float, float, float, float]:
    """The upright box around a rectangle, px of the image."""
    left, top, width, height = px(region, ("x", "y", "width", "height"), size, error)
    degrees = region.value.get("rotation") or 0
    return upright_box(left, top, width, height, float(degrees), about_center=False)


class Owners:
    """Whose the key points of an image are.

    Args:
        results: of the task, for its relations.
        regions: id → region.
        boxes: id of each rectangle → its box, px of the image.
    """

    def __init__(
        self, results: Iterable[dict[str, Any]], regions: Mapping[str, Region], boxes: Mapping[str, tuple[float, float, float, float]]
    ) -> None:
        self.regions, self.boxes = regions, boxes
        self.related: dict[str, set[str]] = {}  # id of a region → rectangles, in either direction of the relation
        for item in results:
            if item.get("type") == RELATION:
                pair = (str(item.get("from_id")), str(item.get("to_id")))
                for start, end in (pair, pair[::-1]):
                    if end in boxes:
                        self.related.setdefault(start, set()).add(end)
        people = [number for number in boxes if any(is_people(name) for name in regions[number].names)]
        self.persons = people or list(boxes)  # rectangles that may be a key point's
        self.parents = {region.parent for region in regions.values()} & set(regions)

    def of(self, point: Region, place: tuple[float, float]) -> str | None:
        """Id of the rectangle, or of the region without one, that a key point belongs to; "" if the image has neither; None: unclear.

        Its parent, or a relation, decides; then that there is one rectangle (of persons, if any is labelled so); then that it lies inside
        exactly one.
        """
        above, related = self._above(point), self.related.get(point.number, set())
        if above is not None and (above in self.boxes or not self.boxes):
            return above
        if related:
            return next(iter(related)) if len(related) == 1 else None
        if not self.persons:
            return None if self.parents else ""
        around = [number for number in self.persons if _inside(place, self.boxes[number])] if len(self.persons) > 1 else self.persons
        return around[0] if len(around) == 1 else None

    def _above(self, point: Region) -> str | None:
        """The next rectangle above it in the tool's list, or else the topmost region; itself if others lie below it; None: neither."""
        seen, number = [point.number], point.parent
        while number in self.regions and number not in seen:
            if number in self.boxes:
                return number
            seen.append(str(number))
            number = self.regions[seen[-1]].parent
        return seen[-1] if len(seen) > 1 or point.number in self.parents else None


def _inside(place: tuple[float, float], box: tuple[float, float, float, float]) -> bool:
    (x, y), (left, top, width, height) = place, box
    return left <= x <= left + width and top <= y <= top + height
