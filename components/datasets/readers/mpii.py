"""MPII Human Pose (Andriluka et al. 2014): SimpleBaseline's JSON lists, the stacked hourglass's HDF5 files and the published .mat file.

JSON: a list of persons, each `image`, `center`, `scale`, `joints` (16 of x, y), `joints_vis` (16 of 0 or 1), px counted from 1 as in
Matlab, and optionally `headsize` (px). Records with a key `visible` (16 of 0 or 1) are those of the stacked hourglass's HDF5 files: their
centre and scale are already enlarged, and a joint that is not visible is labelled as hidden.

- Box: the square that SimpleBaseline crops, before its padding of 1.25: centre 15 · scale px below the annotated one, side 200 · scale px.
  It is the crop's rule and not an outline, so it may reach beyond the image and is not cut to it.
- Area, which MPII does not state: 0.53 of 0.31 of the square. The joints' box covers 0.31 of the square on average, over the 2,429
  validation persons with 14 or more labelled joints; 0.53 is CrowdPose's share. It only serves OKS; MPII's number is PCKh.
- Head size, the length of PCKh: `headsize`, or 0.6 of the diagonal of the head's box in `gt_<file>.mat` beside the JSON file, or else 0.75
  of the distance between head top and upper neck, which MPII's authors placed 0.8 of that diagonal apart. Unknown without either joint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.datasets.matlab import load_matlab
from components.datasets.mpii_hdf5 import hdf5_persons
from components.datasets.mpii_release import released_persons
from components.datasets.named_images import coco_value, require_joints
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.readers.coco import of_value
from components.datasets.records import DAMAGED, Records, load_annotations
from components.pose.skeleton import MPII_16

JOINTS = len(MPII_16)
SCALE_PX = 200.0  # px of the image per unit of `scale`
LOWER_PX = 15.0  # px per unit of `scale` by which SimpleBaseline moves the centre down
ENLARGED = 1.25  # factor of the hourglass's scales
AREA_OF_SQUARE = 0.53 * 0.31
HEAD_OF_DIAGONAL, HEAD_OF_JOINTS = 0.6, 0.75
FIRST_PX = 1.0  # Matlab's first pixel


def read(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the annotation file of one split: SimpleBaseline's `.json` or `.json.gz`, `.h5`, or the release's `.mat`.

    Raises:
        FarposeError: an unknown form, a missing key, another number of joints, a flag that is not 0 or 1, a scale or head size that is not
            positive, or images whose names give no ids. Names the file and the record.
    """
    require_joints(name, source.skeleton_named(name).keypoint_names, MPII_16.keypoint_names, "mpii")
    files = source.splits[split]
    path = Path(root) / files.annotations
    persons = Records(path, "person", _persons(path, split))
    annotations, heads = _annotations(persons)
    names = persons.column("image", str)
    value = coco_value(persons, names, Path(root) / files.images, annotations, MPII_16.keypoint_names)
    found = of_value(name, source, path, value, split)
    found.persons.frame["head_size"] = heads
    return found


READER = Reader("mpii", read, may_give=("head_size",), boxes="derived")


def _persons(path: Path, split: str) -> list[dict[str, Any]]:
    if path.suffix == ".mat":
        return released_persons(path, split)
    if path.suffix in (".h5", ".hdf5"):
        return hdf5_persons(path)
    value = load_annotations(path)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FarposeError("expected a JSON list of persons", where=path, fix=DAMAGED)
    return value


def _annotations(persons: Records) -> tuple[list[dict[str, Any]], np.ndarray]:
    """COCO's `bbox`, `area` and `keypoints` of every person, and (N,) head sizes, px, NaN where unknown."""
    joints = _pairs(persons, "joints")
    labelled = _flags(persons, "joints_vis")
    hourglass = np.array(["visible" in person for person in persons], dtype=bool)
    flags = np.where(labelled, 2, 0)
    if hourglass.any():
        hidden = ~_flags(persons.select(hourglass), "visible")
        flags[hourglass] = np.where(labelled[hourglass] & hidden, 1, flags[hourglass])
    center, scale = persons.matrix("center", 2, "x, y") - FIRST_PX, persons.numbers("scale")
    persons.refuse(scale <= 0, lambda i: f"'scale' is {scale[i]:g}, expected more than 0")
    scale = np.where(hourglass, scale / ENLARGED, scale)
    center[:, 1] += np.where(hourglass, 0.0, LOWER_PX * scale)
    side = (SCALE_PX * scale)[:, None]
    boxes = np.hstack([center - side / 2, side, side])
    places = np.where(labelled[..., None], joints - FIRST_PX, 0.0)
    keypoints = np.concatenate([places, flags[..., None]], 2).reshape(len(persons), -1)
    areas = AREA_OF_SQUARE * side[:, 0] ** 2
    columns = zip(boxes.tolist(), areas.tolist(), keypoints.tolist(), strict=True)
    rows: list[dict[str, Any]] = [{"bbox": box, "area": area, "keypoints": row} for box, area, row in columns]
    return rows, _head_sizes(persons, joints, labelled)


def _head_sizes(persons: Records, joints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    top, neck = MPII_16.index("head_top"), MPII_16.index("upper_neck")
    sizes = HEAD_OF_JOINTS * np.linalg.norm(joints[:, top] - joints[:, neck], axis=1)
    sizes = np.where(labelled[:, top] & labelled[:, neck] & (sizes > 0), sizes, np.nan)
    stated = np.array(["headsize" in person for person in persons], dtype=bool)
    boxes = persons.file.with_name(f"gt_{persons.file.name.split('.')[0]}.mat")
    if boxes.is_file():
        corners = load_matlab(boxes, "headboxes_src")
        if corners.shape != (2, 2, len(persons)):
            problem = f"'headboxes_src' has the shape {corners.shape}, expected (2, 2, {len(persons)})"
            raise FarposeError(problem, where=boxes, fix=f"take the file that belongs to {persons.file.name}, or remove it")
        sizes = HEAD_OF_DIAGONAL * np.linalg.norm(corners[1] - corners[0], axis=0)
    sizes[stated] = persons.select(stated).numbers("headsize")
    where = "'headsize'" if not boxes.is_file() else f"the head's box in {boxes.name}"
    persons.refuse(sizes <= 0, lambda i: f"{where} is {sizes[i]:g} px, expected more than 0", "correct it, or leave the person out")
    return sizes


def _pairs(persons: Records, key: str) -> np.ndarray:
    """(N, 16, 2) finite."""
    values = persons.column(key, list)
    persons.refuse(
        np.array([len(rows) != JOINTS or any(not isinstance(row, list) or len(row) != 2 for row in rows) for rows in values], dtype=bool),
        lambda i: f"{key!r} has not the form of {JOINTS} joints, each x, y",
    )
    flat = [{**person, key: [number for row in rows for number in row]} for person, rows in zip(persons, values, strict=True)]
    return Records(persons.file, persons.kind, flat).matrix(key, 2 * JOINTS, f"{JOINTS} joints, each x, y").reshape(-1, JOINTS, 2)


def _flags(persons: Records, key: str) -> np.ndarray:
    """(N, 16) bool."""
    flags = persons.matrix(key, JOINTS, "one flag per joint")
    persons.refuse(
        np.asarray(~np.isin(flags, (0, 1)).all(1)), lambda i: f"{key!r} holds {flags[i][~np.isin(flags[i], (0, 1))][0]:g}, expected 0 or 1"
    )
    return np.asarray(flags > 0)
