"""The person detector that the repository ships, on images of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base import origins
from components.base.errors import FarposeError
from components.detect import boxes as merging
from components.detect import nanodet
from components.detect.tiles import tiles

NAME = "person_detector"  # in params/weights.yaml
SCORE = 0.3  # boxes that score lower are dropped; see results/detector
WEAKEST = 0.05  # no lower score is asked for
FAR_PERSON = 40  # px of the image, height of the smallest person that the detector is meant to find
SEEN = 40  # px of its input, at which it finds two in three persons; see results/detector
TILE = nanodet.SIDE * FAR_PERSON // SEEN  # px of the image, side of the smallest tiles: a far person is SEEN px high in them
EDGE = 6.0  # px of the input: a box that ends so near to a tile's edge may go on beyond it


@dataclass(frozen=True)
class Found:
    """N persons of one image, the best first.

    Attributes:
        bbox_xywh: (N, 4) left, top, width, height, px of the image, inside of it.
        scores: (N,) in [0, 1].
        tiles: parts of the image that were looked at.
    """

    bbox_xywh: np.ndarray
    scores: np.ndarray
    tiles: int


@dataclass(frozen=True)
class PersonDetector:
    """Finds persons' boxes.

    Attributes:
        run: the network: (1, 3, 416, 416) float32 → its six outputs, see `nanodet.decode`.
    """

    run: Callable[[np.ndarray], list[np.ndarray]]

    @classmethod
    def open(cls, path: Path | None = None, threads: int = 0) -> PersonDetector:
        """Load an ONNX file.

        Args:
            path: None: the file that the repository ships, if it is the one that params/weights.yaml names.
            threads: of ONNX Runtime; 0: one per core.
        Raises:
            FarposeError: the file is missing, damaged or another network.
        """
        import onnxruntime

        path = path or origins.verified(NAME, "detector")
        if not path.is_file():
            raise FarposeError("no such file", where=path, fix="give the path of a detector's ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the cores to others
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            raise FarposeError("damaged or no ONNX file", where=path, fix="give the detector that is shipped") from error
        shapes = [value.shape for value in (*session.get_inputs(), *session.get_outputs())]
        if shapes != _shapes():
            raise FarposeError(f"another network than NanoDet at {nanodet.SIDE} px", where=path, fix="give the detector that is shipped")
        name: Any = session.get_inputs()[0].name
        return cls(lambda image: session.run(None, {name: image}))

    def find(self, image: np.ndarray, score: float = SCORE, tile: int | None = TILE) -> Found:
        """The persons of an image.

        Args:
            image: (H, W, 3) uint8 BGR.
            score: boxes that score lower are dropped.
            tile: side of the smallest tiles, px of the image; None: the whole image alone.
        """
        height, width = image.shape[:2]
        parts = tiles(width, height, tile)
        every, scores, owner, cut = [], [], [], []
        for number, part in enumerate(parts):
            pixels, factor = nanodet.as_input(image[part.top : part.bottom, part.left : part.right])
            found, certain = nanodet.decode(self.run(pixels), max(score, WEAKEST))
            kept = merging.suppress(found, certain)
            inside = found[kept] / factor + (part.left, part.top, part.left, part.top)
            inside = np.clip(inside, (part.left, part.top) * 2, (part.right, part.bottom) * 2)
            every.append(inside)
            scores.append(certain[kept])
            owner.append(np.full(len(kept), number))
            cut.append(part.cut_off(inside, width, height, EDGE / factor))
        boxes, certain = np.concatenate(every), np.concatenate(scores)
        usable = merging.areas(boxes) > 0
        kept = np.flatnonzero(usable)
        kept = kept[merging.merge(boxes[kept], certain[kept], np.concatenate(owner)[kept], np.concatenate(cut)[kept])]
        low, high = boxes[kept, :2], boxes[kept, 2:]
        return Found(np.concatenate([low, high - low], -1), certain[kept], len(parts))


def _shapes() -> list[list[int]]:
    """Of the input and the outputs."""
    cells = [(nanodet.SIDE // stride) ** 2 for stride in nanodet.STRIDES]
    sides = [[1, count, 4 * nanodet.BINS] for count in cells]
    return [[1, 3, nanodet.SIDE, nanodet.SIDE], *([1, count, 80] for count in cells), *sides]
