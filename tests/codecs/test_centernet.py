"""CenterNet's codec: targets, losses and decoding against plain loops, and persons that come back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components import codecs
from components.base.errors import FarposeError
from components.codecs.centernet import CenterNetCodec, CenterNetSettings
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17

SIDE, STRIDE, JOINTS = 128, 4, len(COCO_17)
MIDDLE = 0.375  # of a cell: the middle of its px 0, 1, 2 and 3 is px 1.5


def make(**settings: Any) -> CenterNetCodec:
    codec = codecs.build("centernet", CropGeometry((SIDE, SIDE), (SIDE // STRIDE,) * 2), COCO_17, **settings)
    assert isinstance(codec, CenterNetCodec)
    return codec


def people(images: int, persons: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Joints (B, P, K, 2), px of the input, of persons of 30 px who stand apart, and visibility."""
    generator = torch.Generator().manual_seed(seed)
    column = torch.arange(persons) % 3 * 36.0 + 27
    row = torch.arange(persons) // 3 * 36.0 + 27
    joints = torch.rand(images, persons, JOINTS, 2, generator=generator) * 30 - 15 + torch.stack([column, row], -1)[:, None]
    visible = torch.rand(images, persons, JOINTS, generator=generator) < 0.8
    visible[:, :, 0] = True
    return joints, visible


def random_outputs(images: int, seed: int = 0, height: int = 32, width: int = 32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(images, channels, height, width, generator=generator) for channels in (1, JOINTS, 2 * JOINTS, 2 * JOINTS))


def everything(images: int = 1) -> Tensor:
    return torch.ones(images, SIDE, SIDE, dtype=torch.bool)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("persons", [1, 2, 9])
def test_perfect_outputs_give_back_every_person_and_visible_joint(persons: int) -> None:
    codec, (joints, visible) = make(), people(2, persons)
    for image, found in enumerate(codec.find([codec.perfect([joints], visible)], None, (1.0,), (SIDE, SIDE))):
        assert found.keypoints.shape == (persons, JOINTS, 2) and found.keypoint_scores.shape == (persons, JOINTS)
        distance = np.linalg.norm(found.keypoints[:, None] - joints[image].numpy(), axis=-1)  # (found, P, K)
        distance[:, ~visible[image].numpy()] = 0
        assert sorted(distance.max(-1).argmin(1).tolist()) == list(range(persons))
        assert distance.max(-1).min(1).max() < 1e-3
        assert np.all(np.diff(found.scores) <= 0)


def test_a_map_of_another_size_gives_the_same_places_scaled() -> None:
    codec, (joints, visible) = make(), people(1, 4)
    outputs = codec.perfect([joints], visible)
    (small,), (large,) = (codec.find([outputs], None, (1.0,), (side, side)) for side in (SIDE, 3 * SIDE))
    np.testing.assert_allclose(large.keypoints, 3 * small.keypoints, rtol=1e-5)
    np.testing.assert_array_equal(large.scores, small.scores)


def test_a_person_with_one_joint_is_found_at_it() -> None:
    codec, (joints, visible) = make(), people(1, 1)
    visible[:] = False
    visible[0, 0, 5] = True
    (found,) = codec.find([codec.perfect([joints], visible)], None, (1.0,), (SIDE, SIDE))
    np.testing.assert_allclose(found.keypoints[0, 5], joints[0, 0, 5].numpy(), atol=1e-3)
    assert found.keypoint_scores[0, 5] > 0.99 and found.keypoint_scores[0, 6] < 0.01


def test_an_image_without_people_has_no_persons_and_still_teaches_its_background() -> None:
    codec = make()
    joints, visible = torch.zeros(1, 1, JOINTS, 2), torch.zeros(1, 1, JOINTS, dtype=torch.bool)
    (found,) = codec.find([codec.perfect([joints], visible)], None, (1.0,), (SIDE, SIDE))
    assert found.keypoints.shape == (0, JOINTS, 2) and found.keypoint_scores.shape == (0, JOINTS) and found.scores.shape == (0,)
    outputs = tuple(output.requires_grad_() for output in random_outputs(1))
    codec.loss(outputs, codec.targets([joints], visible, [everything()]))["loss"].backward()
    assert [bool(output.grad is not None and output.grad.any()) for output in outputs] == [True, True, False, False]


def plain_decoding(maps: list[np.ndarray], settings: CenterNetSettings) -> list[tuple[float, list[tuple[float, float]], list[float]]]:
    """Score, joints (cells) and their scores of each person of one image, with loops."""

    def peaks(values: np.ndarray, count: int) -> list[tuple[float, int, int]]:
        height, width = values.shape
        found = []
        for y in range(height):
            for x in range(width):
                if values[y, x] == values[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max():
                    found.append((float(values[y, x]), y, x))
        return sorted(found, reverse=True)[:count]

    center, heatmaps, regress, offsets = maps
    candidates = [peaks(heatmaps[k], settings.candidates) for k in range(JOINTS)]
    people = []
    for value, y, x in peaks(center[0], settings.max_persons):
        if value <= settings.person_threshold:
            continue
        places = [(x + MIDDLE + regress[2 * k + 1, y, x], y + MIDDLE + regress[2 * k, y, x]) for k in range(JOINTS)]
        size = max(1.0, np.ptp([place[0] for place in places]), np.ptp([place[1] for place in places]))
        joints, scores = [], []
        for k, (px, py) in enumerate(places):
            best = None
            for height, row, column in candidates[k]:
                there = column + MIDDLE + offsets[2 * k + 1, row, column], row + MIDDLE + offsets[2 * k, row, column]
                away = math.hypot(there[0] - px, there[1] - py) / size
                rank = height / (1 + away / settings.reach)
                if away <= settings.search and (best is None or rank > best[0]):
                    best = rank, there, height
            rows, columns = heatmaps[k].shape
            stays = heatmaps[k, min(max(math.floor(py), 0), rows - 1), min(max(math.floor(px), 0), columns - 1)]
            joints.append(best[1] if best else (px, py))
            scores.append(float(best[2] if best else stays))
        people.append((value * float(np.mean(scores)), joints, scores))
    return sorted(people, key=lambda person: -person[0])


@pytest.mark.parametrize(
    "settings", [{}, {"search": 0.05, "candidates": 3}, {"max_persons": 4, "person_threshold": 0.9, "reach": 0.5}], ids=str
)
def test_decoding_is_that_of_plain_loops(settings: dict[str, Any]) -> None:
    codec, outputs = make(**settings), random_outputs(1, height=16, width=24)
    (found,) = codec.find([outputs], None, (1.0,), (16, 24))
    maps = [output[0].sigmoid().numpy() if number < 2 else output[0].numpy() for number, output in enumerate(outputs)]
    expected = plain_decoding(maps, codec.settings)
    assert len(expected) == len(found.scores) > 1
    np.testing.assert_allclose(found.scores, [person[0] for person in expected], rtol=1e-5)
    np.testing.assert_allclose(found.keypoints, np.array([person[1] for person in expected]), atol=1e-4)
    np.testing.assert_allclose(found.keypoint_scores, np.array([person[2] for person in expected]), rtol=1e-5)


def test_an_image_s_persons_do_not_depend_on_its_batch() -> None:
    codec, outputs = make(), random_outputs(3)
    together = codec.find([outputs], None, (1.0,), (SIDE, SIDE))
    (alone,) = codec.find([tuple(output[1:2] for output in outputs)], None, (1.0,), (SIDE, SIDE))
    for part, whole in zip(alone, together[1], strict=True):
        np.testing.assert_array_equal(part, whole)


def test_a_mirrored_image_s_outputs_give_the_same_persons() -> None:
    codec, (joints, visible) = make(), people(1, 6)
    permutation = list(COCO_17.flip_permutation)
    mirrored = joints[:, :, permutation].clone()
    mirrored[..., 0] = SIDE - 1 - mirrored[..., 0]
    aligned = codec.flip(codec.perfect([mirrored], visible[:, :, permutation]))
    (found,) = codec.find([aligned], None, (1.0,), (SIDE, SIDE))
    distance = np.linalg.norm(found.keypoints[:, None] - joints[0].numpy(), axis=-1)
    distance[:, ~visible[0].numpy()] = 0
    assert distance.max(-1).min(1).max() < 1e-3 and len(found.scores) == 6
    raw = random_outputs(1)
    assert all(torch.equal(a, b) for a, b in zip(codec.flip(codec.flip(raw)), raw, strict=True))


def test_the_mirrored_image_is_averaged_after_the_sigmoid() -> None:
    codec, upright, mirrored = make(person_threshold=0.0, max_persons=1), random_outputs(1, 1), random_outputs(1, 2)
    (found,) = codec.find([upright], [mirrored], (1.0,), (SIDE, SIDE))
    aligned = codec.flip(mirrored)
    probable = [
        (a.sigmoid() + b.sigmoid()) / 2 if number < 2 else (a + b) / 2 for number, (a, b) in enumerate(zip(upright, aligned, strict=True))
    ]
    (expected,) = codec.decode(tuple(probable), (SIDE, SIDE))
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_persons_of_several_scales_stand_side_by_side() -> None:
    codec, (joints, visible) = make(), people(1, 3)
    full = codec.perfect([joints], visible)
    half = codec.perfect([joints / 2], visible, [(SIDE // 2, SIDE // 2)])
    (found,) = codec.find([full, half], None, (1.0, 0.5), (SIDE, SIDE))
    assert len(found.scores) == 6
    for person in range(3):
        distance = np.linalg.norm(found.keypoints - joints[0, person].numpy(), axis=-1)[:, visible[0, person].numpy()].max(1)
        assert (distance < 1e-3).sum() == 2


def test_targets_are_those_of_plain_loops() -> None:
    codec, (joints, visible) = make(), people(1, 4)
    joints[0, 3, 4] = torch.tensor([-9.0, 40.0])  # outside: it has no target, and does not move the centre
    visible[0, 3, 4] = True
    mask = everything()
    mask[0, 6, 9] = False  # one px: its cell does not count
    targets = codec.targets([joints], visible, [mask])
    side = SIDE // STRIDE
    assert not targets["mask"][0, 1, 2] and targets["mask"].sum() == side * side - 1
    for person in range(4):
        on_image = ((joints[0, person] >= 0) & (joints[0, person] < SIDE)).all(-1)
        seen = [k for k in range(JOINTS) if visible[0, person, k] and on_image[k]]
        assert targets["inside"][0, person].nonzero()[:, 0].tolist() == seen
        center = joints[0, person, seen].double().mean(0) / STRIDE
        cx, cy = (int(value) for value in center)
        assert int(targets["center_index"][0, person]) == cy * side + cx and targets["center"][0, 0, cy, cx] == 1
        for k in seen:
            x, y = (float(value) / STRIDE for value in joints[0, person, k])
            assert int(targets["joint_index"][0, person, k]) == int(y) * side + int(x) and targets["heatmaps"][0, k, int(y), int(x)] == 1
            assert targets["regress"][0, person, k].tolist() == pytest.approx([x - cx - MIDDLE, y - cy - MIDDLE], abs=1e-4)
            assert targets["offsets"][0, person, k].tolist() == pytest.approx([x - int(x) - MIDDLE, y - int(y) - MIDDLE], abs=1e-4)
    x, y = (int(value / STRIDE) for value in joints[0, 0, 0])
    assert float(targets["heatmaps"][0, 0, y, x + 1]) == pytest.approx(math.exp(-0.5), rel=1e-5)  # sigma is one cell


def test_the_loss_is_the_paper_s() -> None:
    """Equation 1 of the paper with its alpha 2 and beta 4, and mean absolute errors, in loops over everything."""
    codec, (joints, visible) = make(), people(1, 2)
    mask = everything()
    mask[:, :48] = False
    targets, outputs = codec.targets([joints], visible, [mask]), random_outputs(1)
    found = codec.loss(outputs, targets)
    for name, number, key in (("center", 0, "center"), ("heatmap", 1, "heatmaps")):
        total, peaks = 0.0, 0
        for logit, wanted, (row, _) in zip(
            outputs[number].flatten().tolist(),
            targets[key].flatten().tolist(),
            ((cell // 32 % 32, cell) for cell in range(outputs[number].numel())),
            strict=True,
        ):
            p = sigmoid(logit)
            if wanted == 1:
                total, peaks = total - (1 - p) ** 2 * math.log(p), peaks + 1
            elif row >= 12:
                total -= (1 - wanted) ** 4 * p**2 * math.log(1 - p)
        assert float(found[name]) == pytest.approx(total / peaks, rel=1e-4)
    for name, number, key, index in (("regress", 2, "regress", "center_index"), ("offset", 3, "offsets", "joint_index")):
        errors = []
        for person in range(2):
            for k in targets["inside"][0, person].nonzero()[:, 0].tolist():
                cell = int(targets[index][0, person] if index == "center_index" else targets[index][0, person, k])
                y, x = (float(outputs[number][0, 2 * k + axis].flatten()[cell]) for axis in (0, 1))
                errors += [abs(x - float(targets[key][0, person, k, 0])), abs(y - float(targets[key][0, person, k, 1]))]
        assert float(found[name]) == pytest.approx(np.mean(errors), rel=1e-4)
    parts = found["center"] + found["heatmap"] + 0.1 * found["regress"] + found["offset"]
    assert float(found["loss"]) == pytest.approx(float(parts), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0}, "sigma must be positive, got 0"),
        ({"reach": -1.0}, "reach must be positive"),
        ({"person_threshold": 1.0}, "person_threshold must lie in 0..1, got 1.0"),
        ({"radius": 2}, "radius"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FarposeError, match=message):
        make(**settings)
