"""Kill and resume: whatever moment training is killed at, running it again ends with the same weights and history."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.models.variant import Variant, methods
from components.train import loop
from components.train import recipe as recipes
from components.train.checkpoint import Checkpoints, Progress
from tests.tiny_image_shard import write_tiny_image_shard
from tests.tiny_shard import write_tiny_shard

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = dataclasses.replace(
    recipes.load(), epochs=4, batch_size=4, num_threads=1, validate_on="val", validate_every=2, checkpoint_seconds=0.0, average=0.9
)

# Trains in forked children, each killed at its own moment, then once to the end, then once without interruption elsewhere.
# Forks share the costly imports, and happen before torch has started any thread.
PROGRAM = """
import json, os, random, signal, sys, time
from pathlib import Path
import matplotlib.figure, torch._dynamo  # which the output and the optimisers import late
from components import approaches
from components.train import loop
from tests.test_resume import RECIPE, variant

method, shard, folder, kills = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])

trained = variant(method)
approaches.feed(trained.approach)

def train(name):
    loop.train(trained, shard, folder / name / "model", RECIPE, "cpu", folder / name / "checkpoints")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_on_call(owner, name, count, before=lambda *arguments: None):
    original, calls = getattr(owner, name), []
    def patched(*arguments, **keywords):
        calls.append(1)
        if len(calls) == count:
            before(*arguments)
            die()
        return original(*arguments, **keywords)
    setattr(owner, name, patched)

def write_half(path, content):
    with open(path, "wb") as stream:
        stream.write(content[: len(content) // 2])

for kind, value in kills:
    child = os.fork()
    if child == 0:
        if kind == "step":  # before the optimiser's value-th step of this run
            die_on_call(loop, "set_learning_rate", value)
        elif kind == "half_a_checkpoint":
            die_on_call(Path, "write_bytes", value, write_half)
        elif kind == "before_the_rename":
            die_on_call(os, "replace", value)
        elif kind == "writing_the_model":
            die_on_call(loop, "write_output", 1)
        train("killed")
        os._exit(0)
    if kind == "seconds":
        time.sleep(value)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(kind, value, "killed" if os.WIFSIGNALED(status) else "finished", flush=True)
train("killed")
train("whole")
"""


def variant(method: str) -> Variant:
    if methods()[method].approach == "images":
        return Variant(f"{method}_tiny_synthetic_64", method, "hrnet_tiny", "synthetic", (64, 64))
    prefix = "" if method == "hrnet" else f"{method}_"
    return Variant(f"{prefix}hrnet_tiny_synthetic_64x48", method, "hrnet_tiny", "synthetic", (64, 48))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[bool, Path]:
    """Of crops, and of whole images for bottom-up methods."""
    return {False: write_tiny_shard(tmp_path_factory.mktemp("crops")), True: write_tiny_image_shard(tmp_path_factory.mktemp("images"))}


KILLS = {
    "hrnet": [("step", 1), ("half_a_checkpoint", 1), ("step", 3), ("before_the_rename", 2), ("writing_the_model", 1)],
    "cal": [("step", 2), ("half_a_checkpoint", 2), ("half_a_checkpoint", 3), ("seconds", 0.3), ("seconds", 0.45)],
    "higherpose": [("step", 2), ("half_a_checkpoint", 3), ("writing_the_model", 1)],  # draws its dropout
}  # fmt: skip


@pytest.mark.parametrize("method", [pytest.param(method, marks=pytest.mark.slow if method == "cal" else ()) for method in KILLS])
def test_killed_and_resumed_training_ends_with_the_same_bytes(method, shards, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        method,
        str(shards[methods()[method].approach == "images"]),
        str(tmp_path),
        json.dumps(KILLS[method]),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    log = done.stdout.splitlines()
    assert all(line.endswith("killed") for line in log if not line.startswith("seconds")), log
    for name in ("model.safetensors", "history.json", "summary.json"):
        assert sha256_of(tmp_path / "killed" / "model" / name) == sha256_of(tmp_path / "whole" / "model" / name), name
    assert not list((tmp_path / "killed" / "checkpoints").iterdir()), "neither checkpoints nor half-written files are left"


MANY = dataclasses.replace(RECIPE, epochs=30, validate_every=15)  # 60 steps
ONE_KILL = """
import os, random, signal, sys, time
from pathlib import Path
import matplotlib.figure, torch._dynamo
from components import approaches
from components.train import loop
from tests.test_resume import MANY, variant

method, shard, folder, kills = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
trained = variant(method)
approaches.feed(trained.approach)

def train(name):
    loop.train(trained, shard, folder / name / "model", MANY, "cpu", folder / name / "checkpoints")

def forked(name, seconds=None):
    child = os.fork()
    if child == 0:
        train(name)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

began = time.monotonic()
assert not forked("whole")
lasts, draw = time.monotonic() - began, random.Random(0)
for number in range(kills):
    while not forked(f"killed{number}", draw.uniform(0, lasts)):  # it was at its end already: another moment
        __import__("shutil").rmtree(folder / f"killed{number}")
    print("killed", len(list((folder / f"killed{number}").glob("checkpoints/*/step-*"))), flush=True)
    assert not forked(f"killed{number}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hrnet", "higherpose"])
def test_twenty_trainings_killed_at_random_moments_end_with_the_same_bytes(method, shards, tmp_path):
    kills = 20
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", ONE_KILL, method, str(shards[methods()[method].approach == "images"]), str(tmp_path), str(kills)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(found) == kills and sum(count > 0 for count in found) > kills / 2, "most were killed after a checkpoint"
    for number in range(kills):
        for name in ("model.safetensors", "history.json", "summary.json"):
            made = tmp_path / f"killed{number}" / "model" / name
            assert sha256_of(made) == sha256_of(tmp_path / "whole" / "model" / name), f"kill {number}: {name}"


# --- two trainings, one folder


def test_a_second_training_waits_for_the_first_one_in_the_same_folder(shards, tmp_path, capfd):
    """The first is a process whose starter is gone; the second would otherwise write over its checkpoints."""
    recipe = dataclasses.replace(RECIPE, validate_every=0)
    key = loop._key(variant("hrnet"), recipe, shards[False], torch.device("cpu"))
    orphan = Checkpoints(tmp_path / "checkpoints", variant("hrnet").name, key, seconds=3600.0)
    second = threading.Thread(
        target=loop.train, args=(variant("hrnet"), shards[False], tmp_path / "model", recipe, "cpu", tmp_path / "checkpoints")
    )
    with orphan.held():
        second.start()
        deadline, said = time.monotonic() + 120, ""
        while "another process trains" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capfd.readouterr().err
        assert "waiting until it ends" in said and not (tmp_path / "model").exists() and not orphan.directory.exists()
    second.join(timeout=300)
    assert (tmp_path / "model" / "model.safetensors").is_file() and not list((tmp_path / "checkpoints").iterdir())


# --- checkpoints on their own


class Trainee:
    """A model and its optimiser that take steps on random data."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=0.1, fused=True)

    def step(self, number: int) -> None:
        self.optimiser.zero_grad()
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        self.model(images).square().sum().backward()
        self.optimiser.step()

    def weights(self) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in self.model.state_dict().values()]


def checkpoints(root: Path, name: str = "a", key: str = "k") -> Checkpoints:
    return Checkpoints(root, name, {"key": key}, seconds=3600.0)


def write(root: Path, steps: int, store: Checkpoints | None = None) -> tuple[Trainee, Checkpoints]:
    trainee, store = Trainee(), store or checkpoints(root)
    for number in range(steps):
        trainee.step(number)
        store.save(trainee.model, trainee.optimiser, Progress(step=number + 1, totals={"loss": number / 3}, history=[{"epoch": 1}]))
    return trainee, store


def test_a_resumed_optimiser_takes_the_same_next_step(tmp_path):
    trainee, _ = write(tmp_path, 3)
    resumed = Trainee()
    progress = checkpoints(tmp_path).resume(resumed.model, resumed.optimiser)
    assert progress == Progress(step=3, totals={"loss": 2 / 3}, history=[{"epoch": 1}])
    for number in (3, 4):
        trainee.step(number)
        resumed.step(number)
    for expected, found in zip(trainee.weights(), resumed.weights(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_only_the_newest_two_are_kept_and_they_hold_tensors_only(tmp_path):
    _, store = write(tmp_path, 4)
    files = sorted(store.directory.iterdir())
    assert [path.name for path in files] == ["step-000000003.safetensors", "step-000000004.safetensors"]
    assert {name.split(".")[0] for name in load_file(files[0])} == {"model", "optimiser"}
    store.remove()
    assert not store.directory.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(damage, tmp_path, capsys):
    _, store = write(tmp_path, 3)
    damage(store.directory / "step-000000003.safetensors")
    resumed = Trainee()
    assert store.resume(resumed.model, resumed.optimiser).step == 2
    assert "step-000000003.safetensors: damaged checkpoint" in capsys.readouterr().err
    damage(store.directory / "step-000000002.safetensors")
    with pytest.raises(FarposeError, match=r"every checkpoint is damaged \(delete this folder"):
        store.resume(resumed.model, resumed.optimiser)


@pytest.mark.parametrize(("name", "key"), [("b", "k"), ("a", "another recipe")])
def test_a_checkpoint_of_another_variant_or_recipe_is_named(name, key, tmp_path):
    _, store = write(tmp_path, 1)
    other = checkpoints(tmp_path, name, key)
    assert other.resume(Trainee().model, Trainee().optimiser) == Progress(), "it has a folder of its own"
    store.directory.rename(other.directory)
    with pytest.raises(FarposeError, match=rf"belongs to another run \(variant 'a'\), not to this one of '{name}'"):
        other.resume(Trainee().model, Trainee().optimiser)


def test_checkpoints_come_due_by_time_or_by_steps(tmp_path):
    by_steps = Checkpoints(tmp_path, "a", {}, seconds=3600.0, steps=4)
    assert [step for step in range(1, 10) if by_steps.due(step)] == [4, 8]
    assert not checkpoints(tmp_path).due(5) and Checkpoints(tmp_path, "a", {}, seconds=0.0).due(5)
