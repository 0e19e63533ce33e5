"""A training step of the demo's network against that of a plain network of as many multiply-adds, on one core.

The plain network is 3x3 convolutions and rectifiers down to the same maps: what a processor computes with the least waste. Both learn
from the same batch by the same codec and optimiser. Times are processor seconds, which other programs disturb less than a clock.
`ratio` is the plain network's time over the demo's. Run: python -m benchmarks.demo_step
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import pipelines.environment  # noqa: F401  (its import keeps freed memory, as the stages do)
from benchmarks import report
from components.models import costs, zoo
from components.train import recipe
from components.train.optimiser import build_optimiser
from components.train.step import eager_step

VARIANT, TURNS, STEPS, TARGET = "categorical_fused_fpn_synthetic_64x48_x2", 9, 4, 0.8
STRIDES = (2, 2, 1, 1)
MOST_UNEQUAL = 0.02  # share of the multiply-adds


class Plain(nn.Sequential):
    """(B, 3, H, W) images → maps (B, K, H/4, W/4): four 3x3 convolutions, the first half as wide as the others, and one of 1x1."""

    def __init__(self, width: int, maps: int) -> None:
        widths = (3, width, 2 * width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(pairwise(widths), STRIDES, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Conv2d(widths[-1], maps, 1))

    @staticmethod
    def macs(width: int, maps: int, cells: int) -> int:
        """Multiply-adds of one image whose maps have so many cells."""
        double = 2 * width
        return cells * (4 * 27 * width + 9 * width * double + 2 * 9 * double * double + double * maps)


class Enlarged(nn.Module):
    """A network on images enlarged as the demo's are; its maps as the codec takes them."""

    def __init__(self, upscale: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.upscale, self.network = upscale, network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network(self.upscale(images)),)


def stepping(model: nn.Module, codec: Any, settings: recipe.Recipe, images: Tensor, targets: dict[str, Tensor]) -> Callable[[], None]:
    """A call makes `STEPS` steps."""
    device = torch.device("cpu")
    model = model.to(memory_format=torch.channels_last).train()
    step = eager_step(model, codec, build_optimiser(model, settings, device, False), settings, device)

    def turn() -> None:
        for _ in range(STEPS):
            step(images, targets)

    return turn


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    variant = zoo.variant(VARIANT)
    settings = recipe.resolve(variant, recipe.load())
    ours, joints, (rows, columns) = zoo.build(variant), variant.num_keypoints, variant.heatmap_size
    wanted = costs.of_variant(variant).macs
    width = min(range(8, 256), key=lambda channels: abs(Plain.macs(channels, joints, rows * columns) - wanted))
    macs = Plain.macs(width, joints, rows * columns)
    if abs(macs / wanted - 1) > MOST_UNEQUAL:
        raise SystemExit(f"the plain network has {macs:,} multiply-adds, the demo's {wanted:,}")
    batch = settings.batch_size
    images, places = torch.randn(batch, 3, *variant.input_size), torch.rand(batch, joints, 2) * 47
    targets = ours.codec.targets(places, torch.ones(batch, joints, dtype=torch.bool))
    turns = {
        "plain": stepping(Enlarged(ours.model.upscale, Plain(width, joints)), ours.codec, settings, images, targets),
        "demo": stepping(ours.model, ours.codec, settings, images, targets),
    }
    seconds = report.interleave(turns, TURNS, clock=time.process_time)
    speeds = {name: round(6e-9 * macs * batch * STEPS / min(values), 1) for name, values in seconds.items()}
    row = report.row(
        "training step, plain network / demo's", seconds["plain"], seconds["demo"], TARGET, variant=VARIANT, batch=batch, macs=wanted,
        plain_macs=macs, plain_width=width, gflops_per_second=speeds,
    )  # fmt: skip
    report.write("demo_step", row, steps=STEPS, seconds=seconds)


if __name__ == "__main__":
    main()
