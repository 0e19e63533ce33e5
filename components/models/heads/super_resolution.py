"""The super-resolution head (Wang, Liu, Tang, Wu 2023, "Lightweight Super-Resolution Head for Human Pose Estimation").

Heatmaps finer than the features they come from: every keypoint has its own embedding in each cell of the features,
from which the factor x factor heatmap cells at that place are computed.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SuperResolutionHead(nn.Module):
    """(B, channels, h, w) → (B, keypoints, factor h, factor w).

    The grouped convolution keeps the keypoints apart: group k outputs channels k factor² to (k + 1) factor² - 1, which are
    the cells (row by row) that the pixel shuffle lays out for keypoint k.

    Args:
        embedding: channels per keypoint.
        factor: cells of the heatmap per cell of the features, along each axis.
        kernel: size of the grouped convolution, cells of the features, odd.
    """

    def __init__(self, channels: int, keypoints: int, embedding: int = 4, factor: int = 4, kernel: int = 9) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(channels, keypoints * embedding, 1)
        self.converge = nn.Conv2d(keypoints * embedding, keypoints * factor**2, kernel, padding=kernel // 2, groups=keypoints)
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        embeddings = functional.relu(self.encoder(features))
        return functional.pixel_shuffle(self.converge(embeddings), self.factor)
