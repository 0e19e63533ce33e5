"""The banded blur is OpenCV's, and its limits are sensible."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from components.codecs.blur import blur, blurred_at, gaussian_kernel

KERNELS = [1, 3, 5, 7, 9, 11, 15, 17]


@pytest.mark.parametrize("size", KERNELS)
def test_kernel(size: int) -> None:
    np.testing.assert_allclose(gaussian_kernel(size), cv2.getGaussianKernel(size, 0)[:, 0], atol=1e-12)


@pytest.mark.parametrize("size", KERNELS)
@pytest.mark.parametrize("shape", [(16, 12), (32, 24), (10, 23)])
@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_blur_equals_opencv(size: int, shape: tuple[int, int], border: str) -> None:
    maps = np.random.default_rng(size).normal(size=(2, 3, *shape)).astype(np.float32)
    mode = {"zero": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}[border]
    found = blur(torch.from_numpy(maps), size, border)  # type: ignore[arg-type]
    for i, j in np.ndindex(2, 3):
        expected = cv2.GaussianBlur(maps[i, j], (size, size), 0, borderType=mode)
        np.testing.assert_allclose(found[i, j], expected, atol=2e-6)


@pytest.mark.parametrize("size", KERNELS)
@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_blurring_one_cell_equals_blurring_all(size: int, border: str) -> None:
    maps = torch.randn(2, 5, 2, 16, 12, dtype=torch.float64)
    x, y = torch.tensor([[0, 11, 3, 1, 10]] * 2), torch.tensor([[0, 15, 8, 14, 1]] * 2)
    found = blurred_at(maps, x, y, size, border)  # type: ignore[arg-type]
    whole = blur(maps, size, border)  # type: ignore[arg-type]
    for i, k in np.ndindex(2, 5):
        torch.testing.assert_close(found[i, k], whole[i, k, :, y[i, k], x[i, k]])


def test_a_kernel_wider_than_the_map_keeps_its_mean() -> None:
    maps = torch.rand(1, 1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(blur(torch.ones_like(maps), 15, "reflect"), torch.ones_like(maps))
    assert (blur(maps, 15, "zero") < maps.max()).all()
    assert blur(torch.ones(1, 1, 1, 1), 7, "reflect").item() == pytest.approx(1)
