"""Memory and time of fetch, validate and degrade up to 150,000 persons. Run: python -m benchmarks.data_stages FOLDER

FOLDER is a data set of COCO's form with images, of 1,976 + 481 images and 6,662 labelled persons in the recorded run. Each of its images is
written at half its size several times, with a few bytes more behind its end so that no two files are equal, and annotated as often: 2, 7
and 23 times. Every stage is a process of its own on one thread. Times are processor seconds, because other work on a machine stretches
the clock's. The exponent is that of the persons' number in a power law through the three sizes: 1 is linear.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import report
from components.base.config import PARAMS, load_yaml, parse
from components.base.files import read_json
from components.datasets.fetch import fetch
from components.datasets.manifest import digest_tree, save_manifest
from components.datasets.params import DataParams, SplitShares
from components.datasets.validate import validate
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade
from components.pose.persons import Persons

COPIES = (2, 7, 23)
STAGES = ("fetch", "validate", "degrade")
MOST = 1.05  # exponent of the persons' number that counts as linear; the spread of times on a shared machine is larger than 0.02


def parameters() -> DataParams:
    """COCO's, on one thread."""
    entries: DataParams = parse(DataParams, load_yaml(PARAMS / "data.yaml")["data"], "data")
    validation = dataclasses.replace(entries.validation, threads=1)
    return DataParams("coco", {"coco": entries.sources["coco"]}, "required", SplitShares(), validation=validation)


def repeat(folder: Path, out: Path, copies: int) -> None:
    """Write the data set at half its size, `copies` times over into one."""
    for files in parameters().files.splits.values():
        read = read_json(folder / files.annotations)
        raised = {key: max(entry["id"] for entry in read[key]) + 1 for key in ("images", "annotations")}
        many: dict[str, Any] = {**read, "images": [], "annotations": []}
        (out / files.images).mkdir(parents=True)
        (out / files.annotations).parent.mkdir(parents=True, exist_ok=True)
        sizes = {}
        for image in read["images"]:
            data, sizes[image["id"]] = halved(folder / files.images / image["file_name"])
            for number in range(copies):
                name = f"{number:03d}_{image['file_name']}"
                size = dict(zip(("width", "height"), sizes[image["id"]][:2], strict=True))
                many["images"].append({**image, **size, "id": image["id"] + number * raised["images"], "file_name": name})
                (out / files.images / name).write_bytes(data + b"copy%03d" % number)
        for entry in read["annotations"]:
            x, y = sizes[entry["image_id"]][2:]
            scaled = {
                "bbox": [float(value * by) for value, by in zip(entry["bbox"], (x, y, x, y), strict=True)],
                "keypoints": [
                    float(value * by) for value, by in zip(entry["keypoints"], (x, y, 1) * (len(entry["keypoints"]) // 3), strict=True)
                ],
                "area": entry["area"] * x * y,
            }
            for number in range(copies):
                ids = {"id": entry["id"] + number * raised["annotations"], "image_id": entry["image_id"] + number * raised["images"]}
                many["annotations"].append({**entry, **scaled, **ids})
        (out / files.annotations).write_text(json.dumps(many))
    save_manifest(digest_tree(out), out.with_suffix(".sha256"))


def halved(path: Path) -> tuple[bytes, tuple[int, int, float, float]]:
    """A JPEG of half the size; its width and height, and both by those of the image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width = image.shape[0] // 2, image.shape[1] // 2
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return data, (width, height, width / image.shape[1], height / image.shape[0])


def measure(stage: str, data: Path) -> dict[str, float]:
    """Processor and clock seconds of one stage on a repeated data set, and the peak of the memory that it adds to this process's, MiB.

    A written shard's own pages do not count: they are the file's, and the system takes them back when it wants to.
    """
    watch = Watch()
    start, clock = time.process_time(), time.perf_counter()
    persons = data.parent / "persons"
    if stage == "fetch":
        fetch(parameters(), data, persons, data.with_suffix(".sha256"))
    elif stage == "validate":
        validate(persons, data, parameters(), data.parent / "validation")
    else:
        read = Persons.read(persons / "persons.parquet")
        degrade(Source(read, data), ShardSpec((64, 48)), DegradeParams(threads=1), data.parent / "shard", progress=False)
    spent = {"cpu_s": round(time.process_time() - start, 2), "wall_s": round(time.perf_counter() - clock, 2)}
    return {**spent, "added_mib": watch.end(), "with_imports_mib": watch.highest}


class Watch:
    """The highest anonymous memory of this process, looked at 50 times a second."""

    def __init__(self) -> None:
        self.first = self.highest = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """MiB above the beginning."""
        self._ended.set()
        self._thread.join()
        return round(self.highest - self.first, 1)

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.highest = max(self.highest, self._now())

    @staticmethod
    def _now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024, 1)


def main(folder: Path) -> None:
    rows: list[dict[str, Any]] = []
    for copies in COPIES:
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / "data"
            repeat(folder, data, copies)
            row: dict[str, Any] = {"copies": copies}
            for stage in STAGES:
                command = [sys.executable, "-m", "benchmarks.data_stages", stage, str(data)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row[stage] = json.loads(done.stdout.splitlines()[-1])
            table = Persons.read(data.parent / "persons" / "persons.parquet")
            row |= {"persons": len(table.labelled()), "images": int(table.frame["image_path"].nunique())}
            row["shard_mb"] = round(sum(path.stat().st_size for path in (data.parent / "shard").iterdir()) / 1e6, 1)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if len(rows) > 1:
            write(rows)  # after each, because the last one takes minutes


def write(rows: list[dict[str, Any]]) -> None:
    """The record: per stage the exponents over all sizes, and the numbers of the largest."""
    results = []
    for stage in STAGES:
        exponents = {of: exponent(rows, stage, of) for of in ("cpu_s", "added_mib")}
        last = {of: exponent(rows[-2:], stage, of) for of in exponents}
        largest, before = rows[-1], rows[-2]
        per_image = (largest[stage]["cpu_s"] - before[stage]["cpu_s"]) / (largest["images"] - before["images"])
        results.append(
            {"name": stage, "ratio": round(MOST / max(exponents["cpu_s"], 1e-9), 3), "target": 1.0, "n": len(rows), "exponents": exponents,
             "of_the_last_step": last,
             "persons": largest["persons"], "images": largest["images"], "minutes": round(largest[stage]["cpu_s"] / 60, 2),
             "ms_per_further_image": round(1e3 * per_image, 3), **{key: largest[stage][key] for key in ("added_mib", "with_imports_mib")}}
        )  # fmt: skip
    report.write("data_stages", results, sizes=rows)


def exponent(rows: list[dict[str, Any]], stage: str, of: str) -> float:
    """Slope of the logarithm of a measurement over that of the persons' number."""
    slope = np.polyfit(np.log([row["persons"] for row in rows]), np.log([row[stage][of] for row in rows]), 1)[0]
    return round(float(slope), 3)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))
