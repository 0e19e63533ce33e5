"""Targets equal to the published code's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.codecs.cases import make, people
from tests.codecs.conftest import Reference

SIZES = ["64x48", "128x96", "256x192"]


def drawn(reference: Reference, file: str, size: str, codec_name: str, **settings: object) -> dict[str, Tensor]:
    codec = make(codec_name, size, **settings)
    keypoints, labels = reference(file, f"{size}_t_joints")[None, :, :2], reference(file, f"{size}_t_vis")[None, :, 0]
    if file == "dark":  # drawn from joints in cells; how joints come there is the affine map's matter (tests/test_crop_geometry.py)
        keypoints = codec.geometry.heatmap_to_crop(reference(file, f"{size}_t_joints_heatmap")[None, :, :2].double())
    return {name: value[0] for name, value in codec.targets(keypoints, labels > 0).items()}


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.reshape(expected.shape).float(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("file", "codec", "maps", "key", "weights"),
    [
        ("hrnet", "heatmap", "heatmaps", "t_gauss", "t_weight"),
        ("dark", "dark", "heatmaps", "t_gauss", "t_weight"),
        ("udp", "udp_gaussian", "heatmaps", "t_gaussian", "t_gaussian_weight"),
        ("udp", "udp_offset", "combined", "t_offset", "t_offset_weight"),
    ],
)
def test_targets(reference: Reference, size: str, file: str, codec: str, maps: str, key: str, weights: str) -> None:
    targets = drawn(reference, file, size, codec, preset="published")
    check(targets[maps], reference(file, f"{size}_{key}"))
    check(targets["weights"], reference(file, f"{size}_{weights}"))


@pytest.mark.parametrize(
    ("size", "preset", "sigma"),
    [("64x48", "published_w32", "0.3"), ("64x48", "published_w48", "0.5"), ("128x96", "published_w32", "1")],
)
def test_cal_targets(reference: Reference, size: str, preset: str, sigma: str) -> None:
    targets = drawn(reference, "cal", size, "cal", preset=preset)
    unit = make("cal", size, preset=preset).constants["offset_unit"]
    prefix = f"{size}_t_s{sigma}"
    check(targets["heatmaps"], reference("cal", f"{prefix}_hm"))
    check(targets["offsets"] * unit, reference("cal", f"{prefix}_om") * 1.5)  # the stored ones were drawn with 1.5
    check(targets["disc"], reference("cal", f"{prefix}_mask01"))
    check(targets["static_mask"], reference("cal", f"{prefix}_maskg"))
    check(targets["weights"], reference("cal", f"{prefix}_weight"))


def test_cal_targets_at_256x192(reference: Reference) -> None:
    targets = drawn(reference, "cal", "256x192", "cal", preset="published_w48")
    check(targets["heatmaps"], reference("cal", "256x192_t_s2_hm"))
    check(targets["weights"], reference("cal", "256x192_t_s2_weight"))


@pytest.mark.parametrize(("preset", "weight"), [("derived", 0.0), ("published", 1.0)])
@pytest.mark.parametrize("name", ["heatmap", "udp_gaussian"])
def test_a_patch_that_ends_before_the_map_weighs_only_as_released(name: str, preset: str, weight: float) -> None:
    codec = make(name, "64x48", preset=preset)
    cells = torch.full((1, codec.num_keypoints, 2), 5.0)
    cells[..., 0] = -4.6  # int(-4.6 + 0.5) is -4; with sigma 1 the patch is columns -7 to -1
    targets = codec.targets(codec.geometry.heatmap_to_crop(cells), torch.ones(1, codec.num_keypoints, dtype=torch.bool))
    assert (targets["weights"] == weight).all()
    assert (targets["heatmaps"] == 0).all()


@pytest.mark.parametrize(("preset", "weight"), [("derived", 0.0), ("published", 1.0)])
def test_a_disc_outside_the_map_weighs_only_as_released(preset: str, weight: float) -> None:
    codec = make("udp_offset", "64x48", preset=preset)
    targets = codec.targets(torch.full((1, codec.num_keypoints, 2), -200.0), torch.ones(1, codec.num_keypoints, dtype=torch.bool))
    assert (targets["weights"] == weight).all()


@pytest.mark.parametrize("size", SIZES)
def test_plain_targets_against_a_drawing_loop(size: str) -> None:
    """An oracle that draws cell by cell: a Gaussian of the distance to the nearest cell, nothing beyond 3 sigma."""
    codec = make("heatmap", size)
    keypoints, visible = people(codec, count=1)
    sigma, stride = codec.constants["sigma"], 4
    heatmaps = codec.targets(keypoints, visible)["heatmaps"][0]
    rows, columns = codec.geometry.heatmap_size
    for k in range(0, codec.num_keypoints, 5):
        x, y = (int(value / stride + 0.5) for value in keypoints[0, k].tolist())
        for row in range(0, rows, 3):
            for column in range(0, columns, 3):
                reached = max(abs(row - y), abs(column - x)) <= 3 * sigma and bool(visible[0, k])
                square = torch.tensor(float((row - y) ** 2 + (column - x) ** 2))
                expected = torch.exp(-square / (2 * sigma**2)) if reached else torch.tensor(0.0)
                torch.testing.assert_close(heatmaps[k, row, column], expected, atol=1e-6, rtol=1e-5)
