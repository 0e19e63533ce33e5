"""Work on images that threads, processes of this machine or a Dask scheduler's workers do: the same bytes, the same errors."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from components.base import fan_out
from components.base.config import PARAMS, parse
from components.base.errors import FarposeError
from components.base.fan_out import FanOut, fanned_out, mapped
from components.base.files import sha256_of
from components.datasets.fetch import fetch
from components.datasets.manifest import digest_tree, save_manifest
from components.datasets.validate_images import inspect_images
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.shards import Boxes, crop_boxes
from components.degrade.stage import degrade
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from tests.coco_files import random_coco, write_dataset
from tests.dask_servers import scheduler, waited
from tests.tiny_people import texture, tiny_people_table

IMAGES = 48
GONE = r"does not answer any more \(start it and run the same command again\)"
PROCESSES = (pytest.mark.slow, pytest.mark.operation, pytest.mark.timeout(1800))


def square(number: int) -> int:
    if number < 0:
        raise FarposeError(f"{number} is negative", where="numbers", fix="leave it out")
    return number * number


def test_results_come_in_order_and_few_parts_are_held_at_once():
    drawn, taken = 0, 0

    def numbers():
        nonlocal drawn
        for number in range(100):
            drawn += 1
            assert drawn - taken <= fan_out.HELD * 3
            yield number

    for number, made in mapped(square, numbers(), threads=3):
        assert (number, made) == (taken, taken**2)
        taken += 1
    assert taken == 100


def test_the_first_bad_part_in_order_is_the_error_whichever_is_seen_first():
    with pytest.raises(FarposeError, match=r"^numbers: -1 is negative"):
        list(mapped(square, [3, -1, *range(50), -2], threads=4))


def test_an_error_arrives_from_another_process_as_it_was():
    error = FarposeError("image is damaged", where=Path("a/b.jpg"), fix="acquire it again")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and vars(again) == vars(error) and type(again) is FarposeError


@pytest.mark.parametrize(
    "given", [{"scheduler": "here"}, {"scheduler": "tcp://host"}, {"scheduler": "http://host:80"}, {"workers": 2},
              {"scheduler": "local", "workers": 0}, {"scheduler": "tcp://h:1", "workers": 2}, {"machines": 3}],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(given):
    with pytest.raises(FarposeError, match="fan_out"):
        parse(FanOut, given, "params/fan_out.yaml: fan_out")


def test_no_stage_depends_on_who_works():
    from components.degrade import params
    from pipelines import settings

    assert settings.fan_out() == FanOut()
    assert "fan_out" not in (PARAMS.parent / "dvc.yaml").read_text()
    assert "scheduler" not in {field.name for field in dataclasses.fields(params.DegradeParams)}


def test_a_worker_of_other_code_or_another_opencv_does_nothing():
    assert fan_out._Same(square, fan_out.fingerprint())(3) == 9
    with pytest.raises(FarposeError, match=r"a worker has OpenCV 5\S+, this process 4.1.0 \(check out the same commit"):
        fan_out._Same(square, fan_out.fingerprint() | {"OpenCV": "4.1.0"})(3)


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(fan_out, "ANSWERS_S", 2.0)
    with fanned_out(FanOut("tcp://127.0.0.1:9")), pytest.raises(FarposeError) as caught:  # nothing listens on the discard port
        list(mapped(square, [1]))
    said = str(caught.value)
    assert said.startswith("params/fan_out.yaml: fan_out.scheduler: no Dask scheduler answers at tcp://127.0.0.1:9: ")
    assert (
        ("refused" in said or "within" in said)
        and "`dask scheduler --host HOST` starts one" in said
        and "`scheduler: null`" in said
        and "\n" not in said
    )


# ---------------------------------------------------------------- with real processes


@pytest.fixture(scope="module")
def crowd(tmp_path_factory) -> tuple[Persons, Path]:
    """Persons in many images, half of them for training."""
    root, rng = tmp_path_factory.mktemp("crowd"), np.random.default_rng(0)
    some = tiny_people_table(4 * IMAGES, zoom=3)
    frame = some.frame.assign(image_id=10 + np.arange(4 * IMAGES) // 4)
    sizes = frame.groupby("image_id")[["image_height", "image_width"]].transform("max").to_numpy()
    paths = [f"{number - 10}.jpg" for number in frame["image_id"]]
    split = np.where(frame["image_id"] % 2, "val", "train")
    frame = frame.assign(image_height=sizes[:, 0], image_width=sizes[:, 1], image_path=paths, split=split)
    for path, height, width in sorted(set(zip(paths, *sizes.T, strict=True))):
        cv2.imwrite(str(root / path), texture(int(height), int(width), rng))
    return dataclasses.replace(some, frame=frame), root


def made(crowd: tuple[Persons, Path], folder: Path) -> dict[str, str]:
    """Digests of everything that stages make of images: persons, verdicts, shards, further crops."""
    persons, root = crowd
    for protocol in ("direct", "sensor"):
        degrade(Source(persons, root), ShardSpec((64, 48), protocol), DegradeParams(), folder / protocol, progress=False)
    data, manifest = folder.parent / "data", folder.parent / "coco.sha256"
    params = write_dataset(data, random_coco(0, num_images=20), random_coco(1, 1000))
    save_manifest(digest_tree(data), manifest)
    fetch(params, data, folder / "persons", manifest)
    paths = sorted({*persons.frame["image_path"]})
    inspect_images(root, [*paths, "none.jpg"], threads=2).to_csv(folder / "verdicts.csv")
    boxes = Boxes(root, persons.frame["image_path"].to_numpy(), persons.frame["image_id"].to_numpy(), persons.bbox_xywh)
    np.save(folder / "crops.npy", crop_boxes(boxes, "dark", ShardSpec((64, 48)), DegradeParams(), COCO_17, most_height=32).pixels)
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def serial(crowd, tmp_path_factory) -> dict[str, str]:
    return made(crowd, tmp_path_factory.mktemp("serial") / "made")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of a scheduler with two workers."""
    with scheduler(2, tmp_path_factory.mktemp("dask")) as found:
        yield found


def with_processes(test):
    for mark in PROCESSES:
        test = mark(test)
    return test


@with_processes
def test_everything_is_the_same_to_the_byte_wherever_it_is_made(crowd, serial, address, tmp_path):
    assert len(serial) > 20
    for name, to in {"local": FanOut("local", 2), "scheduler": FanOut(address)}.items():
        (tmp_path / name).mkdir()
        with fanned_out(to):
            assert made(crowd, tmp_path / name / "made") == serial
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]  # the scheduler and its workers too
            listening = {where.laddr.ip for one in family for where in one.net_connections("inet") if where.status == "LISTEN"}
            assert len(family) > 6 and listening == {"127.0.0.1"}, name


@with_processes
def test_a_worker_that_is_killed_at_work_changes_nothing_and_is_said(crowd, serial, tmp_path, capfd):
    from distributed import Client

    (tmp_path / "logs").mkdir()
    killed: list[str] = []

    def kill(found: str) -> None:
        """The first worker that holds finished parts and works on another."""
        with Client(found, set_as_default=False) as watch:
            pids = watch.run(os.getpid)

            def at_work() -> list[str]:
                return [one for one, keys in watch.processing().items() if keys and watch.has_what()[one]]

            worker = waited(at_work, tmp_path / "logs" / "scheduler.log")[0]
            os.kill(pids[worker], signal.SIGKILL)
            killed.append(worker)

    with scheduler(2, tmp_path / "logs") as found, fanned_out(FanOut(found)):
        list(mapped(square, [1]))  # connected
        thread = threading.Thread(target=kill, args=(found,))
        thread.start()
        runs = 0
        while thread.is_alive() or not runs:
            shutil.rmtree(tmp_path / "made", ignore_errors=True)
            assert made(crowd, tmp_path / "made") == serial
            runs += 1
        thread.join()
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fan_out: ")]
    assert len(killed) == 1 and len(said) == 1 and said[0].startswith(f"fan_out: worker {killed[0]} ended; others do its "), said


@with_processes
def test_a_damaged_image_is_the_same_error_in_a_worker(crowd, address, tmp_path):
    persons, root = crowd
    shutil.copytree(root, tmp_path / "images")
    for path in sorted(tmp_path.glob("images/*7.jpg")):
        path.write_bytes(path.read_bytes()[:-200])
    said = []
    for to in (FanOut(), FanOut(address)):
        with fanned_out(to), pytest.raises(FarposeError) as caught:
            degrade(Source(persons, tmp_path / "images"), ShardSpec((64, 48)), DegradeParams(), tmp_path / "out", progress=False)
        said.append(str(caught.value))
    assert said[0] == said[1] and "7.jpg: image file is cut short (acquire it again)" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def end_the_worker(_part: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@with_processes
def test_a_part_that_ends_every_worker_is_one_line(tmp_path):
    with fanned_out(FanOut("local", 2)), pytest.raises(FarposeError, match="4 workers ended over the same part") as caught:
        list(mapped(end_the_worker, [1]))
    assert "\n" not in str(caught.value)


@with_processes
def test_a_scheduler_without_workers_and_one_that_goes_away_are_one_line_each(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(fan_out, "WITHOUT_WORKERS_S", 3.0)
    with (
        scheduler(0, tmp_path) as found,
        fanned_out(FanOut(found)),
        pytest.raises(FarposeError, match=r"has had no worker for 3 s \(`dask worker tcp://"),
    ):
        list(mapped(square, [1]))
    with ExitStack() as servers, fanned_out(FanOut(servers.enter_context(scheduler(1, tmp_path)))):
        results = mapped(square, range(100_000))
        assert next(results) == (0, 0)
        servers.close()
        with pytest.raises(FarposeError, match=GONE):
            list(results)
    said = capfd.readouterr().err.splitlines()
    assert all(line.startswith("fan_out: ") for line in said), said  # and nothing of Dask's own


@with_processes
def test_a_scheduler_that_hangs_is_one_line_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(fan_out, "ANSWERS_S", 3.0)
    with scheduler(1, tmp_path) as found, fanned_out(FanOut(found)):
        results = mapped(square, range(100_000))
        assert next(results) == (0, 0)
        port = int(found.rpartition(":")[2])
        its = next(one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port)
        os.kill(its, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(FarposeError, match=GONE):
                list(results)
            assert time.monotonic() - started < 60  # it takes about eight seconds
        finally:
            os.kill(its, signal.SIGCONT)
