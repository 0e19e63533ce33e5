"""The categorical codec: equal to a slow implementation of expected OKS, and a loss equal to torch's cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from components import codecs
from components.base.errors import FarposeError
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
from tests.codecs.cases import NUM_KEYPOINTS, make, people


@pytest.fixture
def codec():
    return codecs.build("categorical", CropGeometry((32, 24), (16, 12), "unbiased"), COCO_17)


def random_logits(codec, count=2):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(count, NUM_KEYPOINTS, *codec.geometry.heatmap_size, generator=generator)


def slow_expected_oks(logits: np.ndarray, joint: int, at: tuple[float, float], codec) -> float:
    """OKS of the point `at` (x, y, cells), cell by cell, as COCO's evaluation defines it, with the spread inside a cell."""
    height, width = codec.geometry.input_size
    stride_x, stride_y = codec.geometry.feature_stride
    area = codec.settings.area * height * width
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    total = 0.0
    for row in range(logits.shape[0]):
        for column in range(logits.shape[1]):
            variance = area * (2 * COCO_17.sigmas[joint]) ** 2
            total += chances[row, column] * math.exp(
                -((column - at[0]) ** 2) / (2 * (variance / stride_x**2 + 0.25))
                - (row - at[1]) ** 2 / (2 * (variance / stride_y**2 + 0.25))
            )
    return total


def test_expected_oks_is_that_of_the_definition(codec):
    logits = random_logits(codec)
    found = codec.expected_oks(logits)
    for joint in (0, 5, 11):
        for x, y in ((0, 0), (11, 15), (4, 9)):
            assert found[1, joint, y, x] == pytest.approx(slow_expected_oks(logits[1, joint].numpy(), joint, (x, y), codec), rel=1e-4)


def test_the_decoded_point_is_no_worse_than_any_cell(codec):
    """Seen by the slow definition, which also knows points between cells."""
    logits = random_logits(codec, 1)
    keypoints, scores = codec.decode((logits,))
    for joint in (0, 5, 11, 16):
        best = slow_expected_oks(logits[0, joint].numpy(), joint, tuple(keypoints[0, joint].tolist()), codec)
        cells = [slow_expected_oks(logits[0, joint].numpy(), joint, (x, y), codec) for x in range(12) for y in range(16)]
        assert best >= max(cells) - 5e-3
        assert scores[0, joint] == pytest.approx(max(cells), rel=1e-4)


def slow_sharpness(logits: np.ndarray, at: tuple[float, float], sigma: float) -> float:
    """Cell by cell: the mean of exp(-d² / 2) under the map, divided by that of a Gaussian target of that sigma, summed numerically."""
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    rows, columns = np.mgrid[: logits.shape[0], : logits.shape[1]]
    found = (chances * np.exp(-((columns - at[0]) ** 2 + (rows - at[1]) ** 2) / 2)).sum()
    y, x = np.mgrid[-12:12:0.05, -12:12:0.05]
    target = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return min(1.0, found / (target / target.sum() * np.exp(-(x**2 + y**2) / 2)).sum())


@pytest.mark.parametrize("sigma", [0.75, 1.5])
def test_persons_are_ranked_by_the_probability_around_the_point_as_a_share_of_a_target_s(sigma):
    codec = codecs.build("categorical", CropGeometry((32, 24), (16, 12), "unbiased"), COCO_17, sigma=sigma)
    logits = random_logits(codec)
    keypoints = codec.decode((logits,))[0]
    sharpness = codec.ranking((logits,), keypoints)
    for person, joint in ((0, 0), (1, 5), (0, 11), (1, 16)):
        expected = slow_sharpness(logits[person, joint].double().numpy(), tuple(keypoints[person, joint].tolist()), sigma)
        assert sharpness[person, joint] == pytest.approx(expected, rel=1e-3)


def test_a_target_is_as_sharp_as_can_be_and_a_flat_map_next_to_nothing(codec):
    joints = torch.full((1, NUM_KEYPOINTS, 2), 11.0)
    sharp = codec.perfect(codec.targets(joints, torch.ones(1, NUM_KEYPOINTS, dtype=torch.bool)))
    assert codec.ranking(sharp, codec.decode(sharp)[0]).min() > 0.95
    flat = (torch.zeros(1, NUM_KEYPOINTS, *codec.geometry.heatmap_size),)
    assert codec.ranking(flat, codec.decode(flat)[0]).max() < 0.08


def test_two_near_alternatives_win_over_one_higher_cell_far_away(codec):
    """The arg max would take the single cell."""
    logits = torch.full((1, NUM_KEYPOINTS, 16, 12), -20.0)
    logits[..., 3, 2] = math.log(0.4)
    logits[..., 12, 8], logits[..., 12, 9] = math.log(0.3), math.log(0.3)
    keypoints, _ = codec.decode((logits,))
    hip = COCO_17.keypoint_names.index("left_hip")
    assert (keypoints[0, hip] - torch.tensor([8.5, 12.0])).abs().max() < 0.2


def test_the_loss_is_cross_entropy_minus_the_targets_entropy_over_the_joints_on_the_map(codec):
    keypoints, visible = people(codec, count=3)
    keypoints[0, 0] = torch.tensor([-9.0, 4.0])  # outside the map
    visible[1, 3] = False
    targets, logits = codec.targets(keypoints, visible), random_logits(codec, 3)
    total, count = 0.0, 0
    for person in range(3):
        for joint in range(NUM_KEYPOINTS):
            inside = not (person == 0 and joint == 0)
            assert targets["weights"][person, joint] == float(bool(visible[person, joint]) and inside)
            if targets["weights"][person, joint]:
                target = targets["heatmaps"][person, joint].reshape(1, -1)
                assert target.sum() == pytest.approx(1, abs=1e-5)
                cross = functional.cross_entropy(logits[person, joint].reshape(1, -1), target)
                total += float(cross + torch.xlogy(target, target).sum())
                count += 1
    assert float(codec.loss((logits,), targets)["loss"]) == pytest.approx(total / count, rel=1e-4)


def test_flip_fusion_averages_probabilities(codec):
    first, second = random_logits(codec)[:1], random_logits(codec)[1:]
    fused = codec.fuse((first,), (second,))[0].flatten(2).softmax(-1)
    expected = (first.flatten(2).softmax(-1) + second.flatten(2).softmax(-1)) / 2
    torch.testing.assert_close(fused, expected, atol=1e-6, rtol=1e-5)


def test_a_batch_without_a_joint_on_the_map_has_loss_zero(codec):
    keypoints, visible = people(codec, count=2)
    assert float(codec.loss((random_logits(codec),), codec.targets(keypoints, torch.zeros_like(visible)))["loss"]) == 0


@pytest.mark.parametrize("settings", [{"sigma": 0.0}, {"area": 0.0}, {"area": 1.5}])
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(FarposeError):
        make("categorical", "64x48", **settings)
