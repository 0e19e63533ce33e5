"""What `predict` found, in words: per photograph and, while they are few, per person; per video in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.series import Clip, Item, Series

LISTED = 20  # persons that are printed one by one


class Tally:
    """Counts, and lines to print at the end.

    Attributes:
        persons: found so far, weak ones too.
    """

    def __init__(self, variant: Any, above: float, boxed: bool) -> None:
        """
        Args:
            above: score that a person must exceed to be drawn and listed.
            boxed: a detector's boxes have scores, which are printed.
        """
        self._variant, self._above, self._boxed = variant, above, boxed
        self.persons = self._strong = 0
        self._counts: dict[str, int] = {}  # images, frames
        self._lines: list[tuple[str, list[str]]] = []
        self._drawn: list[str] = []
        self._notes: list[str] = []
        self._sheet: str | None = None
        self._seen: list[int] = []  # frames of the present video, those with persons, and the most persons of one

    def begin(self, one: Series) -> str:
        """A label for the series that comes now."""
        self._seen = [0, 0, 0]
        return one.given.name if isinstance(one, Clip) else "images"

    def add(self, item: Item, found: Any, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, str]:
        """Count an image's persons, `rows` of all found; those that are drawn, and a caption."""
        strong = rows[scores[rows] > self._above]
        self.persons += len(rows)
        self._strong += len(strong)
        caption = _persons(len(strong), len(rows) - len(strong))
        unit = "frame" if "frame" in item.record else "image"
        self._counts[unit] = self._counts.get(unit, 0) + 1
        if unit == "frame":
            self._seen = [self._seen[0] + 1, self._seen[1] + bool(len(strong)), max(self._seen[2], len(strong))]
        else:
            name = Path(item.record["file"]).name
            listed = self._listed(found, scores, strong) if self._strong <= LISTED else []
            self._lines.append((f"{name}, {item.record['width']}x{item.record['height']} px: {caption}", listed))
            self._drawn.append(f"{Path(name).stem}.png")
        return strong, caption

    def _listed(self, found: Any, scores: np.ndarray, rows: np.ndarray) -> list[str]:
        lines = []
        for rank, row in enumerate(rows[np.argsort(-scores[rows], kind="stable")].tolist(), start=1):
            sides = "{2:.0f}x{3:.0f} px at {0:.0f}, {1:.0f}".format(*found.bbox_xywh[row])
            box = f", box {found.box_scores[row]:.2f}" if self._boxed else ""
            top = np.argsort(-found.keypoint_scores[row], kind="stable")[:3]
            names = self._variant.skeleton.keypoint_names
            surest = ", ".join(f"{names[k]} {found.keypoint_scores[row, k]:.2f}" for k in top.tolist())
            lines.append(f"  {rank}: score {scores[row]:.2f}{box}, {sides}; surest: {surest}")
        return lines

    def end(self, one: Series, stopped: bool) -> None:
        """A series is done, or was stopped."""
        if isinstance(one, Clip):
            frames, peopled, most = self._seen
            about = f"{one.given.name}, {one.video.width}x{one.video.height} px, {_count(frames, 'frame')} ({one.video.end:.1f} s)"
            self._lines.append((f"{about}: persons in {peopled} of them, at most {most} at once", []))
            self._drawn.append(one.place)
            self._notes += one.notes
        else:
            self._sheet = one.sheet
        if stopped:
            total = "" if one.total is None else f" of {one.total}"
            done = self._seen[0] if isinstance(one, Clip) else self._counts.get("image", 0)
            self._notes.append(f"stopped after {done}{total} {one.unit}s; what was found until then is kept")

    def report(self, output: Path, drawn: bool, takes_boxes: bool) -> None:
        """Print it."""
        print(f"model: {self._variant.name}")
        for line, listed in self._lines:
            print("\n".join([line, *(listed if self._strong <= LISTED else [])]))
        for note in self._notes:
            print(f"note: {note}")
        weak = self.persons - self._strong
        hidden = f", {weak} of them too weak to be drawn or listed" if weak else ""
        where = " and ".join(_count(number, unit) for unit, number in self._counts.items()) or "no image"
        print(f"{_count(self.persons, 'person')} in {where}{hidden}")
        print(f"all of them, with every joint: {output / 'predictions.json'}")
        if drawn and self._drawn:
            sheet = f"; all on one page: {output / self._sheet}" if self._sheet else ""
            print(f"drawn: {output / self._drawn[0]}{' and others' * (len(self._drawn) > 1)}{sheet}")
        if not self.persons:
            advice = "try a lower --score, a smaller --tile, or --boxes FILE" if takes_boxes else "try another model"
            print(f"nobody was found: {advice}")


def _persons(strong: int, weak: int) -> str:
    return _count(strong, "person") + (f" and {weak} too weak to draw" if weak else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
