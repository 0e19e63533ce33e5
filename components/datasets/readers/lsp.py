"""Leeds Sports Poses and its extended training set (Johnson & Everingham 2010, 2011): `joints.mat`, or COCO files of their 14 joints.

`joints` of the Matlab file is (3, 14, 2000) for LSP, whose first 1000 persons are the training split and the others the test split, and
(14, 3, N) for the extended set, which is training data alone. Each person is an image, `im0001.jpg` or `im00001.jpg`. Px count from 1.

- In the extended set a joint of flag 0 is not labelled. LSP labels all joints: its flag says whether one is hidden, in a sense that differs
  between its documentation and its file, so it is not used.
- Box: that of the labelled joints, 15 % wider on every side, cut to the image by the fetch stage as every box. Area: 0.53 of that box.

In COCO files of LSP's joints the top of the head is named `top_head`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.base.errors import FarposeError
from components.datasets.derived import box_around
from components.datasets.matlab import load_matlab
from components.datasets.named_images import coco_value, require_joints
from components.datasets.params import TRAIN, SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.readers import coco
from components.datasets.records import Records
from components.pose.skeleton import LSP_14

FORM = coco.CocoForm(joint_names={"head_top": "top_head"})
LSP_TRAINING = 1000  # persons; the rest of LSP is its test split
AREA_OF_BOX = 0.53
FIRST_PX = 1.0


def read(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the annotation file of one split.

    Raises:
        FarposeError: as `coco.read`; another shape of `joints`, a number that is not finite, a person without labelled joints, or a split
            that the file does not have.
    """
    files, path = source.splits[split], Path(root) / source.splits[split].annotations
    if path.suffix != ".mat":
        return coco.read(name, source, root, split, FORM)
    require_joints(name, source.skeleton_named(name).keypoint_names, LSP_14.keypoint_names, "lsp (.mat)")
    joints, first, digits = _joints(path, split)
    names = [f"im{number:0{digits}d}.jpg" for number in range(first, first + len(joints))]
    persons = Records(path, "person", [{"id": name} for name in names])
    labelled = joints[..., 2] > 0
    persons.refuse(np.asarray(~np.isfinite(joints).all((1, 2))), lambda i: "a joint is not finite")
    persons.refuse(np.asarray(~labelled.any(1)), lambda i: "no joint is labelled")
    places = np.where(labelled[..., None], joints[..., :2] - FIRST_PX, 0.0)
    boxes = box_around(places, labelled)
    keypoints = np.concatenate([places, 2.0 * labelled[..., None]], 2).reshape(len(joints), -1)
    areas = AREA_OF_BOX * boxes[:, 2:].prod(1)
    columns = zip(boxes.tolist(), areas.tolist(), keypoints.tolist(), strict=True)
    annotations = [{"bbox": box, "area": area, "keypoints": row} for box, area, row in columns]
    value = coco_value(persons, names, Path(root) / files.images, annotations, LSP_14.keypoint_names)
    return coco.of_value(name, source, path, value, split)


READER = Reader("lsp", read)


def _joints(path: Path, split: str) -> tuple[np.ndarray, int, int]:
    """(N, 14, 3) x, y, whether labelled; number of the first image, and digits of their names."""
    joints = np.asarray(load_matlab(path, "joints"))
    if joints.ndim == 3 and joints.shape[:2] == (14, 3) and joints.dtype.kind in "fiu":
        if split != TRAIN:
            fix = "give a file of its own for this split, or set data.splits.dev"
            raise FarposeError(f"the extended set is training data alone, it has no split {split!r}", where=path, fix=fix)
        return joints.transpose(2, 0, 1).astype(np.float64), 1, 5
    if joints.ndim == 3 and joints.shape[:2] == (3, 14) and joints.dtype.kind in "fiu" and joints.shape[2] > LSP_TRAINING:
        every = joints.transpose(2, 1, 0).astype(np.float64)
        every[..., 2] = 1
        return (every[:LSP_TRAINING], 1, 4) if split == TRAIN else (every[LSP_TRAINING:], LSP_TRAINING + 1, 4)
    problem = f"'joints' has the shape {joints.shape}, expected (3, 14, 2000) of LSP or (14, 3, N) of the extended set"
    raise FarposeError(problem, where=path, fix="give the `joints.mat` of either")
