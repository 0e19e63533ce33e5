"""AP of perfect targets on whole images with COCO's own annotations, by the published geometries and resolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.evaluate import oks
from components.evaluate.predictions import write_coco_results
from components.evaluate.targets import perfect_persons
from components.pose.whole_image import ImageGeometry
from tests import evaluation_cases as cases
from tests.bottom_up_cases import codec_of, without_pixels

STEP = 40  # of the images, the share tried


@pytest.fixture(scope="module")
def official(real_data: Path) -> dict[str, Any]:
    return cases.read_coco(real_data / "annotations" / "coco_person_keypoints_val2017_official_first_fifth.json.gz")


@pytest.mark.parametrize(
    ("size", "fit", "stride", "lowest", "highest"),
    [
        (256, "short_side", 4, 0.91, 0.97),
        (512, "short_side", 4, 0.95, 1.0),
        (512, "letterbox", 4, 0.88, 0.97),
        (256, "short_side", 1, 0.97, 1.0),
    ],
)
def test_targets_on_real_annotations(
    official: dict[str, Any], tmp_path: Path, size: int, fit: Any, stride: int, lowest: float, highest: float
) -> None:
    images = without_pixels(cases.persons_of(official), ImageGeometry(size, fit), STEP)
    found, scores = perfect_persons(codec_of(stride, size), images)
    ours = oks.evaluate(images.persons, found, scores, images.image_id)
    write_coco_results(tmp_path / "predictions.json", found, scores, {})
    some = {
        name: [entry for entry in official[name] if entry.get("image_id", entry["id"]) in images.image_id]
        for name in ("images", "annotations")
    }
    assert ours == pytest.approx(cases.oracle(cases.coco_of(**some), str(tmp_path / "predictions.json"), images.image_id), abs=1e-9)
    assert lowest <= ours["AP"] <= highest


def test_finer_maps_lose_less() -> None:
    persons = cases.persons_of(cases.random_coco(2, images=6, sizes=(40, 250)))
    reached = []
    for size, stride in ((128, 4), (256, 4), (256, 1)):
        images = without_pixels(persons, ImageGeometry(size))
        reached.append(oks.evaluate(images.persons, *perfect_persons(codec_of(stride, size), images), images.image_id)["AP"])
    assert np.all(np.diff(reached) > 0) and reached[0] > 0 and reached[-1] <= 1
