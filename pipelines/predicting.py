"""Persons in images that are in memory: boxes of the shipped detector or of the user, then a model's joints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from pipelines import devices
from pipelines.choosing import Subject

Boxes = Mapping[int, np.ndarray]  # image number -> (N, 4) left, top, width, height, px of the image


@dataclass
class Finder:
    """A model, and what tells it where persons are.

    Attributes:
        subject: the model.
        score: the detector's boxes that score lower are dropped; None: the detector's own choice.
        tile: side of its smallest tiles, px of the image; 0: the whole image alone; None: the detector's own choice.
    """

    subject: Subject
    score: float | None = None
    tile: int | None = None
    _detector: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """
        Raises:
            FarposeError: the score or the side of tiles is no such thing.
        """
        if self.score is not None and not 0 < self.score < 1:
            raise FarposeError(f"--score must lie between 0 and 1, got {self.score:g}", fix="such as 0.3")
        if self.tile is not None and self.tile != 0 and self.tile < 64:
            raise FarposeError(f"--tile must be at least 64 px, or 0 for none, got {self.tile}", fix="such as 416")

    @property
    def approach(self) -> Any:
        """See `components.evaluate.approach.Approach`."""
        from components.approaches import approach

        return approach(self.subject.built.variant.approach)

    @property
    def detects(self) -> str:
        """The detector and how it is asked, for the provenance."""
        from components.base import origins
        from components.detect import detector

        score, side = self._asked()
        digest = origins.load("detector")[detector.NAME].sha256[:12]
        return f"{detector.NAME} {digest}, score {score:g}, tiles of {side or 'the whole image'}" + (" px" if side else "")

    def find(self, images: Mapping[int, np.ndarray], boxes: Boxes | None = None) -> tuple[Any, np.ndarray]:
        """The persons of images as `Predictions`, whose image ids are the images' numbers, and their (N,) scores.

        Args:
            images: by number (H, W, 3) uint8 BGR, upright.
            boxes: the user's, at least an empty array for each image; None: the detector's, or none where the model takes none.
        """
        from components.evaluate.approach import Files

        shown, scores = self.approach, None
        if shown.takes_boxes and boxes is None:
            boxes, scores = self._detected(images)
        if boxes is not None and not any(map(len, boxes.values())):
            return nobody(len(self.subject.built.variant.skeleton)), np.zeros(0)
        given = Files({}, boxes, self.subject.spec, self.subject.degrade, scores, pixels=images)
        return shown.find(self.subject.built, given, self.subject.evaluate, devices.device_name())

    def _detected(self, images: Mapping[int, np.ndarray]) -> tuple[Boxes, Mapping[int, np.ndarray]]:
        from components.detect import detector

        if self._detector is None:
            self._detector = detector.PersonDetector.open()
        found = {number: self._detector.find(image, *self._asked()) for number, image in images.items()}
        return {number: one.bbox_xywh for number, one in found.items()}, {number: one.scores for number, one in found.items()}

    def _asked(self) -> tuple[float, int | None]:
        from components.detect import detector

        return detector.SCORE if self.score is None else self.score, detector.TILE if self.tile is None else self.tile or None


def nobody(joints: int) -> Any:
    """No persons, as `Predictions`."""
    from components.evaluate.predictions import Predictions

    ids, numbers = np.zeros(0, np.int64), np.zeros(0)
    return Predictions(ids, ids, np.zeros((0, joints, 2)), np.zeros((0, joints)), numbers, np.zeros((0, 4)), numbers)
