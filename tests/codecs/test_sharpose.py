"""SHaRPose's codec: the quality's target is the OKS in the image, it begins late, and it decodes as mmpose does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.sharpose import QUALITY_WEIGHT, SharposeCodec
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17, MPII_16
from tests.codecs.cases import SIZES, make, people


def spikes(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, H, W) maps that are 1 at the cells (B, K, 2) and 0 elsewhere."""
    index = cells[..., 1] * size[1] + cells[..., 0]
    return torch.nn.functional.one_hot(index, size[0] * size[1]).float().unflatten(-1, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("skeleton", [COCO_17, MPII_16], ids=lambda skeleton: skeleton.name)
def test_the_quality_is_the_oks_in_the_image(size, skeleton):
    """Oracle: cells to px of an image by the crop geometry, then COCO's formula with the padded box's area."""
    height, width = SIZES[size]
    codec = SharposeCodec(CropGeometry((height, width), (height // 4, width // 4), "unbiased"), skeleton)
    rng = np.random.default_rng(0)
    rows, columns, count = height // 4, width // 4, len(skeleton)
    goal = np.stack([rng.integers(0, columns, (4, count)), rng.integers(0, rows, (4, count))], -1)
    found = np.clip(goal + rng.integers(-2, 3, goal.shape), 0, [columns - 1, rows - 1])
    seen = rng.random((4, count)) < 0.7
    seen[3] = False
    center, extent = codec.geometry.box_to_center_size(np.array([[10.0, 20, 300, 90], [5, 5, 40, 200], [0, 0, 61, 83], [0, 0, 9, 9]]))
    error = [codec.geometry.heatmap_to_image(points.astype(float), center, extent) for points in (found, goal)]
    distance = ((error[0] - error[1]) ** 2).sum(-1)
    similarity = np.exp(-distance / (2 * extent.prod(-1)[:, None] * (2 * np.array(skeleton.sigmas)) ** 2))
    expected = [similarity[i][seen[i]].mean() for i in range(3)]
    maps = [spikes(torch.from_numpy(points), (rows, columns)) for points in (found, goal)]
    oks, counts = codec.oks(*maps, torch.from_numpy(seen).float())
    np.testing.assert_allclose(oks.numpy(), [*expected, 0], atol=1e-5)
    assert counts.tolist() == [1, 1, 1, 0] and 0.1 < min(expected) < max(expected) < 0.99


def batch(codec: SharposeCodec, visible: bool = True) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    keypoints, seen = people(codec, count=4)
    targets = codec.targets(keypoints, seen & visible)
    noise = [torch.randn(targets["heatmaps"].shape, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in (0, 1)]
    return (noise[0], noise[1], torch.tensor([0.1, 0.9, -0.2, 1.3], requires_grad=True)), targets


def test_the_loss_is_the_sum_of_its_parts():
    codec = make("sharpose", "64x48")
    codec.progress(0.9)
    outputs, targets = batch(codec)
    losses = codec.loss(outputs, targets)
    weight = targets["weights"][..., None, None]
    parts = [((output - targets["heatmaps"]) * weight).square().mean() for output in outputs[:2]]
    oks, _ = codec.oks(outputs[0], targets["heatmaps"], targets["weights"])
    parts.append(QUALITY_WEIGHT * (outputs[2] - oks).square().mean())
    torch.testing.assert_close(losses["loss"], torch.stack(parts).sum())
    assert losses.keys() == {"loss", "coarse_loss", "fine_loss", "quality_loss", "coarse_oks"}


@pytest.mark.parametrize(("start", "fractions"), [(0.857, {179 / 210: 0.0, 180 / 210: QUALITY_WEIGHT}), (0.0, {0.0: QUALITY_WEIGHT}),
                                                  (0.84, {209 / 250: 0.0, 210 / 250: QUALITY_WEIGHT})])  # fmt: skip
def test_the_quality_is_supervised_from_its_epoch_on(start, fractions):
    codec = make("sharpose", "64x48", quality_start=start)
    for fraction, expected in fractions.items():
        codec.progress(fraction)
        outputs, targets = batch(codec)
        codec.loss(outputs, targets)["loss"].backward()
        assert bool(outputs[2].grad.any()) == (expected > 0)


def test_the_weight_changes_in_the_tensor_that_a_recorded_step_reads():
    codec = make("sharpose", "64x48", quality_start=0.5)
    codec.loss(*batch(codec))
    before = codec._constants_on(torch.device("cpu"))[0]
    for fraction, expected in ((0.0, 0.0), (0.5, QUALITY_WEIGHT), (0.9, QUALITY_WEIGHT), (0.0, 0.0)):
        codec.progress(fraction)
        assert float(before) == pytest.approx(expected)
    assert codec._constants_on(torch.device("cpu"))[0] is before


def test_a_batch_without_joints_supervises_no_quality():
    codec = make("sharpose", "64x48")
    codec.progress(1.0)
    outputs, targets = batch(codec, visible=False)
    losses = codec.loss(outputs, targets)
    losses["loss"].backward()
    assert all(value == 0 for value in losses.values())
    assert not any(output.grad.any() for output in outputs)


def test_persons_without_joints_do_not_count():
    codec = make("sharpose", "64x48")
    codec.progress(1.0)
    outputs, targets = batch(codec)
    expected = codec.loss(tuple(output[:2] for output in outputs), {name: value[:2] for name, value in targets.items()})
    targets["weights"][2:] = 0
    assert codec.loss(outputs, targets)["quality_loss"] == pytest.approx(float(expected["quality_loss"]))


def test_another_number_of_outputs_is_refused():
    codec = make("sharpose", "64x48")
    outputs, targets = batch(codec)
    with pytest.raises(FarposeError, match="expected coarse heatmaps, fine heatmaps and quality, got 2 outputs"):
        codec.loss(outputs[:2], targets)


@pytest.mark.parametrize(("size", "sigma", "blur"), [((64, 48), 1, 3), ((128, 96), 1, 5), ((256, 192), 2, 11), ((384, 288), 3, 11)])
def test_constants_follow_the_map_and_are_the_published_ones_where_there_are_any(size, sigma, blur):
    geometry = CropGeometry(size, (size[0] // 4, size[1] // 4), "unbiased")
    constants = SharposeCodec(geometry, COCO_17).constants
    assert (constants["sigma"], constants["blur"]) == (sigma, blur)


@pytest.mark.parametrize("start", [-0.1, 1.1])
def test_a_start_outside_of_training_is_refused(start):
    with pytest.raises(FarposeError, match=r"quality_start must lie in 0\.\.1"):
        make("sharpose", "64x48", quality_start=start)


def test_decoding_is_mmposes():
    """Oracle: blur, clip, logarithm and one Newton step in OpenCV and numpy, map by map."""
    codec = make("sharpose", "256x192", preset="published")
    keypoints, visible = people(codec, count=4, margin=3)
    maps = codec.targets(keypoints, visible | True)["heatmaps"] + 0.02 * torch.rand(4, 17, 64, 48)
    found, scores = codec.decode((maps,))
    for found_map, point, score in zip(maps.flatten(0, 1).numpy(), found.flatten(0, 1).numpy(), scores.flatten(), strict=True):
        y, x = np.unravel_index(found_map.argmax(), found_map.shape)
        logs = np.log(np.clip(cv2.GaussianBlur(found_map, (11, 11), 0), 0.001, 50).astype(np.float64))
        logs = np.pad(logs, 1, mode="edge")[y : y + 3, x : x + 3]
        gradient = np.array([logs[1, 2] - logs[1, 0], logs[2, 1] - logs[0, 1]]) / 2
        mixed = (logs[2, 2] - logs[1, 2] - logs[2, 1] + 2 * logs[1, 1] - logs[1, 0] - logs[0, 1] + logs[0, 0]) / 2
        second = logs[1, 2] - 2 * logs[1, 1] + logs[1, 0], logs[2, 1] - 2 * logs[1, 1] + logs[0, 1]
        hessian = np.array([[second[0], mixed], [mixed, second[1]]]) + np.finfo(np.float32).eps * np.eye(2)
        np.testing.assert_allclose(point, np.array([x, y]) - np.linalg.solve(hessian, gradient), atol=2e-3)
        assert float(score) == found_map.max()
