"""Decoding and degrading images on one worker process and on two, against threads of one process. Run: python -m benchmarks.fan_out

The workers are those of `scheduler: local` and are started before the clock. Every run makes the same table and the same shard, which
digests show. Decoding sends little back, so it shows what workers gain; of degrading, this process does nearly half itself: it sends the
files' bytes, and takes and writes the crops, so that two workers beside it want three cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path

import cv2
import numpy as np
import psutil

from benchmarks import report
from benchmarks.data_path import benchmark_persons
from components.base.fan_out import FanOut, fanned_out, mapped
from components.datasets.validate_images import inspect_images
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade

TARGET = 1.6  # of two workers against one, where two cores are free
REPEATS, IMAGES = 5, 600
TIMES = 20  # that each file is decoded, so that messages are not what is measured


def main() -> None:
    cv2.setNumThreads(1)
    source, root, persons = benchmark_persons()
    paths = list(persons.frame["image_path"].unique()) * TIMES
    ids = persons.frame["image_id"].unique()
    persons = persons.select(persons.frame["image_id"].isin(ids[:: max(1, len(ids) // IMAGES)]).to_numpy())
    digests: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        places = {"one_thread": FanOut(), "one_worker": FanOut("local", 1), "two_workers": FanOut("local", 2)}
        calls, spent = {}, {name: list[list[float]]() for name in places}
        for name, place in places.items():
            context, manager = copy_context(), fanned_out(place)
            context.run(manager.__enter__)
            stack.callback(context.run, manager.__exit__, None, None, None)
            context.run(lambda: list(mapped(abs, [1])))  # starts the workers

            def call(run=context.run, name=name) -> None:
                shard, spec = Path(folder) / "shard", ShardSpec((64, 48))
                before = processor_seconds()
                made = run(degrade, Source(persons, root), spec, DegradeParams(threads=1), shard, progress=False)
                spent[name].append([round(now - then, 2) for now, then in zip(processor_seconds(), before, strict=True)])
                digests.add(str(made["files"]))

            def look(run=context.run) -> None:
                digests.add(str(run(inspect_images, root, paths, 1).to_json()))

            calls[name], calls[f"decode, {name}"] = call, look
        seconds = report.interleave(calls, repeats=REPEATS)
    assert len(digests) == 2, "the shards or the tables differ"
    medians = {name: round(float(np.median(times)), 3) for name, times in seconds.items()}
    load = round(os.getloadavg()[0], 1)
    rows = [
        report.row(
            "two_workers_against_one", seconds["one_worker"], seconds["two_workers"], TARGET, seconds=medians, processor_seconds=spent
        ),
        report.row("one_worker_against_threads", seconds["one_thread"], seconds["one_worker"], 0.7),
        report.row(
            "decode_two_workers_against_one", seconds["decode, one_worker"], seconds["decode, two_workers"], TARGET, files=len(paths)
        ),
    ]
    report.write(
        "fan_out", rows, data=f"{source}, {len(persons.labelled())} persons, {persons.frame['image_path'].nunique()} images", load=load
    )


def processor_seconds() -> tuple[float, float]:
    """Of this process, which writes, and of all workers. Their ratio says what more workers can gain, whatever else the machine does."""
    workers = sum(sum(one.cpu_times()[:2]) for one in psutil.Process().children(recursive=True))
    return time.process_time(), workers


if __name__ == "__main__":
    main()
