"""The plain head: heatmaps by one 1x1 convolution, on features of a quarter of the input."""

from __future__ import annotations

from torch import Tensor, nn

from components.models.variant import STRIDE


class PlainPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, outputs, H/4, W/4),).

    Args:
        backbone: its `channels` are those of its features.
        head: enlarges coarser features to H/4 x W/4, and outputs `channels`; None where the features have that size.
        published: keep the head's surplus cells, see `on_input`.

    Attributes:
        START_AS_HEATMAPS: a start's maps, which are logits, are brought to the heights of heatmaps (`starts`).
    """

    START_AS_HEATMAPS = False

    def __init__(self, backbone: nn.Module, outputs: int, head: nn.Module | None = None, published: bool = False) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head or nn.Identity()
        self.final_layer = nn.Conv2d((head or backbone).channels, outputs, 1)  # type: ignore[arg-type]
        self.cuts = head is not None and not published

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.head(self.backbone(images))
        return (self.final_layer(on_input(features, images) if self.cuts else features),)


def on_input(features: Tensor, images: Tensor) -> Tensor:
    """The cells of stride 4 that lie on the images.

    A head that doubles its features has surplus cells to the right and below where the backbone's stride does not divide the input.
    """
    return features[..., : images.shape[-2] // STRIDE, : images.shape[-1] // STRIDE]
