"""The 133 joints of COCO-WholeBody: named in the order of the real annotations, and mirrored as real faces are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from components.pose.skeleton import WHOLEBODY_133

FACE = range(23, 91)
PARTS = {"body": 17, "foot": 6, "face": 68, "lefthand": 21, "righthand": 21}  # in this order
REGIONS = [(0, 17), (17, 27), (27, 36), (36, 48)]  # contour, eyebrows, nose, eyes; real lips are too small in the few faces


@pytest.fixture(scope="module")
def annotated(real_data) -> np.ndarray:
    """(N, 133, 3) x, y in image px and whether labelled, NaN where not."""
    content = json.loads((real_data / "coco_wholebody" / "annotations" / "test_coco_wholebody.json").read_text())
    keys = ["keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts"]
    people = np.array([np.concatenate([person[key] for key in keys]) for person in content["annotations"]]).reshape(-1, 133, 3)
    people[people[..., 2] == 0] = np.nan
    return people


def index(*names: str) -> list[int]:
    return [WHOLEBODY_133.index(name) for name in names]


def test_parts_follow_one_another_as_annotated():
    names, start = WHOLEBODY_133.keypoint_names, 0
    first = {
        "body": "nose",
        "foot": "left_big_toe",
        "face": "right_contour_1",
        "lefthand": "left_hand_root",
        "righthand": "right_hand_root",
    }
    for part, count in PARTS.items():
        assert names[start] == first[part]
        start += count
    assert start == len(names) == 133
    left, right = (range(start - 42, start - 21), range(start - 21, start))
    assert [WHOLEBODY_133.flip_permutation[k] for k in left] == list(right)


def test_sigmas_are_those_of_the_authors_evaluation():
    """Sums of each part's, in thousandths; both hands have the same."""
    thousandths, start, sums = [round(1000 * sigma) for sigma in WHOLEBODY_133.sigmas], 0, {}
    for part, count in PARTS.items():
        sums[part] = sum(thousandths[start : start + count])
        start += count
    assert sums == {"body": 1138, "foot": 480, "face": 1137, "lefthand": 553, "righthand": 553}
    assert thousandths[91:112] == thousandths[112:]
    assert (min(thousandths[23:91]), thousandths[23 + 47]) == (7, 34)


@pytest.mark.parametrize(("joint", "names"), [
    ("left_wrist", ["left_hand_root"]), ("right_wrist", ["right_hand_root"]),
    ("left_ankle", ["left_heel"]), ("right_ankle", ["right_heel"]),
    ("nose", ["nose_bridge_4"]), *((f"{side}_eye", [f"{side}_eyelid_{i}" for i in range(1, 7)]) for side in ("left", "right")),
])  # fmt: skip
def test_joints_annotated_twice_lie_together(annotated, joint, names):
    """Nearer to the body's own joint than to that of the other side, on average over the real persons that have all of them."""
    places = annotated[:, index(*names), :2].mean(1)
    near = np.linalg.norm(annotated[:, WHOLEBODY_133.index(joint), :2] - places, axis=1)
    other = {"nose": "left_ear"}.get(joint) or WHOLEBODY_133.keypoint_names[WHOLEBODY_133.flip_permutation[WHOLEBODY_133.index(joint)]]
    far = np.linalg.norm(annotated[:, WHOLEBODY_133.index(other), :2] - places, axis=1)
    known = np.isfinite(near) & np.isfinite(far)
    assert known.sum() >= 2
    assert near[known].mean() < 0.7 * far[known].mean()


def normalised(face: np.ndarray) -> np.ndarray:
    centred = face - face.mean(0)
    return centred / np.sqrt(np.square(centred).sum())


def aligned(face: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`face` turned, without reflection, to lie on `target` as well as it can (Procrustes)."""
    u, _, v = np.linalg.svd(face.T @ target)
    return face @ (u @ np.diag([1, np.linalg.det(u @ v)]) @ v)


def test_the_mean_face_is_its_own_mirror_image_under_the_permutation(annotated):
    """Oracle: the cheapest assignment of the mirrored mean face's landmarks to the mean face's, region by region."""
    faces = annotated[:, FACE, :2]
    faces = [normalised(face) for face in faces[np.isfinite(faces).all((1, 2))]]
    assert len(faces) >= 4
    mean = faces[0]
    for _ in range(10):
        mean = normalised(np.mean([aligned(face, mean) for face in faces], axis=0))
    permutation = np.array(WHOLEBODY_133.flip_permutation)[list(FACE)] - FACE[0]
    mirrored = aligned((mean * [-1, 1])[permutation], mean)
    assert np.linalg.norm(mirrored - mean, axis=1).max() < 0.07  # the face's norm is 1
    assert np.linalg.norm(aligned(mean * [-1, 1], mean) - mean) > 1
    unpermuted = mirrored[permutation]
    for start, end in REGIONS:
        _, nearest = linear_sum_assignment(cdist(unpermuted[start:end], mean[start:end]))
        assert (nearest + start == permutation[start:end]).all()
