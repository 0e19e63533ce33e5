"""Training input at 64x48 on one core: a published-style loader against the crop shard with augmentation in batches.

    python -m benchmarks.data_path

Both start from the same persons and end with a batch of normalised images and heatmap targets under the same augmentation.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from benchmarks import report
from components.base.config import PARAMS, REPOSITORY, load_yaml, parse
from components.base.errors import FarposeError
from components.codecs import as_crop_codec, build
from components.datasets.params import DataParams
from components.datasets.reader import read_split
from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.shards import TrainCrops
from components.degrade.stage import degrade
from components.pose.crop import CropGeometry
from components.pose.persons import Persons

GEOMETRY = CropGeometry((64, 48), (16, 12), "classic")
PERSONS, BATCH, TARGET = 768, 128, 8.0


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    source, root, persons = benchmark_persons()
    with tempfile.TemporaryDirectory() as folder:
        degrade(Source(persons, root), ShardSpec(GEOMETRY.input_size), DegradeParams(), Path(folder) / "shard", progress=False)
        train = persons.split("train").labelled()
        calls = {"published": published_loader(train, root), "ours": our_loader(TrainCrops.open(Path(folder) / "shard"))}
        seconds = report.interleave(calls, repeats=15)
    per_image = {name: round(1e3 * float(np.median(times)) / BATCH, 4) for name, times in seconds.items()}
    print(f"{source}: published-style {per_image['published']} ms an image, ours {per_image['ours']} ms an image")
    result = report.row("data_path_64x48", seconds["published"], seconds["ours"], TARGET, ms_per_image=per_image)
    frame = train.frame.drop_duplicates("image_id")
    size = f"{frame['image_width'].median():.0f}x{frame['image_height'].median():.0f}"
    report.write("data_path", result, data=f"{source}, {len(train)} persons, median image {size} px", batch=BATCH)


def benchmark_persons() -> tuple[str, Path, Persons]:
    """Real images where FARPOSE_DATA names their folder, otherwise the synthetic people in data/synthetic."""
    real = os.environ.get("FARPOSE_DATA")
    source, root = ("coco", Path(real) / "coco") if real else ("synthetic", REPOSITORY / "data" / "synthetic")
    if not root.is_dir():
        raise FarposeError("no images to time", where=root, fix="run `farpose acquire synthetic` or set FARPOSE_DATA")
    entry = parse(DataParams, load_yaml(PARAMS / "data.yaml")["data"], "params/data.yaml: data").sources[source]
    parts = []
    for split, count in (("train", PERSONS), ("val", 16)):
        people = read_split(source, entry, root, split).persons.labelled()
        parts.append(people.select(np.random.default_rng(0).permutation(len(people))[:count]))
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    boxes, keypoints = (np.concatenate([getattr(part, name) for part in parts]) for name in ("bbox_xywh", "keypoints"))
    return source, root, Persons(frame, boxes, keypoints, parts[0].skeleton)


def our_loader(crops: TrainCrops) -> Callable[[], object]:
    device_crops = crops.to("cpu")
    augment, codec = Augmenter(GEOMETRY, AugmentParams(), crops.skeleton), as_crop_codec(build("heatmap", GEOMETRY, crops.skeleton))
    order = np.random.default_rng(1)

    def load() -> object:
        batch = augment(device_crops, torch.from_numpy(order.integers(len(crops), size=BATCH)), int(order.integers(2**31)))
        return batch.images, codec.targets(batch.keypoints_crop, batch.visible)

    return load


def published_loader(persons: Persons, root: Path) -> Callable[[], object]:
    center, size = GEOMETRY.box_to_center_size(persons.bbox_xywh)
    paths = [str(root / path) for path in persons.frame["image_path"]]
    rng = np.random.default_rng(1)

    def load() -> object:
        picked = rng.integers(len(persons), size=BATCH)
        samples = [published_sample(paths[n], center[n], size[n], persons.keypoints[n], persons, rng) for n in picked]
        images, targets, weights = zip(*samples, strict=True)
        return torch.stack(images), torch.stack(targets), torch.stack(weights)

    return load


def published_sample(
    path: str, center: np.ndarray, size: np.ndarray, joints: np.ndarray, persons: Persons, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One sample the way top-down trainers have loaded them since SimpleBaseline: decode, draw, warp, loop over joints."""
    decoded = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert decoded is not None
    image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    joints = joints.copy()
    if (joints[:, 2] > 0).sum() > 8 and rng.random() < 0.3:
        center, size = half_body(joints, center, size, persons.skeleton.upper_body_mask, rng.random() < 0.5)
    size = size * np.clip(rng.standard_normal() * 0.35 + 1, 0.65, 1.35)
    degrees = float(np.clip(rng.standard_normal() * 45, -90, 90)) if rng.random() < 0.6 else 0.0
    if rng.random() < 0.5:
        image, center = image[:, ::-1], np.array([image.shape[1] - 1 - center[0], center[1]])
        joints[:, 0] = image.shape[1] - 1 - joints[:, 0]
        joints = joints[list(persons.skeleton.flip_permutation)]
    matrix = affine_from_triangles(center, size[0], np.radians(degrees), GEOMETRY.input_size[1], GEOMETRY.input_size[0])
    crop = cv2.warpAffine(np.ascontiguousarray(image), matrix, GEOMETRY.input_size[::-1], flags=cv2.INTER_LINEAR)
    for joint in joints:
        if joint[2] > 0:
            joint[:2] = matrix @ np.array([joint[0], joint[1], 1.0])
    targets, weights = gaussian_targets(joints)
    tensor = torch.from_numpy(crop.transpose(2, 0, 1).copy()).float().div(255)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return tensor.sub_(mean[:, None, None]).div_(deviation[:, None, None]), torch.from_numpy(targets), torch.from_numpy(weights)


def half_body(
    joints: np.ndarray, center: np.ndarray, size: np.ndarray, upper_mask: np.ndarray, prefers_upper: bool
) -> tuple[np.ndarray, np.ndarray]:
    seen = joints[:, 2] > 0
    upper, lower = joints[seen & upper_mask, :2], joints[seen & ~upper_mask, :2]
    chosen = upper if (prefers_upper and len(upper) > 2) or len(lower) <= 2 else lower
    if len(chosen) < 2:
        return center, size
    width, height = chosen.max(0) - chosen.min(0)
    aspect = GEOMETRY.input_size[1] / GEOMETRY.input_size[0]
    return chosen.mean(0), 1.5 * np.array([max(width, height * aspect), max(height, width / aspect)])


def affine_from_triangles(center: np.ndarray, length: float, angle: float, width: int, height: int) -> np.ndarray:
    """The affine matrix from three point pairs: the centre, a point above it, and the corner of the square between."""
    source, target = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    up = np.array([np.sin(angle), -np.cos(angle)]) * length / 2
    source[0], source[1] = center, center + up
    target[0], target[1] = (width / 2, height / 2), (width / 2, height / 2 - width / 2)
    for triangle in (source, target):
        side = triangle[0] - triangle[1]
        triangle[2] = triangle[1] + np.array([-side[1], side[0]], np.float32)
    return cv2.getAffineTransform(source, target)


def gaussian_targets(joints: np.ndarray, sigma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(K, 16, 12) patches of 3 sigma around the nearest cell, pasted joint by joint, and (K, 1) weights."""
    height, width = GEOMETRY.heatmap_size
    targets, weights = np.zeros((len(joints), height, width), np.float32), (joints[:, 2:3] > 0).astype(np.float32)
    reach = int(3 * sigma)
    grid = np.arange(2 * reach + 1, dtype=np.float32)
    for k, joint in enumerate(joints):
        x, y = int(joint[0] / 4 + 0.5), int(joint[1] / 4 + 0.5)
        left, top, right, bottom = x - reach, y - reach, x + reach + 1, y + reach + 1
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            weights[k] = 0
        if weights[k] > 0.5:
            patch = np.exp(-((grid - reach) ** 2 + (grid[:, None] - reach) ** 2) / (2 * sigma**2))
            rows, columns = slice(max(0, top), min(bottom, height)), slice(max(0, left), min(right, width))
            targets[k, rows, columns] = patch[max(0, -top) : min(bottom, height) - top, max(0, -left) : min(right, width) - left]
    return targets, weights


if __name__ == "__main__":
    main()
