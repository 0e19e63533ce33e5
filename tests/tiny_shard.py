"""A crop shard small enough to train on within a test: stick figures whose joints are dots of their own colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import COCO_17

STANDING = np.array([  # x, y of the 17 COCO joints of a person of unit height, y down
    [0, .08], [.03, .06], [-.03, .06], [.06, .08], [-.06, .08], [.13, .22], [-.13, .22], [.2, .37], [-.2, .37], [.22, .5], [-.22, .5],
    [.09, .53], [-.09, .53], [.1, .75], [-.1, .75], [.1, .97], [-.1, .97],
])  # fmt: skip
DEFAULTS = {"iscrowd": False, "head_size": np.nan, "crowd_index": np.nan, "source": "test", "licence": "none"}


def write_tiny_shard(folder: Path, persons: int = 8, visible: bool = True, dev: int = 2) -> Path:
    """The crops of `tiny_source`, 64x48 px."""
    source = tiny_source(folder, persons, visible, dev)
    degrade(source, ShardSpec((64, 48)), DegradeParams(threads=1), folder / "shard", progress=False)
    return folder / "shard"


def tiny_source(folder: Path, persons: int = 8, visible: bool = True, dev: int = 2) -> Source:
    """`persons` training persons with annotation ids from 100, as many for validation with ids from 200, and `dev` of the
    development split with ids from 300, each in an image of its own.

    Args:
        visible: label the joints inside the training crops; False moves them all out of sight.
    """
    rng = np.random.default_rng(0)
    rows, keypoints = [], []
    (folder / "images").mkdir(parents=True)
    for index in range(2 * persons + dev):
        split = ("train", "val", "dev")[index // persons if index < 2 * persons else 2]
        annotation = {"train": 100, "val": 200, "dev": 300}[split] + index - {"train": 0, "val": persons, "dev": 2 * persons}[split]
        joints = STANDING * [90, 100] + [48, 12] + rng.normal(0, 3, (17, 2))
        cv2.imwrite(str(folder / "images" / f"{annotation}.png"), _draw(joints, rng))
        out_of_sight = 0 if visible or split != "train" else 5000
        keypoints.append(np.column_stack([joints + out_of_sight, np.full(17, 2.0)]))
        rows.append({**DEFAULTS, "annotation_id": annotation, "image_id": annotation, "image_path": f"images/{annotation}.png",
                     "image_width": 96, "image_height": 128, "area": 4000.0, "area_range_px2": 4000.0, "num_keypoints": 17,
                     "split": split})  # fmt: skip
    frame = pd.DataFrame(rows)[list(SCALAR_COLUMNS)].astype(SCALAR_COLUMNS)
    boxes = np.tile([18.0, 8.0, 60.0, 112.0], (len(rows), 1))
    return Source(Persons(frame, boxes, np.array(keypoints), COCO_17), folder)


def _draw(joints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = rng.integers(0, 60, (128, 96, 3)).astype(np.uint8)
    for a, b in COCO_17.limb_indices:
        cv2.line(image, joints[a].round().astype(int).tolist(), joints[b].round().astype(int).tolist(), (120, 120, 120), 3)
    for number, (x, y) in enumerate(joints):
        colour = (255 * (number % 2), 80 + 10 * number, 255 - 15 * number)
        cv2.circle(image, (round(x), round(y)), 4, colour, -1)
    return image
