"""`farpose predict` on a folder, worked through in batches, finds what it finds in each image alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.registry import store
from pipelines import cli, series
from tests.released_people import NAMES, draw_people

PX, SCORE = 0.01, 1e-4  # sums of a batch are rounded in another order
EMPTY = "empty.png"


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    """A folder of 19 images of 19 sizes, with nobody, one person or several; three batches, and more persons than a forward pass takes."""
    folder = tmp_path_factory.mktemp("street")
    drawn = tmp_path_factory.mktemp("drawn")
    people = [cv2.imread(str(path)) for path in draw_people(drawn)[0].values()]
    pictures = {f"{number}.png": image for number, image in enumerate(people)}
    pictures |= {f"odd_{number}.png": image[: -3 - number, : -5 - 2 * number] for number, image in enumerate(people)}
    pictures |= {
        f"enlarged_{number}.png": cv2.resize(image, None, fx=1.3 + number / 9, fy=1.3 + number / 9) for number, image in enumerate(people)
    }
    crowd = [
        cv2.copyMakeBorder(image, 0, max(one.shape[0] for one in people) - image.shape[0], 0, 0, cv2.BORDER_REPLICATE) for image in people
    ]
    pictures |= {"crowd.png": np.hstack(crowd), EMPTY: np.full((70, 333, 3), 90, np.uint8)}
    for name, image in pictures.items():
        cv2.imwrite(str(folder / name), image)
    return folder


def persons(path: Path, out: Path, model: str) -> dict[str, np.ndarray]:
    """By file name (N, 3K + 5): the joints' x, y and score, the box, and the person's score; the best person first."""
    asked = ["predict", str(path), "--model", model, "--tile", "0", "--score", "0.1", "--no-draw", "--output", str(out)]
    assert cli.main(asked) == 0
    found = defaultdict(list)
    for record in json.loads((out / "predictions.json").read_text()):
        found[record["file_name"]].append([*record["keypoints"], *record["bbox"], record["score"]])
    return {name: np.array(sorted(rows, key=lambda row: -row[-1])) for name, rows in found.items()}


@pytest.mark.parametrize("model", NAMES)
def test_a_batch_finds_what_each_image_gives_alone(street, tmp_path, monkeypatch, model):
    monkeypatch.setattr(store, "exists", lambda: False)
    monkeypatch.setenv("FARPOSE_DEVICE", "cpu")
    files = sorted(street.iterdir())
    together = persons(street, tmp_path / "together", model)
    assert len(files) > 2 * series.AT_ONCE and EMPTY not in together
    assert sum(map(len, together.values())) > 16 and max(map(len, together.values())) > 1
    monkeypatch.setattr(series, "AT_ONCE", 1)
    alone = persons(street, tmp_path / "alone", model)
    for path in files[:3]:  # also in a run of its own
        alone |= persons(path, tmp_path / path.stem, model)
    assert {name: len(rows) for name, rows in together.items()} == {name: len(rows) for name, rows in alone.items()}
    for name, rows in together.items():
        is_score = np.arange(rows.shape[1]) % 3 == 2
        is_score[-5:] = [False] * 4 + [True]
        np.testing.assert_allclose(rows[:, ~is_score], alone[name][:, ~is_score], atol=PX, rtol=0, err_msg=name)
        np.testing.assert_allclose(rows[:, is_score], alone[name][:, is_score], atol=SCORE, rtol=0, err_msg=name)
