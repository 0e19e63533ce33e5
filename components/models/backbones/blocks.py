"""The two residual blocks of ResNet (He et al. 2016, figure 5), which HRNet uses too.

Parameter names are those of the published checkpoints (`conv1`, `bn1`, …, `downsample.0`, `downsample.1`).
"""

from __future__ import annotations

from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inputs, H, W) → (B, width, ⌈H/stride⌉, ⌈W/stride⌉)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: (B, inputs, H, W) → (B, 4 width, ⌈H/stride⌉, ⌈W/stride⌉).

    The stride is on the 3x3 convolution, as in all published pose checkpoints.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = conv1x1(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1x1(width, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


def residual_layer(block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` blocks in a row; the first takes `inputs` channels and the stride."""
    outputs = width * block.expansion
    return nn.Sequential(block(inputs, width, stride), *(block(outputs, width) for _ in range(count - 1)))


class HighResolutionStem(nn.Module):
    """Two stride-2 convolutions and layer 1 of an HRNet.

    Args:
        stem_width: channels of the two convolutions.
        layer1_width, layer1_blocks: of the bottlenecks, which output 4 layer1_width channels.
    """

    def __init__(self, stem_width: int, layer1_width: int, layer1_blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, stem_width, stride=2), nn.BatchNorm2d(stem_width)
        self.conv2, self.bn2 = conv3x3(stem_width, stem_width, stride=2), nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = residual_layer(Bottleneck, stem_width, layer1_width, layer1_blocks)

    def shallow(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 4 layer1_width, H/4, W/4)."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.layer1(x)


def published_initialisation(model: nn.Module) -> None:
    """Initialise as the published pose networks do: convolutions from N(0, 0.001²), biases 0, batch norms 1 and 0.

    Batch norms make the small convolutions harmless.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.001)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def he_initialisation(model: nn.Module) -> None:
    """Draw the convolutions that a batch norm follows from N(0, 2 / fan_in): He, Zhang, Ren & Sun 2015, "Delving Deep into
    Rectifiers", equation 10. All other parameters keep their values.

    A batch norm hides how large the weights before it are, but not how far an optimiser's step turns them: Adam's first steps
    overwrite weights of 0.001 whatever they were, and it takes thousands more until the steps are small against the weights.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d)]
    following: nn.BatchNorm2d | None = None
    for layer in reversed(layers):  # a norm is registered after the convolutions that it normalises; two may share one
        if isinstance(layer, nn.BatchNorm2d):
            following = layer
        elif following is not None and layer.bias is None and layer.out_channels == following.num_features:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
