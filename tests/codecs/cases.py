"""The codecs, sizes and inputs that the tests are parametrised over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from components import codecs
from components.codecs.codec import CropCodec
from components.codecs.sharpose import SharposeCodec
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17

SIZES = {"64x48": (64, 48), "128x96": (128, 96), "256x192": (256, 192)}
PERMUTATION = list(COCO_17.flip_permutation)
NUM_KEYPOINTS = len(COCO_17)
STRIDES = {"super_resolution": 1, "simcc": 1}  # input px per cell, where it is not 4


@dataclass(frozen=True)
class Case:
    """A codec with settings, and what its round trip reaches.

    Attributes:
        tolerance: largest error, cells per axis, at the three sizes.
        margin: cells from the border at which it holds; nearer, blurs and differences reach over the edge.
    """

    name: str
    tolerance: tuple[float, float, float]
    margin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.settings.values())])

    def build(self, size: str) -> CropCodec:
        return make(self.name, size, **self.settings)


EXACT = (1e-4, 1e-4, 1e-4)
CASES = [
    Case("heatmap", (0.501, 0.501, 0.501)),
    Case("dark", (0.02, 0.02, 0.06), (1.5, 1.5, 3.0)),
    Case("dark_ranked", (0.02, 0.02, 0.06), (1.5, 1.5, 3.0)),
    Case("udp_gaussian", (0.002, 0.002, 0.001), (1.5, 1.5, 3.5)),
    Case("udp_offset", (1e-4, 0.12, 0.16), (0.0, 2.5, 5.0)),
    Case("categorical", (0.14, 0.02, 0.005), (2.0, 2.0, 4.0)),
    Case("cal", EXACT),
    Case("cal", EXACT, settings={"preset": "published_w32"}),
    Case("cal", EXACT, settings={"mask": "static"}),
    Case("super_resolution", (0.501, 0.501, 0.501)),
    Case("sharpose", (0.002, 0.002, 0.001), (1.5, 2.5, 5.5)),
    Case("simcc", (0.1667, 0.2501, 0.2501)),
    Case("simcc", (0.1667, 0.2501, 0.2501), settings={"target": "gaussian"}),
    Case("simcc", (0.2501, 0.2501, 0.2501), settings={"preset": "published", "split": 2.0}),
]


def make(name: str, size: str, **settings: Any) -> CropCodec:
    """The codec on the geometry of its own convention, with a map of its own stride."""
    (height, width), stride = SIZES[size], STRIDES.get(name, 4)
    geometry = CropGeometry((height, width), (height // stride, width // stride), codecs.convention_of(name))
    return codecs.build(name, geometry, COCO_17, **settings)


def people(codec: CropCodec, count: int = 6, margin: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keypoints (B, K, 2) float32 px of the crop, uniform over the map less `margin` cells, and visibility (B, K)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = codec.geometry.heatmap_size
    room = torch.tensor([columns - 1 - 2 * margin, rows - 1 - 2 * margin])
    cells = torch.rand(count, NUM_KEYPOINTS, 2, generator=generator) * room + margin
    visible = torch.rand(count, NUM_KEYPOINTS, generator=generator) < 0.8
    return codec.geometry.heatmap_to_crop(cells), visible


def noise(codec: CropCodec, count: int = 3, seed: int = 1) -> tuple[Tensor, ...]:
    """Random outputs of the codec's shape."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, *shape, generator=generator) for shape in codec.output_shapes)


def share_near(codec: CropCodec, outputs: tuple[Tensor, ...], targets: dict[str, Tensor]) -> float:
    """Share of the joints that decode to within 5 % of the map's sides of where the perfect outputs do.

    Args:
        outputs: of a network in training mode too; SHaRPose's are coarse heatmaps, fine heatmaps and quality.
    """
    fine = outputs[1:2] if isinstance(codec, SharposeCodec) and len(outputs) == 3 else outputs
    rows, columns = codec.geometry.heatmap_size
    error = codec.decode(tuple(output.detach() for output in fine))[0] - codec.decode(codec.perfect(targets))[0]
    near = (error * 20 / torch.tensor([columns, rows])).norm(dim=-1) < 1
    return float(near[targets["weights"] > 0].float().mean())


def edge_maps(rows: int, columns: int) -> Tensor:
    """(n, rows, columns) maps that have broken decoders."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")

    def bump(cx: float, cy: float, height: float = 1.0) -> Tensor:
        return height * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2)

    spike = torch.zeros(rows, columns)
    spike[rows // 2, columns // 2] = 1
    maps = [bump(cx, cy) for cx in (0, 1, columns - 2, columns - 1) for cy in (0, 1, rows - 2, rows - 1)]
    maps += [bump(-1.5, 4.0), bump(5.2, 7.6, 1e-8), bump(5.2, 7.6, 1e-38), bump(5.2, 7.6, 1e8), spike]
    maps += [torch.zeros(rows, columns), torch.full((rows, columns), 0.5), -bump(5, 5) - 1]
    maps += [torch.maximum(bump(3, 3), bump(8, 12)), torch.maximum(bump(6, 8), bump(7, 8)), (y == 8).float(), (x == 5).float()]
    maps += [torch.randn(rows, columns, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    return torch.stack(maps)
