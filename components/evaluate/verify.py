"""Checks of the table, the geometry and the codecs before training; they take seconds.

The checks that differ between crops and whole images are in `components.approaches`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from components.codecs.codec import Codec
from components.evaluate.approach import Check
from components.evaluate.oks import MAX_DETECTIONS, evaluate
from components.evaluate.predictions import Predictions
from components.models.variant import Variant
from components.pose.persons import Persons

Scored = tuple[Predictions, np.ndarray]  # with the person scores
LOWEST_TARGET_AP = 0.2  # below this a codec's targets cannot tell methods apart


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


def flip_twice(name: str, codec: Codec, border: tuple[int, int] = (0, 0)) -> Check:
    """Mirroring outputs twice changes only the columns (or bins) that a shift repeats."""
    generator = torch.Generator().manual_seed(0)
    outputs = tuple(torch.randn((2, *shape), generator=generator) for shape in codec.output_shapes)
    first, last = border
    twice = codec.flip(codec.flip(outputs))
    error = max(float((a - b)[..., first : a.shape[-1] - last].abs().max()) for a, b in zip(outputs, twice, strict=True))
    beside = " beside the border" if first or last else ""
    return Check(f"{name}: flip twice is identity", error == 0, f"largest difference {error:g}{beside}")


def targets_reach(
    variant: Variant,
    persons: Persons,
    perfect: Scored,
    bound: Scored,
    image_ids: np.ndarray | None = None,
) -> Check:
    """AP of the method's own perfect targets, and whether the paper's AP lies within the decoder's bound.

    Args:
        perfect, bound: predictions and person scores, see `Approach`.
    """
    reached, claimed = evaluate(persons, *perfect, image_ids)["AP"], variant.paper.ap
    best = evaluate(persons, *bound, image_ids)["AP"]
    detail = f"AP {reached:.3f} with perfect targets, {best:.3f} with the best maps"
    impossible = claimed is not None and best < claimed / 100
    if impossible:
        detail += f", below the paper's AP {claimed:.1f}: out of this decoder's reach at this size, or on data unlike the paper's"
    return Check(f"{variant.name}: AP of its targets", reached >= LOWEST_TARGET_AP, detail, warning=impossible)


def _as_predictions(truth: Persons) -> Predictions:
    ids: Any = truth.frame[["image_id", "annotation_id"]].to_numpy(np.int64)
    joints, ones = truth.keypoints, np.ones(len(truth))
    areas = truth.bbox_xywh[:, 2:].prod(1)
    return Predictions(ids[:, 0], ids[:, 1], joints[..., :2], np.ones(joints.shape[:2]), ones, truth.bbox_xywh, areas)
