"""Whole-image geometry: equal to the published functions, its own inverse, and nothing is cut off unless published so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from components.base.errors import FarposeError
from components.pose.crop import transform
from components.pose.whole_image import FITS, LONGEST, MULTIPLE, ImageGeometry, view
from tests.conftest import REPOSITORY

GOLDEN = np.load(REPOSITORY / "tests" / "golden" / "whole_image.npz")  # the authors' functions; 96 cases per fit
SOURCES = {"higherhrnet": "short_side", "litepose": "short_side", "higherpose": "letterbox"}
SHAPES = {"portrait": (120, 90), "landscape": (90, 120)}  # (height, width) of the golden images; their input is 64 px
each_fit = pytest.mark.parametrize("fit", FITS)
each_image = pytest.mark.parametrize(
    ("width", "height"), [(640, 480), (427, 640), (333, 333), (1, 1), (2, 3), (5000, 7), (9, 4000), (801, 100), (800, 100)]
)


def published_matrix(size_wh, center, scale):
    """The published three-point transform of an upright image: one factor, from the widths."""
    factor = size_wh[0] / (scale[0] * 200)
    return np.array([[factor, 0, size_wh[0] / 2 - factor * center[0]], [0, factor, size_wh[1] / 2 - factor * center[1]]])


@each_fit
def test_sizes_and_matrices_equal_the_published_ones(fit):
    for width, height, size, scale, smallest, *expected in GOLDEN[f"{fit}_cases"]:
        geometry, image = ImageGeometry(int(size), fit), (int(width), int(height))
        assert geometry.input_size(*image, scale, smallest) == (expected[1], expected[0])
        matrix = published_matrix(expected[:2], expected[2:4], expected[4:])
        np.testing.assert_allclose(geometry.image_to_input(*image, scale, smallest), matrix, rtol=1e-12, atol=1e-9)


@each_fit
@pytest.mark.parametrize("shape", SHAPES)
def test_the_corners_of_an_input_lie_in_the_image_as_published(fit, shape):
    height, width = SHAPES[shape]
    geometry = ImageGeometry(64, fit)
    rows, columns = size = geometry.input_size(width, height)
    corners = np.array([[0, 0], [columns, rows], [10, 5]], float)
    np.testing.assert_allclose(geometry.heatmap_to_image(corners, size, width, height), GOLDEN[f"{fit}_{shape}_backcorners"], atol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_inputs_equal_the_published_ones(parity, source, shape):
    arrays = np.load(parity / "codecs" / f"bottomup_{source}.npz")
    image, expected = arrays[f"resize_{shape}_img"], arrays[f"resize_{shape}_out"]
    geometry = ImageGeometry(64, SOURCES[source])
    height, width = geometry.input_size(image.shape[1], image.shape[0])
    ours = cv2.warpAffine(image, geometry.image_to_input(image.shape[1], image.shape[0]), (width, height))
    assert ours.shape == expected.shape
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_views_of_the_augmentation_equal_the_published_matrices():
    for x, y, scale, size, degrees, *expected in GOLDEN["affine"]:
        center, side = np.array([[x, y]]), np.array([200 * scale])
        np.testing.assert_allclose(view(center, side, int(size), degrees)[0].ravel(), expected, rtol=1e-12, atol=1e-11)
        in_torch = view(torch.tensor(center), torch.tensor(side), int(size), torch.tensor([degrees]))
        np.testing.assert_allclose(in_torch[0].numpy().ravel(), expected, rtol=1e-12, atol=1e-11)


@each_image
@pytest.mark.parametrize("size", [64, 256, 448])
def test_the_short_side_rule_cuts_nothing_off(width, height, size):
    geometry = ImageGeometry(size)
    rows, columns = geometry.input_size(width, height)
    assert rows % MULTIPLE == columns % MULTIPLE == 0 and min(rows, columns) >= min(size, MULTIPLE)
    assert max(rows, columns) <= LONGEST * size
    matrix = geometry.image_to_input(width, height)
    corners = transform(matrix[None], np.array([[[0, 0], [width, height]]], float))[0]
    slack = matrix[0, 0] / 2 + 1e-6  # the published middle is rounded to a whole pixel of the image
    assert (corners[0] >= -slack).all() and (corners[1] <= np.array([columns, rows]) + slack).all()
    tight = (corners[1] - corners[0]) / [columns, rows]
    assert tight.max() == pytest.approx(1)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640)])
def test_the_published_letterbox_cuts_portrait_images(width, height):
    geometry = ImageGeometry(512, "letterbox")
    assert geometry.input_size(width, height) == (512, 512)
    top, bottom = geometry.heatmap_to_image(np.array([[256.0, 0], [256, 512]]), (512, 512), width, height)[:, 1]
    seen = (min(bottom, height) - max(top, 0)) / height
    assert seen == pytest.approx(1 if width > height else 0.75)


@each_fit
@each_image
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_points_return_to_where_they_came_from(fit, width, height, stride):
    geometry = ImageGeometry(128, fit)
    rows, columns = geometry.input_size(width, height)
    points = np.random.default_rng(0).uniform(0, [width, height], (5, 17, 2))
    cells = geometry.image_to_heatmap(points, (rows // stride, columns // stride), width, height)
    expected = transform(geometry.image_to_input(width, height)[None], points.reshape(1, -1, 2)).reshape(points.shape) / stride
    np.testing.assert_allclose(cells, expected, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(geometry.heatmap_to_image(cells, (rows // stride, columns // stride), width, height), points, atol=1e-6)
    in_torch = geometry.heatmap_to_image(torch.from_numpy(cells), (rows // stride, columns // stride), width, height)
    np.testing.assert_allclose(in_torch.numpy(), points, atol=1e-6)


def test_a_multi_scale_test_shows_one_image_at_all_scales():
    """The same point lies at the same part of every scale's input, and sizes grow with the scale."""
    geometry, points = ImageGeometry(512), np.array([[100.0, 50.0], [600, 400]])
    inputs = {scale: geometry.input_size(640, 427, scale, 0.5) for scale in (0.5, 1.0, 2.0)}
    assert inputs == {0.5: (256, 384), 1.0: (512, 768), 2.0: (1024, 1536)}
    relative = [geometry.image_to_heatmap(points, size, 640, 427) / [size[1], size[0]] for size in inputs.values()]
    np.testing.assert_allclose(relative[1:], [relative[0]] * 2, rtol=1e-12)


def test_impossible_geometries_are_refused():
    with pytest.raises(FarposeError, match="did you mean 'letterbox'"):
        ImageGeometry(256, "leterbox")  # type: ignore[arg-type]
    with pytest.raises(FarposeError, match="must be positive"):
        ImageGeometry(0)
