"""The ceiling of a codec: the AP of a network that makes no error, so what is lost is lost in encoding and decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components.evaluate.oks import evaluate
from components.evaluate.predict import CropTable, to_predictions
from components.evaluate.predictions import Predictions
from components.pose.crop import CropGeometry, transform
from components.pose.persons import Persons


@dataclass(frozen=True)
class Boxes:
    """Where the persons of a table would be cropped: the columns of evaluation crops, without pixels."""

    image_id: np.ndarray  # (N,)
    annotation_id: np.ndarray  # (N,)
    center: np.ndarray  # (N, 2) image px
    size: np.ndarray  # (N, 2) image px
    bbox_xywh: np.ndarray  # (N, 4) image px
    keypoints_image: np.ndarray  # (N, K, 3) image px and visibility

    @classmethod
    def of(cls, persons: Persons, geometry: CropGeometry) -> Boxes:
        """Boxes of the labelled persons."""
        labelled = persons.labelled()
        image_id, annotation_id = (labelled.frame[name].to_numpy(np.int64) for name in ("image_id", "annotation_id"))
        center, size = geometry.box_to_center_size(labelled.bbox_xywh)
        return cls(image_id, annotation_id, center, size, labelled.bbox_xywh, labelled.keypoints)


def perfect_predictions(codec: Any, crops: CropTable, batch_size: int = 512) -> Predictions:
    """Annotated joints → targets → what a perfect network would output → decoded joints, in image px."""
    center, size = np.asarray(crops.center, np.float64), np.asarray(crops.size, np.float64)
    joints = np.asarray(crops.keypoints_image, np.float64)
    keypoints = torch.from_numpy(transform(codec.geometry.image_to_crop(center, size), joints[..., :2]).astype(np.float32))
    visible = torch.from_numpy(joints[..., 2] > 0)
    heatmap, scores = [np.zeros((0, joints.shape[1], 2))], [np.zeros((0, joints.shape[1]))]
    for start in range(0, len(keypoints), batch_size):
        part = slice(start, start + batch_size)
        decoded = codec.decode(codec.perfect(codec.targets(keypoints[part], visible[part])))
        heatmap.append(decoded[0].double().numpy())
        scores.append(decoded[1].double().numpy())
    return to_predictions(codec, crops, np.concatenate(heatmap), np.concatenate(scores))


def ceiling(codec: Any, persons: Persons, image_ids: np.ndarray | None = None, crops: CropTable | None = None) -> dict[str, float]:
    """The ten COCO numbers of a perfect network on annotated boxes, every person scored 1.

    Args:
        crops: the persons' crops; None takes the boxes of the labelled `persons`.
    """
    predictions = perfect_predictions(codec, Boxes.of(persons, codec.geometry) if crops is None else crops)
    return evaluate(persons, predictions, np.ones(len(predictions)), image_ids)
