"""Full-size annotation files from disk to the persons table and its verdict. Run: python -m benchmarks.annotations FOLDER

FOLDER holds `annotations/` with the rebuilt annotations of COCO train2017 (149,813 persons), CrowdPose's val and MPII's valid, without
images. Each measurement is a process of its own, so that its peak of memory is its own; the import of Great Expectations is part of it.
Times are processor seconds, because other work on a shared machine stretches the clock's; `wall_s` says how far.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from components.base.config import PARAMS, load_yaml, parse
from components.datasets.fetch import fetch
from components.datasets.params import DataParams, SplitFiles, SplitShares
from components.datasets.validate import validate

FILES = {  # data set → its file, split and how often it is measured
    "mpii": ("mpii_valid_2958.json.gz", "val", 2),
    "crowdpose": ("crowdpose_val.json.gz", "val", 2),
    "coco": ("coco_person_keypoints_train2017_rebuilt.json.gz", "train", 1),
}
SPREAD = ("fetch_s", "validate_s", "wall_s", "fetch_peak_mib", "validate_peak_mib")


def measure(folder: Path, dataset: str) -> dict[str, Any]:
    """Processor seconds of fetch and validate, and the peak of the process's memory after each, MiB."""
    name, split, _ = FILES[dataset]
    entries: DataParams = parse(DataParams, load_yaml(PARAMS / "data.yaml")["data"], "data")
    files = {split: SplitFiles(f"annotations/{name}", "images")}
    entry = dataclasses.replace(entries.sources[dataset], splits=files, manifest=None)
    params = DataParams(dataset, {dataset: entry}, "unchecked", SplitShares())
    with tempfile.TemporaryDirectory() as scratch:
        start, clock = time.process_time(), time.perf_counter()
        summary = fetch(params, folder, Path(scratch) / "persons", None).splits[split]
        fetched, middle = _peak_mib(), time.process_time()
        verdict = validate(Path(scratch) / "persons", folder, params, Path(scratch) / "validation")
        spent = {"fetch_s": middle - start, "validate_s": time.process_time() - middle, "wall_s": time.perf_counter() - clock}
    counts = {"persons": summary.persons, "images": summary.images, "checks": len(verdict.checks), "failed": len(verdict.failed)}
    return {**counts, **spent, "fetch_peak_mib": fetched, "validate_peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Of this process alone: `getrusage` would begin with what the parent held when it started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def main(folder: str) -> None:
    rows = []
    for dataset, (name, _, times) in FILES.items():
        command = [sys.executable, "-m", "benchmarks.annotations", folder, dataset]
        done = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(times)]
        runs = [json.loads(output.splitlines()[-1]) for output in done]
        counts = {key: runs[0][key] for key in ("persons", "images", "checks", "failed")}
        spread = {key: [round(run[key], 2) for run in runs] for key in SPREAD}
        rows.append({"name": dataset, "file": name, **counts, "n": times, **spread})
        report.write("annotations", rows)  # after each, because the last one takes minutes


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
    else:
        main(sys.argv[1])
