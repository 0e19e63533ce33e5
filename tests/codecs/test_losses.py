"""Losses and their gradients equal to the published code's, and finite on every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from components.codecs.cal_masks import gaussian_mask
from components.codecs.categorical import CategoricalCodec
from components.codecs.losses import joints_mse, joints_mse_ohkm, udp_offset_loss
from components.codecs.simcc import SimccCodec
from tests.codecs.cases import CASES, SIZES, Case, make, noise, people
from tests.codecs.conftest import Reference

SETTINGS = {"64x48_w32": ("64x48", 1.5, 0.7), "64x48_w48": ("64x48", 1.0, 1.0), "128x96": ("128x96", 1.5, 0.7)}
VARIANTS: dict[str, dict[str, Any]] = {
    "gmm": {"mask": "gmm"},
    "mask01": {"mask": "disc"},
    "predmask": {"mask": "predicted"},
    "pixelhm": {"mask": "gmm", "pixel_weights": True},
    "gmm_smoothl1": {"mask": "gmm", "smooth_l1": True},
}


def value_and_gradient(function: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    leaf = inputs.clone().requires_grad_()
    value = function(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def check_gradient(found: Tensor | None, expected: Tensor) -> None:
    """Within 1e-5 of the largest gradient; a stored gradient may be cut to its first persons."""
    assert found is not None
    assert (found[: len(expected)] - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["mse_w", "mse_now", "ohkm8"])
def test_joints_mse(reference: Reference, name: str) -> None:
    predicted, expected = reference("nms_losses", "loss_out"), reference("nms_losses", "loss_tgt")
    weights = reference("nms_losses", "loss_w")[..., 0]
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "mse_w": lambda maps: joints_mse(maps, expected, weights),
        "mse_now": lambda maps: joints_mse(maps, expected, torch.ones_like(weights)),
        "ohkm8": lambda maps: joints_mse_ohkm(maps, expected, weights, hardest=8),
    }
    value, gradient = value_and_gradient(losses[name], predicted)
    torch.testing.assert_close(value, reference("nms_losses", f"loss_{name}"), rtol=1e-5, atol=0)
    check_gradient(gradient, reference("nms_losses", f"loss_{name}_grad"))


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_udp_offset_loss(reference: Reference, kind: str) -> None:
    predicted, expected = reference("udp_loss", "out"), reference("udp_loss", "tgt")
    weights = reference("udp_loss", "w")[..., 0]
    parts = torch.stack(udp_offset_loss(predicted, expected, weights, kind))  # type: ignore[arg-type]
    torch.testing.assert_close(parts.double(), reference("udp_loss", kind), rtol=1e-5, atol=0)
    _, gradient = value_and_gradient(lambda maps: sum(udp_offset_loss(maps, expected, weights, kind)), predicted)  # type: ignore
    check_gradient(gradient, reference("udp_loss", f"{kind}_grad"))


def cal_batch(reference: Reference, case: str) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    def load(name: str) -> Tensor:
        return reference("cal_loss", f"{case}_{name}")

    targets = {"heatmaps": load("target"), "offsets": load("target_om"), "disc": load("mask01"), "weights": load("tw")[..., 0]}
    targets["static_mask"] = targets["disc"]  # of no consequence: enough joints are visible
    return (load("out").requires_grad_(), load("off").requires_grad_()), targets


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", SETTINGS)
def test_cal_loss(reference: Reference, case: str, variant: str) -> None:
    size, unit, weight = SETTINGS[case]
    outputs, targets = cal_batch(reference, case)
    losses = make("cal", size, offset_unit=unit, offset_weight=weight, **VARIANTS[variant]).loss(outputs, targets)
    found = torch.stack([losses["loss"].detach(), losses["offset_loss"]]).double()
    torch.testing.assert_close(found, reference("cal_loss", f"{case}_loss_{variant}"), rtol=1e-5, atol=0)
    losses["loss"].backward()
    check_gradient(outputs[1].grad, reference("cal_loss", f"{case}_grad_off_{variant}"))
    if variant in ("gmm", "pixelhm"):
        check_gradient(outputs[0].grad, reference("cal_loss", f"{case}_grad_out_{variant}"))


@pytest.mark.parametrize("case", SETTINGS)
def test_cal_mask(reference: Reference, case: str) -> None:
    (heatmaps, _), targets = cal_batch(reference, case)
    mask, spread = gaussian_mask(heatmaps, targets["heatmaps"], targets["weights"])
    expected = reference("cal_loss", f"{case}_gmm_mask")
    torch.testing.assert_close(mask[: len(expected)], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(spread.mean[None].float(), reference("cal_loss", f"{case}_gmm_mean"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(spread.covariance[None].float(), reference("cal_loss", f"{case}_gmm_cov"), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("visible_joints", [0, 1, 2, None])
def test_loss_and_gradient_are_finite(case: Case, size: str, visible_joints: int | None) -> None:
    codec = case.build(size)
    keypoints, visible = people(codec, count=2)
    if visible_joints is not None:
        visible = torch.arange(visible.numel()).reshape(visible.shape) < visible_joints
    targets = codec.targets(keypoints, visible)
    outputs = tuple(output.requires_grad_() for output in noise(codec, count=2))
    losses = codec.loss(outputs, targets)
    assert all(torch.isfinite(value) for value in losses.values())
    losses["loss"].backward()
    for output in outputs:
        assert output.grad is not None
        assert torch.isfinite(output.grad).all()
        gradient = output.grad.unflatten(1, (codec.num_keypoints, -1))
        assert (gradient[~visible] == 0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_perfect_outputs_have_the_least_loss(case: Case, size: str) -> None:
    codec = case.build(size)
    targets = codec.targets(*people(codec))
    perfect = codec.perfect(targets)
    least = codec.loss(perfect, targets)["loss"]
    near_zero = {SimccCodec: 0.01, CategoricalCodec: 1e-6}.get(type(codec), 0)  # logarithms, and Gaussians that the border cuts
    assert abs(least) <= near_zero
    near = tuple(output + 0.01 * other for output, other in zip(perfect, noise(codec, count=6), strict=True))
    far = tuple(output + 0.1 * other for output, other in zip(perfect, noise(codec, count=6), strict=True))
    assert least < codec.loss(near, targets)["loss"] < codec.loss(far, targets)["loss"]


def test_half_precision_outputs_lose_nothing_in_the_loss() -> None:
    for case in CASES:
        codec = case.build("64x48")
        targets = codec.targets(*people(codec))
        halves = tuple(output.bfloat16() for output in noise(codec, count=6))
        expected = codec.loss(tuple(half.float() for half in halves), targets)
        assert torch.equal(codec.loss(halves, targets)["loss"], expected["loss"])


def test_hardest_joints_setting_changes_the_loss() -> None:
    plain, mining = make("heatmap", "64x48"), make("heatmap", "64x48", hardest_joints=8)
    targets, outputs = plain.targets(*people(plain)), noise(plain, count=6)
    assert mining.loss(outputs, targets)["loss"] > plain.loss(outputs, targets)["loss"]
