"""HigherHRNet's head: heatmaps and tags at the features' resolution, and finer heatmaps at twice that.

Cheng, Xiao, Wang, Shi, Huang, Zhang 2020, "HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose
Estimation", section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.models.backbones.blocks import BasicBlock

BLOCKS = 4  # residual blocks after the deconvolution


class HigherResolutionHead(nn.Module):
    """Features (B, channels, h, w) → (B, 2 keypoints, h, w), heatmaps then tags, and heatmaps (B, keypoints, 2 h, 2 w).

    Parameters, and their names in the released code (`authors_head_key`):
        coarse   1x1 convolution that outputs heatmaps and tags                  final_layers.0
        up       deconvolution of features and coarse outputs, norm (up.0, up.1)  deconv_layers.0.0
        blocks   residual blocks (blocks.0 … blocks.3)                            deconv_layers.0.1.0 … deconv_layers.0.4.0
        fine     1x1 convolution that outputs the finer heatmaps                 final_layers.1
    """

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(channels, 2 * keypoints, 1)
        deconvolution = nn.ConvTranspose2d(channels + 2 * keypoints, channels, 4, 2, 1, bias=False)
        self.up = nn.Sequential(deconvolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(BasicBlock(channels, channels) for _ in range(BLOCKS)))
        self.fine = nn.Conv2d(channels, keypoints, 1)

    def forward(self, features: Tensor, found: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`found` (B, 2 keypoints, h, w) is added to the coarse outputs before the finer half uses them (LimbPose)."""
        coarse = self.coarse(features) if found is None else self.coarse(features) + found
        finer = self.blocks(self.up(torch.cat([features, coarse], 1)))
        return coarse, self.fine(finer)


_AUTHORS = {"coarse": "final_layers.0", "fine": "final_layers.1", "up": "deconv_layers.0.0"}


def authors_head_key(key: str) -> str:
    """The name of `key`, a parameter or buffer of the head without any prefix, in the released code."""
    part, _, leaf = key.partition(".")
    if part == "blocks":
        index, _, leaf = leaf.partition(".")
        return f"deconv_layers.0.{int(index) + 1}.0.{leaf}"
    return f"{_AUTHORS[part]}.{leaf}"
