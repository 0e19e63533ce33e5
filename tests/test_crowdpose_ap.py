"""AP on CrowdPose: the same OKS evaluation with 14 sigmas and the box's share as area gives the authors' overall numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.datasets.readers.crowdpose import CROWDPOSE
from components.evaluate import oks
from components.pose.skeleton import CROWDPOSE_14
from tests import evaluation_cases as cases

OURS = {"AP": "AP", "AP50": "AP.5", "AP75": "AP.75", "AR": "AR", "AR50": "AR.5", "AR75": "AR.75"}  # our name → the authors'


@pytest.fixture(scope="module")
def crowd(parity: Path) -> dict[str, Any]:
    """200 annotated images of CrowdPose, detections on them, and what the authors' evaluation says of these."""
    with gzip.open(parity / "codecs" / "crowd_ap.json.gz") as stream:
        return json.load(stream)


def annotated(crowd: dict[str, Any]) -> dict[str, Any]:
    """The annotations, with the area that the reader gives them."""
    assert CROWDPOSE.area_of_box is not None
    share = CROWDPOSE.area_of_box
    annotations = [a | {"area": a["bbox"][2] * a["bbox"][3] * share} for a in crowd["gt"]["annotations"]]
    return cases.coco_of(crowd["gt"]["images"], annotations)


@pytest.mark.parametrize("subset", ["subset200", "subset200_dets_shuffled", "easy_images_only"])
def test_overall_numbers_are_the_authors(crowd: dict[str, Any], subset: str) -> None:
    coco, detections = annotated(crowd), list(crowd["dets"])
    if subset.endswith("shuffled"):
        np.random.default_rng(0).shuffle(detections)
    image_ids = [i["id"] for i in crowd["gt"]["images"] if subset != "easy_images_only" or i["crowdIndex"] < 0.2]
    joints = np.array([d["keypoints"] for d in detections], np.float64).reshape(-1, len(CROWDPOSE_14), 3)
    scores = np.array([d["score"] for d in detections])
    predictions = cases.predictions_of(np.array([d["image_id"] for d in detections]), joints[..., :2], scores)
    found = oks.evaluate(cases.persons_of(coco, CROWDPOSE_14), predictions, scores, np.array(image_ids))
    theirs = dict(zip(crowd["meta"]["stats_names"], crowd["meta"]["results"][subset], strict=True))
    assert {name: found[name] for name in OURS} == pytest.approx({name: theirs[key] for name, key in OURS.items()}, abs=1e-12)
    assert 0.3 < found["AP75"] < found["AP50"]


def test_the_sigmas_are_the_authors(crowd: dict[str, Any]) -> None:
    assert list(CROWDPOSE_14.sigmas) == crowd["meta"]["crowd_sigmas"]


def test_the_area_decides(crowd: dict[str, Any]) -> None:
    """The numbers would differ with the box's whole area, so the share is not decoration."""
    coco = annotated(crowd)
    persons, whole = cases.persons_of(coco, CROWDPOSE_14), cases.persons_of(coco, CROWDPOSE_14)
    whole.frame["area"] /= 0.53
    joints = np.array([d["keypoints"] for d in crowd["dets"]], np.float64).reshape(-1, len(CROWDPOSE_14), 3)[..., :2]
    scores = np.array([d["score"] for d in crowd["dets"]])
    predictions = cases.predictions_of(np.array([d["image_id"] for d in crowd["dets"]]), joints, scores)
    assert oks.evaluate(whole, predictions, scores)["AP"] > oks.evaluate(persons, predictions, scores)["AP"] + 0.05
