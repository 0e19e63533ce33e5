"""What must hold before anything is trained: checks of the table, the geometry and the codecs that cost seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components import codecs
from components.evaluate.ceiling import Boxes, perfect_predictions
from components.evaluate.oks import MAX_DETECTIONS, evaluate
from components.evaluate.predictions import Predictions
from components.models.variant import Variant
from components.pose.crop import invert, transform
from components.pose.persons import Persons

if TYPE_CHECKING:
    from components.codecs.codec import Codec
    from components.degrade.shards import EvalCrops

MAX_PERSONS = 600  # persons on which codecs are tried: enough for two digits of AP
LOWEST_CEILING = 0.2  # below this a codec cannot tell methods apart
FLIP_TOLERANCE = 0.35  # cells; a classic stride-4 map is 0.25 off after its shift by one, 0.75 without it
ROUND_TRIP_TOLERANCE = 1.0  # cells, median over joints


@dataclass(frozen=True)
class Check:
    """One check: did it hold, what was measured, and whether a person should look at it although it did."""

    name: str
    passed: bool
    detail: str
    warning: bool = False


def verify(persons: Persons, variants: Iterable[Variant], shards: Mapping[str, EvalCrops] | None = None) -> list[Check]:
    """Run all checks.

    Args:
        persons: the rows of the split that is scored, crowd regions included.
        variants: whose geometry and codec are tried.
        shards: evaluation crops to compare with the table, by name.
    """
    checks = [truth_scores_one(persons)]
    some = _some(persons)
    for variant in variants:
        checks += _of_variant(variant, some)
    for name, crops in (shards or {}).items():
        checks.append(crops_follow_the_table(name, crops, persons))
    return checks


def truth_scores_one(persons: Persons) -> Check:
    """The annotations themselves, as predictions, score AP 1.000 on all images of up to 20 labelled persons."""
    labelled = persons.labelled()
    images, counts = np.unique(labelled.frame["image_id"].to_numpy(), return_counts=True)
    crowded = images[counts > MAX_DETECTIONS]
    kept = persons.select(~persons.frame["image_id"].isin(crowded).to_numpy())
    truth = kept.labelled()
    numbers = evaluate(kept, _as_predictions(truth), np.ones(len(truth)))
    detail = f"AP {numbers['AP']:.3f}, AR {numbers['AR']:.3f} on {len(truth)} persons"
    if len(crowded):
        detail += f"; {len(crowded)} images with more than {MAX_DETECTIONS} persons left out, on them COCO's rules allow no AP of 1"
    return Check("ground truth scores AP 1.000", min(numbers["AP"], numbers["AR"]) > 1 - 1e-9, detail, warning=len(crowded) > 0)


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


def _of_variant(variant: Variant, persons: Persons) -> Iterator[Check]:
    codec = codecs.build(variant.codec_name, variant.geometry(), persons.skeleton, **variant.codec)
    boxes = Boxes.of(persons, codec.geometry)
    yield _geometry_round_trip(variant.name, codec, boxes)
    yield _flip_twice(variant.name, codec)
    yield _flip_aligns(variant.name, codec, boxes, persons.skeleton.flip_permutation)
    predictions = perfect_predictions(codec, boxes)
    yield _joints_round_trip(variant.name, codec, boxes, predictions)
    yield _ceiling(variant, persons, predictions)


def _geometry_round_trip(name: str, codec: Codec, boxes: Boxes) -> Check:
    geometry, joints = codec.geometry, boxes.keypoints_image[..., :2]
    crop = transform(geometry.image_to_crop(boxes.center, boxes.size), joints)
    back = transform(invert(geometry.image_to_crop(boxes.center, boxes.size)), crop)
    error = float(max(np.abs(back - joints).max(), np.abs(geometry.heatmap_to_crop(geometry.crop_to_heatmap(crop)) - crop).max()))
    return Check(f"{name}: image → crop → heatmap and back", error < 1e-6, f"largest error {error:.1e} px")


def _flip_twice(name: str, codec: Codec) -> Check:
    """Mirroring outputs twice changes nothing but the columns (or bins) that a shift repeats."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, *shape) for shape in codec.output_shapes]
    outputs = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    first, last = codec.flip_border
    twice = codec.flip(codec.flip(outputs))
    error = max(float((a - b)[..., first : a.shape[-1] - last].abs().max()) for a, b in zip(outputs, twice, strict=True))
    beside = " beside the border" if first or last else ""
    return Check(f"{name}: flip twice is identity", error == 0, f"largest difference {error:g}{beside}")


def _flip_aligns(name: str, codec: Codec, boxes: Boxes, permutation: tuple[int, ...]) -> Check:
    """Maps of mirrored persons, flipped, put the joints where the upright maps do."""
    keypoints, visible = _in_crop(codec, boxes)
    upright, _ = codec.decode(codec.perfect(codec.targets(keypoints, visible)))
    mirrored = torch.stack([codec.geometry.input_size[1] - 1 - keypoints[..., 0], keypoints[..., 1]], -1)[:, list(permutation)]
    flipped, _ = codec.decode(codec.flip(codec.perfect(codec.targets(mirrored, visible[:, list(permutation)]))))
    known = visible & (flipped - upright).isfinite().all(-1)  # published presets cannot place some joints
    offset = (flipped - upright)[known].mean(0).abs()
    worst = float(offset.max()) if known.any() else 0.0
    return Check(f"{name}: flipped maps align", worst <= FLIP_TOLERANCE, f"mean offset {worst:.2f} cells")


def _joints_round_trip(name: str, codec: Codec, boxes: Boxes, predictions: Predictions) -> Check:
    _, visible = _in_crop(codec, boxes)
    matrix = codec.geometry.image_to_heatmap(boxes.center, boxes.size)
    error = np.linalg.norm(transform(matrix, predictions.keypoints_image) - transform(matrix, boxes.keypoints_image[..., :2]), axis=-1)
    seen = error[visible.numpy()]
    median, worst = (float(np.median(seen)), float(np.percentile(seen, 99))) if len(seen) else (0.0, 0.0)
    detail = f"median error {median:.2f} cells, 99 % below {worst:.2f}"
    return Check(f"{name}: encode and decode return the joints", median <= ROUND_TRIP_TOLERANCE, detail)


def _ceiling(variant: Variant, persons: Persons, predictions: Predictions) -> Check:
    reached = evaluate(persons, predictions, np.ones(len(predictions)))["AP"]
    claimed = variant.paper.ap
    detail = f"AP {reached:.3f} with perfect targets"
    impossible = claimed is not None and reached < claimed / 100
    if impossible:
        detail += f", below the paper's AP {claimed:.1f}: not reached with this decoder, or on data unlike the paper's"
    return Check(f"{variant.name}: ceiling", reached >= LOWEST_CEILING, detail, warning=impossible)


def _in_crop(codec: Codec, boxes: Boxes) -> tuple[torch.Tensor, torch.Tensor]:
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


def _as_predictions(truth: Persons) -> Predictions:
    ids: Any = truth.frame[["image_id", "annotation_id"]].to_numpy(np.int64)
    joints, ones = truth.keypoints, np.ones(len(truth))
    areas = truth.bbox_xywh[:, 2:].prod(1)
    return Predictions(ids[:, 0], ids[:, 1], joints[..., :2], np.ones(joints.shape[:2]), ones, truth.bbox_xywh, areas)
