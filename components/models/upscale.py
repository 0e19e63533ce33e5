"""Enlarge the input before a pose network sees it: the "+SPSR" rows of CAL's table, bicubic as their control, and bilinear.

Wang, Zhang, Zhu, Ge 2022 print the rows without code. The sizes suggest that a crop of 64x48 becomes 256x192 for an ordinary
network with four branches, which has one cell per px of the crop. The paper does not say whether the pose network was trained on
enlarged crops; ours is, with a frozen generator.

Networks that were trained on sharp images of 192 px and more see small crops best when they are enlarged; bilinear is the cheapest way
and, unlike the others, takes any factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD
from components.models.spsr import Generator
from components.models.variant import UPSCALE, Upscaling, Variant
from components.models.weights import load_weights

GENERATOR = "spsr_x4"  # its name for `farpose import-weights` and `official.load`
DEFAULT_WEIGHTS = f"artifacts/weights/{GENERATOR}.safetensors"
PART = "upscale."  # of the keys in the network's state_dict that an enlarged input adds,
PREFIX = f"{PART}generator."  # and of the generator's


class Upscale(nn.Module):
    """(B, 3, H, W) normalised images → (B, 3, factor H, factor W) normalised images.

    Bicubic and SPSR work on RGB in [0, 1], as SPSR was trained, and their output is clamped to it. Bilinear cannot leave it.
    """

    def __init__(self, kind: Upscaling, factor: float = UPSCALE) -> None:
        super().__init__()
        self.kind, self.factor = kind, factor
        self.generator = Generator() if kind == "spsr" else None

    def forward(self, images: Tensor) -> Tensor:
        size = [_enlarged_side(side, self.factor) for side in images.shape[-2:]]
        if self.kind == "bilinear":
            return functional.interpolate(images, size, mode="bilinear", align_corners=False)
        mean, deviation = _per_channel(IMAGENET_MEAN, images), _per_channel(IMAGENET_STD, images)
        pixels = images * deviation + mean
        if self.generator is None:
            enlarged = functional.interpolate(pixels, size, mode="bicubic", align_corners=False)
        else:
            enlarged = self.generator(pixels)[1]
        return (enlarged.clamp(0, 1) - mean) / deviation


def _enlarged_side(side: int, factor: float) -> int:
    """px. While a graph is traced a side is a tensor: it cannot be rounded, but a whole factor needs no rounding."""
    return side * int(factor) if factor == int(factor) else round(int(side) * factor)


def _per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """(1, 3, 1, 1); made by fills, because a copy from the host cannot be recorded in a CUDA graph."""
    return torch.cat([like.new_full((1, 1, 1, 1), value) for value in values], 1)


def enlarge_input(network: nn.Module, kind: Upscaling, factor: float = UPSCALE) -> nn.Module:
    """Make `network` enlarge its images first, in place. Its own parameters keep their names; the generator's follow `PREFIX`.

    The generator's weights are drawn at random here: `load_generator` or a trained network's state_dict replaces them.
    """
    network.add_module("upscale", Upscale(kind, factor))
    network.register_forward_pre_hook(_enlarged)
    return network


def _enlarged(network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (network.get_submodule("upscale")(*inputs),)


def load_generator(network: nn.Module, variant: Variant) -> None:
    """Put the published generator's weights into `network`, where its variant has one.

    Raises:
        FarposeError: the file is not there, damaged, or holds something else.
    """
    if variant.upscale == "spsr":
        network.load_state_dict(generator_state(variant), strict=False)


def generator_state(variant: Variant) -> dict[str, Tensor]:
    """The generator's weights under the network's keys, from `network.upscale_weights`.

    Raises:
        FarposeError: as `load_generator`.
    """
    shown = getattr(variant.network, "upscale_weights", None) or DEFAULT_WEIGHTS
    path = _weights_file(variant)
    if not path.is_file():
        raise FarposeError(f"the weights of SPSR's generator are not there: {shown}", where=f"variant {variant.name}",
                           fix=f"`farpose import-weights {GENERATOR} FILE` makes them of the authors' file")  # fmt: skip
    return {PREFIX + key: value for key, value in load_weights(path, GENERATOR).items()}


def with_generator(variant: Variant, state: Mapping[str, Any]) -> dict[str, Any]:
    """`state`, a checkpoint of the variant's network, and the generator's weights where the variant needs and the state lacks them.

    Raises:
        FarposeError: as `load_generator`.
    """
    if variant.upscale != "spsr" or any(key.startswith(PREFIX) for key in state):
        return dict(state)
    return {**state, **generator_state(variant)}


def weights_digest(variant: Variant) -> str | None:
    """SHA-256 of the generator's file; None where the variant has none or the file is not there."""
    path = _weights_file(variant)
    return sha256_of(path) if variant.upscale == "spsr" and path.is_file() else None


def _weights_file(variant: Variant) -> Path:
    return REPOSITORY / (getattr(variant.network, "upscale_weights", None) or DEFAULT_WEIGHTS)
