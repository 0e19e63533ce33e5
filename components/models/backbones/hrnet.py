"""HRNet: parallel branches at 1/4, 1/8, … of the input that exchange features in every module.

Sun, Xiao, Liu, Wang 2019, "Deep High-Resolution Representation Learning for Human Pose Estimation", section 3.

Two parts, so that a method may end in one stage 4 (HRNet, UDP) or in two (CAL):
    HighResolutionTrunk  stem, layer 1, stages 2 and 3: images → features of three branches
    HighResolutionEnd    transition 3 and stage 4: those features → the finest branch

Every fusion resamples to the size of its target branch (nearest neighbour). Where sizes are powers of two apart this is
the published fixed factor; at 64x48 (branch widths 12, 6, 3, 2) the published factor raises, and this does not.
A method that changes the fusions (SIU) passes its own `Fusion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import BasicBlock, Bottleneck, HighResolutionStem, conv1x1, conv3x3, residual_layer
from components.models.backbones.imagenet import ImageNetBackbone
from components.models.naming import renamed

_PUBLISHED = {"trunk.": "", "end.transition.": "transition3.", "end.stage.": "stage4."}


@dataclass(frozen=True)
class HRNetShape:
    """How wide and how deep an HRNet is.

    Attributes:
        width: channels of the finest branch; each coarser one has twice as many.
        modules: exchange modules in stages 2, 3 and 4.
        blocks: residual blocks per branch and module.
        layer1_width, layer1_blocks: the bottlenecks before stage 2 (they output 4 layer1_width channels).
        stem_width: channels of the two stride-2 convolutions.
    """

    name: str
    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    layer1_width: int = 64
    layer1_blocks: int = 4
    stem_width: int = 64

    def channels(self, branches: int) -> list[int]:
        return [self.width * 2**branch for branch in range(branches)]


class Fusion:
    """How the features of one branch get the channels and the size of another."""

    def path(self, channels: list[int], source: int, target: int, widen: int) -> nn.Module:
        """Layers from branch `source` to branch `target`, 0 the finest: (B, channels[source], …) → (B, channels[target] widen, …)."""
        return _fuse_path(channels, source, target, widen)

    def fit(self, x: Tensor, like: Tensor) -> Tensor:
        """A path's output at the height and width of `like`."""
        size = like.shape[-2:]
        return x if x.shape[-2:] == size else functional.interpolate(x, size=size, mode="nearest")


HRNET_FUSION = Fusion()


class HighResolutionModule(nn.Module):
    """Residual blocks on every branch, then every branch's sum over all branches (figure 3).

    Args:
        inputs: channels that come in, per branch, finest first.
        channels: channels of each branch; where they differ from `inputs`, the branch's first block changes them.
        targets: how many branches are outputs, finest first.
        widen: factor on the output channels; above 1 the identity path becomes a bare 1x1 convolution (UDP).
    """

    def __init__(
        self, inputs: list[int], channels: list[int], blocks: int, targets: int, widen: int = 1, fusion: Fusion = HRNET_FUSION
    ) -> None:
        super().__init__()
        self.fusion = fusion
        widths = zip(inputs, channels, strict=True)
        self.branches = nn.ModuleList(residual_layer(BasicBlock, before, width, blocks) for before, width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fusion.path(channels, source, target, widen) for source in range(len(channels))) for target in range(targets)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [self.relu(self._fuse(target, features)) for target in range(len(self.fuse_layers))]

    def _fuse(self, target: int, features: list[Tensor]) -> Tensor:
        paths: nn.ModuleList = self.fuse_layers[target]  # type: ignore[assignment]
        total = paths[0](features[0])
        for path, x in zip(list(paths)[1:], features[1:], strict=True):
            total = total + self.fusion.fit(path(x), total)
        return total


def _fuse_path(channels: list[int], source: int, target: int, widen: int) -> nn.Module:
    inputs, outputs = channels[source], channels[target] * widen
    if source > target:
        return nn.Sequential(conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))
    if source == target:
        return nn.Sequential(conv1x1(inputs, outputs)) if widen > 1 else nn.Identity()
    steps = [_halve(inputs, inputs, relu=True) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _halve(inputs, outputs, relu=False))


def _halve(inputs: int, outputs: int, relu: bool) -> nn.Sequential:
    step = nn.Sequential(conv3x3(inputs, outputs, stride=2), nn.BatchNorm2d(outputs))
    if relu:
        step.append(nn.ReLU(inplace=True))
    return step


class Transition(nn.ModuleList):
    """Branches of one stage → branches of the next: 3x3 convolutions where the channels change, new branches from the coarsest."""

    def __init__(self, before: list[int], after: list[int]) -> None:
        kept = [
            nn.Identity() if inputs == outputs else nn.Sequential(conv3x3(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
            for inputs, outputs in zip(before, after, strict=False)
        ]
        new = [nn.Sequential(_halve(before[-1], outputs, relu=True)) for outputs in after[len(before) :]]
        super().__init__([*kept, *new])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        padded = features + features[-1:] * (len(self) - len(features))
        return [path(x) for path, x in zip(self, padded, strict=True)]


class HighResolutionTrunk(HighResolutionStem, ImageNetBackbone):
    """(B, 3, H, W) normalised images → three features (B, width 2ⁱ, H / 2ⁱ⁺², W / 2ⁱ⁺²), finest first.

    Args:
        targets: how many of the three are outputs; 1 where nothing follows but a head (TokenPose-B).
    """

    def __init__(self, shape: HRNetShape, fusion: Fusion = HRNET_FUSION, targets: int = 3) -> None:
        super().__init__(shape.stem_width, shape.layer1_width, shape.layer1_blocks)
        self.shape = shape
        self.transition1 = Transition([shape.layer1_width * Bottleneck.expansion], shape.channels(2))
        self.stage2 = _stage(shape.channels(2), shape.channels(2), shape.modules[0], shape.blocks, targets=2, fusion=fusion)
        self.transition2 = Transition(shape.channels(2), shape.channels(3))
        self.stage3 = _stage(shape.channels(3), shape.channels(3), shape.modules[1], shape.blocks, targets, fusion=fusion)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.branch(self.shallow(images))

    def imagenet_names(self, keys: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, str]:
        """Also of a whole HRNet's keys."""
        return {key: published_key(key) for key in keys}

    def branch(self, features: Tensor) -> list[Tensor]:
        """Stages 2 and 3: what `shallow` outputs → three features."""
        return self.stage3(self.transition2(self.stage2(self.transition1([features]))))


class HighResolutionEnd(nn.Module):
    """Stage 4: the trunk's three features → the finest branch (B, channels, H/4, W/4), or all branches.

    Args:
        branches: 4 as in the paper, or 3 as the published 64x48 settings of CAL have it.
        width: channels of this stage's finest branch if not those of the trunk (its first block widens it).
        widen: factor on the channels that the last module outputs.
        multi_scale: output every branch (`pyramid`), not only the finest.
    """

    def __init__(
        self,
        shape: HRNetShape,
        branches: int = 4,
        width: int | None = None,
        widen: int = 1,
        multi_scale: bool = False,
        fusion: Fusion = HRNET_FUSION,
    ) -> None:
        super().__init__()
        channels = [width or shape.width, *shape.channels(branches)[1:]]
        targets = branches if multi_scale else 1
        self.channels = channels[0] * widen
        self.pyramid_channels = tuple(channel * widen for channel in channels[:targets])
        self.transition = Transition(shape.channels(3), shape.channels(branches))
        self.stage = _stage(shape.channels(branches), channels, shape.modules[2], shape.blocks, targets, widen, fusion)
        if widen > 1:
            self.NOT_IN_IMAGENET_WEIGHTS = (f"stage.{len(self.stage) - 1}.fuse_layers.",)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.pyramid(features)[0]

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        """Every branch that the last module outputs, finest first."""
        return self.stage(self.transition(features))


class HRNet(nn.Module):
    """Trunk and one end: (B, 3, H, W) → (B, channels, H/4, W/4)."""

    def __init__(self, trunk: HighResolutionTrunk, end: HighResolutionEnd) -> None:
        super().__init__()
        self.trunk, self.end = trunk, end
        self.channels, self.pyramid_channels = end.channels, end.pyramid_channels

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.trunk(images))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Every branch of the end, (B, pyramid_channels[i], ⌈H / 2ⁱ⁺²⌉, ⌈W / 2ⁱ⁺²⌉)."""
        return self.end.pyramid(self.trunk(images))


def published_key(key: str) -> str:
    """The name of `key` of an HRNet in the released code and in ImageNet weights; other backbones' keys stay as they are."""
    return renamed(key, _PUBLISHED)


def _stage(
    inputs: list[int], channels: list[int], modules: int, blocks: int, targets: int, widen: int = 1, fusion: Fusion = HRNET_FUSION
) -> nn.Sequential:
    """Modules that output all branches, the last one `targets` of them."""
    count = len(channels)
    settings = [(count, 1)] * (modules - 1) + [(targets, widen)]
    starts = [inputs] + [channels] * (modules - 1)
    return nn.Sequential(
        *(HighResolutionModule(start, channels, blocks, *end, fusion) for start, end in zip(starts, settings, strict=True))
    )


def build_hrnet(name: str, branches: int, widen: int = 1, multi_scale: bool = False) -> HRNet:
    """The HRNet of a name in `HRNETS`, with torch's own initialisation; other arguments as for `HighResolutionEnd`."""
    shape = HRNETS[name]
    return HRNet(HighResolutionTrunk(shape), HighResolutionEnd(shape, branches, widen=widen, multi_scale=multi_scale))


HRNETS: dict[str, HRNetShape] = {
    shape.name: shape
    for shape in (
        HRNetShape("hrnet_w32", width=32),
        HRNetShape("hrnet_w48", width=48),
        HRNetShape("hrnet_tiny", width=16, modules=(1, 1, 1), blocks=2, layer1_width=16, layer1_blocks=1, stem_width=32),
    )
}
