"""Further inputs on which the same weights are scored: another protocol, persons of limited height, or boxes that miss.

`antialias` and every other protocol's name: crops by that protocol. `h32`: no person is higher than 32 px, by its annotated box. Higher
ones are reduced by area means, smaller ones stay as they are; the crops' own protocol then samples the network's input from that. The
numbers of a condition end in its name, `AP_gt_boxes_h32`. `iou70`: every box is moved and resized until its IoU with the annotated one is
0.70 (`evaluate.jitter`), as a detector's are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from components.base.errors import FarposeError
from components.degrade.params import ShardSpec
from components.degrade.protocol import protocols
from components.degrade.shards import Boxes, EvalCrops, crop_boxes
from components.evaluate.approach import EvaluationData
from components.evaluate.jitter import jittered

IOU = re.compile(r"iou([1-9]\d)")  # boxes of this IoU with the annotated ones, in percent
HEIGHT = re.compile(r"h([1-9]\d*)")  # a condition's name: persons are at most so many px high


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        protocol: of the crops; None keeps theirs.
        person_height: px that no person's box exceeds; None: no limit.
        box_iou: IoU of the boxes with the annotated ones; None: these.
    """

    name: str
    protocol: str | None = None
    person_height: float | None = None
    box_iou: float | None = None

    @classmethod
    def of(cls, name: str) -> Condition:
        """
        Raises:
            FarposeError: neither a protocol nor a height nor an IoU; lists the protocols.
        """
        height = HEIGHT.fullmatch(name)
        if height:
            return cls(name, person_height=float(height[1]))
        iou = IOU.fullmatch(name)
        if iou:
            return cls(name, box_iou=int(iou[1]) / 100)
        if name not in protocols():
            known = ", ".join([*sorted(protocols()), "h32 (any height in px)", "iou70 (any IoU in percent)"])
            raise FarposeError(f"unknown condition {name!r}", where="evaluate.conditions", fix=f"one of: {known}")
        return cls(name, protocol=name)

    def seen(self) -> dict[str, Any]:
        """For the provenance of the prediction file."""
        return {"condition": self.name}


def condition_crops(condition: Condition, data: EvaluationData) -> EvalCrops:
    """The crops of `data` made anew under a condition.

    Raises:
        FarposeError: an image is missing or damaged.
    """
    own: EvalCrops = data.inputs
    spec = ShardSpec(own.geometry.input_size, condition.protocol or own.protocol)
    given = own.bbox_xywh if condition.box_iou is None else jittered(own.bbox_xywh, condition.box_iou, own.annotation_id)
    boxes = Boxes(data.data_root, own.image_path, own.image_id, given, own.upright)
    made = crop_boxes(boxes, own.geometry.convention, spec, data.degrade, own.skeleton, condition.person_height)
    return replace(made, annotation_id=own.annotation_id, keypoints_image=own.keypoints_image, area=own.area)
