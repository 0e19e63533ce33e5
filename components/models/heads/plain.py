"""The plain head: heatmaps by one 1x1 convolution, on features of a quarter of the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.variant import STRIDE

MEAN = 0.03  # of a heatmap whose Gaussian has a standard deviation of 2 cells on 32x24


class PlainPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, outputs, H/4, W/4),).

    Args:
        backbone: its `channels` are those of its features.
        head: enlarges coarser features to H/4 x W/4, and outputs `channels`; None where the features have that size.
        published: keep the head's surplus cells, see `on_input`.
        sigmoid_every: put every so many-th map through a sigmoid, as MoveNet does. A mean squared error from raw logits of -5 would
            push all maps to 0 before it learns a joint, and lose the start. None: no map.
    """

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int,
        head: nn.Module | None = None,
        published: bool = False,
        sigmoid_every: int | None = None,
    ) -> None:
        super().__init__()
        self.sigmoid_every = sigmoid_every
        self.backbone, self.head = backbone, head or nn.Identity()
        self.final_layer = nn.Conv2d((head or backbone).channels, outputs, 1)  # type: ignore[arg-type]
        self.cuts = head is not None and not published

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.head(self.backbone(images))
        maps = self.final_layer(on_input(features, images) if self.cuts else features)
        return (maps if self.sigmoid_every is None else some_probabilities(maps, self.sigmoid_every),)


def some_probabilities(maps: Tensor, every: int) -> Tensor:
    """(B, every K, H, W) with the first of every `every` maps through a sigmoid."""
    if every == 1:
        return maps.sigmoid()
    grouped = maps.unflatten(1, (-1, every))
    return torch.cat([grouped[:, :, :1].sigmoid(), grouped[:, :, 1:]], 2).flatten(1, 2)


def draw_probabilities(layer: nn.Conv2d, every: int = 1) -> None:
    """Fresh weights of a last layer, the first of every `every` maps before a sigmoid: N(0, 0.001²), and a bias that puts out `MEAN`.

    Lin, Goyal, Girshick, He, Dollár 2017, "Focal Loss for Dense Object Detection", section 4.1. From a bias of 0, which puts out 1/2,
    the first steps push all maps to 0, and rectifiers without batch norms never open again.
    """
    published_initialisation(layer)
    assert layer.bias is not None
    nn.init.constant_(layer.bias[::every], math.log(MEAN / (1 - MEAN)))


def on_input(features: Tensor, images: Tensor) -> Tensor:
    """The cells of stride 4 that lie on the images.

    A head that doubles its features has surplus cells to the right and below where the backbone's stride does not divide the input.
    """
    return features[..., : images.shape[-2] // STRIDE, : images.shape[-1] // STRIDE]
