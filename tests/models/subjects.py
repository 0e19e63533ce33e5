"""The networks whose properties are tested, and weights that make them say something."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import codecs
from components.codecs.codec import Codec
from components.degrade.augment import normalise
from components.models import zoo
from components.models.costs import Costs
from components.models.variant import Network, Variant, methods
from components.models.weights import load_weights, save_weights
from pipelines import counts

TINY = ("hrnet_tiny", "resnet18", "hrformer_tiny", "transpose_tiny", "tokenpose_tiny", "vit_tiny", "efficientvit_tiny", "litepose_tiny")
TOP_DOWN = [name for name, method in methods().items() if method.approach == "crops"]
BOTTOM_UP = [name for name, method in methods().items() if method.approach == "images"]  # tests/models/test_bottom_up.py
SWITCHES = [  # networks that differ from a method's plain one
    ("hrnet", "hrnet_tiny", {"branches": 3}),
    ("udp_offset", "hrnet_tiny", {"upscale": "bicubic"}),
    ("cal", "hrnet_tiny", {"offset_width": 8}),
    ("siu", "hrnet_tiny", {"downsample": "convolution"}),
    ("hrformer", "hrformer_tiny", {"relative_positions": True}),
    ("sharpose", "vit_tiny", {"keep": 1.0}),
]


def small_variant(
    method: str, backbone: str, size: tuple[int, int] | None = None, branches: int = 4, network: Network | dict[str, Any] | None = None
) -> Variant:
    """A variant of COCO's joints that no table holds.

    Args:
        size: (height, width), px; by default 64x48, bottom-up 64x64.
    """
    record = methods()[method]
    label, bottom_up = record.label, record.approach == "images"
    size = size or ((64, 64) if bottom_up else (64, 48))
    end = str(size[0]) if bottom_up else f"{size[0]}x{size[1]}"
    parts = [method if label is None else label, backbone.removeprefix(record.drops), "coco", end]
    name = "_".join(part for part in parts if part)
    codec = {"outputs": 1} if method == "simple_bottomup" else {}
    return Variant(name, method, backbone, "coco", size, network=network if network is not None else Network(branches), codec=codec)


def _small() -> dict[str, Variant]:
    """Every top-down method on every tiny backbone that it runs on, and with its switches."""
    plain = [small_variant(method, backbone) for method in TOP_DOWN for backbone in TINY if backbone in methods()[method].backbones]
    switched = {}
    for method, backbone, network in SWITCHES:
        settings = "_".join(f"{name}_{value}" for name, value in network.items())
        variant = small_variant(method, backbone, network=network)
        switched[f"{variant.name}_{settings}"] = variant
    return {variant.name: variant for variant in plain} | switched


def _large() -> dict[str, Variant]:
    """The smallest published row of every top-down method on every other backbone, and with an enlarged input.

    SPSR's generator (161 GMAC for a crop of 64x48) is left out.
    """
    smallest: dict[tuple[object, ...], Variant] = {}
    for variant in zoo.load_variants().values():
        key = variant.method, variant.backbone, variant.upscale
        if variant.backbone in TINY or variant.upscale == "spsr" or variant.approach == "images":
            continue
        if key not in smallest or _amount(variant) < _amount(smallest[key]):
            smallest[key] = variant
    return {variant.name: variant for variant in smallest.values()}


def _amount(variant: Variant) -> int:
    return math.prod(variant.input_size) * variant.num_keypoints


SMALL, LARGE = _small(), _large()
STORED = counts.stored()


def representatives() -> list[Any]:
    """All of `SMALL` and `LARGE` as parameters; quick to test are one small network of each method, each backbone and each switch."""
    quick = [name for name, variant in SMALL.items() if name != variant.name]
    for wanted in ("method", "backbone"):
        quick += {getattr(variant, wanted): name for name, variant in reversed(SMALL.items())}.values()
    every = SMALL | LARGE
    return [pytest.param(variant, id=name, marks=() if name in quick else pytest.mark.slow) for name, variant in every.items()]


def crops(variant: Variant, count: int) -> np.ndarray:
    """(N, 3, H, W) uint8: blobs of any size and colour, with structure at every scale as pictures have it."""
    generator = torch.Generator().manual_seed(count)
    image = torch.zeros(count, 3, *variant.input_size)
    for cells in (3, 12, 48):
        coarse = torch.rand(count, 3, cells, cells, generator=generator) * 85
        image += nn.functional.interpolate(coarse, variant.input_size, mode="bilinear")
    return image.to(torch.uint8).numpy()


def images(variant: Variant, count: int) -> Tensor:
    """Normalised crops (B, 3, H, W)."""
    return normalise(torch.from_numpy(crops(variant, count)))


def codec_of(variant: Variant) -> Codec:
    return codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec)


def people(codec: Codec, count: int, margin: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Joints (B, K, 2) float32 anywhere on the map less `margin` cells, px of the crop, and visibility (B, K)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = codec.geometry.heatmap_size
    room = torch.tensor([columns - 1 - 2 * margin, rows - 1 - 2 * margin])
    cells = torch.rand(count, codec.num_keypoints, 2, generator=generator) * room + margin
    return codec.geometry.heatmap_to_crop(cells), torch.rand(count, codec.num_keypoints, generator=generator) < 0.8


def network(variant: Variant) -> nn.Module:
    """The variant's network in eval mode, see `spread`."""
    return spread(zoo.network(variant), images(variant, 8))


def counted_for(name: str) -> Costs:
    """Costs of a variant as kept in results/costs.json, which test_costs.py compares with its network."""
    return counts.of_variant(zoo.variant(name), STORED)


def check_saved_weights(variant: Variant, path: Path) -> None:
    """Assert that the variant's network, saved and loaded into a fresh one, gives the same outputs."""
    model = network(variant)
    save_weights(path, model, {"variant": variant.name})
    torch.manual_seed(7)
    other = zoo.network(variant).eval()
    other.load_state_dict(load_weights(path, variant))
    batch = images(variant, 2)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(batch), other(batch), strict=True))


def spread(model: nn.Module, batch: Tensor) -> nn.Module:
    """Weights far from the initial ones, so that maps have structure and nothing is equal by chance; in eval mode.

    Every matrix is drawn from N(0, 1 / fan-in), norms near identity, tokens and positions from N(0, 0.5²), each by its name;
    batch norms then take the batch's statistics, so that a deep network neither fades nor explodes.
    """
    for name, value in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randn(value.shape, generator=generator)
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            drawn *= 1 / math.sqrt(value[0].numel()) if value.ndim > 1 else 0.1
        elif value.ndim == 1:
            drawn = 0.1 * drawn + float(name.endswith("weight"))
        else:
            drawn *= 0.5
        if value.requires_grad:
            value.data.copy_(drawn)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(batch)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
