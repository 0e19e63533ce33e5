"""Crop geometry: equal to the published code's matrices, and its own inverse in every convention."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from components.base.errors import FarposeError
from components.degrade.protocol import View, protocol
from components.evaluate.predict import mirrored
from components.pose.crop import CONVENTIONS, CropGeometry, compose, invert, transform
from tests.conftest import REPOSITORY

GOLDEN = np.load(REPOSITORY / "tests" / "golden" / "affine.npz")  # the authors' functions on five boxes
CASES = json.loads(str(GOLDEN["cases_json"]))
PARITY_FILES = {"classic": "hrnet", "dark": "dark", "unbiased": "udp"}
SIZES = [(64, 48), (128, 96), (256, 192)]
each_convention = pytest.mark.parametrize("convention", CONVENTIONS)
each_case = pytest.mark.parametrize("case", range(len(CASES)))


def _direct(image, matrix, size, convention):
    return protocol("direct").crop(image, View(matrix, size, convention), None, (0, 0, 0))


def published_case(case: int, convention: str):
    """Geometry, centre, size and rotation of one golden box."""
    values = CASES[case]
    width, height = values["size_wh"]
    geometry = CropGeometry((height, width), (height // 4, width // 4), convention)
    return geometry, np.array([values["center"]]), np.array([values["scale"]]) * 200, values["rot"]


def random_boxes(count: int = 20, seed: int = 0):
    rng = np.random.default_rng(seed)
    size = rng.uniform(20, 400, (count, 1)) * [3, 4] / 4
    return rng.uniform(0, 500, (count, 2)), size, rng.uniform(-90, 90, count), rng.uniform(-50, 600, (count, 17, 2))


@each_convention
@each_case
def test_matrices_and_joints_equal_the_published_ones(convention, case):
    geometry, center, size, rotation = published_case(case, convention)
    matrix = geometry.image_to_crop(center, size, rotation)
    if convention == "unbiased":
        np.testing.assert_allclose(invert(matrix)[0], GOLDEN[f"unbiased_{case}_warpmat_inverse"], atol=1e-5)
    else:
        np.testing.assert_allclose(matrix[0], GOLDEN[f"{convention}_{case}_fwd"], atol=5e-5)
        inverse = invert(geometry.image_to_heatmap(center, size))[0]
        np.testing.assert_allclose(inverse, GOLDEN[f"{convention}_{case}_inv_hm"], atol=5e-5)
    joints = transform(matrix, np.array([CASES[case]["pts"]]))[0]
    np.testing.assert_allclose(joints, GOLDEN[f"{convention}_{case}_pts"], atol=1e-4)


@each_convention
@each_case
def test_predictions_return_to_the_image_as_published(convention, case):
    geometry, center, size, _ = published_case(case, convention)
    rows, columns = geometry.heatmap_size
    cells = np.array([[[0, 0], [3, 4], [columns - 1, rows - 1]]], float)
    np.testing.assert_allclose(geometry.heatmap_to_image(cells, center, size)[0], GOLDEN[f"{convention}_{case}_preds_back"], atol=1e-3)


@each_convention
@each_case
def test_direct_crops_equal_the_published_ones(parity, convention, case):
    """Pixel for pixel by the published matrix; by ours within one grey level, because theirs passes through float32."""
    arrays = np.load(parity / "codecs" / f"{PARITY_FILES[convention]}.npz")
    if cv2.__version__.split(".")[0] != "5":
        pytest.skip("reference crops were made by OpenCV 5, which samples differently from 4")
    image, expected = arrays["warp_img"], arrays[f"aff{case}_warp"].astype(int)
    geometry, center, size, rotation = published_case(case, convention)
    ours = _direct(image, geometry.image_to_crop(center, size, rotation)[0], geometry.input_size, convention)
    assert np.abs(ours - expected).max() <= 1
    assert (ours != expected).mean() < 0.002
    if convention == "unbiased":
        published = arrays[f"aff{case}_warpmat_inverse"].astype(float)
        matrix = invert(published[None])[0]
    else:
        matrix = arrays[f"aff{case}_fwd"]
    assert np.array_equal(_direct(image, matrix, geometry.input_size, convention), expected)


@each_convention
@pytest.mark.parametrize("input_size", SIZES)
def test_round_trips(convention, input_size):
    geometry = CropGeometry(input_size, (input_size[0] // 4, input_size[1] // 4), convention)
    center, size, rotation, points = random_boxes()
    matrix = geometry.image_to_crop(center, size, rotation)
    np.testing.assert_allclose(transform(invert(matrix), transform(matrix, points)), points, atol=1e-8)
    cells = transform(geometry.image_to_heatmap(center, size), points)
    np.testing.assert_allclose(geometry.heatmap_to_image(cells, center, size), points, atol=1e-8)
    np.testing.assert_allclose(geometry.heatmap_to_crop(geometry.crop_to_heatmap(points)), points, atol=1e-9)


@each_convention
@pytest.mark.parametrize("heatmap", [(16, 12), (64, 48), (16, 16)])
@pytest.mark.parametrize("input_size", [(64, 48), (64, 64), (96, 128)])
def test_cropping_and_then_shrinking_is_the_direct_way_to_the_heatmap(convention, input_size, heatmap):
    """Both maps of a convention come from the box; the way between them, also turned and of any aspect, follows from the two."""
    geometry = CropGeometry(input_size, heatmap, convention)
    center, size, rotation, points = random_boxes()
    if convention == "unbiased":
        rotation = 0.0  # turned, its cells are no longer those of the crop where the sides differ
    crop = transform(geometry.image_to_crop(center, size, rotation), points)
    direct_way = transform(geometry.image_to_heatmap(center, size, rotation), points)
    np.testing.assert_allclose(geometry.crop_to_heatmap(crop), direct_way, atol=1e-9)
    np.testing.assert_allclose(geometry.heatmap_to_crop(direct_way), crop, atol=1e-9)


@pytest.mark.parametrize(("convention", "reach"), [("classic", 0), ("unbiased", 1)])
def test_the_boxs_corners_become_the_crops(convention, reach):
    """Classic: a box S px wide covers w px from 0 to w. Unbiased: it covers the intervals from 0 to w - 1."""
    geometry = CropGeometry((64, 48), (16, 12), convention)
    center, size, _, _ = random_boxes()
    corners = np.stack([center - size / 2, center + size / 2], 1)
    expected = np.broadcast_to([[0, 0], [48 - reach, 64 - reach]], corners.shape)
    np.testing.assert_allclose(transform(geometry.image_to_crop(center, size), corners), expected, atol=1e-9)


@each_convention
def test_rotation_keeps_the_centre_and_lengths(convention):
    geometry = CropGeometry((64, 48), (16, 12), convention)
    center, size, rotation, _ = random_boxes()
    size = size[:, :1] * np.array([[47, 63]]) / 47  # one scale in both axes in every convention
    upright, turned = (geometry.image_to_crop(center, size, angle) for angle in (0.0, rotation))
    np.testing.assert_allclose(transform(turned, center), transform(upright, center), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turned[:, :, :2]), np.linalg.det(upright[:, :, :2]), rtol=1e-9)
    turn = compose(turned, invert(upright))[:, :, :2]
    np.testing.assert_allclose(np.abs(np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))), np.abs(rotation), atol=1e-6)


@each_convention
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_and_torch_agree(convention, dtype):
    geometry = CropGeometry((64, 48), (16, 12), convention)
    center, size, rotation, points = random_boxes()
    tensors = [torch.from_numpy(value).to(dtype) for value in (center, size, rotation, points)]
    tolerance = {torch.float32: 2e-3, torch.float64: 1e-9}[dtype]
    matrix, matrix_torch = geometry.image_to_crop(center, size, rotation), geometry.image_to_crop(*tensors[:3])
    assert matrix_torch.dtype == dtype
    pairs = [
        (matrix, matrix_torch),
        (invert(matrix), invert(torch.from_numpy(matrix).to(dtype))),
        (transform(matrix, points), transform(matrix_torch, tensors[3])),
        (geometry.heatmap_to_image(points / 40, center, size), geometry.heatmap_to_image(tensors[3] / 40, *tensors[:2])),
        (geometry.image_to_crop(center, size, 30.0), geometry.image_to_crop(*tensors[:2], 30.0)),
        (compose(matrix, invert(matrix)), compose(matrix_torch, invert(matrix_torch))),
    ]
    for ours, torchs in pairs:
        np.testing.assert_allclose(torchs.numpy(), ours, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("input_size", SIZES)
def test_padded_boxes_hold_the_box_at_the_inputs_aspect(input_size):
    rng = np.random.default_rng(1)
    boxes = np.concatenate([rng.uniform(0, 300, (50, 2)), rng.uniform(1, 300, (50, 2))], 1)
    center, size = CropGeometry(input_size, input_size).box_to_center_size(boxes)
    np.testing.assert_allclose(center, boxes[:, :2] + boxes[:, 2:] / 2)
    np.testing.assert_allclose(size[:, 0] / size[:, 1], input_size[1] / input_size[0])
    padding = size / boxes[:, 2:]
    np.testing.assert_allclose(padding.min(1), 1.25)  # one side is exactly padded by the published factor, the other more


@each_convention
@pytest.mark.parametrize("input_size", SIZES)
def test_mirrored_maps_lie_off_by_the_flip_shift(convention, input_size):
    """A joint's place in the mirrored crop's map, mirrored back, is off by less than half a cell after the shift."""
    geometry = CropGeometry(input_size, (input_size[0] // 4, input_size[1] // 4), convention)
    crop = np.random.default_rng(2).uniform(0, input_size[1] - 1, (50, 2))
    mirrored = crop * [-1, 1] + [input_size[1] - 1, 0]
    back = geometry.heatmap_size[1] - 1 - geometry.crop_to_heatmap(mirrored)[:, 0]
    missing = geometry.crop_to_heatmap(crop)[:, 0] - back
    if convention == "classic":
        np.testing.assert_allclose(missing, 0.75)
        assert geometry.flip_shift() == 1
    else:
        np.testing.assert_allclose(missing, 0, atol=1e-9)
        assert geometry.flip_shift() == 0


@each_convention
@pytest.mark.parametrize("stride", [1.5, 2, 3, 4, 8])
def test_maps_of_a_moved_mirrored_input_lie_whole_columns_off_at_small_strides(convention, stride):
    """A network that reads the crop at each cell's place: flipping, averaging and decoding find the joint where the upright map has it."""
    height, width = 96, 72
    geometry = CropGeometry((height, width), (round(height / stride), round(width / stride)), convention)
    joint = np.array([31.0, 44.0])

    def read(crop: torch.Tensor) -> np.ndarray:  # along the columns, in the joint's row
        places = geometry.heatmap_to_crop(np.stack([np.arange(geometry.heatmap_size[1]), np.zeros(geometry.heatmap_size[1])], 1))[:, 0]
        return np.interp(places, np.arange(width), crop[0, 0, 0].numpy())

    images = torch.exp(-((torch.arange(width) - joint[0]) ** 2) / (2 * 6.0**2)).view(1, 1, 1, width).double()
    back = read(mirrored(images, geometry.flip_move()))[::-1]
    shift = geometry.flip_shift()
    back = back if shift == 0 else np.concatenate([back[:shift], back[:-shift]])
    off = np.average(np.arange(len(back)), weights=back) - np.average(np.arange(len(back)), weights=read(images))
    left = 1 / stride if convention == "classic" and stride > 2 else 0.0
    assert off == pytest.approx(left, abs=0.02)


def test_unknown_conventions_and_empty_sizes_are_refused():
    with pytest.raises(FarposeError, match=r"unknown crop convention 'unbiassed' \(did you mean 'unbiased'"):
        CropGeometry((64, 48), (16, 12), "unbiassed")
    with pytest.raises(FarposeError, match="sizes must be positive"):
        CropGeometry((64, 0), (16, 12))
