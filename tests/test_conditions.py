"""Conditions: the same weights on crops of another protocol and of persons of limited height."""

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
from components.base.errors import FarposeError
from components.degrade.limit import BORDER, limited
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View
from components.degrade.shard import eval_input
from components.degrade.shards import Boxes, crop_boxes
from components.evaluate import stage
from components.evaluate.approach import EvaluationContext, EvaluationData
from components.evaluate.conditions import Condition, condition_crops
from components.evaluate.params import EvaluateParams
from components.pose.crop import CONVENTIONS, CropGeometry
from components.pose.skeleton import COCO_17
from tests import evaluation_cases as cases
from tests.tiny_people import texture

SIZE = (64, 48)


def test_reduced_px_are_means_of_the_image_around_the_view() -> None:
    image = texture(20, 30, np.random.default_rng(0))
    view = View(np.array([[1.0, 0, 0], [0, 1.0, 0]]), (20, 30))
    reduced, seen = limited(image, view, 2.0)
    around = np.pad(image, ((BORDER, BORDER), (BORDER, BORDER), (0, 0))).astype(float)
    blocks = around.reshape(around.shape[0] // 2, 2, around.shape[1] // 2, 2, 3).mean((1, 3))
    assert np.abs(reduced - blocks).max() <= 0.5
    corner = seen.image_to_crop @ np.array([(BORDER - 0.5) / 2, (BORDER - 0.5) / 2, 1.0])  # between the block's px
    np.testing.assert_allclose(corner, [0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_small_persons_stay_as_they_are(step: float) -> None:
    image, view = texture(20, 30, np.random.default_rng(0)), View(np.eye(2, 3), SIZE)
    assert limited(image, view, step) == (image, view)


@pytest.mark.parametrize("protocol", ["direct", "antialias"])
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("step", [1.7, 4.0])
def test_joints_stay_where_they_are(protocol: str, convention: str, step: float) -> None:
    """On an image that is linear in x and y every reduction sees the same values."""
    y, x = np.mgrid[0:240, 0:240]
    image = np.stack([x, y, (x + y) / 2], 2).round().astype(np.uint8)
    matrix = ShardSpec(SIZE).geometry(convention).image_to_crop(np.array([[120.0, 120.0]]), np.array([[90.0, 120.0]]))[0]
    crops = [
        eval_input(*seen, protocol, DegradeParams(), (1, 1)).astype(int)
        for seen in ((image, View(matrix, SIZE, convention)), limited(image, View(matrix, SIZE, convention), step))
    ]
    assert np.abs(crops[0] - crops[1]).max() <= 1


def test_a_limit_takes_detail_from_higher_persons_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    boxes = Boxes(tmp_path, np.array(["a.png"] * 2, dtype=object), np.array([1, 1]), np.array([[70.0, 40, 60, 120], [200.0, 50, 15, 30]]))
    free, held = (crop_boxes(boxes, "classic", ShardSpec(SIZE), DegradeParams(), COCO_17, height).pixels for height in (None, 32.0))
    assert (free[1] == held[1]).all()
    assert held[0].std() < 0.4 * free[0].std()


def test_conditions_have_names() -> None:
    assert Condition.of("h32") == Condition("h32", person_height=32.0)
    assert Condition.of("antialias") == Condition("antialias", protocol="antialias")
    for wrong in ("h0", "32", "h32px", "anti"):
        with pytest.raises(FarposeError, match=rf"evaluate.conditions: unknown condition '{wrong}' .*antialias, direct, .*sensor, h32"):
            Condition.of(wrong)
    with pytest.raises(ValueError, match="conditions must be different"):
        EvaluateParams(conditions=("h32", "h32"))


class Brightest(nn.Module):
    """Every joint's map is the crop itself, reduced to the map's cells: what is found depends on the pixels."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4).repeat(1, 17, 1, 1),)


def test_the_same_weights_are_scored_under_every_condition(tmp_path: Path) -> None:
    coco = cases.random_coco(3, images=6, sizes=(60, 250))
    persons = cases.persons_of(coco)
    table = pd.DataFrame({"image_id": cases.image_ids_of(coco)})
    table["image_path"] = [f"{i:012d}.jpg" for i in table["image_id"]]
    for path in table["image_path"]:
        cv2.imwrite(str(tmp_path / path), np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    codec = codecs.build("heatmap", CropGeometry(SIZE, (16, 12)), COCO_17)
    data = EvaluationData(cases.crops_of(persons.labelled(), codec.geometry), persons, table, tmp_path)
    params = EvaluateParams(bootstrap_resamples=20, gallery_size=1, conditions=("antialias", "h32", "iou70"))
    crops = condition_crops(Condition.of("h32"), data)
    np.testing.assert_array_equal(crops.annotation_id, data.inputs.annotation_id)
    np.testing.assert_array_equal(crops.keypoints_image, data.inputs.keypoints_image)
    context = EvaluationContext(Brightest(), codec, data, params, tmp_path / "out", {})
    metrics = stage.evaluate(approach("crops"), context)
    for condition in params.conditions:
        assert {f"{name}_gt_boxes_{condition}" for name in ("AP", "AP50", "AR", "mean_OKS")} <= set(metrics)
        records = json.loads((tmp_path / "out" / f"predictions_gt_boxes_{condition}.json").read_text())
        assert records[0]["provenance"]["condition"] == condition
        assert (tmp_path / "out" / f"matches_gt_boxes_{condition}.npz").is_file()
    means = {metrics[f"mean_OKS_gt_boxes{end}"] for end in ("", "_antialias", "_h32", "_iou70")}
    assert len(means) == 4, "each condition shows the network other pixels"
    assert torch.equal(Brightest()(torch.ones(1, 3, 64, 48))[0], torch.ones(1, 17, 16, 12))
