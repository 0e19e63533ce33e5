"""Small random annotation files of MPII, LSP and COCO-WholeBody, as their authors publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import savemat

from components.pose.skeleton import COCO_17

WHOLEBODY_PARTS = {"foot": 6, "face": 68, "lefthand": 21, "righthand": 21}


def mpii_persons(seed: int, count: int = 8, first_image: int = 1) -> list[dict[str, Any]]:
    """SimpleBaseline's records: two persons an image, some joints absent, the first person with both head joints; px from 1."""
    rng = np.random.default_rng(seed)
    persons = []
    for number in range(count):
        joints = rng.uniform(20, 80, (16, 2)).round(4)
        seen = (rng.random(16) < 0.8).astype(int)
        seen[[8, 9]] = 1 if number == 0 else seen[[8, 9]]
        persons.append(
            {
                "joints_vis": seen.tolist(), "joints": np.where(seen[:, None], joints, 0.0).tolist(),
                "image": f"{first_image + number // 2:09d}.jpg", "scale": round(float(rng.uniform(0.2, 0.5)), 6),
                "center": rng.uniform(30, 70, 2).round(2).tolist(),
            }
        )  # fmt: skip
    return persons


def write_images(folder: Path, names: set[str], size: tuple[int, int] = (96, 128)) -> None:
    """Noise of (height, width) px, another one for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(sorted(names)):
        noise = np.random.default_rng([number, *name.encode()]).integers(0, 255, (*size, 3), np.uint8)
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, noise)[1].tobytes())


def write_mpii(root: Path, seed: int = 0, **splits: int) -> None:
    """annot/<split>.json and images/; the number of persons per split."""
    (root / "annot").mkdir(parents=True, exist_ok=True)
    for place, (split, count) in enumerate(splits.items()):
        persons = mpii_persons(seed + place, count, 1 + 1000 * place)
        (root / "annot" / f"{split}.json").write_text(json.dumps(persons))
        write_images(root / "images", {person["image"] for person in persons})


def write_head_boxes(path: Path, corners: np.ndarray) -> None:
    """gt_valid.mat, of which only the boxes are written: (2, 2, N) corner, x or y, person."""
    savemat(path, {"headboxes_src": corners})


def write_release(path: Path, persons: list[dict[str, Any]], training: dict[str, bool]) -> None:
    """MPII's release of these persons: images in the order of `training`, the head's box 10 px wide and 20 px high."""
    images = []
    for name in training:
        rows = []
        for person in [p for p in persons if p["image"] == name]:
            points = [
                {"id": float(k), "x": x, "y": y, "is_visible": 1.0} for k, (x, y) in enumerate(person["joints"]) if person["joints_vis"][k]
            ]
            place = dict(zip("xy", person["center"], strict=True))
            head = {"x1": 10.0, "y1": 10.0, "x2": 20.0, "y2": 30.0}
            rows.append({**head, "annopoints": {"point": points}, "scale": person["scale"], "objpos": place})
        images.append({"image": {"name": name}, "annorect": rows})
    savemat(path, {"RELEASE": {"annolist": images, "img_train": np.array([*training.values()], float)}})


def wholebody(seed: int, first_id: int = 1, count: int = 6) -> dict[str, Any]:
    """COCO-WholeBody: two persons an image of 96 x 128 px, parts labelled or not, flags of hands as confidences."""
    rng = np.random.default_rng(seed)
    annotations, images = [], []
    for number in range(count):
        image_id = first_id + number // 2
        if number % 2 == 0:
            images.append({"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": 128, "height": 96})
        box = [float(rng.integers(2, 30)), float(rng.integers(2, 20)), 60.0, 70.0]
        place = lambda joints: np.array(box[:2]) + rng.uniform(0, 1, (joints, 2)) * box[2:]  # noqa: E731, B023
        flags = rng.integers(0, 3, 17)
        flags[5:11] = 2
        person = {
            "id": 10 * first_id + number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": box, "area": 2000.0 + number,
            "num_keypoints": int((flags > 0).sum()), "keypoints": _triples(place(17), flags),
        }  # fmt: skip
        wrists = np.array(person["keypoints"]).reshape(17, 3)[9:11, :2]
        for part, joints in WHOLEBODY_PARTS.items():
            valid = number == 0 or bool(rng.random() < 0.7)
            confidence = rng.uniform(0.05, 1, joints) if part.endswith("hand") and number % 3 == 1 else np.full(joints, 2.0)
            where = place(joints)
            if part.endswith("hand"):
                where[0] = wrists[int(part == "righthand")] + 1
            person |= {f"{part}_valid": valid, f"{part}_kpts": _triples(where, confidence * valid)}
        annotations.append(person)
    categories = [{"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_17.keypoint_names), "skeleton": []}]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _triples(places: np.ndarray, flags: np.ndarray) -> list[float]:
    joints: list[float] = (np.c_[places.round(2), flags] * (flags > 0)[:, None]).ravel().tolist()
    return joints
