"""Boxes of the shipped detector on reduced images: where it finds persons, what the crops show, and the names of the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from components import codecs
from components.approaches import approach
from components.degrade.images import read_image
from components.evaluate import stage
from components.evaluate.approach import EvaluationContext, EvaluationData
from components.evaluate.jitter import box_iou
from components.evaluate.params import EvaluateParams
from components.evaluate.reduced_detector import reduced, reduced_detector_crops
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
from tests import evaluation_cases as cases

SIZE = (64, 48)


class Brightest(nn.Module):
    """(B, 3, 64, 48) → (B, 17, 16, 12): the grey levels as every joint's heatmap."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4).repeat(1, 17, 1, 1),)


def context_of(images: dict[str, np.ndarray], boxes: dict[str, list[float]], out: Path, params: EvaluateParams) -> EvaluationContext:
    """Images and one annotated person on some of them."""
    annotations = [
        {
            "id": number, "image_id": list(images).index(name), "bbox": box, "area": 0.5 * box[2] * box[3], "iscrowd": 0,
            "num_keypoints": 17, "keypoints": np.tile([box[0] + box[2] / 2, box[1] + box[3] / 2, 2], 17).tolist(),
        }
        for number, (name, box) in enumerate(boxes.items(), 1)
    ]  # fmt: skip
    persons = cases.persons_of(cases.coco_of([{"id": i} for i in range(len(images))], annotations))
    paths = [f"{number:012d}.jpg" for number in range(len(images))]
    for path, image in zip(paths, images.values(), strict=True):
        cv2.imwrite(str(out / path), image)
    codec = codecs.build("heatmap", CropGeometry(SIZE, (16, 12)), COCO_17)
    table = pd.DataFrame({"image_id": range(len(images)), "image_path": paths})
    data = EvaluationData(cases.crops_of(persons, codec.geometry), persons, table, out)
    return EvaluationContext(Brightest(), codec, data, params, out / "out", {})


def test_reduced_images_are_means_of_squares() -> None:
    image = np.random.default_rng(0).integers(0, 255, (37, 50, 3), np.uint8)
    expected = image[:36, :48].reshape(9, 4, 12, 4, 3).mean((1, 3))
    assert np.abs(reduced(image, 4) - expected).max() <= 0.51 and reduced(image, 1) is image
    assert reduced(image[:2, :2], 4).shape == (1, 1, 3)


def test_nobody_found_is_a_result(tmp_path: Path) -> None:
    """Persons whom the detector does not find, here on grey images, score 0; the numbers and files name boxes and reduction."""
    grey = {f"grey {i}": np.full((96, 96, 3), 128, np.uint8) for i in range(2)}
    params = EvaluateParams(bootstrap_resamples=5, gallery_size=1, detector_reductions=(1, 4))
    context = context_of(grey, {"grey 0": [20.0, 20.0, 30.0, 60.0]}, tmp_path, params)
    metrics = stage.evaluate(approach("crops"), context)
    for reduction in (1, 4):
        assert metrics[f"AP_detector_boxes_x{reduction}"] == 0 and metrics[f"detections_x{reduction}"] == 0
        assert json.loads((tmp_path / "out" / f"predictions_detector_boxes_x{reduction}.json").read_text()) == []
    assert "AP_gt_boxes" in metrics and torch.equal(Brightest()(torch.ones(1, 3, 64, 48))[0], torch.ones(1, 17, 16, 12))


def test_real_persons_are_found_until_they_are_too_small(real_data: Path, tmp_path: Path) -> None:
    """The largest persons of some photographs: found at full size, worse at an eighth, and crops of the reduced image are smoother."""
    annotated = json.loads((real_data / "coco" / "annotations" / "person_keypoints_val2017.json").read_text())
    paths = {image["id"]: image["file_name"] for image in annotated["images"]}
    largest = sorted((a for a in annotated["annotations"] if a["num_keypoints"] > 14), key=lambda a: -a["bbox"][3])
    chosen = {paths[a["image_id"]]: a["bbox"] for a in largest[:6]}
    images = {name: read_image(real_data / "coco" / "val2017" / name) for name in chosen}
    context = context_of(images, chosen, tmp_path, EvaluateParams())
    best, sharp = {}, {}
    for reduction in (1, 8):
        crops, scores = reduced_detector_crops(context, reduction)
        assert len(crops) == len(scores) and (scores >= 0.3).all() and (scores <= 1).all()
        own = [crops.bbox_xywh[crops.image_id == number] for number in range(len(chosen))]
        pairs = zip(chosen.values(), own, strict=True)
        found = [box_iou(np.tile(box, (len(rows), 1)), rows).max(initial=0) for box, rows in pairs]
        best[reduction] = np.mean(found)
        sharp[reduction] = np.abs(np.diff(crops.pixels.astype(float), axis=-1)).mean()
    assert best[1] > 0.7 and best[1] > best[8] and sharp[8] < sharp[1]


def test_an_image_that_changed_is_looked_at_anew(real_data: Path, tmp_path: Path) -> None:
    annotated = json.loads((real_data / "coco" / "annotations" / "person_keypoints_val2017.json").read_text())
    large = max((a for a in annotated["annotations"] if a["num_keypoints"] > 14), key=lambda a: a["bbox"][3])
    (file_name,) = (image["file_name"] for image in annotated["images"] if image["id"] == large["image_id"])
    image = read_image(real_data / "coco" / "val2017" / file_name)
    found = []
    for written in (image, np.full_like(image, 128), image):
        context = context_of({file_name: written}, {file_name: large["bbox"]}, tmp_path, EvaluateParams())
        found.append(len(reduced_detector_crops(context, 1)[0]))
    assert found[0] == found[2] > 0 and found[1] == 0


@pytest.mark.parametrize("wrong", [(0,), (2, 2), (-1,)])
def test_reductions_are_different_and_positive(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="detector_reductions must be different whole numbers"):
        EvaluateParams(detector_reductions=wrong)
