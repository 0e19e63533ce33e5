"""Milliseconds per person of variants against MoveNet, on one thread with ONNX Runtime. Run: python -m benchmarks.inference --peers

All networks take turns in one run: variants at their input size, MoveNet Lightning at 192x192 and Thunder at 256x256 with all four
branches, as published. One upright pass of the network alone: without cutting the crop, decoding, or the flip test, which doubles it.
Weights are random, which does not change the time.

`ms` is wall time per person at batch 1, `cpu_ms` the thread's processor time, which other programs on a busy machine disturb less;
`persons_per_second` is at batch 64. Ultralight-Nano-SimplePose cannot be timed here, because its weights are not at hand: its row
quotes a time measured elsewhere beside Lightning's and says what that makes of it on this machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import report
from components.base.config import PARAMS, load_yaml
from components.models import export, zoo
from components.models.backbones.mobilenet_fpn import BRANCH, Separable, build_mobilenet
from components.models.movenet import BRANCHES

EXAMPLE = PARAMS / "examples" / "coco_pretrained" / "pipeline.yaml"
MOVENETS = {"MoveNet Lightning 192x192": ("mobilenet_fpn", 192), "MoveNet Thunder 256x256": ("mobilenet_fpn_175", 256)}
LIGHTNING = next(iter(MOVENETS))
QUOTED = {"name": "Ultralight-Nano-SimplePose", "ms": (11.0, 12.0), "lightning_ms": (13.0, 16.0)}  # one thread, measured elsewhere
ALLOWED = {"categorical_mobilenet_fpn_coco_64x48_x2": 0.7, "dark_ranked_mobilenet_fpn_coco_64x48_x4_averaged": 1.7}  # of the quoted time
BATCH = 64
CALLS = 10  # of batch 1 per turn


class MoveNet(nn.Module):
    """(B, 3, H, W) normalised images → maps at a quarter of the size of MoveNet's branches: centre, heatmaps, regression, offsets."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = build_mobilenet(backbone)
        width = self.backbone.pyramid_channels
        self.branches = nn.ModuleList(
            nn.Sequential(Separable(width, BRANCH), nn.Conv2d(BRANCH, outputs, 1)) for _, outputs in BRANCHES.values()
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        finest = self.backbone.pyramid(images)
        return tuple(branch(finest) for branch in self.branches)


@dataclass
class Subject:
    """One network on one batch size; seconds of every turn, wall and processor time of a call."""

    name: str
    batch: int
    call: Callable[[], Any]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take_turn(self) -> None:
        """Time some calls; their median, or of processor time their mean, is the turn."""
        self.call()
        walls, before = [], time.process_time()
        for _ in range(CALLS if self.batch == 1 else 1):
            start = time.perf_counter()
            self.call()
            walls.append(time.perf_counter() - start)
        self.wall.append(statistics.median(walls))
        self.cpu.append((time.process_time() - before) / len(walls))


def default_variants() -> list[str]:
    """The variants of the example that made the first released models, without seeds, and the released one."""
    named = load_yaml(EXAMPLE)["variants"]
    return list(dict.fromkeys([*(name for name in named if "_seed" not in name), *ALLOWED]))


def subjects(variants: Sequence[str], folder: Path) -> list[Subject]:
    """Every network on both batch sizes, as ONNX files in `folder`."""
    torch.manual_seed(0)
    networks = [(name, MoveNet(backbone), (side, side)) for name, (backbone, side) in MOVENETS.items()]
    for name in variants:
        variant = export.exported_form(zoo.variant(name))
        networks.append((name, zoo.network(variant), variant.input_size))
    made = []
    for number, (name, network, size) in enumerate(networks):
        path = folder / f"{number}.onnx"
        export.to_onnx(network.eval(), size, path)
        run = export.runtime(path, threads=1)
        for batch in (1, BATCH):
            images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
            made.append(Subject(name, batch, lambda run=run, images=images: run(images)))
    return made


def lines_of(timed: Sequence[Subject]) -> list[dict[str, Any]]:
    """One line per network; the quoted one last."""
    alone, many = ({one.name: one for one in timed if one.batch == batch} for batch in (1, BATCH))
    lightning = alone[LIGHTNING]
    lines = [
        {
            "network": name,
            "ms": round(1e3 * statistics.median(one.wall), 2),
            "cpu_ms": round(1e3 * statistics.median(one.cpu), 2),
            "turns_ms": [round(1e3 * turn, 2) for turn in one.wall],
            "persons_per_second": round(BATCH / statistics.median(many[name].wall), 1),
            "cpu_persons_per_second": round(BATCH / statistics.median(many[name].cpu), 1),
            "against_lightning": round(statistics.median(one.cpu) / statistics.median(lightning.cpu), 3),
        }
        for name, one in alone.items()
    ]
    ratio = statistics.fmean(QUOTED["ms"]) / statistics.fmean(QUOTED["lightning_ms"])
    low, high = (f"{low:g}–{high:g} ms" for low, high in (QUOTED["ms"], QUOTED["lightning_ms"]))
    source = f"not timed here: {low} where MoveNet Lightning took {high}, one thread, measured elsewhere"
    here = 1e3 * statistics.median(lightning.cpu) * ratio
    return [*lines, {"network": QUOTED["name"], "cpu_ms": round(here, 2), "against_lightning": round(ratio, 3), "source": source}]


def measure(variants: Sequence[str], repeats: int, folder: Path, **more: Any) -> Path:
    """Time all networks in turns and write results/benchmarks/inference_peers.json.

    Args:
        more: further facts for the record.
    """
    torch.set_num_threads(1)
    timed = subjects(variants, folder)
    for _ in range(repeats):
        for subject in timed:
            subject.take_turn()
    lines = lines_of(timed)
    for line in lines:
        speed = f"{line['cpu_persons_per_second']:8.1f} persons/s" if "cpu_persons_per_second" in line else line["source"]
        wall = f"{line['ms']:8.2f} ms" if "ms" in line else " " * 11
        print(
            f"{line['network']:46}{wall} {line['cpu_ms']:8.2f} ms of processor time {line['against_lightning']:6.2f}x  {speed}", flush=True
        )
    cpu = {one.name: one.cpu for one in timed if one.batch == 1}
    rows = [report.row(f"{LIGHTNING} / {name}, processor time, one thread", cpu[LIGHTNING], cpu[name], 1.0) for name in variants]
    quoted = [turn * lines[-1]["against_lightning"] for turn in cpu[LIGHTNING]]
    rows += [
        report.row(f"{QUOTED['name']}, quoted / {name}, processor time, one thread", quoted, cpu[name], round(1 / share, 3))
        for name, share in ALLOWED.items()
        if name in cpu
    ]
    return report.write("inference_peers", rows, threads=1, measured=lines, **more)
