"""The ceiling of bottom-up evaluation: the AP of a network without error, through the same geometry, codec and grouping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from components.evaluate.bottom_up import Inputs, group, to_predictions
from components.evaluate.oks import evaluate
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages


def image_ceiling(codec: Any, images: EvalImages, device: str | torch.device = "cpu") -> dict[str, float]:
    """The ten COCO numbers of perfect outputs at scale 1, without the mirrored image, which would be equally perfect."""
    predictions, scores = perfect_predictions(codec, images, device)
    return evaluate(images.persons, predictions, scores, images.image_id)


def perfect_predictions(codec: Any, images: EvalImages, device: str | torch.device = "cpu") -> tuple[Predictions, np.ndarray]:
    """Annotated joints → what a perfect network would output → grouped persons in image px, and their scores."""
    inputs, labelled = Inputs(images, (1.0,)), images.persons.labelled()
    owner = labelled.frame["image_id"].to_numpy()
    found = []
    with torch.inference_mode():
        for row in range(len(images)):
            outputs = perfect_outputs(codec, inputs, row, labelled.select(owner == images.image_id[row]), device)
            found += group(codec, [outputs], None, (1.0,), inputs.size(row))
    return to_predictions(codec, inputs, found)


def perfect_outputs(codec: Any, inputs: Inputs, row: int, persons: Persons, device: str | torch.device = "cpu") -> tuple[Tensor, ...]:
    """What a perfect network outputs for image `row`, (1, ...) per output, if these are its labelled persons.

    A joint that the input does not show (published letterboxing cuts portrait images) cannot be seen.
    """
    images, (height, width) = inputs.images, inputs.size(row)
    sizes = [(height * side // images.geometry.size, width * side // images.geometry.size) for side in codec.output_sizes]
    matrix = images.geometry.image_to_map((height, width), int(images.width[row]), int(images.height[row]))
    nobody = np.zeros((1, codec.num_keypoints, 3))  # the codec wants at least one person, who may have no visible joint
    annotated = np.concatenate([persons.keypoints, nobody])
    joints = annotated[..., :2] @ matrix[:, :2].T + matrix[:, 2]  # px of the input
    inside = ((joints >= 0) & (joints < (width, height))).all(-1)
    visible = torch.from_numpy((annotated[..., 2] > 0) & inside)[None].to(device)
    cells = [joints * (w / width, h / height) for h, w in sizes]
    keypoints = tuple(torch.from_numpy(places.astype(np.float32))[None].to(device) for places in cells)
    return codec.perfect(keypoints, visible, tuple(sizes))
