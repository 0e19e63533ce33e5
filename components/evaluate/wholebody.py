"""COCO-WholeBody's numbers (Jin et al. 2020): AP and AR of the whole body and of each part, joints of the part alone.

The area rules of AP(M) and AP(L) differ between the two tools in use. A detection that matches nobody is left out of a range of
area if its own area is outside. pycocotools takes the extent of all joints of the detection: `AP_M`, `AP_L`. xtcocotools, which
published tables use, takes the extent of the 17 joints of its body: `AP_M_body_extent`, `AP_L_body_extent`. Numbers over all
areas are the same by both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from components.base.errors import FarposeError
from components.evaluate.matching import Matches
from components.evaluate.oks import area_ranges, match, summarise
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons
from components.pose.skeleton import WHOLEBODY_133, Skeleton

PARTS = {"body": slice(0, 17), "foot": slice(17, 23), "face": slice(23, 91), "lefthand": slice(91, 112), "righthand": slice(112, 133)}


def wholebody_numbers(
    matches: Matches, persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray | None
) -> dict[str, float]:
    """The ten numbers of all 133 joints, the four by the body's extent (see above), and `AP_<part>`, `AR_<part>` for `PARTS`.

    A person counts for a part if a joint of the part is labelled. The OKS scale is the annotated area for every part, and every part is
    ranked by the person's score.

    Args:
        matches: of all joints, over the ranges of `oks.AREA_RANGES`.
    Raises:
        FarposeError: the skeleton is not that of COCO-WholeBody.
    """
    check_wholebody(persons)
    numbers = summarise(matches)
    body = area_ranges(persons, _joints(predictions, PARTS["body"]))
    by_body = summarise(match(persons, predictions, scores, image_ids, body))
    numbers |= {f"{name}_body_extent": by_body[name] for name in ("AP_M", "AP_L", "AR_M", "AR_L")}
    for part, joints in PARTS.items():
        found = summarise(match(part_of(persons, part), _joints(predictions, joints), scores, image_ids))
        numbers |= {f"{name}_{part}": found[name] for name in ("AP", "AR")}
    return numbers


def check_wholebody(persons: Persons) -> None:
    """Raises what `wholebody_numbers` does."""
    if persons.skeleton.keypoint_names != WHOLEBODY_133.keypoint_names:
        problem = f"the evaluator 'wholebody' needs the joints of {WHOLEBODY_133.name}, the persons have those of {persons.skeleton.name}"
        raise FarposeError(problem, where="persons table", fix="correct `evaluator` or `skeleton` of the data set in params/data.yaml")


def part_of(persons: Persons, part: str) -> Persons:
    """The persons with the joints of one part alone; `num_keypoints` counts these."""
    joints, own = PARTS[part], persons.skeleton
    keypoints = persons.keypoints[:, joints]
    skeleton = Skeleton(f"{own.name}_{part}", own.keypoint_names[joints], own.sigmas[joints], flips=())
    frame = persons.frame.assign(num_keypoints=(keypoints[..., 2] > 0).sum(1))
    return replace(persons, frame=frame, keypoints=keypoints, skeleton=skeleton)


def _joints(predictions: Predictions, joints: slice) -> Predictions:
    parts = {"keypoints_image": predictions.keypoints_image[:, joints], "keypoint_scores": predictions.keypoint_scores[:, joints]}
    return replace(predictions, **parts)
