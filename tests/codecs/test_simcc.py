"""SimCC's targets, losses and decoding equal the published code's; what we corrected is correct."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from components import codecs
from components.base.errors import FarposeError
from components.codecs.simcc import SimccCodec
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
from tests.codecs.cases import PERMUTATION
from tests.codecs.conftest import GOLDEN, Reference

with np.load(GOLDEN / "simcc.npz") as stored:
    CASES = {case["name"]: case for case in json.loads(str(stored["meta_json"]))["cases"]}
LOSSES = {  # the released names → our settings
    "NMTCritierion_ls0p1": {"label_smoothing": 0.1},
    "NMTCritierion_ls0p2": {"label_smoothing": 0.2},
    "NMTCritierion_ls0p4": {"label_smoothing": 0.4},
    "NMTNORMCritierion_ls0p1": {"label_smoothing": 0.1, "normalise": True},
    "NMTNORMCritierion_ls0p2": {"label_smoothing": 0.2, "normalise": True},
    "KLDiscretLoss": {"target": "gaussian"},
}


def of_kind(kind: str) -> list[str]:
    return [name for name, case in CASES.items() if case["kind"] == kind]


def make(height: int, width: int, **settings: object) -> SimccCodec:
    return codecs.build("simcc", CropGeometry((height, width), (height, width)), COCO_17, **settings)


def published(name: str, **settings: object) -> SimccCodec:
    case = CASES[name]
    if case.get("representation") == "sa-simdr":
        settings = {"target": "gaussian", "sigma": float(case.get("sigma", 4)), **settings}
    return make(case["H"], case["W"], preset="published", split=float(case["k"]), **settings)


def everyone(count: int = 1) -> Tensor:
    return torch.ones(count, 17, dtype=torch.bool)


@pytest.mark.parametrize("name", of_kind("target"))
def test_targets(reference: Reference, name: str) -> None:
    codec = published(name)
    keypoints, visible = reference("simcc", f"{name}__joints_in").view(3, 17, 2), reference("simcc", f"{name}__vis").view(3, 17) > 0
    targets = codec.targets(keypoints, visible)
    weights = reference("simcc", f"{name}__weight").view(3, 17)
    assert torch.equal(targets["weights"].float(), weights)
    if codec.gaussian:
        for axis in "xy":
            expected = reference("simcc", f"{name}__target_{axis}")
            torch.testing.assert_close(targets[axis].flatten(0, 1).float(), expected, atol=1e-8, rtol=1e-6)
    else:
        bins = torch.stack([targets["x"].argmax(-1), targets["y"].argmax(-1)], -1)
        assert torch.equal(bins[weights > 0], reference("simcc", f"{name}__bins").view(3, 17, 2)[weights > 0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", of_kind("loss"))
def test_losses_and_their_gradients(reference: Reference, name: str, loss: str) -> None:
    codec = published(name, **LOSSES[loss])
    outputs = tuple(reference("simcc", f"{name}__out_{axis}").clone().requires_grad_() for axis in "xy")
    weights = reference("simcc", f"{name}__weight")[..., 0]
    if codec.gaussian:
        targets = {axis: reference("simcc", f"{name}__gauss_{axis}") for axis in "xy"}
    else:
        targets = codec.targets(reference("simcc", f"{name}__bins") / codec.split, weights > 0)
    value = codec.loss(outputs, targets | {"weights": weights})["loss"]
    torch.testing.assert_close(value, reference("simcc", f"{name}__{loss}"), rtol=1e-6, atol=0)
    value.backward()
    for output, axis in zip(outputs, "xy", strict=True):
        expected = reference("simcc", f"{name}__{loss}__g{axis}")
        torch.testing.assert_close(output.grad, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def outputs_of(reference: Reference, codec: SimccCodec, name: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Stored logits of the upright crops, and fused with those of the mirrored ones."""
    upright, mirrored = (tuple(reference("simcc", f"{name}__{kind}_{axis}") for axis in "xy") for kind in ("logits", "flip_logits"))
    return upright, codec.fuse(upright, codec.flip(mirrored))


@pytest.mark.parametrize("name", of_kind("decode"))
def test_decoding_with_and_without_the_mirrored_crop(reference: Reference, name: str) -> None:
    codec = published(name)
    upright, fused = outputs_of(reference, codec, name)
    center, size = reference("simcc", f"{name}__center").numpy(), 200 * reference("simcc", f"{name}__scale").numpy()
    for outputs, key in ((upright, "noflip"), (fused, "flip_shift")):
        expected = reference("simcc", f"{name}__preds_{key}").numpy()
        keypoints, scores = codec.decode(outputs)
        np.testing.assert_allclose(codec.geometry.heatmap_to_image(keypoints.double().numpy(), center, size), expected[..., :2], atol=1e-4)
        np.testing.assert_allclose(scores.numpy(), expected[..., 2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", of_kind("decode"))
def test_fused_probabilities(reference: Reference, name: str) -> None:
    _, fused = outputs_of(reference, published(name), name)
    for output, axis in zip(fused, "xy", strict=True):
        torch.testing.assert_close(output.softmax(-1), reference("simcc", f"{name}__fused_{axis}"), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("height", "width", "split", "lengths"), [
    (64, 64, 3, (192, 192)), (64, 48, 3, (144, 192)), (128, 128, 2, (256, 256)), (256, 192, 2, (384, 512)), (384, 288, 2, (576, 768)),
])  # fmt: skip
def test_the_number_of_bins_follows_from_the_crop(height: int, width: int, split: int, lengths: tuple[int, int]) -> None:
    codec = make(height, width)
    assert (codec.split, codec.output_shapes) == (split, ((17, lengths[0]), (17, lengths[1])))


@pytest.mark.parametrize(("height", "settings", "threshold"), [
    (64, {}, 0.02), (128, {}, 0.02), (256, {}, 0.01), (384, {}, 0.01),
    (256, {"target": "gaussian"}, 0.01), (384, {"target": "gaussian"}, 0.005),
])  # fmt: skip
def test_joints_count_from_the_published_scores_on(height: int, settings: dict, threshold: float) -> None:
    assert make(height, height * 3 // 4, **settings).score_threshold == threshold


@pytest.mark.parametrize(("height", "width", "sigma"), [(256, 192, 4.0), (384, 288, 6.0), (128, 96, 2.0), (64, 48, 1.5)])
def test_sigma_follows_from_the_crop(height: int, width: int, sigma: float) -> None:
    assert make(height, width, target="gaussian").constants["sigma"] == sigma


@pytest.mark.parametrize(("preset", "split", "residual"), [
    ("derived", 1, 0.0), ("derived", 2, 0.0), ("derived", 3, 0.0), ("derived", 4, 0.0),
    ("published", 1, -1.0), ("published", 1.5, -1 / 3), ("published", 2, 0.0), ("published", 3, 1 / 3),
])  # fmt: skip
def test_the_mirrored_crop_s_columns_are_aligned_and_by_how_much_the_published_shift_misses(
    preset: str, split: float, residual: float
) -> None:
    """In px of the crop; joints on whole px, where every split has a bin, and rows are never moved."""
    codec = make(96, 96, preset=preset, split=float(split))
    keypoints = torch.randint(4, 46, (20, 17, 2), generator=torch.Generator().manual_seed(0)).double() * 2
    mirrored = keypoints.clone()
    mirrored[..., 0] = 95 - mirrored[..., 0]
    outputs = codec.flip(codec.perfect(codec.targets(mirrored[:, PERMUTATION], everyone(20))))
    error = (codec.decode(outputs)[0] - keypoints).mean((0, 1))
    # 1.5 bins to a px: the mirrored joints lie between two bins and are rounded to the even one
    torch.testing.assert_close(error, torch.tensor([residual, 0.0], dtype=torch.float64), atol=0.05 if split == 1.5 else 1e-9, rtol=0)


@pytest.mark.parametrize("preset", ["derived", "published"])
@pytest.mark.parametrize(("x", "weight"), [(-0.26, 0), (-0.25, 1), (0.0, 1), (47.74, 1), (47.75, 0), (48.0, 0), (-200.0, 0)])
def test_a_joint_weighs_one_while_its_bin_is_on_the_axis(preset: str, x: float, weight: float) -> None:
    """At two bins per px those are [-0.25, W - 0.25): halves are rounded to even bins."""
    codec = make(64, 48, split=2.0, preset=preset)
    keypoints = torch.full((1, 17, 2), 20.0)
    keypoints[..., 0] = x
    targets = codec.targets(keypoints, everyone())
    assert (targets["weights"] == weight).all()
    assert (targets["x"].sum(-1) - weight).abs().max() < 1e-5


@pytest.mark.parametrize(("preset", "x", "weight"), [
    ("published", -13.5, 1), ("derived", -13.5, 0), ("derived", -6.0, 1), ("derived", -6.6, 0),
    ("derived", 197.5, 1), ("derived", 198.5, 0),
])  # fmt: skip
def test_a_gaussian_weighs_nothing_beyond_three_sigma_outside(preset: str, x: float, weight: float) -> None:
    """Sigma is 4 bins, 2 px. The released test takes it for 4 px, and has an empty target there."""
    codec = make(256, 192, target="gaussian", preset=preset)
    keypoints = torch.full((1, 17, 2), 100.0)
    keypoints[..., 0] = x
    targets = codec.targets(keypoints, everyone())
    assert (targets["weights"] == weight).all()
    if preset == "published":
        assert float(targets["x"].max()) < 1e-9
    elif weight:
        assert float(targets["x"].max()) > 1e-4


@pytest.mark.parametrize(
    "settings", [{"label_smoothing": 0.2}, {"label_smoothing": 0.2, "normalise": True}, {"target": "gaussian"}], ids=str
)
def test_the_loss_is_the_divergence_written_out(settings: dict) -> None:
    """Per joint and axis the sum of t (log t - log p), in numpy; added up over joints, or averaged over bins and joints."""
    codec = make(64, 48, **settings)
    generator = torch.Generator().manual_seed(0)
    targets = codec.targets(torch.rand(3, 17, 2, generator=generator) * 40, torch.rand(3, 17, generator=generator) < 0.7)
    outputs = tuple(torch.randn(3, *shape, generator=generator) for shape in codec.output_shapes)
    expected = 0.0
    for output, axis in zip(outputs, "xy", strict=True):
        t, logits = targets[axis].double().numpy(), output.double().numpy()
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        divergence = (t * (np.log(np.maximum(t, 1e-300)) - np.log(p))).sum(-1) * targets["weights"].numpy()
        expected += divergence.mean() / t.shape[-1] if codec.normalise else divergence.sum() / len(t)
    assert float(codec.loss(outputs, targets)["loss"]) == pytest.approx(expected, rel=1e-5)


def test_one_person_can_be_trained_on_alone_and_without_smoothing() -> None:
    """Both fail in the released code."""
    codec = make(64, 48, label_smoothing=0.0)
    targets = codec.targets(torch.full((1, 17, 2), 20.0), everyone())
    outputs = tuple(torch.zeros(1, *shape, requires_grad=True) for shape in codec.output_shapes)
    loss = codec.loss(outputs, targets)["loss"]
    torch.testing.assert_close(loss, torch.tensor(17 * (np.log(144) + np.log(192))).float())
    loss.backward()
    assert all(torch.isfinite(output.grad).all() for output in outputs)


@pytest.mark.parametrize(("settings", "message"), [
    ({"sigma": 2.0}, "sigma has no meaning for target 'one_hot'"),
    ({"target": "gaussian", "label_smoothing": 0.1}, "label_smoothing has no meaning for target 'gaussian'"),
    ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
    ({"split": 0.0}, "split must be positive"),
    ({"split": 1.5}, "split = 1.5, but mirrored columns are shifted by split - 1 bins"),
])  # fmt: skip
def test_a_wrong_setting_is_one_clear_error(settings: dict, message: str) -> None:
    with pytest.raises(FarposeError) as error:
        make(64, 48, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_cells_must_be_px() -> None:
    with pytest.raises(FarposeError, match="its cells must be 64x48"):
        codecs.build("simcc", CropGeometry((64, 48), (16, 12)), COCO_17)
