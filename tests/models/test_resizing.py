"""The resizing whose gradient repeats: torch's own is the oracle."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from components.models.resizing import Bilinear, bilinear

CASES = [((4, 3), (8, 6)), ((3, 5), (7, 9)), ((16, 12), (16, 12)), ((8, 6), (4, 3)), ((1, 1), (2, 2))]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("inner", "outer"), CASES)
def test_the_gradient_by_matrices_is_that_of_torch(inner, outer, align_corners):
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *inner, generator=drawn, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, *outer, generator=drawn, dtype=torch.float64)
    expected = functional.interpolate(x, outer, mode="bilinear", align_corners=align_corners)
    found = Bilinear.apply(x, outer, align_corners)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(bilinear(x, outer, align_corners), expected)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-6)  # the matrices are of single precision
