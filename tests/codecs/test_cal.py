"""CAL's mask and score, on batches small enough to reason about."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.codecs.cal_masks import REACH, gaussian_mask
from tests.codecs.cases import make, people


def spikes(cells: list[tuple[int, int]], size: tuple[int, int] = (16, 12)) -> Tensor:
    """(1, n, H, W) maps with one spike each at the (x, y) cells."""
    maps = torch.zeros(1, len(cells), *size)
    for k, (x, y) in enumerate(cells):
        maps[0, k, y, x] = 1
    return maps


def published_mask(predicted: np.ndarray, expected: np.ndarray, weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Joint by joint, as the paper's released training loop does it, in double precision.

    Args:
        predicted, expected: (n, 2) peak cells.
        weights: (n,).
    """
    moves = (predicted - expected)[weights != 0].astype(float)
    mean = moves.mean(0)
    covariance = np.cov(moves.T, bias=True) + 1e-6 * np.eye(2)
    inverse, scale = np.linalg.inv(covariance), 2 * math.pi * math.sqrt(np.linalg.det(covariance))
    masks = np.zeros((len(expected), *size))
    for k, (x, y) in enumerate(expected):
        if weights[k] != 1:
            continue
        for dy in range(-REACH, REACH + 1):
            for dx in range(-REACH, REACH + 1):
                if 0 <= x + dx < size[1] and 0 <= y + dy < size[0]:
                    off = np.array([dx, dy]) - mean
                    masks[k, y + dy, x + dx] = math.exp(-0.5 * off @ inverse @ off) / scale
        masks[k] = (masks[k] - masks[k].min()) / (masks[k].max() - masks[k].min() + 1e-5)
    return masks


@pytest.mark.parametrize("seed", range(4))
def test_mask_against_a_loop_over_joints(seed: int) -> None:
    random = np.random.default_rng(seed)
    expected = random.integers(0, (12, 16), (17, 2))
    predicted = np.clip(expected + random.integers(-3, 4, (17, 2)), 0, (11, 15))
    weights = (random.random(17) < 0.7).astype(float)
    mask, spread = gaussian_mask(
        spikes([(int(x), int(y)) for x, y in predicted]),
        spikes([(int(x), int(y)) for x, y in expected]),
        torch.tensor(weights)[None].float(),
    )
    assert spread.joints == weights.sum()
    np.testing.assert_allclose(mask[0], published_mask(predicted, expected, weights, (16, 12)), atol=2e-6)


def test_equal_displacements_give_a_spike_at_their_place() -> None:
    expected = [(4, 4), (6, 9), (8, 3)]
    mask, spread = gaussian_mask(spikes([(x + 2, y - 1) for x, y in expected]), spikes(expected), torch.ones(1, 3))
    assert spread.mean.tolist() == [2, -1]
    for k, (x, y) in enumerate(expected):
        assert mask[0, k, y - 1, x + 2] > 0.999
        assert mask[0, k].sum() < 1.001


def test_the_mask_is_cropped_at_the_border_and_centred_on_the_target() -> None:
    expected = [(0, 0), (6, 8)]
    mask, _ = gaussian_mask(spikes([(1, 1), (6, 7)]), spikes(expected), torch.ones(1, 2))
    assert (mask[0, 0, REACH + 1 :] == 0).all()
    assert (mask[0, 0, :, REACH + 1 :] == 0).all()
    assert (mask[0, 1, : 8 - REACH] == 0).all()


@pytest.mark.parametrize("visible_joints", [0, 1])
def test_too_few_joints_for_a_gaussian_use_the_static_mask(visible_joints: int) -> None:
    gmm, static = make("cal", "64x48"), make("cal", "64x48", mask="static")
    keypoints, visible = people(gmm, count=2)
    visible = torch.arange(visible.numel()).reshape(visible.shape) < visible_joints
    targets = gmm.targets(keypoints, visible)
    outputs = torch.rand(2, 17, 16, 12), torch.rand(2, 34, 16, 12)
    assert torch.equal(gmm.loss(outputs, targets)["loss"], static.loss(outputs, targets)["loss"])


def test_the_logged_covariance_is_that_of_the_displacements() -> None:
    codec = make("cal", "64x48")
    targets = codec.targets(*people(codec, count=8, margin=3))
    heatmaps = targets["heatmaps"]
    logged = codec.loss((heatmaps, targets["offsets"]), targets)
    assert logged["cal_cov_x"] == pytest.approx(1e-6, rel=1e-3)
    moved = heatmaps.clone()
    moved[::2] = moved[::2].roll(2, -1)  # half of the persons, two cells to the right
    count = targets["weights"].sum(1)
    share = (count[::2].sum() / count.sum()).item()
    logged = codec.loss((moved, targets["offsets"]), targets)
    assert logged["cal_cov_x"] == pytest.approx(4 * share * (1 - share), rel=1e-4)
    assert logged["cal_cov_y"] == pytest.approx(1e-6, rel=1e-3)
    assert logged["cal_cov_xy"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", ["64x48", "128x96", "256x192"])
def test_a_perfect_answer_scores_one_wherever_the_joint_lies_in_its_cell(size: str) -> None:
    codec = make("cal", size)
    keypoints, visible = people(codec)
    _, scores = codec.decode(codec.perfect(codec.targets(keypoints, visible)))
    torch.testing.assert_close(scores[visible], torch.ones(int(visible.sum())), atol=1e-4, rtol=0)


def test_the_raw_height_depends_on_where_the_joint_lies_in_its_cell() -> None:
    codec = make("cal", "64x48", preset="published_w32")
    cells = torch.tensor([[5.0, 5.0], [5.5, 5.0], [5.5, 5.5]]).repeat(6, 1)[None, :17]
    keypoints = codec.geometry.heatmap_to_crop(cells)
    _, scores = codec.decode(codec.perfect(codec.targets(keypoints, torch.ones(1, 17, dtype=torch.bool))))
    expected = [math.exp(-square / (2 * 0.3**2)) for square in (0, 0.25, 0.5)]
    torch.testing.assert_close(scores[0, :3], torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_low_peak_stays_low_however_far_its_offset_points() -> None:
    codec = make("cal", "64x48")
    heatmaps, offsets = 0.05 * torch.ones(1, 17, 16, 12), torch.full((1, 34, 16, 12), 3.0)
    _, scores = codec.decode((heatmaps, offsets))
    assert (scores <= 0.05 * math.exp(0.5 / (2 * 0.5**2)) + 1e-6).all()
