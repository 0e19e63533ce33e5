"""The GPU table: training steps eager, as a CUDA graph and compiled, against their floors. Run: bash benchmarks/gpu.sh

Rows come in the order of their importance and within a time budget; what did not fit is named in the record, which is written anew after
each row, so that a killed run keeps what it measured. It goes to results/benchmarks/gpu.json, or into the folder $OUT if that is set.
Needs torch, torchvision, timm, numpy, OpenCV, pandas, pyarrow and scipy; no data.

    python -m benchmarks.gpu --check               what must hold of a GPU's steps, see `benchmarks.gpu_checks`
    python -m benchmarks.gpu --device cpu --tiny   every row on a CPU, one step of one crop: shows that the script runs
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.gpu_checks import check, repeatable
from benchmarks.gpu_steps import (
    EPOCHS,
    IMAGES,
    MOST_IMAGES,
    PERSONS,
    Floor,
    Kind,
    Shard,
    Trainee,
    floor_of,
    free,
    measured_peaks,
    milliseconds,
    synthetic_crops,
    synthetic_images,
    timed,
)
from components.base.config import REPOSITORY
from components.base.files import read_json, write_json
from components.models import zoo
from components.models.variant import Variant
from components.train import recipe as recipes
from components.train.recipe import Recipe

MINUTES = {128: 30.0, 256: 20.0}  # to reach, for 210 epochs of HRNet-W32 at 64x48, by batch size
GRAPHED_TARGET, OUTSIDE_TARGET, REPEATING_TARGET = 3.0, 0.10, 0.5
TIMED = "hrnet_w32_coco_64x48_fused"
COMPILE_SECONDS = 150.0  # the most that a compiled row may take
ROW_SECONDS = 25.0  # a row's time as long as none is known
LIMITED = ("ratio", "target", "spread")
TINY = 1  # crops a step of the dry run, whatever the batch


@dataclass(frozen=True)
class Row:
    """What is measured together: a variant at a batch size.

    Attributes:
        what: "step": eager, graphed and forward and backward alone; "compiled"; "repeating": kernels that repeat against the fastest.
    """

    variant: str
    batch: int
    what: str = "step"

    @property
    def name(self) -> str:
        return f"{self.what} {self.variant}, batch {self.batch}"


def plan() -> list[Row]:
    """All rows, the most important first."""
    others = ("cal_hrnet_w32_coco_64x48", "srpose_resnet50_coco_64x48", "sharpose_small_coco_64x48", "hrnet_w48_coco_64x48_fused")
    bottom_up = "higherhrnet_w32_coco_256"
    at = {size: [f"{name}_coco_{size}" for name in ("hrnet_w32", "cal_hrnet_w32", "srpose_resnet50", "sharpose_small", "hrnet_w48")]
          for size in ("128x96", "256x192")}  # fmt: skip
    return [
        *(Row(TIMED, batch) for batch in MINUTES),
        Row(TIMED, 128, "compiled"),
        *(Row(name, 128) for name in (*others, bottom_up)),
        *(Row(name, 256) for name in others),
        *(Row(name, 128) for size in at for name in at[size]),
        *(Row(name, 256) for name in at["128x96"]),
        Row(bottom_up, 256),
        Row("hrnet_w32_coco_64x48", 128),  # three branches, as published at 64x48
        Row("hrnet_w32_coco_64x48", 256),
        *(Row(name, 256) for name in at["256x192"]),
        Row(TIMED, 128, "repeating"),
        *(Row(name, 128, "compiled") for name in ("srpose_resnet50_coco_64x48", "sharpose_small_coco_64x48", "cal_hrnet_w32_coco_64x48")),
    ]


class Table:
    """Measures rows on one device and keeps the record.

    Args:
        tiny: a dry run: few crops, one step, no recording.
        path: the record, written after each row.
    """

    def __init__(self, device: torch.device, tiny: bool, path: Path, repeats: int, deadline: float) -> None:
        self.device, self.tiny, self.path, self.repeats, self.deadline = device, tiny, path, repeats, deadline
        self.recipe = recipes.load()
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self._shards: dict[str, Shard] = {}
        self._took: dict[str, float] = {}
        self._dry: dict[str, dict[str, Any]] = {}
        self.peaks = measured_peaks(device)

    def run(self, rows: list[Row]) -> None:
        """Measure as many rows as fit."""
        for position, row in enumerate(rows):
            left = self.deadline - time.monotonic()
            if left < self._took.get(row.what, 0.0 if self.tiny else ROW_SECONDS):
                self.skipped.append({"row": row.name, "why": f"{max(0.0, left):.0f} s of the time budget were left"})
                continue
            self.write([other.name for other in rows[position:]])
            started, number = time.monotonic(), len(self.rows)
            try:
                self.rows += [{**found, "device": self.device.type} for found in self.measure(row, left)]
            except RuntimeError as error:  # such as too little memory; the other rows go on
                self.skipped.append({"row": row.name, "why": str(error).splitlines()[0][:300]})
            self._took[row.what] = max(self._took.get(row.what, 0.0), time.monotonic() - started)
            free(self.device)
            for found in self.rows[number:]:
                print(_told(found), flush=True)
        self.write([])

    def write(self, waiting: list[str]) -> None:
        """The record of what is measured so far."""
        more = {"device": self.device.type, "dry_run": self.tiny, "peaks": self.peaks, "shards": self.told_shards()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, report.record("gpu", self.rows, **more, skipped=self.skipped, not_reached=waiting))

    def told_shards(self) -> dict[str, dict[str, float]]:
        return {kind: {"count": len(shard), "gib": round(shard.pixels.numel() * 4 / 2**30, 2)} for kind, shard in self._shards.items()}

    def shard(self, approach: str) -> Shard:
        """COCO's persons as stored crops, or as many whole images as leave room; one at a time is in memory."""
        if approach not in self._shards:
            self._shards.clear()
            free(self.device)
            count = 4 if self.tiny else PERSONS if approach == "crops" else MOST_IMAGES
            self._shards[approach] = (synthetic_crops if approach == "crops" else synthetic_images)(count, self.device)
        return self._shards[approach]

    def sized(self, variant: Variant, batch: int) -> Recipe:
        """The base recipe, whose augmentation fits the synthetic shards, at this batch size."""
        batch = TINY if self.tiny else batch
        return dataclasses.replace(self.recipe, batch_size=batch, num_threads=torch.get_num_threads())

    def measure(self, row: Row, left: float) -> list[dict[str, Any]]:
        variant = zoo.variant(row.variant)
        if row.what == "compiled":
            return [self.compiled(row, left)]
        recipe, shard = self.sized(variant, row.batch), self.shard(variant.approach)
        if row.what == "repeating":
            return [self.repeating(row, variant, recipe, shard)]
        kinds: tuple[Kind, ...] = ("graphed", "eager", "model") if self.device.type == "cuda" else ("eager", "model")
        found = self._dry.get(row.variant) or timed(
            variant, recipe, shard, kinds, 1 if self.tiny else self.repeats, 1 if self.tiny else None
        )
        if self.tiny:  # one crop is one crop, whatever the row's batch
            self._dry[row.variant] = found
        return self.rows_of(row, variant, recipe, found)

    def rows_of(self, row: Row, variant: Variant, recipe: Recipe, found: dict[str, Any]) -> list[dict[str, Any]]:
        """Graphed against eager, minutes for COCO, share of the step outside the model, and how far from the floors."""
        seconds, what = found["seconds"], f"{row.variant}, batch {row.batch}"
        best = seconds.get("graphed", seconds["eager"])
        samples = PERSONS if variant.approach == "crops" else IMAGES
        minutes = [value * EPOCHS * (samples // recipe.batch_size) / 60 for value in best]
        outside = [1 - model / whole for model, whole in zip(seconds["model"], best, strict=True)]
        facts = {f"{kind}_ms": milliseconds(values) for kind, values in seconds.items()}
        facts |= {key: found[key] for key in ("memory_mib", "waits_per_step", "steps_per_turn", "interleaved")}
        facts |= {"samples_per_step": recipe.batch_size}
        facts |= self.against_floors(floor_of(variant), recipe.batch_size, statistics.median(best))
        target = MINUTES[row.batch] if row.variant.startswith("hrnet_w32_coco_64x48") else None
        return [
            report.row(f"eager / graphed step, {what}", seconds["eager"], best, GRAPHED_TARGET, **facts),
            _limit(f"210 epochs of COCO, minutes, {what}", target, minutes),
            _limit(f"share of the step outside the model, {what}", OUTSIDE_TARGET, outside),
        ]

    def against_floors(self, floor: Floor, batch: int, seconds: float) -> dict[str, float]:
        """Operations and bytes a second that the step reaches, and as shares of what this device does at most."""
        flops, moved = 2 * floor.macs * batch, floor.passes_bytes * batch
        compute, memory = flops / self.peaks["flops_per_second"], moved / self.peaks["bytes_per_second"]
        return {
            "tflops_per_second": flops / seconds / 1e12,
            "tbytes_per_second": moved / seconds / 1e12,
            "compute_floor_ms": 1e3 * compute,
            "byte_floor_ms": 1e3 * memory,
            "step_over_floor": seconds / max(compute, memory),
        }

    def repeating(self, row: Row, variant: Variant, recipe: Recipe, shard: Shard) -> dict[str, Any]:
        """What kernels that repeat cost (`deterministic: true`): a step with the fastest kernels against one with those."""
        kind: Kind = "graphed" if self.device.type == "cuda" else "eager"
        steps, trainees = 1 if self.tiny else 30, {"fast": Trainee(variant, recipe, shard, kind)}
        with repeatable(tf32=True):
            trainees["repeatable"] = Trainee(variant, recipe, shard, kind)
        seconds = report.interleave({name: trainee.many(steps) for name, trainee in trainees.items()}, 1 if self.tiny else self.repeats)
        facts = {f"{name}_ms": milliseconds(values) / steps for name, values in seconds.items()}
        name = f"fastest / repeatable kernels, {row.variant}, batch {row.batch}"
        return report.row(name, seconds["fast"], seconds["repeatable"], REPEATING_TARGET, **facts)

    def compiled(self, row: Row, left: float) -> dict[str, Any]:
        """Compiled steps, measured by a process of its own that may take `COMPILE_SECONDS`.

        Raises:
            RuntimeError: nothing was measured; says why.
        """
        if self.device.type != "cuda":
            raise RuntimeError("torch.compile on a CPU takes minutes and tells nothing of a GPU")
        limit, part = min(COMPILE_SECONDS, left), self.path.with_name(f".compiled_{row.variant}_{row.batch}.json")
        part.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.gpu", "--compiled", row.variant, str(row.batch), str(part)]
        process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)
        try:
            _, told = process.communicate(timeout=limit)
            why = told.strip().splitlines()[-1][:300] if process.returncode and told.strip() else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its compiler's workers too
            process.wait()
            why = f"stopped after {limit:.0f} s"
        if not part.is_file():
            raise RuntimeError(f"nothing compiled: {why}")
        facts = read_json(part)
        part.unlink()
        known = [other for other in self.rows if other["name"] == f"eager / graphed step, {row.variant}, batch {row.batch}"]
        graphed = known[0]["graphed_ms"] if known else None
        times = [facts[key] for key in ("compiled_ms", "compiled_graphed_ms") if key in facts]
        ratio = round(graphed / min(times), 3) if graphed else None
        name = f"graphed / compiled step, {row.variant}, batch {row.batch}"
        return {"name": name, "ratio": ratio, "target": 1.0, "n": facts["n"], "spread": facts["spread"], **facts, "stopped": why}


def compile_and_time(variant: str, batch: int, path: Path) -> None:
    """The child's work: the compiled step, and then the compiled network in a graph of the whole step; what is done is on disk."""
    device, facts = torch.device("cuda"), dict[str, Any]()
    torch.backends.cudnn.benchmark = True
    recipe, shard = dataclasses.replace(recipes.load(), batch_size=batch), synthetic_crops(8192, device)
    kinds: tuple[Kind, ...] = ("compiled", "compiled_graphed")
    for kind in kinds:
        started = time.perf_counter()
        trainee = Trainee(zoo.variant(variant), recipe, shard, kind)
        trainee.many(3)()
        facts[f"{kind}_first_seconds"] = round(time.perf_counter() - started, 1)
        seconds = [value / 20 for value in report.interleave({kind: trainee.many(20)}, 3)[kind]]
        facts |= {f"{kind}_ms": milliseconds(seconds), "n": len(seconds)}
        facts["spread"] = [round(1e3 * edge, 3) for edge in (min(seconds), max(seconds))]
        write_json(path, facts)
        del trainee
        free(device)


def _limit(name: str, limit: float | None, values: list[float]) -> dict[str, Any]:
    """A row for values that must stay below a limit, if they have one; the ratio is limit over value, 100 at most."""
    ratios = [] if limit is None else [limit / max(value, limit / 100) for value in values]
    said = {"ratio": statistics.median(ratios), "target": 1.0, "spread": [min(ratios), max(ratios)]} if ratios else dict.fromkeys(LIMITED)
    return {"name": name, "n": len(values), **said, "median": statistics.median(values), "limit": limit}


def _told(row: dict[str, Any]) -> str:
    """One line of the table."""
    shown = ("median", "eager_ms", "graphed_ms", "model_ms", "compiled_ms", "compiled_graphed_ms", "memory_mib", "tflops_per_second",
             "tbytes_per_second", "step_over_floor", "waits_per_step")  # fmt: skip
    ratio = f"{row['ratio']:8.2f}" if row["ratio"] is not None else " " * 8
    return f"{row['name']:78}{ratio}" + "".join(f"  {key} {row[key]:.4g}" for key in shown if row.get(key) is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a dry run: one crop, one step")
    parser.add_argument("--minutes", type=float, default=8.5, help="time budget; rows that do not fit are named")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="rows whose name has one of these words")
    parser.add_argument("--check", action="store_true", help="check the GPU's steps instead of timing them")
    parser.add_argument("--compiled", nargs=3, metavar=("VARIANT", "BATCH", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    started, device = time.monotonic(), torch.device(arguments.device)
    if arguments.compiled:
        variant, batch, path = arguments.compiled
        compile_and_time(variant, int(batch), Path(path))
        return
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing is measured (a dry run: python -m benchmarks.gpu --device cpu --tiny)")
    if device.type == "cpu" and not arguments.tiny:
        sys.exit("on a CPU there is a dry run alone: --device cpu --tiny")
    out = Path(os.environ.get("OUT") or (report.RESULTS if device.type == "cuda" else REPOSITORY / "scratch" / "gpu"))
    if arguments.check:
        results = check(minutes=arguments.minutes, names=arguments.only)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "gpu_checks.json", report.record("gpu", results))
        failed = [result["case"] for result in results if result["passed"] is False]
        missed = [result["case"] for result in results if result["passed"] is None]
        print(f"failed: {', '.join(failed) or 'none'}; not reached: {', '.join(missed) or 'none'}")
        sys.exit(1 if failed else 0)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    rows = [row for row in plan() if not arguments.only or any(word in row.name for word in arguments.only)]
    table = Table(device, arguments.tiny, out / "gpu.json", arguments.repeats, started + 60 * arguments.minutes)
    table.run(rows)
    for one in table.skipped:
        print(f"not measured: {one['row']}: {one['why']}")
    print(f"{len(table.rows)} results of {len(rows)} rows, {time.monotonic() - started:.0f} s: {table.path}")


if __name__ == "__main__":
    main()
