"""Farpose from Python: the README's lines, run as they stand there, and what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.base.errors import FarposeError
from components.registry import store
from pipelines.api import Predictor
from tests.released_people import draw_people
from tests.repositories import REPOSITORY

BLOCK = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    """An image of one synthetic person, enlarged so that the detector finds it."""
    folder = tmp_path_factory.mktemp("street")
    paths, _ = draw_people(folder)
    image = cv2.imread(str(paths[0]))
    path = folder / "street.jpg"
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "exists", lambda: False)
        patch.setenv("FARPOSE_DEVICE", "cpu")
        return Predictor(score=0.1)


def test_the_readme_s_five_lines_run_as_they_stand_there(street):
    assert BLOCK is not None and len(BLOCK[1].strip().splitlines()) == 5
    check = "\nassert len(persons) == len(persons.scores) and persons.keypoints.shape == (len(persons), 17, 2), persons\n"
    program = BLOCK[1] + check
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=street.parent, capture_output=True, text=True, timeout=600, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"\(\d+, 17, 2\) \[", done.stdout), done.stdout


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "FARPOSE_DEVICE": "cpu"}


def test_a_path_and_its_pixels_are_the_same_image(predictor, street):
    from_path = predictor(street)
    from_pixels = predictor(cv2.cvtColor(cv2.imread(str(street)), cv2.COLOR_BGR2RGB))
    assert len(from_path) and from_path.names[0] == "nose"
    for name in ("keypoints", "keypoint_scores", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(from_path, name), getattr(from_pixels, name))
    assert (np.diff(from_path.scores) <= 0).all()


def test_a_batch_gives_what_its_images_give_one_by_one(predictor, street):
    image = cv2.cvtColor(cv2.imread(str(street)), cv2.COLOR_BGR2RGB)
    several = [image, np.zeros((50, 80, 3), np.uint8), image[:, ::-1].copy(), image[::2, ::2].copy()]
    together, alone = predictor.batch(several), [predictor(one) for one in several]
    assert len(together[1]) == 0 and together[1].keypoints.shape == (0, 17, 2)
    for one, other in zip(together, alone, strict=True):
        assert len(one) == len(other)
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.01)


def test_boxes_of_one_s_own_are_persons(predictor, street):
    image = cv2.cvtColor(cv2.imread(str(street)), cv2.COLOR_BGR2RGB)
    boxes = np.array([[10, 20, 60, 120], [100.5, 40, 30, 80]])
    found = predictor(image, boxes)
    assert sorted(found.boxes.tolist()) == sorted(boxes.tolist()) and found.keypoints.shape == (2, 17, 2)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (np.zeros((10, 10), np.uint8), r"must be \(H, W, 3\) uint8 RGB, got \(10, 10\) uint8"),
        (np.zeros((10, 10, 4), np.uint8), r"got \(10, 10, 4\)"),
        (np.zeros((10, 10, 3), np.float32), "got .* float32"),
        (np.zeros((0, 10, 3), np.uint8), r"got \(0, 10, 3\)"),
        ("missing.jpg", "missing.jpg: image not found"),
    ],
)
def test_what_is_no_image_is_told(predictor, image, problem):
    with pytest.raises(FarposeError, match=problem):
        predictor(image)


@pytest.mark.parametrize("boxes", [np.zeros(4), np.zeros((2, 3)), np.array([[0, 0, 0, 5]]), np.array([[0, 0, np.nan, 5]])])
def test_what_are_no_boxes_is_told(predictor, street, boxes):
    with pytest.raises(FarposeError, match="boxes must be"):
        predictor(street, boxes)


def test_options_are_checked(monkeypatch):
    monkeypatch.setattr(store, "exists", lambda: False)
    with pytest.raises(FarposeError, match="unknown released model"):
        Predictor("nothing")
    with pytest.raises(FarposeError, match="must lie between 0 and 1"):
        Predictor(score=2.0)
