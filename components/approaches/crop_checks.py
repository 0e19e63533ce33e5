"""Checks of variants that see one person in a crop: geometry, flips and decoding on the persons table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from components import codecs
from components.codecs.codec import CropCodec, as_crop_codec
from components.degrade.shards import EvalCrops
from components.evaluate.approach import Check
from components.evaluate.bound import crop_bound
from components.evaluate.predictions import Predictions
from components.evaluate.targets import Boxes, perfect_predictions
from components.evaluate.verify import flip_twice, targets_reach
from components.models.variant import Variant
from components.pose.crop import invert, transform
from components.pose.persons import Persons

MAX_PERSONS = 600  # persons on which codecs are tried: enough for two digits of AP
FLIP_TOLERANCE = 0.35  # cells; a classic stride-4 map is 0.25 off after its shift by one, 0.75 without it
ROUND_TRIP_TOLERANCE = 1.0  # cells, median over joints


def checks(variant: Variant, persons: Persons) -> Iterator[Check]:
    """All of one variant, on some labelled persons."""
    persons = _some(persons)
    codec = as_crop_codec(codecs.build(variant.codec_name, variant.geometry(), persons.skeleton, **variant.codec))
    boxes = Boxes.of(persons, codec.geometry)
    yield _geometry_round_trip(variant.name, codec, boxes)
    yield flip_twice(variant.name, codec, codec.flip_border)
    yield _flip_aligns(variant.name, codec, boxes, persons.skeleton.flip_permutation)
    predictions = perfect_predictions(codec, boxes)
    yield _joints_round_trip(variant.name, codec, boxes, predictions)
    yield targets_reach(variant, persons, (predictions, np.ones(len(predictions))), crop_bound(codec, persons, boxes))


def crops_follow_the_table(name: str, crops: EvalCrops, persons: Persons) -> Check:
    """A shard's evaluation crops are those of the labelled persons, with the same joints and boxes."""
    labelled = persons.labelled()
    ids = labelled.frame["annotation_id"].to_numpy()
    title = f"{name}: crops follow the persons table"
    if not np.array_equal(np.sort(ids), np.sort(crops.annotation_id)):
        return Check(title, False, f"{len(crops)} crops for {len(ids)} labelled persons, or other ids: run the degrade stage again")
    labelled = labelled.select(np.argsort(ids)[np.argsort(np.argsort(crops.annotation_id))])
    same = np.array_equal(labelled.keypoints, crops.keypoints_image) and np.array_equal(labelled.bbox_xywh, crops.bbox_xywh)
    return Check(title, same, f"{len(crops)} crops" if same else "joints or boxes differ: run the degrade stage again")


def _geometry_round_trip(name: str, codec: CropCodec, boxes: Boxes) -> Check:
    geometry, joints = codec.geometry, boxes.keypoints_image[..., :2]
    crop = transform(geometry.image_to_crop(boxes.center, boxes.size), joints)
    back = transform(invert(geometry.image_to_crop(boxes.center, boxes.size)), crop)
    error = float(max(np.abs(back - joints).max(), np.abs(geometry.heatmap_to_crop(geometry.crop_to_heatmap(crop)) - crop).max()))
    return Check(f"{name}: image → crop → heatmap and back", error < 1e-6, f"largest error {error:.1e} px")


def _flip_aligns(name: str, codec: CropCodec, boxes: Boxes, permutation: tuple[int, ...]) -> Check:
    """Maps of mirrored persons, flipped, put the joints where the upright maps do."""
    keypoints, visible = _in_crop(codec, boxes)
    upright, _ = codec.decode(codec.perfect(codec.targets(keypoints, visible)))
    last = codec.geometry.input_size[1] - 1 + codec.geometry.flip_move()
    mirrored = torch.stack([last - keypoints[..., 0], keypoints[..., 1]], -1)[:, list(permutation)]
    flipped, _ = codec.decode(codec.flip(codec.perfect(codec.targets(mirrored, visible[:, list(permutation)]))))
    known = visible & (flipped - upright).isfinite().all(-1)  # published presets cannot place some joints
    offsets = (flipped - upright)[known]
    if not len(offsets):
        return Check(f"{name}: flipped maps align", True, "no joint inside a crop")
    means, errors = (
        offsets.mean(0).abs(),
        offsets.std(0, correction=0) / len(offsets) ** 0.5,
    )  # rounding cancels in many joints
    aligned = bool((means - 2 * errors <= FLIP_TOLERANCE).all())
    return Check(f"{name}: flipped maps align", aligned, f"mean offset {float(means.max()):.2f} cells")


def _joints_round_trip(name: str, codec: CropCodec, boxes: Boxes, predictions: Predictions) -> Check:
    _, visible = _in_crop(codec, boxes)
    matrix = codec.geometry.image_to_heatmap(boxes.center, boxes.size)
    error = np.linalg.norm(transform(matrix, predictions.keypoints_image) - transform(matrix, boxes.keypoints_image[..., :2]), axis=-1)
    seen = error[visible.numpy()]
    median, worst = (float(np.median(seen)), float(np.percentile(seen, 99))) if len(seen) else (0.0, 0.0)
    detail = f"median error {median:.2f} cells, 99 % below {worst:.2f}"
    return Check(f"{name}: encode and decode return the joints", median <= ROUND_TRIP_TOLERANCE, detail)


def _in_crop(codec: CropCodec, boxes: Boxes) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints (N, K, 2) in crop px and which are labelled and half a cell or more inside, (N, K) bool."""
    geometry = codec.geometry
    keypoints = transform(geometry.image_to_crop(boxes.center, boxes.size), boxes.keypoints_image[..., :2])
    cells = geometry.crop_to_heatmap(keypoints)
    height, width = geometry.heatmap_size
    inside = (cells >= 0.5).all(-1) & (cells[..., 0] <= width - 1.5) & (cells[..., 1] <= height - 1.5)
    return torch.from_numpy(keypoints.astype(np.float32)), torch.from_numpy(inside & (boxes.keypoints_image[..., 2] > 0))


def _some(persons: Persons) -> Persons:
    """Up to `MAX_PERSONS` labelled persons, evenly spread over the table."""
    labelled = persons.labelled()
    step = -(-len(labelled) // MAX_PERSONS) if len(labelled) else 1
    return labelled.select(np.arange(0, len(labelled), step))
