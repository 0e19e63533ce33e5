"""A few textured images with annotated boxes and joints, for tests of crops."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, Skeleton

IMAGE_SIZES = [(150, 200), (120, 90), (64, 80), (210, 160)]  # (height, width)


def texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 with detail at several scales."""
    image = np.zeros((height, width, 3))
    for side in (4, 16, 64):
        small = rng.uniform(0, 85, (max(height // side, 2), max(width // side, 2), 3))
        image += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def tiny_people(root: Path, count: int = 16, skeleton: Skeleton = COCO_17, seed: int = 0, zoom: int = 1) -> Persons:
    """`count` persons in four PNG images under `root`: the first two are the training split, the others validation.

    Boxes reach outside the images, some joints are unlabelled, and one person in five has hardly any.

    Args:
        zoom: makes the images larger, but not the persons.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for number, (height, width) in enumerate(zoom * np.array(IMAGE_SIZES)):
        cv2.imwrite(str(root / f"{number}.png"), texture(height, width, rng))
    return tiny_people_table(count, skeleton, rng, zoom)


def tiny_people_table(count: int, skeleton: Skeleton = COCO_17, rng: np.random.Generator | None = None, zoom: int = 1) -> Persons:
    """The table of `tiny_people`, without images."""
    rng = rng or np.random.default_rng(0)
    sizes = zoom * np.array(IMAGE_SIZES)
    image = np.arange(count) % len(IMAGE_SIZES)
    limits = sizes[image][:, ::-1]
    center, extent = limits * rng.uniform(0.1, 0.9, (count, 2)), limits * rng.uniform(0.1, 0.8, (count, 2)) / zoom
    boxes = np.concatenate([center - extent / 2, extent], 1)
    visibility = rng.choice([0, 1, 2], p=[0.2, 0.2, 0.6], size=(count, len(skeleton)))
    visibility[::5, 4:] = 0
    visibility[:, 0] = 2
    places = boxes[:, None, :2] + rng.uniform(0, 1, (count, len(skeleton), 2)) * boxes[:, None, 2:]
    keypoints = np.concatenate([places, visibility[..., None]], 2) * (visibility[..., None] > 0)
    frame = pd.DataFrame(
        {
            "annotation_id": 100 + rng.permutation(count),
            "image_id": 10 + image,
            "image_path": [f"{number}.png" for number in image],
            "image_width": limits[:, 0],
            "image_height": limits[:, 1],
            "area": extent.prod(1) / 2,
            "area_range_px2": extent.prod(1) / 2,
            "num_keypoints": (visibility > 0).sum(1),
            "iscrowd": False,
            "head_size": np.nan,
            "crowd_index": np.nan,
            "split": np.where(image < 2, "train", "val"),
            "source": "tiny",
            "licence": "none",
        }
    )
    return Persons(frame, boxes, keypoints, skeleton)
