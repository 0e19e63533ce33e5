"""The codec of the super-resolution heads: one target for maps of every size, the published loss, decoding at full resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from components import codecs
from components.base.errors import FarposeError
from components.codecs.super_resolution import pooled_target
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
from tests.codecs.cases import SIZES, make, noise, people


def training_outputs(size: str, count: int = 3) -> tuple[Tensor, ...]:
    """Random maps of the sizes that SRPose outputs in training."""
    height, width = SIZES[size]
    shapes = [(height // 32, -(-width // 32)), *[(height // 4, width // 4)] * 3, (height, width)]
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(count, 17, *shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize(("size", "sigma"), [((256, 192), 8), ((384, 288), 12), ((128, 96), 4), ((64, 48), 2)])
def test_the_target_is_a_twenty_fourth_of_the_width_wide(size: tuple[int, int], sigma: float) -> None:
    """Published: 8 px at 256x192, in a window of ±24 px around the nearest px."""
    codec = codecs.build("super_resolution", CropGeometry(size, size), COCO_17)
    assert codec.constants["sigma"] == sigma
    keypoints = torch.tensor([size[1] / 2 + 0.3, size[0] / 2 - 0.4]).expand(1, 17, 2)
    drawn = codec.targets(keypoints, torch.ones(1, 17, dtype=torch.bool))["heatmaps"][0, 0]
    y, x = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    dx, dy = x - size[1] // 2, y - size[0] // 2
    expected = torch.exp(-(dx**2 + dy**2) / (2 * sigma**2)) * ((dx.abs() <= 3 * sigma) & (dy.abs() <= 3 * sigma))
    torch.testing.assert_close(drawn, expected, atol=1e-6, rtol=0)


def test_no_alignment_is_needed_at_full_resolution() -> None:
    codec = make("super_resolution", "64x48")
    assert codec.geometry.flip_shift() == 0
    outputs = noise(codec)
    mirrored = outputs[0].flip(-1)[:, list(COCO_17.flip_permutation)]
    assert torch.equal(codec.flip(outputs)[0], mirrored)


# --- pooled targets


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [1, 2, 4, 16])
def test_a_coarse_target_is_the_mean_of_the_cells_it_covers(size: str, factor: int) -> None:
    codec = make("super_resolution", size)
    target = codec.targets(*people(codec, count=2))["heatmaps"].double()
    height, width = SIZES[size]
    pooled = pooled_target(target, (height // factor, width // factor))
    blocks = target.numpy().reshape(2, 17, height // factor, factor, width // factor, factor).mean((3, 5))
    np.testing.assert_allclose(pooled.numpy(), blocks, atol=1e-12)
    torch.testing.assert_close(pooled.mean((-2, -1)), target.mean((-2, -1)))


@pytest.mark.parametrize(("factor", "tolerance"), [(4, 0.01), (8, 0.01), (16, 0.2), (32, 3.2)])
def test_a_coarse_target_still_knows_where_in_the_cell_the_joint_lies(factor: int, tolerance: float) -> None:
    """The centre of mass of the pooled target is the joint's px, or near it where the cells are wider than the Gaussian."""
    codec = make("super_resolution", "256x192")
    keypoints, visible = people(codec, count=4, margin=26)
    pooled = pooled_target(codec.targets(keypoints, torch.ones_like(visible))["heatmaps"], (256 // factor, 192 // factor))
    columns, rows = torch.arange(192 // factor), torch.arange(256 // factor)
    mass = pooled.sum((-2, -1))
    center = torch.stack([(pooled.sum(-2) * columns).sum(-1), (pooled.sum(-1) * rows).sum(-1)], -1) / mass[..., None]
    in_px = (center + 0.5) * factor - 0.5
    assert (in_px - torch.trunc(keypoints + 0.5)).abs().max() < tolerance


@pytest.mark.parametrize(("size", "cells"), [((64, 48), (2, 2)), ((48, 64), (2, 3))])
def test_any_size_can_be_pooled_to(size: tuple[int, int], cells: tuple[int, int]) -> None:
    assert torch.equal(pooled_target(torch.ones(1, 2, *size), cells), torch.ones(1, 2, *cells))


# --- loss


@pytest.mark.parametrize("size", SIZES)
def test_the_loss_is_the_published_sum(size: str) -> None:
    """Oracle: mean over persons and cells per joint, then over joints, without a half; 1e-4 on the first of several maps."""
    codec = make("super_resolution", size)
    outputs, targets = training_outputs(size), codec.targets(*people(codec, count=3))
    weights, full = targets["weights"].numpy().astype(np.float64), targets["heatmaps"]
    expected = []
    for output in outputs:
        target = pooled_target(full, (output.shape[-2], output.shape[-1])).numpy().astype(np.float64)
        per_joint = [
            np.mean((output[:, k].numpy() * weights[:, k, None, None] - target[:, k] * weights[:, k, None, None]) ** 2) for k in range(17)
        ]
        expected.append(sum(per_joint) / 17)
    losses = codec.loss(outputs, targets)
    assert float(losses["loss"]) == pytest.approx(1e-4 * expected[0] + sum(expected[1:]), rel=1e-5)
    assert float(losses["map0_loss"]) == pytest.approx(1e-4 * expected[0], rel=1e-5)
    assert [float(losses[f"map{i}_loss"]) for i in range(1, 5)] == pytest.approx(expected[1:], rel=1e-5)


def test_one_map_alone_has_its_full_weight() -> None:
    codec = make("super_resolution", "64x48")
    outputs, targets = training_outputs("64x48")[-1:], codec.targets(*people(codec, count=3))
    alone, twice = codec.loss(outputs, targets), codec.loss(outputs * 2, targets)
    assert alone.keys() == {"loss"}
    assert float(twice["loss"]) == pytest.approx((1 + 1e-4) * float(alone["loss"]))


def test_every_map_has_its_share_of_the_gradient() -> None:
    codec = make("super_resolution", "64x48")
    outputs = tuple(output.requires_grad_() for output in training_outputs("64x48"))
    targets = codec.targets(*people(codec, count=3))
    codec.loss(outputs, targets)["loss"].backward()
    unseen = targets["weights"] == 0
    assert unseen.any()
    for output in outputs:
        assert output.grad is not None
        assert output.grad[~unseen].any()
        assert not output.grad[unseen].any()


# --- decoding


def test_without_the_quarter_shift_the_highest_px_is_the_joint() -> None:
    codec = make("super_resolution", "256x192", quarter_shift=False)
    outputs = noise(codec)
    keypoints, scores = codec.decode(outputs)
    place = outputs[0].flatten(2).argmax(-1)
    assert torch.equal(keypoints, torch.stack([place % 192, place // 192], -1).float())
    assert torch.equal(scores, outputs[0].amax((-2, -1)))


def test_the_quarter_shift_goes_to_the_higher_neighbour() -> None:
    codec, plain = make("super_resolution", "64x48"), make("super_resolution", "64x48", quarter_shift=False)
    maps = torch.zeros(1, 17, 64, 48)
    maps[..., 30, 20], maps[..., 30, 21], maps[..., 29, 20] = 1.0, 0.5, 0.5
    assert torch.equal(plain.decode((maps,))[0], torch.tensor([20.0, 30.0]).expand(1, 17, 2))
    assert torch.equal(codec.decode((maps,))[0], torch.tensor([20.25, 29.75]).expand(1, 17, 2))


def test_training_outputs_are_decoded_from_the_last_map() -> None:
    codec = make("super_resolution", "64x48")
    outputs = training_outputs("64x48")
    assert all(torch.equal(a, b) for a, b in zip(codec.decode(outputs), codec.decode(outputs[-1:]), strict=True))


# --- settings


def test_the_published_preset_counts_a_patch_that_ends_just_before_the_map() -> None:
    keypoints = torch.full((1, 17, 2), 20.0)
    keypoints[0, 0, 0] = -8  # the nearest column is -7, and the patch of ±6 ends at -1
    visible = torch.ones(1, 17, dtype=torch.bool)
    weights = {preset: make("super_resolution", "64x48", preset=preset).targets(keypoints, visible)["weights"][0, 0]
               for preset in ("derived", "published")}  # fmt: skip
    assert weights == {"derived": 0, "published": 1}


@pytest.mark.parametrize(("settings", "message"), [
    ({"preset": "published", "sigma": 3.0}, "sigma = 3.0 contradicts preset 'published', which fixes it at 2.0"),
    ({"sigma": -1.0}, "sigma must be positive"),
    ({"sgima": 2.0}, "unknown parameter 'sgima'"),
])  # fmt: skip
def test_a_wrong_setting_is_one_clear_error(settings: dict, message: str) -> None:
    with pytest.raises(FarposeError, match=message):
        make("super_resolution", "64x48", **settings)
