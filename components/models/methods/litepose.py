"""LitePose: a single-branch network with HigherHRNet's outputs, for devices with little power.

Wang, Li, Cai, Chen, Han 2022, "Lite Pose: Efficient Architecture Design for 2D Human Pose Estimation", section 3. The fusion
deconvolution head doubles the coarsest feature three times; each time the backbone's feature of the same size is doubled
next to it and added ("raw"), so no high-resolution branch is needed. Details from the released code (mit-han-lab/litepose).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.litepose import LITEPOSES, LitePoseBackbone
from components.models.variant import Method, Variant

OUTPUT_KERNEL = 5  # side of the depthwise kernels before the outputs, cells


class FusionDeconvolution(nn.Module):
    """Refined (B, refined, h, w) and raw features (B, raw, h, w) → (B, outputs, 2 h, 2 w)."""

    def __init__(self, refined: int, raw: int, outputs: int) -> None:
        super().__init__()
        self.refined = nn.ConvTranspose2d(refined, outputs, 4, 2, 1, bias=False)
        self.raw = nn.ConvTranspose2d(raw, outputs, 4, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, refined: Tensor, raw: Tensor) -> Tensor:
        return functional.relu(self.norm(self.refined(refined) + self.raw(raw)))


class FusionOutput(nn.Module):
    """Refined and raw features of one size → (B, outputs, h, w), the sum of a separable convolution of either."""

    def __init__(self, refined: int, raw: int, outputs: int) -> None:
        super().__init__()
        self.refined, self.raw = _separable(refined, outputs), _separable(raw, outputs)

    def forward(self, refined: Tensor, raw: Tensor) -> Tensor:
        return self.refined(refined) + self.raw(raw)


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, OUTPUT_KERNEL, padding=OUTPUT_KERNEL // 2, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.Conv2d(inputs, outputs, 1, bias=False))


class FusionDeconvolutionHead(nn.Module):
    """The backbone's five features → (B, 2 keypoints, H/4, W/4), heatmaps then tags, and heatmaps (B, keypoints, H/2, W/2).

    Args:
        channels: of the features at 1/2, 1/4, 1/8, 1/16 and 1/16 of the input.
        filters: of the three deconvolutions, coarsest first.
    """

    def __init__(self, channels: tuple[int, ...], filters: tuple[int, int, int], keypoints: int) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth, coarsest = channels
        first, second, third = filters
        self.deconvolutions = nn.ModuleList(
            [
                FusionDeconvolution(coarsest, sixteenth, first),
                FusionDeconvolution(first, eighth, second),
                FusionDeconvolution(second, quarter, third),
            ]
        )
        self.outputs = nn.ModuleList([FusionOutput(second, quarter, 2 * keypoints), FusionOutput(third, half, keypoints)])

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        half, quarter, eighth, sixteenth, coarsest = features
        to_eighth, to_quarter, to_half = self.deconvolutions
        at_quarter = to_quarter(to_eighth(coarsest, sixteenth), eighth)
        coarse, fine = self.outputs
        return coarse(at_quarter, quarter), fine(to_half(at_quarter, quarter), half)


class LitePose(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2K, H/4, W/4), heatmaps then tags, and heatmaps (B, K, H/2, W/2)."""

    def __init__(self, backbone: LitePoseBackbone, filters: tuple[int, int, int], keypoints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = FusionDeconvolutionHead(backbone.pyramid_channels, filters, keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.backbone(images))


def build(variant: Variant, published: bool = False) -> LitePose:
    """LitePose of the variant's shape, initialised as torch does it, which is as published (`published` changes nothing)."""
    shape = LITEPOSES[variant.backbone]
    return LitePose(LitePoseBackbone(shape), shape.filters, variant.num_keypoints)


_AUTHORS = {"refined": "deconv_refined.{}.", "raw": "deconv_raw.{}.", "norm": "deconv_bnrelu.{}.0."}


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code, which keeps one list per kind of layer in the head."""
    part, rest = key.split(".", 1)
    if part == "backbone":
        return "stage." + rest.removeprefix("stages.") if rest.startswith("stages.") else rest
    group, index, path, leaf = rest.split(".", 3)
    if group == "deconvolutions":
        return _AUTHORS[path].format(index) + leaf
    return f"final_{path}.{index}.conv.{leaf}"


METHOD = Method(
    "litepose",
    build,
    tuple(LITEPOSES),
    codec="associative_embedding",
    authors_key=authors_key,
    approach="images",
    label="",
    counting="summary_decimal",
)
