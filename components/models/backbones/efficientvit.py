"""EfficientViT-L: convolutions at the fine strides, multi-scale linear attention at the coarsest.

Cai, Li, Hu, Gan, Han 2023, "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction" (L1);
Zhang, Cai, Han 2024, "EfficientViT-SAM" (L0).

The layers are timm's, whose `efficientvit_l1` is this network; L0 is the same with fewer blocks, which timm does not name. The
attention runs in float32 with autocast off, as published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from components.models.backbones.imagenet import ImageNetBackbone

ATTENTION_EPS = 1e-15  # added to the attention's normaliser, as published; timm's own is 1e-5


@dataclass(frozen=True)
class EfficientViTShape:
    """How wide and how deep an EfficientViT-L is.

    Attributes:
        widths: channels of the stem (stride 2) and of stages 1 to 4 (strides 4 to 32).
        depths: residual blocks in the stem, and after the halving block of each stage; those of stage 4 hold the attention.
        head_dim: channels of one attention head.
        norm_eps: of the batch norms. The pose code has torch's 1e-5; the classifiers published for ImageNet were trained with 1e-7.
    """

    name: str
    widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    depths: tuple[int, int, int, int, int] = (1, 1, 1, 6, 6)
    head_dim: int = 32
    norm_eps: float = 1e-5


class EfficientViT(ImageNetBackbone):
    """(B, 3, H, W) normalised images → (B, channels, ⌈H/32⌉, ⌈W/32⌉), initialised as torch's layers are.

    The small initial weights of the other pose networks cannot be used: two in three convolutions of stages 3 and 4 have no batch
    norm after them, and the signal would vanish.
    """

    def __init__(self, shape: EfficientViTShape) -> None:
        from timm.models.efficientvit_mit import EfficientVitLarge, LiteMLA

        super().__init__()
        self.shape = shape
        self.channels = shape.widths[-1]
        classifier = EfficientVitLarge(
            widths=shape.widths, depths=shape.depths, head_dim=shape.head_dim, norm_eps=shape.norm_eps, num_classes=0, head_widths=(1, 1)
        )
        self.stem, self.stages = classifier.stem, classifier.stages
        for module in self.stages.modules():
            if isinstance(module, LiteMLA):
                module.eps = ATTENTION_EPS

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.stem(images))

    def imagenet_names(self, keys: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, str]:
        """The authors' names where `weights` has them, timm's otherwise."""
        theirs = {key: authors_name(key) for key in keys}
        first = next(iter(theirs.values()))
        return theirs if any(given.endswith(first) for given in weights) else {key: key for key in theirs}


def authors_name(key: str) -> str:
    """The name of a backbone's key (without `backbone.`) in the authors' code, which counts the stem as stage 0."""
    key = key.replace("stem.in_conv.", "stages.0.op_list.0.")
    key = re.sub(r"^stem\.res(\d+)\.", lambda block: f"stages.0.op_list.{int(block[1]) + 1}.", key)
    return re.sub(r"^stages\.(\d+)\.blocks\.", lambda stage: f"stages.{int(stage[1]) + 1}.op_list.", key)


EFFICIENTVITS: dict[str, EfficientViTShape] = {
    shape.name: shape
    for shape in (
        EfficientViTShape("efficientvit_l0", depths=(1, 1, 1, 4, 4)),
        EfficientViTShape("efficientvit_l1", depths=(1, 1, 1, 6, 6)),
        EfficientViTShape("efficientvit_tiny", widths=(8, 16, 32, 64, 128), depths=(1, 1, 1, 1, 1), head_dim=16),
    )
}
