"""ResNet without its classifier (He, Zhang, Ren, Sun 2016, "Deep Residual Learning for Image Recognition", table 1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from components.models.backbones.blocks import BasicBlock, Bottleneck, residual_layer
from components.models.backbones.imagenet import ImageNetBackbone


@dataclass(frozen=True)
class ResNetShape:
    """Name, residual blocks in layers 1 to 4, and their kind."""

    name: str
    blocks: tuple[int, int, int, int]
    block: type[BasicBlock] | type[Bottleneck] = Bottleneck


class ResNet(ImageNetBackbone):
    """(B, 3, H, W) normalised images → (B, channels, ⌈H/32⌉, ⌈W/32⌉)."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        expansion = shape.block.expansion
        self.channels = 512 * expansion
        self.pyramid_channels = tuple(width * expansion for width in (64, 128, 256, 512))
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = residual_layer(shape.block, 64, 64, shape.blocks[0])
        self.layer2 = residual_layer(shape.block, 64 * expansion, 128, shape.blocks[1], stride=2)
        self.layer3 = residual_layer(shape.block, 128 * expansion, 256, shape.blocks[2], stride=2)
        self.layer4 = residual_layer(shape.block, 256 * expansion, 512, shape.blocks[3], stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[-1]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Features of layers 1 to 4, (B, pyramid_channels[i], ⌈H / 2ⁱ⁺²⌉, ⌈W / 2ⁱ⁺²⌉)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


RESNETS: dict[str, ResNetShape] = {
    shape.name: shape
    for shape in (
        ResNetShape("resnet18", (2, 2, 2, 2), BasicBlock),
        ResNetShape("resnet50", (3, 4, 6, 3)),
        ResNetShape("resnet101", (3, 4, 23, 3)),
        ResNetShape("resnet152", (3, 8, 36, 3)),
    )
}
