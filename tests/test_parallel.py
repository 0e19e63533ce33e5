"""Several processes that share every batch end where one does, and go on where one of them is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of
from components.evaluate.ranks import ALONE, Ranks
from components.models import zoo
from components.train import launch
from components.train import recipe as recipes
from components.train.step import micro_batches
from components.train.tracker import JsonLinesTracker
from tests import shared_step
from tests.tiny_image_shard import write_tiny_image_shard
from tests.tiny_shard import write_tiny_shard

REPOSITORY = Path(__file__).resolve().parents[1]
ONE = dataclasses.replace(
    recipes.load(), epochs=3, batch_size=5, drop_last=False, learning_rate=1e-5, num_threads=1, validate_on="val", validate_every=3,
    checkpoint_seconds=0.0,
)  # fmt: skip
TWO = dataclasses.replace(ONE, processes=2)
MOBILE, TINY = "dark_fused_fpn_synthetic_64x48_x2", "hrnet_tiny_synthetic_64x48"  # without and with batch norms


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    """By approach; of crops and of whole images."""
    return {
        "crops": write_tiny_shard(tmp_path_factory.mktemp("crops")),
        "images": write_tiny_image_shard(tmp_path_factory.mktemp("images")),
    }


def trained(name: str, recipe: recipes.Recipe, shards: dict[str, Path], folder: Path) -> dict:
    variant = zoo.variant(name)
    return launch.train(variant, shards[variant.approach], folder / "model", recipe, "cpu", folder / "checkpoints")


# --- who takes what


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("items", [5, 6, 7, 64])
def test_every_image_is_taken_once_by_one_process(count, items):
    parts = [np.arange(items)[Ranks(rank, count).part(items)] for rank in range(count)]
    assert np.concatenate(parts).tolist() == list(range(items))
    assert [len(part) for part in parts] == Ranks(0, count).sizes(items) and max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("passes", [1, 2, 4, 100])
@pytest.mark.parametrize("items", [5, 8, 64])
def test_micro_batches_cut_every_part_and_weigh_what_they_hold(count, passes, items):
    processes = [micro_batches(Ranks(rank, count), items, passes) for rank in range(count)]
    assert len({len(process) for process in processes}) == 1 and 1 <= len(processes[0]) <= passes
    for rank, process in enumerate(processes):
        own = np.arange(items)[Ranks(rank, count).part(items)]
        assert np.concatenate([own[part] for part, _, _ in process]).tolist() == own.tolist()
        assert all(sizes[rank] == len(own[part]) and min(sizes) > 0 for part, sizes, _ in process)
        assert all(share == pytest.approx(sum(sizes) / items) for _, sizes, share in process)
        assert sum(share for *_, share in process) == pytest.approx(1)


def test_a_process_that_is_alone_changes_nothing():
    tensor = torch.arange(6.0).reshape(3, 2)
    assert ALONE.whole(tensor, [3]) is tensor and ALONE.rows(tensor.numpy(), torch.device("cpu")) is not None


# --- the same training


@pytest.fixture(scope="module")
def steps(shards, tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state after one step of every method, by one process and by two."""
    output = tmp_path_factory.mktemp("steps") / "state.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.shared_step"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, shards["crops"], shards["images"], output], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return shared_step.all_steps(shards["crops"], shards["images"], ALONE), load_file(output)


@pytest.mark.operation
@pytest.mark.slow
def test_two_processes_have_the_gradient_and_the_loss_of_one(steps):
    """Of every method, batch norms and losses that are normalised over the batch included; a step of plain descent shows the gradient."""
    one, two = steps
    assert one.keys() == two.keys() and {key.split("/")[0] for key in one} == set(shared_step.CROPS + shared_step.IMAGES)
    for method, variant in shared_step.subjects().items():
        torch.manual_seed(0)
        start = zoo.build(variant).model.double().state_dict()
        moved = {key: one[f"{method}/{key}"] - before for key, before in start.items() if before.is_floating_point()}
        largest = float(max(step.abs().max() for step in moved.values()))
        assert largest > 1e-4, "the step moved something"
        for key in moved:
            apart = (two[f"{method}/{key}"] - one[f"{method}/{key}"]).abs().max()
            assert float(apart) <= 1e-5 * largest, f"{method}: {key}"
        assert float(two[f"{method}/loss"]) == pytest.approx(float(one[f"{method}/loss"]), rel=1e-5)


@pytest.mark.operation
@pytest.mark.slow
def test_every_person_is_found_once_by_one_process_or_two(steps):
    one, two = steps
    for method in shared_step.CROPS + shared_step.IMAGES:
        assert two[f"{method}/found.images"].tolist() == one[f"{method}/found.images"].tolist()
        torch.testing.assert_close(two[f"{method}/found.joints"], one[f"{method}/found.joints"], rtol=0, atol=0.01)  # px


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "synced"),
    [
        (MOBILE, False),
        ("categorical_fused_fpn_synthetic_64x48_x2", False),  # its loss is normalised over the batch
        (TINY, True),
    ],
)
def test_two_processes_train_as_one(name, synced, shards, tmp_path):
    """The same curve. Adam moves a weight by the learning rate whatever its gradient's size, so that rounding grows from step to step."""
    one = trained(name, dataclasses.replace(ONE, init="none"), shards, tmp_path / "one")
    two = trained(name, dataclasses.replace(TWO, init="none", sync_batch_norm=synced), shards, tmp_path / "two")
    histories = [read_json(tmp_path / folder / "model" / "history.json") for folder in ("one", "two")]
    for before, after in zip(*histories, strict=True):
        assert after == pytest.approx(before, rel=1e-3, abs=1e-6)
    assert one["steps"] == two["steps"] == 6 and not list((tmp_path / "two" / "checkpoints").iterdir())


@pytest.mark.slow
def test_batch_norms_of_two_processes_see_their_part_alone(shards, tmp_path):
    """What docs/performance.md says: another training than that of one process, and as repeatable."""
    digests = []
    for folder, recipe in (("one", ONE), ("two", TWO), ("again", TWO)):
        trained(TINY, recipe, shards, tmp_path / folder)
        digests.append(sha256_of(tmp_path / folder / "model" / "model.safetensors"))
    assert digests[1] == digests[2] != digests[0]


# --- what may go wrong


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_weights_are_the_same(shards, tmp_path, capfd):
    recipe = dataclasses.replace(TWO, epochs=40, validate_every=0)
    trained(TINY, recipe, shards, tmp_path / "whole")
    killed: list[int] = []

    def kill_one() -> None:
        """The second process, once the first has written some checkpoints."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not killed:
            written = list((tmp_path / "killed" / "checkpoints").glob("*/step-*.safetensors"))
            for process in psutil.Process().children(recursive=True) if written else []:
                with_rank = process.is_running() and process.environ().get("RANK") == "1" and launch.WORKER in " ".join(process.cmdline())
                if with_rank and max(int(path.stem[5:]) for path in written) >= 4:
                    process.kill()
                    killed.append(process.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    tracker = JsonLinesTracker(tmp_path / "live.jsonl")
    launch.train(
        zoo.variant(TINY), shards["crops"], tmp_path / "killed" / "model", recipe, "cpu", tmp_path / "killed" / "checkpoints", tracker
    )
    thread.join()
    assert killed
    for name in ("model.safetensors", "history.json", "summary.json"):
        assert sha256_of(tmp_path / "killed" / "model" / name) == sha256_of(tmp_path / "whole" / "model" / name), name
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "live.jsonl").read_text().splitlines()]
    assert sorted(set(epochs)) == list(range(1, 41)), "the tracker is told every epoch"


@pytest.mark.slow
def test_an_error_of_the_data_is_one_line_and_nothing_is_tried_again(tmp_path):
    blind = write_tiny_shard(tmp_path / "blind", persons=5, visible=False)
    recipe = dataclasses.replace(TWO, augmentation=dataclasses.replace(TWO.augmentation, half_body_probability=0.0))
    with pytest.raises(FarposeError, match="no labelled joint lies inside any crop") as caught:
        launch.train(
            zoo.variant(MOBILE), blind, tmp_path / "model", dataclasses.replace(recipe, init="none"), "cpu", tmp_path / "checkpoints"
        )
    assert "\n" not in str(caught.value) and not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_processes_end_when_their_starter_is_killed(shards, tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.test_parallel import TWO, TINY; import dataclasses\n"
        "from components.models import zoo; from components.train import launch\n"
        "recipe = dataclasses.replace(TWO, epochs=100000, validate_every=0)\n"
        "launch.train(zoo.variant(TINY), sys.argv[1], Path(sys.argv[2], 'model'), recipe, 'cpu', Path(sys.argv[2], 'checkpoints'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    starter = subprocess.Popen([sys.executable, "-c", program, shards["crops"], tmp_path], env=environment)
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("checkpoints/*/step-*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.1)
        children = psutil.Process(starter.pid).children(recursive=True)
        assert len([child for child in children if child.environ().get("RANK")]) == 2
    finally:
        starter.kill()
        starter.wait()
    assert not psutil.wait_procs(children, timeout=120)[1]


def test_fewer_gpus_than_processes_is_said_before_anything_starts(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(FarposeError, match=r"2 processes, each with a GPU of its own; 1 are here.*set processes: 1"):
        launch.train(zoo.variant(TINY), shards["crops"], tmp_path / "model", TWO, "cuda", tmp_path / "checkpoints")


REFUSED = [
    ("processes", 0, "must be positive"),
    ("processes", 200, "not be more than batch_size"),
    ("sync_batch_norm", True, "means nothing with one process"),
]


@pytest.mark.parametrize(("key", "value", "words"), REFUSED)
def test_a_recipe_that_makes_no_sense_is_refused(key, value, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(recipes.load(), **{key: value})
