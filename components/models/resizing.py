"""Bilinear resizing whose gradient can be repeated on a GPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def bilinear(x: Tensor, size: tuple[int, ...], align_corners: bool = False) -> Tensor:
    """(B, C, H, W) → (B, C, *size), size (height, width), with half-pixel centres or with the corner cells' centres on each other.

    The usual gradient on a GPU adds up with atomics, in another order each time; where repeatable kernels are asked for
    (`torch.use_deterministic_algorithms`) it is two products with the matrices of the resizing instead.
    """
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return Bilinear.apply(x, size, align_corners)
    return functional.interpolate(x, size, mode="bilinear", align_corners=align_corners)


class Bilinear(torch.autograd.Function):
    """`functional.interpolate` with a gradient by matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
        ctx.sides, ctx.align_corners = tuple(x.shape[-2:]), align_corners
        return functional.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        sides = zip(ctx.sides, gradient.shape[-2:], strict=True)
        rows, columns = (matrix(inner, outer, ctx.align_corners, gradient.device).to(gradient.dtype) for inner, outer in sides)
        return rows.T @ (gradient @ columns), None, None


@cache
def matrix(inner: int, outer: int, align_corners: bool, device: torch.device) -> Tensor:
    """(outer, inner) float32: what each of the `outer` new cells takes of the `inner` old ones along one axis."""
    cells = torch.eye(inner).view(1, inner, 1, inner)  # one channel per old cell
    resized = functional.interpolate(cells, (1, outer), mode="bilinear", align_corners=align_corners)
    return resized[0, :, 0].T.contiguous().to(device)
