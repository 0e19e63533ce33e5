"""COCO-WholeBody (Jin et al. 2020, "Whole-Body Human Pose Estimation in the Wild"): its annotation files.

They are COCO keypoint files whose annotations hold feet, face and hands in keys of their own. Joints are joined in the order of
`pose.skeleton.WHOLEBODY_133`. `num_keypoints` of the files counts the body alone; the table's counts all joints, because a person is scored
for the whole body if any joint is labelled (xtcocotools' rule). Flags of hands and faces are confidences in some files: any above 0 is a
label, and as hidden (1) unless it is 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.readers.coco import of_value
from components.datasets.records import Records, load_annotation_file
from components.pose.skeleton import WHOLEBODY_133

BODY = 17
PARTS = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}  # after the body's, in this order


def read(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the annotation file of one split; errors as in `coco.read`, and a part that is missing or has another number of joints.

    Raises:
        FarposeError: also where the entry's skeleton is not `wholebody_133`.
    """
    skeleton = source.skeleton_named(name)
    if skeleton.keypoint_names != WHOLEBODY_133.keypoint_names:
        problem = f"the format wholebody has the joints of {WHOLEBODY_133.name}, the entry says {skeleton.name}"
        raise FarposeError(problem, where=f"params/data.yaml: data.sources.{name}", fix=f"skeleton: {WHOLEBODY_133.name}")
    path = Path(root) / source.splits[split].annotations
    value = load_annotation_file(path)
    body, every = list(skeleton.keypoint_names[:BODY]), list(skeleton.keypoint_names)
    categories = [item | {"keypoints": every} if item.get("keypoints") == body else item for item in _items(value, "categories")]
    annotations = Records.of(path, value, "annotations", "annotation")
    joined = _joined(annotations)
    return of_value(name, source, path, {**value, "categories": categories, "annotations": joined}, split)


READER = Reader("wholebody", read)


def _items(value: dict[str, Any], key: str) -> Iterable[dict[str, Any]]:
    return [item for item in value.get(key) or [] if isinstance(item, dict)]


def _joined(annotations: Records) -> list[dict[str, Any]]:
    """The annotations with all joints under `keypoints`, flags 0, 1 or 2, and their number."""
    lengths = {"keypoints": BODY, **PARTS}
    parts = [annotations.matrix(key, 3 * count, f"{count} joints, each x, y, visibility") for key, count in lengths.items()]
    joints = np.concatenate(parts, 1).reshape(len(annotations), -1, 3)
    flags = joints[..., 2]
    annotations.refuse(np.asarray((flags < 0).any(1)), lambda i: f"a visibility flag is negative: {flags[i].min():g}")
    stated, counted = annotations.integers("num_keypoints"), (flags[:, :BODY] > 0).sum(1)
    wrong = "'num_keypoints' is {}, the body has {} labelled joints"
    annotations.refuse(stated != counted, lambda i: wrong.format(stated[i], counted[i]))
    joints[..., 2] = np.where(flags == 2, 2, flags > 0)
    rows = joints.reshape(len(annotations), joints[0].size if len(annotations) else 0).tolist()
    numbers = (joints[..., 2] > 0).sum(1).tolist()
    return [item | {"keypoints": row, "num_keypoints": number} for item, row, number in zip(annotations, rows, numbers, strict=True)]
