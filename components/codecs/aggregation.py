"""Merge outputs of several resolutions, test scales and the mirrored image into one set of heatmaps and tags (HigherHRNet's code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Outputs = tuple[Tensor, ...]
Size = tuple[int, int]  # height, width


def resize(maps: Tensor, size: Size) -> Tensor:
    """(B, C, h, w) maps at another size, bilinear between the cells' middles."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def merge_outputs(outputs: Outputs, num_keypoints: int) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, h, w), the mean over all outputs, and the first output's tags (B, K, h, w), both at the last output's size.

    Args:
        outputs: the first is (B, 2 K, ...), heatmaps before tags; others are heatmaps (B, K, ...).
    """
    size = (outputs[-1].shape[-2], outputs[-1].shape[-1])
    resized = [resize(output, size) for output in outputs]
    heatmaps = torch.stack([output[:, :num_keypoints] for output in resized]).mean(0)
    return heatmaps, resized[0][:, num_keypoints:]


def aggregate(
    upright: Sequence[Outputs],
    aligned: Sequence[Outputs] | None,
    scales: Sequence[float],
    num_keypoints: int,
    project_to: Size | None = None,
) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, h, w) and tags (B, K, h, w, T).

    Heatmaps are averaged over the mirrored image and the scales. Tags come from scale 1 only. Those of the mirrored image are a second
    channel (T = 2), because its tag values are not comparable.

    Args:
        upright: outputs for each scale, the largest scale first as published.
        aligned: those for the mirrored images, mirrored back.
        scales: factors of the input's size.
        project_to: (h, w) to resize to; None: the size of the first scale's last output.
    """
    total, tags = None, []
    for place, (scale, outputs) in enumerate(zip(scales, upright, strict=True)):
        heatmaps, own_tags = merge_outputs(outputs, num_keypoints)
        scale_tags = [own_tags]
        if aligned is not None:
            other, other_tags = merge_outputs(aligned[place], num_keypoints)
            heatmaps, scale_tags = (heatmaps + other) / 2, [own_tags, other_tags]
        size = project_to or ((total.shape[-2], total.shape[-1]) if total is not None else (heatmaps.shape[-2], heatmaps.shape[-1]))
        heatmaps = resize(heatmaps, size)
        total = heatmaps if total is None else total + heatmaps
        if scale == 1 or len(scales) == 1:
            tags = [resize(each, size) for each in scale_tags]
    assert total is not None
    return total / len(scales), torch.stack(tags, 2).movedim(2, -1)  # each map stays contiguous in memory
