"""Farpose from Python: the persons of an image and their joints, in a few lines. The README shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.base.errors import FarposeError
from pipelines import environment  # noqa: F401  (prepares the environment)
from pipelines.choosing import chosen
from pipelines.predicting import Finder

Image = str | Path | np.ndarray  # a file, or (H, W, 3) uint8 RGB


@dataclass(frozen=True)
class Persons:
    """N persons of one image, the best first.

    Attributes:
        keypoints: (N, K, 2) float64, x and y, px of the upright image.
        keypoint_scores: (N, K) float64.
        scores: (N,) float64, of the persons.
        boxes: (N, 4) float64 left, top, width, height, px; of a model that takes no boxes the extent of the joints.
        names: of the K joints.
    """

    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)


class Predictor:
    """A model, ready to predict.

    Args:
        model: a released model such as "pose_128x96", or a registered one as "NAME@champion"; None: the registry's champion, or the
            released model where the store has none or does not answer.
        variant: a trained variant, in place of `model`.
        score: the detector's boxes that score lower are dropped (0.3).
        tile: side of the detector's smallest tiles, px of the image; 0: the whole image alone (416).
    Raises:
        FarposeError: there is no such model.

    Attributes:
        notes: what to know of the choice of the model, such as that the registry did not answer.
    """

    def __init__(
        self, model: str | None = None, *, variant: str | None = None, score: float | None = None, tile: int | None = None
    ) -> None:
        subject = chosen(variant, model=model)
        self._finder = Finder(subject, score, tile)
        self.notes = subject.notes

    @property
    def name(self) -> str:
        """Of the variant that predicts."""
        return str(self._finder.subject.built.variant.name)

    def __call__(self, image: Image, boxes: np.ndarray | None = None) -> Persons:
        """The persons of one image.

        Args:
            image: a file, which is turned by its EXIF orientation, or an array (H, W, 3) uint8 RGB.
            boxes: (N, 4) left, top, width, height of persons, px; None: a detector finds them. Bottom-up models take none.
        Raises:
            FarposeError: the file is missing or damaged, the array or the boxes have another form, or the model takes no boxes.
        """
        return self.batch([image], None if boxes is None else [boxes])[0]

    def batch(self, images: Sequence[Image], boxes: Sequence[np.ndarray] | None = None) -> list[Persons]:
        """The persons of several images of any sizes, which are in memory together."""
        if boxes is not None and not self._finder.approach.takes_boxes:
            raise FarposeError("the model finds the persons of whole images and takes no boxes", where=self.name, fix="leave them out")
        pixels = {number: _pixels(image) for number, image in enumerate(images)}
        given = None if boxes is None else {number: _boxes(one) for number, one in zip(pixels, boxes, strict=True)}
        found, scores = self._finder.find(pixels, given)
        names = tuple(self._finder.subject.built.variant.skeleton.keypoint_names)
        persons = []
        for number in pixels:
            rows = np.flatnonzero(found.image_id == number)
            rows = rows[np.argsort(-scores[rows], kind="stable")]
            own = found.select(rows)
            persons.append(Persons(own.keypoints_image, own.keypoint_scores, scores[rows], own.bbox_xywh, names))
        return persons


def _pixels(image: Image) -> np.ndarray:
    """(H, W, 3) uint8 BGR."""
    from components.degrade.images import read_image

    if not isinstance(image, np.ndarray):
        return read_image(image, upright=True)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        problem = f"an image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}"
        raise FarposeError(problem, where="image", fix="such as numpy.asarray(PIL.Image.open(path).convert('RGB'))")
    return np.ascontiguousarray(image[..., ::-1])


def _boxes(boxes: np.ndarray) -> np.ndarray:
    found = np.asarray(boxes, np.float64)
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all() or (found[:, 2:] <= 0).any():
        raise FarposeError("boxes must be (N, 4): left, top, width and height above 0, px", where="boxes")
    return found
