"""The synthetic people annotated as other benchmarks are: the same images, with the joints that the figures have.

A joint is labelled where the figure has the point itself, and left unlabelled where it would have to be guessed.

- CrowdPose, 14 joints: COCO's twelve of the limbs, top of the head and neck. `crowdIndex` by its definition (Li et al. 2019, equation 1):
  the mean over the persons of an image of other persons' labelled joints inside the box, per own one; 0 without persons.
- MPII, 16 joints: the limbs, the middle between the hips, the middle between the shoulders, neck and top of the head. The square of centre
  and scale is the annotated box's longer side around its middle. `headsize` is 0.75 of the distance from neck to top of the head.
- COCO-WholeBody, 133 joints: the body's 17; the tip of the toes as big toe, and the heel; the nose as the tip of the nose's bridge; the
  wrists as roots of the hands. The other 109 are not labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.datasets.synthetic.coco import Annotate, Further, Record, coco_of
from components.datasets.synthetic.person import FURTHER
from components.pose.skeleton import COCO_17, CROWDPOSE_14, MPII_16, WHOLEBODY_133, Skeleton

Joints = list[list[float]]  # x, y, visibility
SAME = {"upper_neck": "neck"}  # other names of the figure's joints
WHOLEBODY = {
    "left_big_toe": "left_toe", "right_big_toe": "right_toe", "left_heel": "left_heel", "right_heel": "right_heel", "nose_bridge_4": "nose",
    "left_hand_root": "left_wrist", "right_hand_root": "right_wrist",
}  # fmt: skip
PARTS = {"foot": slice(17, 23), "face": slice(23, 91), "lefthand": slice(91, 112), "righthand": slice(112, 133)}
MPII_SCALE_PX, MPII_LOWER_PX, MPII_FIRST_PX, MPII_HEAD = 200.0, 15.0, 1.0, 0.75  # see `readers.mpii`


def _joints(annotation: dict[str, Any], further: Further, skeleton: Skeleton, names: dict[str, str]) -> Joints:
    """The skeleton's joints of one person; unlabelled ones are zeros."""
    flat = annotation["keypoints"]
    known = {name: flat[3 * k : 3 * k + 3] for k, name in enumerate(COCO_17.keypoint_names)}
    known |= dict(zip(FURTHER, further.joints, strict=True))
    return [known.get(names.get(name, name), [0, 0, 0]) for name in skeleton.keypoint_names]


def _crowdpose(split: str, records: list[Record]) -> tuple[str, Any]:
    value, images, annotations = coco_of(split, records), [], []
    names = ["head" if name == "head_top" else name for name in CROWDPOSE_14.keypoint_names]
    for entry, persons, further in records:
        joints = [_joints(person, more, CROWDPOSE_14, {}) for person, more in zip(persons, further, strict=True)]
        boxes = [person["bbox"] for person in persons]
        images.append({**entry, "crowdIndex": round(crowd_index(boxes, joints), 2)})
        for person, own in zip(persons, joints, strict=True):
            counted = sum(joint[2] > 0 for joint, counts in zip(own, CROWDPOSE_14.counted_mask, strict=True) if counts)
            kept = {key: person[key] for key in ("id", "image_id", "category_id", "iscrowd", "bbox")}
            annotations.append({**kept, "num_keypoints": counted, "keypoints": _flat(own)})
    categories = [{"supercategory": "person", "id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    return f"crowdpose_{split}.json", {**value, "categories": categories, "images": images, "annotations": annotations}


def crowd_index(boxes: Sequence[Sequence[float]], joints: Sequence[Joints]) -> float:
    """The crowd index of an image; a person without own joints inside its box does not count.

    Args:
        boxes: left, top, width, height of each person, px.
        joints: of each person.
    """
    ratios = []
    for number, (left, top, width, height) in enumerate(boxes):
        inside = [
            sum(v > 0 and left <= x <= left + width and top <= y <= top + height for x, y, v in person) for person in joints
        ]  # of each person, in this box
        if inside[number]:
            ratios.append((sum(inside) - inside[number]) / inside[number])
    return float(np.mean(ratios)) if ratios else 0.0


def _mpii(split: str, records: list[Record]) -> tuple[str, Any]:
    persons = []
    for entry, labelled, further in records:
        for person, more in zip(labelled, further, strict=True):
            joints = _joints(person, more, MPII_16, SAME)
            left, top, width, height = person["bbox"]
            scale = max(width, height) / MPII_SCALE_PX
            middle = [left + width / 2 + MPII_FIRST_PX, top + height / 2 + MPII_FIRST_PX - MPII_LOWER_PX * scale]
            persons.append(
                {
                    "image": entry["file_name"], "center": [round(place, 4) for place in middle], "scale": scale,
                    "joints": [[x + MPII_FIRST_PX, y + MPII_FIRST_PX] if v else [0, 0] for x, y, v in joints],
                    "joints_vis": [int(v > 0) for _, _, v in joints], "headsize": round(max(MPII_HEAD * more.head_px, 0.01), 2),
                }
            )  # fmt: skip
    return f"mpii_{split}.json", persons


def _wholebody(split: str, records: list[Record]) -> tuple[str, Any]:
    value, annotations = coco_of(split, records), []
    for _, persons, further in records:
        for person, more in zip(persons, further, strict=True):
            joints = _joints(person, more, WHOLEBODY_133, WHOLEBODY)
            parts = {f"{part}_kpts": _flat(joints[place]) for part, place in PARTS.items()}
            valid = {f"{part}_valid": any(joint[2] > 0 for joint in joints[place]) for part, place in PARTS.items()}
            annotations.append({**person, **parts, **valid})
    return f"wholebody_{split}.json", {**value, "annotations": annotations}


def _flat(joints: Joints) -> list[float]:
    return [value for joint in joints for value in joint]


ANNOTATE: dict[str, Annotate | None] = {  # by data set; the images are the same
    "synthetic": None,
    "synthetic_crowdpose": _crowdpose,
    "synthetic_mpii": _mpii,
    "synthetic_wholebody": _wholebody,
}
