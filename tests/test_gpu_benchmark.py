"""The GPU table: its checks and its rows run on a CPU, its floors are those of docs and papers, and what did not fit is named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_checks, report
from benchmarks.gpu_cases import Run, Shards, cases
from benchmarks.gpu_steps import floor_of, synthetic_crops, synthetic_images
from components.base.config import REPOSITORY
from components.base.files import read_json
from components.models import zoo

CPU = torch.device("cpu")
PERSONS = 149_813
# of one epoch on a device of 790 TFLOP/s and 4.3 TB/s, counted by hand with other code: s of arithmetic, s of memory
FLOORS = {
    "hrnet_w32_coco_64x48_fused": (0.56, 1.26),
    "hrnet_w48_coco_64x48_fused": (1.16, 1.67),
    "hrnet_w32_coco_128x96": (2.17, 4.99),
    "hrnet_w48_coco_256x192": (17.85, 26.55),
    "simple_resnet50_coco_256x192": (6.13, 12.51),
}


@pytest.mark.parametrize("name", FLOORS)
def test_floors_are_those_that_other_code_counted(name: str) -> None:
    floor = floor_of(zoo.variant(name))
    seconds = 2 * floor.macs * PERSONS / 790e12, floor.passes_bytes * PERSONS / 4.3e12
    assert seconds == pytest.approx(FLOORS[name], rel=0.02)


def test_a_transformer_s_floor_is_what_it_saves() -> None:
    """Twice the tokens per side save four times as much at least, and its parameters are not among it."""
    small, large = (floor_of(zoo.variant(f"sharpose_small_coco_{size}")).passes_bytes for size in ("64x48", "128x96"))
    assert small > 3 * 2 * 12 * (16 * 12 // 4) * 384 and large >= small


def test_every_row_is_a_variant_and_the_most_important_comes_first() -> None:
    rows = gpu.plan()
    assert len(set(rows)) == len(rows) and {row.batch for row in rows} == set(gpu.MINUTES)
    assert all(zoo.variant(row.variant).skeleton.name == "coco_17" for row in rows)
    assert [row.name for row in rows[:3]] == [
        f"{what} {gpu.TIMED}, batch {batch}" for what, batch in (("step", 128), ("step", 256), ("compiled", 128))
    ]
    wanted = {"hrnet_w32", "hrnet_w48", "cal_hrnet_w32", "srpose_resnet50", "sharpose_small"}
    for size in ("64x48", "128x96", "256x192"):
        assert wanted <= {row.variant.partition("_coco")[0] for row in rows if size in row.variant}
    assert any(row.variant.startswith("higherhrnet") for row in rows)


@pytest.mark.parametrize("make", [synthetic_crops, synthetic_images])
def test_synthetic_shards_repeat_and_have_every_joint_inside(make) -> None:
    shard, again = make(3, CPU), make(3, CPU)
    assert torch.equal(shard.pixels, again.pixels) and len(shard) == 3
    assert len(shard.pixels) == 3 * int(shard.height[0]) * int(shard.width[0])
    assert int(shard.pixels.min()) >= 0 and int(shard.pixels.max()) >> 24 in (0, 127)
    x, y = shard.keypoints_image.double().unbind(-1)
    assert bool(((x > 0) & (x < int(shard.width[0])) & (y > 0) & (y < int(shard.height[0]))).all())


def dry_run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", *options]
    environment = {**os.environ, "OUT": str(out), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1700)


def test_a_dry_run_measures_rows_and_names_what_did_not_fit(tmp_path: Path) -> None:
    measured = report.RESULTS / "gpu.json"
    before = measured.read_bytes()
    done = dry_run(tmp_path, "--only", "srpose_resnet50_coco_64x48")
    assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "gpu.json")
    assert record["device"] == "cpu" and record["dry_run"] is True and record["shards"]["crops"]["count"] == 4
    assert all(row["device"] == "cpu" for row in record["results"])
    first = record["results"][0]
    assert first["name"] == "eager / graphed step, srpose_resnet50_coco_64x48, batch 128" and first["ratio"] == 1
    assert first["eager_ms"] > 0 and first["model_ms"] > 0 and "graphed_ms" not in first and first["samples_per_step"] == 1
    floor = floor_of(zoo.variant("srpose_resnet50_coco_64x48"))
    assert first["tflops_per_second"] == pytest.approx(2 * floor.macs / first["eager_ms"] / 1e9, rel=1e-3)
    assert [one["row"] for one in record["skipped"]] == ["compiled srpose_resnet50_coco_64x48, batch 128"]
    assert "on a CPU takes minutes" in record["skipped"][0]["why"]
    assert measured.read_bytes() == before


def test_a_spent_budget_starts_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "measured_peaks", lambda device: {"flops_per_second": 1.0, "bytes_per_second": 1.0})
    table = gpu.Table(CPU, True, tmp_path / "gpu.json", 1, time.monotonic() - 1)
    table.run(gpu.plan()[:2])
    assert table.rows == [] and [one["row"] for one in table.skipped] == [row.name for row in gpu.plan()[:2]]
    assert read_json(tmp_path / "gpu.json")["skipped"] == table.skipped


def test_a_row_that_fails_is_named_and_a_killed_run_keeps_the_rows_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "measured_peaks", lambda device: {"flops_per_second": 1.0, "bytes_per_second": 1.0})
    table = gpu.Table(CPU, True, tmp_path / "gpu.json", 1, time.monotonic() + 3600)
    rows, found = gpu.plan()[:4], {"name": "x", "ratio": 1.0}

    def measure(row: gpu.Row, left: float) -> list[dict[str, object]]:
        if row == rows[1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")
        if row == rows[3]:
            raise KeyboardInterrupt
        return [found]

    monkeypatch.setattr(table, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        table.run(rows)
    record = read_json(tmp_path / "gpu.json")
    assert record["results"] == 2 * [{**found, "device": "cpu"}] and record["not_reached"] == [rows[3].name]
    assert record["skipped"] == [{"row": rows[1].name, "why": "CUDA out of memory. Tried to allocate 1 GiB"}]


def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    for options in ([], ["--check"]):
        command = ["bash", "benchmarks/gpu.sh", "1", *options]
        environment = {**os.environ, "OUT": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 1 and "no CUDA device here" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_row_runs_on_a_cpu(tmp_path: Path) -> None:
    done = dry_run(tmp_path, "--minutes", "25")
    assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "gpu.json")
    assert {one["row"].split()[0] for one in record["skipped"]} == {"compiled"}
    assert len([row for row in record["results"] if row["name"].startswith("eager")]) == len(
        [row for row in gpu.plan() if row.what == "step"]
    )


# --- the checks themselves, which compare two eager runs here


def test_checks_see_what_is_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Run):
        """A run whose "graphed" steps are eager ones, at another rate if asked for."""

        rate = 1.0

        def __init__(self, case, shards, device, kind="eager", precision="fp32"):
            super().__init__(case, shards, device, "eager", precision)
            if kind == "graphed":
                self.recipe = gpu_checks.dataclasses.replace(self.recipe, learning_rate=self.rate * self.recipe.learning_rate)

    monkeypatch.setattr(gpu_checks, "Run", Other)
    case, shards = cases()["transpose"], Shards(tmp_path)
    same = gpu_checks.graphed_equals_eager(case, shards, device=CPU)
    assert same == gpu_checks.Apart(0.0, 0.0) and same.same
    monkeypatch.setattr(Other, "rate", 1.01)
    apart = gpu_checks.graphed_equals_eager(case, shards, device=CPU)
    assert not apart.same and apart.again == 0


def test_the_check_of_resuming_runs_the_loop_and_sees_a_lost_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, shards = cases()["average_and_clip"], Shards(tmp_path / "shards")
    assert gpu_checks.resumes(case, shards, tmp_path / "a", CPU) == 0
    monkeypatch.setattr("components.train.checkpoint.Checkpoints.save", lambda *arguments: None)
    with pytest.raises(RuntimeError, match="left no checkpoint"):
        gpu_checks.resumes(case, shards, tmp_path / "b", CPU)
