"""A shard of whole images small enough to train on within a test, with everything that real ones have."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade
from components.pose.ignored import IGNORED_COLUMNS, IgnoredRegions
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import COCO_17
from tests.tiny_people import texture
from tests.tiny_shard import DEFAULTS, STANDING

SIZE = 64
# (height, width), persons, split; a crowd region fills the left third of the image where it is said
SCENES = [
    ((120, 160), 1, "train", ""),
    ((160, 120), 3, "train", "crowd"),
    ((96, 96), 2, "train", ""),
    ((90, 120), 0, "train", ""),
    ((100, 150), 2, "val", ""),
    ((150, 100), 1, "val", "crowd"),
    ((90, 120), 0, "val", ""),
]


def write_tiny_images(folder: Path, scenes: list = SCENES, seed: int = 0) -> tuple[Persons, pd.DataFrame, IgnoredRegions]:
    """Images with stick figures under `folder`, and their tables; images are numbered from 10, annotations from 100.

    Args:
        scenes: per image its (height, width), number of persons, split, and "crowd" for a crowd region or "".
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    people, images, ignored = [], [], []
    for number, ((height, width), count, split, region) in enumerate(scenes):
        image_id, path = 10 + number, f"images/{number}.png"
        image = texture(height, width, rng) // 3
        images.append(
            {"image_id": image_id, "image_path": path, "image_width": width, "image_height": height, "split": split, "licence": "none"}
        )
        common = {**DEFAULTS, **{name: images[-1][name] for name in ("image_id", "image_path", "image_width", "image_height", "split")}}
        for _ in range(count):
            tall = rng.uniform(0.4, 0.8) * height
            joints = STANDING * tall + [rng.uniform(0.25, 0.75) * width, rng.uniform(0, height - tall)]
            _draw(image, joints)
            people.append(({**common, "area": tall**2 / 4, "num_keypoints": 17}, joints, 2.0))
        if region:
            people.append(({**common, "area": 100.0, "num_keypoints": 0, "iscrowd": True}, np.zeros((17, 2)), 0.0))
            mask = np.zeros((height, width), bool)
            mask[:, : width // 3] = True
            ignored.append({"image_id": image_id, "annotation_id": 99 + len(people), "split": split, "reason": "crowd region",
                            "height": height, "width": width, "counts": run_length_text(mask)})  # fmt: skip
        cv2.imwrite(str(folder / path), image)
    return (
        _persons(people),
        pd.DataFrame(images),
        IgnoredRegions(pd.DataFrame(ignored, columns=list(IGNORED_COLUMNS)).astype(IGNORED_COLUMNS)),
    )


def write_tiny_image_shard(folder: Path, protocol: str = "direct", scenes: list = SCENES, size: int = SIZE, seed: int = 0) -> Path:
    """The folder of a shard of such images; the images themselves lie in `folder`, under the paths of the tables."""
    persons, images, ignored = write_tiny_images(folder, scenes, seed)
    spec = ShardSpec((size, size), protocol, images=True)
    degrade(Source(persons, folder, images, ignored), spec, DegradeParams(threads=1), folder / "shard", progress=False)
    return folder / "shard"


def _persons(people: list) -> Persons:
    rows = [{**row, "annotation_id": 100 + number, "area_range_px2": row["area"]} for number, (row, _, _) in enumerate(people)]
    frame = pd.DataFrame(rows, columns=list(SCALAR_COLUMNS)).astype(SCALAR_COLUMNS)
    keypoints = np.array([np.column_stack([joints, np.full(17, visible)]) for _, joints, visible in people]).reshape(-1, 17, 3)
    low, high = keypoints[..., :2].min(1), keypoints[..., :2].max(1)
    return Persons(frame, np.concatenate([low - 4, high - low + 8], 1), keypoints, COCO_17)


def _draw(image: np.ndarray, joints: np.ndarray) -> None:
    for a, b in COCO_17.limb_indices:
        cv2.line(image, joints[a].round().astype(int).tolist(), joints[b].round().astype(int).tolist(), (120, 120, 120), 3)
    for number, (x, y) in enumerate(joints):
        cv2.circle(image, (round(x), round(y)), 4, (255 * (number % 2), 80 + 10 * number, 255 - 15 * number), -1)


def run_length_text(mask: np.ndarray) -> str:
    """COCO's compressed run lengths of a (H, W) bool mask, by its own rule (the reader's oracle is pycocotools)."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int)))
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    text = ""
    for index, run in enumerate(runs):
        number = run - (runs[index - 2] if index > 2 else 0)
        more = True
        while more:
            digit, number = number & 0x1F, number >> 5
            more = number != (-1 if digit & 0x10 else 0)
            text += chr(48 + digit + (0x20 if more else 0))
    return text
