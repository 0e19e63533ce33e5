"""Run a bottom-up model over whole images and bring all persons' joints back to the image.

As published for HigherHRNet (Cheng et al. 2020, section 4.1): the outputs of all test scales and of the mirrored image are
brought to the input's size at scale 1, averaged, and grouped there; a person scores the mean of all its joints' values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.codecs.codec import ImageCodec, Outputs, Size
from components.degrade.augment import normalise
from components.degrade.images import usable_cores
from components.degrade.params import DegradeParams
from components.evaluate.nms import suppress
from components.evaluate.params import EvaluateParams
from components.evaluate.predict import check_finite, forward
from components.evaluate.predictions import Predictions
from components.pose.crop import BOX_PADDING
from components.pose.whole_image import MULTIPLE

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages

FORWARD_PX = 1 << 23  # input px of one forward pass, which bounds the memory of large test scales
GROUPING_PX = 1 << 20  # px of all images whose full-size heatmaps and tags are held at once


@dataclass(frozen=True)
class Inputs:
    """The network's inputs for N images: each image at every test scale, largest first as published.

    Attributes:
        scales: test scales, descending.
        data_root, degrade: folder of the images and how they are degraded; only needed for scales other than 1.
    """

    images: EvalImages
    scales: tuple[float, ...]
    data_root: Path | None = None
    degrade: DegradeParams = field(default_factory=DegradeParams)

    @property
    def smallest(self) -> float:
        return min(self.scales)

    def size(self, row: int, scale: float = 1.0) -> Size:
        """(height, width) of image `row` at a scale, px of the input; at scale 1 it is also where persons are grouped.

        Raises:
            FarposeError: it is no multiple of 64 px, which networks need.
        """
        size = self.images.geometry.input_size(int(self.images.width[row]), int(self.images.height[row]), scale, self.smallest)
        if size[0] % MULTIPLE or size[1] % MULTIPLE:
            problem = f"test scale {scale:g} makes an input of {size[0]}x{size[1]} px, which is no multiple of {MULTIPLE}"
            raise FarposeError(problem, where="evaluate.bottom_up.scales", fix="use scales such as [0.5, 1.0, 2.0]")
        return size

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Rows of images that are equally large at every scale, at most `batch_size` and `FORWARD_PX` at a time."""
        groups: dict[tuple[Size, ...], list[int]] = {}
        for row in range(len(self.images)):
            groups.setdefault(tuple(self.size(row, scale) for scale in self.scales), []).append(row)
        for sizes, rows in groups.items():
            step = min(batch_size, max(1, FORWARD_PX // max(height * width for height, width in sizes)))
            yield from (np.array(rows[start : start + step]) for start in range(0, len(rows), step))

    def pixels(self, rows: np.ndarray, scale: float) -> Tensor:
        """(B, 3, H, W) uint8 RGB of equally large images."""
        if scale == self.smallest == 1.0:
            return torch.from_numpy(np.stack([self.images.pixels(row) for row in rows.tolist()]))
        if self.data_root is None:
            raise FarposeError("test scales need the original images", fix="set evaluate.bottom_up.scales to [1.0]")
        root = self.data_root
        with ThreadPoolExecutor(min(len(rows), usable_cores())) as pool:
            read = pool.map(lambda row: self.images.at_scale(row, scale, self.smallest, root, self.degrade), rows.tolist())
            return torch.from_numpy(np.stack(list(read)))


def predict_images(
    model: nn.Module,
    codec: ImageCodec,
    images: EvalImages,
    params: EvaluateParams,
    device: str | torch.device = "cpu",
    bf16: bool = False,
    data_root: Path | None = None,
    degrade: DegradeParams | None = None,
) -> tuple[Predictions, np.ndarray]:
    """All persons of every image, in image px, and their (N,) scores; by image, in the images' order.

    Args:
        codec: groups the model's outputs into persons, see `codecs.associative_embedding`.
        images: their geometry has the fit `params.bottom_up.fit`.
        params: `flip` and section `bottom_up` are used.
        bf16: run the network in bfloat16 (CUDA only); grouping stays in float32.
        data_root, degrade: of the original images; needed by test scales other than 1.
    Raises:
        FarposeError: the network's output is not finite, a test scale without `data_root`, or one that the network cannot take.
    """
    inputs = Inputs(images, tuple(sorted(params.bottom_up.scales, reverse=True)), data_root, degrade or DegradeParams())
    was_training = model.training
    model.eval().to(device)
    found: list[Any] = [None] * len(images)
    with torch.inference_mode():
        for rows in inputs.batches(1 if getattr(model, "mixes_batch", False) else params.bottom_up.batch_size):
            upright: list[Outputs] = []
            mirrored: list[Outputs] = []
            names = [f"image {images.image_id[row]} ({images.image_path[row]})" for row in rows.tolist()]
            for scale in inputs.scales:
                pixels = normalise(inputs.pixels(rows, scale).to(device))
                for outputs, seen in [(upright, pixels), *([(mirrored, pixels.flip(3))] if params.flip else [])]:
                    outputs.append(forward(model, seen, bf16))
                    check_finite(outputs[-1], names)
            base = inputs.size(rows[0])
            for row, persons in zip(rows.tolist(), group(codec, upright, mirrored or None, inputs.scales, base), strict=True):
                found[row] = persons
    model.train(was_training)
    return finish(*to_predictions(codec, inputs, found), params, images.skeleton.sigmas)


def group(
    codec: ImageCodec, upright: Sequence[Outputs], mirrored: Sequence[Outputs] | None, scales: Sequence[float], base: Size
) -> list[Any]:
    """The codec's persons of every image of a batch, in cells of a map of `base` size; a few images at a time.

    Args:
        upright, mirrored: per scale the network's outputs (B, ...).
    """
    images, step = len(upright[0][0]), max(1, GROUPING_PX // (base[0] * base[1]))
    persons: list[Any] = []
    for start in range(0, images, step):
        part = slice(start, start + step)
        few = [tuple(output[part] for output in outputs) for outputs in upright]
        few_mirrored = [tuple(output[part] for output in outputs) for outputs in mirrored] if mirrored else None
        persons += codec.find(few, few_mirrored, tuple(scales), base)
    return persons


def to_predictions(codec: ImageCodec, inputs: Inputs, found: Sequence[Any]) -> tuple[Predictions, np.ndarray]:
    """Predictions and person scores from the codec's persons of every image.

    A box is the extent of the joints that score above the codec's detection threshold (of all if none does): the others were
    filled in, often far away. A joint without a place or score (NaN) is put at the map's first cell with score 0, as published.
    """
    joints = codec.num_keypoints
    places, values, scores = [np.zeros((0, joints, 2))], [np.zeros((0, joints))], [np.zeros(0)]
    for row, persons in enumerate(found):
        cells, value = np.asarray(persons.keypoints, np.float64), np.asarray(persons.keypoint_scores, np.float64)
        placed = np.isfinite(cells).all(-1) & np.isfinite(value)
        cells = np.where(placed[..., None], cells, 0.0).reshape(-1, joints, 2)
        width, height = int(inputs.images.width[row]), int(inputs.images.height[row])
        places.append(inputs.images.geometry.heatmap_to_image(cells, inputs.size(row), width, height))
        values.append(np.where(placed, value, 0.0).reshape(-1, joints))
        scores.append(np.nan_to_num(np.asarray(persons.scores, np.float64)))
    keypoints, keypoint_scores, person_scores = np.concatenate(places), np.concatenate(values), np.concatenate(scores)
    boxes = extents(keypoints, keypoint_scores > codec.detection_threshold)
    counts = [len(persons.scores) for persons in found]
    predictions = Predictions(
        image_id=np.repeat(np.asarray(inputs.images.image_id, np.int64), counts),
        annotation_id=np.full(len(keypoints), -1),
        keypoints_image=keypoints,
        keypoint_scores=keypoint_scores,
        box_scores=np.ones(len(keypoints)),
        bbox_xywh=boxes,
        areas=BOX_PADDING**2 * boxes[:, 2:].prod(1),
    )
    return predictions, person_scores


def extents(keypoints: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N, 4) left, top, width, height of the `chosen` (N, K) of the keypoints (N, K, 2), of all where none is chosen."""
    used = (chosen | ~chosen.any(1, keepdims=True))[..., None]
    low = np.where(used, keypoints, np.inf).min(1)
    return np.concatenate([low, np.where(used, keypoints, -np.inf).max(1) - low], 1)


def finish(predictions: Predictions, scores: np.ndarray, params: EvaluateParams, sigmas: Sequence[float]) -> tuple[Predictions, np.ndarray]:
    """Suppress repeated persons if the parameters say so; published systems keep all."""
    threshold = params.bottom_up.oks_nms_threshold
    if threshold is None:
        return predictions, scores
    kept = suppress(predictions.image_id, predictions.keypoints_image, scores, predictions.areas, np.asarray(sigmas), threshold)
    return predictions.select(kept), scores[kept]
