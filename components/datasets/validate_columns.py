"""Columns with one property of a person or an image each, so that every check needs a single column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from components.datasets.params import DEV, TRAIN
from components.datasets.validate_images import inspect_images
from components.pose.persons import Persons

HANDS = ("left_hand_root", "right_hand_root")


def person_columns(persons: Persons, raw: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The persons table's scalar columns and those that the checks on persons need.

    Distances are NaN (unchecked) where a person has no labelled joint or is a crowd region: COCO's crowd regions cover
    many persons, whose joints are not annotated.

    Args:
        raw: the scalar columns with the types in the file.
        images: the images table.
    Returns:
        N rows: `raw` and `nonfinite_numbers`, `unknown_flags`, `num_keypoints_error`, `box_shorter_side_px`,
        `box_beyond_image_px`, `box_center_beyond_image_px`, `joint_beyond_image_px`, `joint_beyond_box` (longer sides of the box),
        `smaller_area_px2`, `image_entry`, `crowd_index_spread` (of the image's persons), `hand_off_wrist` (longer sides of the box; NaN
        where no hand and wrist of one side are labelled).
    """
    box, joints = persons.bbox_xywh, persons.keypoints
    size = persons.frame[["image_width", "image_height"]].to_numpy(np.float64)
    areas = persons.frame[["area", "area_range_px2"]].to_numpy()
    numbers = np.hstack([box, joints.reshape(len(persons), -1), areas])
    flags = joints[..., 2]
    labelled = (flags > 0) & ~persons.frame["iscrowd"].to_numpy()[:, None]
    near, far = box[:, :2], box[:, :2] + box[:, 2:]
    longer_side = np.maximum(box[:, 2:].max(axis=1), 1.0)  # at least one pixel, for boxes without area
    columns = raw.assign(
        nonfinite_numbers=(~np.isfinite(numbers)).sum(axis=1),
        unknown_flags=(~np.isin(flags, (0, 1, 2))).sum(axis=1),
        num_keypoints_error=persons.frame["num_keypoints"].to_numpy() - (flags > 0)[:, persons.skeleton.counted_mask].sum(axis=1),
        box_shorter_side_px=box[:, 2:].min(axis=1),
        box_beyond_image_px=np.maximum(0.0, np.maximum(-near, far - size).max(axis=1)),
        box_center_beyond_image_px=np.maximum(0.0, np.maximum(-(near + far) / 2, (near + far) / 2 - size).max(axis=1)),
        joint_beyond_image_px=_furthest(joints, labelled, np.zeros_like(size), size),
        joint_beyond_box=_furthest(joints, labelled, near, far) / longer_side,
        smaller_area_px2=np.where(labelled.any(axis=1), areas.min(axis=1), np.nan),
        image_entry=_image_entry(persons.frame, images),
        crowd_index_spread=persons.frame.groupby("image_id")["crowd_index"].transform(lambda index: index.max() - index.min()),
        hand_off_wrist=_hand_off_wrist(persons) / longer_side,
    )
    return columns.round({"box_beyond_image_px": 6, "joint_beyond_image_px": 6, "joint_beyond_box": 6})  # the error of the subtraction


def _furthest(joints: np.ndarray, labelled: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """(N,) px by which the furthest labelled joint lies outside its rectangle along one axis; NaN without labelled joints."""
    beyond = np.maximum(near[:, None] - joints[..., :2], joints[..., :2] - far[:, None]).max(axis=2)  # (N, K)
    furthest = np.where(labelled, np.maximum(beyond, 0.0), -np.inf).max(axis=1)
    return np.where(labelled.any(axis=1), furthest, np.nan)


def _hand_off_wrist(persons: Persons) -> np.ndarray:
    """(N,) px between a hand's root and the wrist of its side, the larger of both sides; NaN where neither side has both."""
    names, found = persons.skeleton.keypoint_names, np.full(len(persons), -np.inf)
    for root in HANDS if set(HANDS) <= set(names) else ():
        pair = persons.keypoints[:, [names.index(root), names.index(root.replace("hand_root", "wrist"))]]
        distance = np.linalg.norm(pair[:, 0, :2] - pair[:, 1, :2], axis=1)
        found = np.where((pair[..., 2] > 0).all(1), np.maximum(found, distance), found)
    return np.where(np.isfinite(found), found, np.nan)


def _image_entry(persons: pd.DataFrame, images: pd.DataFrame) -> np.ndarray:
    """(N,) text: whether the images table agrees with the person's row."""
    known = images.drop_duplicates(["image_id", "split"]).set_index(["image_id", "split"], drop=False)
    rows = known.index.get_indexer(pd.MultiIndex.from_frame(persons[["image_id", "split"]]))
    entry = np.where(rows < 0, "not in the images table", "agrees").astype(object)
    for column in ("image_path", "image_width", "image_height"):
        differs = persons[column].to_numpy() != known[column].to_numpy()[rows] if len(known) else np.zeros(len(persons), dtype=bool)
        entry[(rows >= 0) & differs] = f"{column} differs"
    return entry


def image_columns(images: pd.DataFrame, root: Path | None, threads: int, upright: bool = False) -> pd.DataFrame:
    """The images table and the columns that the checks on images need.

    Args:
        root: the data set's root; None: no file is opened, and the columns about files are absent.
        upright: whether annotations refer to the images as EXIF turns them.
    Returns:
        M rows: `images` and `same_id_elsewhere` (path of an image of another split with the same id, or None).
        With files also `file`, `file_width`, `file_height`, `size_error_px`, `orientation`,
        `same_content_elsewhere` (the same by the files' bytes, where train and dev count
        as one split) and `same_content_in_training` (between train and dev).
    """
    columns = images.assign(same_id_elsewhere=_elsewhere(images, images["image_id"], images["split"]))
    if root is None:
        return columns
    files = inspect_images(root, images["image_path"], threads, upright)
    annotated = images[["image_width", "image_height"]].to_numpy()
    error = np.abs(files[["width", "height"]].to_numpy() - annotated).max(axis=1)
    training = images["split"].isin((TRAIN, DEV))
    return columns.assign(
        file=files["file"].to_numpy(),
        file_width=files["width"].to_numpy(),
        file_height=files["height"].to_numpy(),
        orientation=files["orientation"].to_numpy(),
        size_error_px=error,
        same_content_elsewhere=_elsewhere(images, files["sha256"], images["split"].mask(training, TRAIN)),
        same_content_in_training=_elsewhere(images, files["sha256"].where(training.to_numpy(), None), images["split"]),
    )


def _elsewhere(images: pd.DataFrame, key: pd.Series, splits: pd.Series) -> np.ndarray:
    """(M,) path of the first image of another split with the same key, None without one or without a key."""
    frame = pd.DataFrame({"key": key.to_numpy(), "split": splits.to_numpy(), "path": images["image_path"].to_numpy()})
    splits_of_key = frame.groupby("key")["split"].nunique()
    shared = frame[frame["key"].isin(splits_of_key.index[splits_of_key > 1])]
    twins = np.full(len(frame), None, dtype=object)
    for _, group in shared.groupby("key"):
        for row, split in group["split"].items():
            twins[row] = group["path"][group["split"] != split].iloc[0]
    return twins
