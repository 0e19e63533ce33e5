"""Predictions decoded from a method's own perfect targets. Their AP shows what this supervision loses; it is no upper limit.

A network may output better maps than its targets: a Gaussian narrower than a cell decodes to within a quarter of a cell. The
upper limit over all maps is in `components.evaluate.bound`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from components.codecs.codec import CropCodec, ImageCodec
from components.evaluate.predict import CropTable, to_predictions
from components.evaluate.predict_images import Inputs, group
from components.evaluate.predict_images import to_predictions as to_persons
from components.evaluate.predictions import Predictions
from components.pose.crop import CropGeometry, transform
from components.pose.persons import Persons

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages


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


def perfect_predictions(codec: CropCodec, crops: CropTable, batch_size: int = 512) -> Predictions:
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


def perfect_persons(codec: ImageCodec, images: EvalImages, device: str | torch.device = "cpu") -> tuple[Predictions, np.ndarray]:
    """Annotated joints of whole images → perfect outputs at scale 1 → grouped persons in image px, and their scores.

    The mirrored image is not used: its outputs would be equally perfect.
    """
    inputs, labelled = Inputs(images, (1.0,)), images.persons.labelled()
    owner = labelled.frame["image_id"].to_numpy()
    found = []
    with torch.inference_mode():
        for row in range(len(images)):
            outputs = perfect_outputs(codec, inputs, row, labelled.select(owner == images.image_id[row]), device)
            found += group(codec, [outputs], None, (1.0,), inputs.size(row))
    return to_persons(codec, inputs, found)


def perfect_outputs(
    codec: ImageCodec, inputs: Inputs, row: int, persons: Persons, device: str | torch.device = "cpu"
) -> tuple[Tensor, ...]:
    """What a perfect network outputs for image `row`, (1, ...) per output, if these are its labelled persons.

    A joint outside the input (published letterboxing cuts portrait images) is not visible.
    """
    images, (height, width) = inputs.images, inputs.size(row)
    sizes = [(height * side // images.geometry.size, width * side // images.geometry.size) for side in codec.output_sizes]
    matrix = images.geometry.image_to_map((height, width), int(images.width[row]), int(images.height[row]))
    nobody = np.zeros((1, codec.num_keypoints, 3))  # the codec needs at least one person, who may have no visible joint
    annotated = np.concatenate([persons.keypoints, nobody])
    joints = annotated[..., :2] @ matrix[:, :2].T + matrix[:, 2]  # px of the input
    inside = ((joints >= 0) & (joints < (width, height))).all(-1)
    visible = torch.from_numpy((annotated[..., 2] > 0) & inside)[None].to(device)
    cells = [joints * (w / width, h / height) for h, w in sizes]
    keypoints = tuple(torch.from_numpy(places.astype(np.float32))[None].to(device) for places in cells)
    return codec.perfect(keypoints, visible, tuple(sizes))
