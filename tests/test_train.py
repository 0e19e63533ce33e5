"""Training: the schedule and its parameters, that every method learns, and that what cannot be learnt from stops with names."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of
from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.shards import TrainCrops
from components.models import zoo
from components.models.variant import Variant, methods
from components.models.weights import load_weights
from components.train import recipe as recipes
from components.train.averaging import Average
from components.train.batches import Batches, step_seed
from components.train.loop import train
from components.train.meters import LossSums
from components.train.optimiser import build_optimiser
from components.train.output import MEASURED, draw_curves
from components.train.recipe import Recipe
from components.train.step import eager_step
from components.train.tracker import JsonLinesTracker
from tests.codecs.cases import share_near
from tests.tiny_shard import write_tiny_shard

CPU = torch.device("cpu")
BASE = recipes.load()
SHORT = dataclasses.replace(BASE, epochs=3, batch_size=4, num_threads=1, validate_every=2)


def tiny(method: str = "hrnet", size: tuple[int, int] = (64, 48), **train_overrides) -> Variant:
    prefix = "" if method == "hrnet" else f"{method}_"
    name = f"{prefix}hrnet_tiny_synthetic_{size[0]}x{size[1]}"
    return Variant(name, method, "hrnet_tiny", "synthetic", size, train=train_overrides)


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    return write_tiny_shard(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def keep_weights(tmp_path) -> Path:
    """An output directory that an earlier training left behind."""
    output = tmp_path / "model"
    output.mkdir()
    (output / "model.safetensors").write_text("earlier")
    return output


def assert_earlier_output_intact(output: Path) -> None:
    assert [path.name for path in output.iterdir()] == ["model.safetensors"]
    assert (output / "model.safetensors").read_text() == "earlier"
    assert not list(output.parent.glob(".model.*")), "nothing half-written is left"


# --- recipe


@pytest.mark.parametrize(
    ("epochs", "milestones", "published"),
    [
        (210, BASE.milestones, (170, 200)),
        (210, (170, 200), (170, 200)),
        (140, (90, 120), (90, 120)),
        (20, BASE.milestones, (16, 19)),
        (5, (), ()),
    ],
)
def test_the_schedule_equals_torchs_own_with_the_published_milestones(epochs, milestones, published):
    recipe = dataclasses.replace(BASE, epochs=epochs, milestones=tuple(map(float, milestones)))
    assert recipe.milestone_epochs == published
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    oracle = MultiStepLR(optimiser, list(published), recipe.gamma)
    for epoch in range(epochs):
        for step in (7 * epoch, 7 * epoch + 6):
            assert recipe.learning_rate_at(step, 7) == pytest.approx(oracle.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        oracle.step()


def test_the_cosine_schedule_equals_torchs_own():
    recipe = dataclasses.replace(recipes.load(), epochs=5, schedule="cosine", learning_rate=0.3)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=5 * 7)
    for step in range(5 * 7):
        assert recipe.learning_rate_at(step, steps_per_epoch=7) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        reference.step()


def test_the_averaged_weights_follow_the_recursion_and_leave_the_network_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    average = Average(model, decay=0.8)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for step in range(1, 60):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(2, 3, 5, 5))  # moves the batch norm's statistics and its count
        average.update(step)
        kept = min(0.8, step / (step + 10))
        for name, value in model.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value.double() if value.is_floating_point() else value.clone()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.in_place():
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value.double(), expected[name].double(), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_warm_up_rises_linearly_to_the_full_rate():
    recipe = dataclasses.replace(BASE, warmup_steps=4)
    assert [recipe.learning_rate_at(step, 100) / recipe.learning_rate for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_the_committed_recipe_is_the_published_one():
    assert (BASE.epochs, BASE.batch_size, BASE.learning_rate, BASE.gamma) == (210, 128, 1e-3, 0.1)
    assert (BASE.optimiser, BASE.weight_decay, BASE.layer_decay) == ("adam", 0, None)
    assert BASE.augmentation == AugmentParams(half_body_choice="published")


def test_a_variants_overrides_change_only_what_they_name():
    resolved = recipes.resolve(tiny(epochs=7, augmentation={"flip_probability": 0.0}), BASE)
    expected = dataclasses.replace(BASE, epochs=7, augmentation=dataclasses.replace(BASE.augmentation, flip_probability=0.0))
    assert resolved == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epoch": 3}, ["unknown parameter 'epoch'", "did you mean 'epochs'"]),
        ({"augmentation": {"flip": 0.5}}, ["augmentation", "unknown parameter 'flip'"]),
        ({"epochs": "many"}, ["epochs", "expected an integer"]),
        ({"epochs": 0}, ["epochs must be positive"]),
        ({"milestones": [0.9, 0.5]}, ["milestones must rise"]),
        ({"precision": "fp16"}, ["unknown value 'fp16'"]),
        ({"gradient_clip": -1}, ["gradient_clip must be positive or null"]),
        ({"optimiser": "sgd"}, ["unknown value 'sgd'"]),
        ({"weight_decay": 0.1}, ["weight_decay must be 0 with optimiser adam"]),
        ({"optimiser": "adamw", "weight_decay": -0.1}, ["weight_decay must not be negative"]),
        ({"layer_decay": 1.5}, ["layer_decay must lie in 0..1"]),
        ({"checkpoint_seconds": -1}, ["checkpoint_seconds must not be negative"]),
    ],
)
def test_a_wrong_override_names_the_variant_and_the_key(overrides, words):
    with pytest.raises(FarposeError) as caught:
        recipes.resolve(tiny(**overrides), BASE)
    assert all(word in str(caught.value) for word in ["variant hrnet_tiny_synthetic_64x48: train", *words]), caught.value


def test_another_top_level_key_in_the_file_is_an_error(tmp_path):
    (tmp_path / "train.yaml").write_text("train: {}\ntrian: {}\n")
    with pytest.raises(FarposeError, match=r"train\.yaml: expected the keys 'train' and 'matched'"):
        recipes.load(tmp_path / "train.yaml")


# --- batches


@pytest.mark.parametrize(("count", "size", "drop_last", "steps"), [(10, 4, True, 2), (10, 4, False, 3), (8, 4, True, 2), (3, 4, True, 1)])
def test_an_epoch_visits_every_crop_at_most_once_and_depends_on_its_number_alone(count, size, drop_last, steps):
    batches, other = (Batches(count, size, 5, drop_last, CPU) for _ in range(2))
    assert batches.steps_per_epoch == steps
    orders = [torch.cat([batches.indices(epoch * steps + i) for i in range(steps)]).tolist() for epoch in range(3)]
    for epoch in (2, 0, 1):  # any order of asking
        again = torch.cat([other.indices(epoch * steps + i) for i in range(steps)]).tolist()
        assert again == orders[epoch] and len(set(again)) == len(again)
        assert len(again) == (count if not drop_last else min(count, steps * size))
    assert len({tuple(order) for order in orders}) > 1


def test_every_step_has_its_own_seed():
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(200)}
    assert len(seeds) == 4000 and min(seeds) >= 0 and max(seeds) < 2**63


def test_loss_sums_continue_where_they_stopped():
    losses = [{"loss": torch.tensor(0.1 * i), "part": torch.tensor(i / 7)} for i in range(10)]
    whole, first = LossSums(CPU), LossSums(CPU)
    for value in losses:
        whole.add(value)
    for value in losses[:4]:
        first.add(value)
    second = LossSums(CPU, json.loads(json.dumps(first.read())))
    for value in losses[4:]:
        second.add(value)
    assert second.read() == whole.read()


# --- learning


LEARNERS = sorted(name for name, method in methods().items() if "hrnet_tiny" in method.backbones and method.approach == "crops")
SHOWN = ("hrnet",)  # by this recipe; by the default one, tests/models/test_properties.py has a quick one for each kind of target


@pytest.mark.parametrize("method", [pytest.param(name, marks=() if name in SHOWN else pytest.mark.slow) for name in LEARNERS])
def test_every_method_learns_one_batch_by_heart(method, shard):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = zoo.build(tiny(method))
    model, codec = built.model.train(), built.codec
    step = eager_step(model, codec, build_optimiser(model, SHORT, CPU, graphed=False), SHORT, CPU)
    crops = TrainCrops.open(shard)
    batch = Augmenter(codec.geometry, AugmentParams.none(), crops.skeleton)(crops.to(CPU), torch.arange(4), 0)
    targets = codec.targets(batch.keypoints_crop, batch.visible)
    accuracy = 0.0
    for _ in range(15):
        for _ in range(10):
            step(batch.images, targets)
        with torch.no_grad():
            accuracy = share_near(codec, model(batch.images), targets)
        if accuracy >= 0.95:
            break
    assert accuracy >= 0.95


@pytest.fixture(scope="module")
def trained(shard, tmp_path_factory) -> tuple[Path, dict, Path]:
    """Output, summary and the tracker's lines of one short training."""
    folder = tmp_path_factory.mktemp("trained")
    tracker = JsonLinesTracker(folder / "live.jsonl")
    summary = train(tiny(), shard, folder / "model", SHORT, "cpu", folder / "checkpoints", tracker)
    return folder / "model", summary, folder / "live.jsonl"


def test_training_leaves_weights_history_and_summary(trained):
    output, summary, live = trained
    assert {path.name for path in output.iterdir()} == {"model.safetensors", "history.json", "summary.json"}
    history, kept = read_json(output / "history.json"), read_json(output / "summary.json")
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert ["dev_AP_gt_boxes" in row for row in history] == [False, True, True], "every second epoch and the last"
    assert history[-1]["loss"] < history[0]["loss"]
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-3, 1e-3, 1e-4]), "0.81 and 0.9524 of 3 epochs: 2 and 3"
    assert kept.keys() == summary.keys() - set(MEASURED) and kept.items() <= summary.items(), "no file holds what a clock says"
    assert summary["model_sha256"] == sha256_of(output / "model.safetensors")
    assert 0 < summary["data_share"] < 1 and summary["images_per_second"] > 0 and summary["steps"] == 6
    lines = [json.loads(line) for line in live.read_text().splitlines()]
    for line, row in zip(lines, history, strict=True):
        assert row.items() <= line.items() and line.keys() - row.keys() == set(MEASURED) - {"train_seconds"}
    assert not list((output.parent / "checkpoints").iterdir()), "a finished training keeps no checkpoints"


def test_the_weights_file_belongs_to_its_variant(trained):
    output, _, _ = trained
    state = load_weights(output / "model.safetensors", tiny())
    zoo.build(tiny()).model.load_state_dict(state)
    with pytest.raises(FarposeError, match="dark_hrnet_tiny"):
        load_weights(output / "model.safetensors", tiny("dark"))


def test_the_same_training_gives_the_same_bytes_and_another_seed_gives_others(trained, shard, tmp_path):
    output, summary, _ = trained
    again = train(tiny(), shard, tmp_path / "again", SHORT, "cpu", tmp_path / "checkpoints")
    other = train(tiny(), shard, tmp_path / "other", dataclasses.replace(SHORT, seed=1), "cpu", tmp_path / "checkpoints")
    assert again["model_sha256"] == summary["model_sha256"] != other["model_sha256"]
    for path in output.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_learning_curves_are_drawn(trained, tmp_path):
    draw_curves(tmp_path / "curves.png", read_json(trained[0] / "history.json"), "a variant")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_watched_split_is_the_one_that_the_recipe_names(shard, tmp_path):
    """On val's persons the same weights have another AP, under another name."""
    watching = dataclasses.replace(SHORT, epochs=1, validate_on="val")
    summary = train(tiny(), shard, tmp_path / "model", watching, "cpu", tmp_path / "checkpoints")
    assert "val_AP_gt_boxes" in summary and "dev_AP_gt_boxes" not in summary


def test_a_shard_without_the_watched_split_is_named(tmp_path, keep_weights):
    bare = write_tiny_shard(tmp_path / "bare", persons=4, dev=0)
    with pytest.raises(FarposeError, match=r"'dev'.*it has .*val"):
        train(tiny(), bare, keep_weights, SHORT, "cpu", tmp_path / "checkpoints")
    assert_earlier_output_intact(keep_weights)


# --- what stops a training


def ids_in(error: FarposeError) -> set[int]:
    return set(map(int, re.search(r"annotation ids \[(.*?)\]", str(error)).group(1).split(", ")))


@pytest.mark.parametrize(("init", "expected"), [("none", 0.001), ("he", (2 / (32 * 9)) ** 0.5)])
def test_training_starts_where_the_recipe_says(init, expected, shard, tmp_path):
    """At a rate of nothing the weights stay as they were drawn."""
    still = dataclasses.replace(SHORT, epochs=1, validate_every=0, learning_rate=1e-12, init=init)
    train(tiny(), shard, tmp_path / "model", still, "cpu", tmp_path / "checkpoints")
    weights = load_weights(tmp_path / "model" / "model.safetensors", tiny())
    second, last = (weights[f"{name}.weight"].std().item() for name in ("backbone.trunk.conv2", "final_layer"))
    assert (second, last) == (pytest.approx(expected, rel=0.05), pytest.approx(0.001, rel=0.1))


def test_a_loss_that_is_not_finite_stops_with_the_batchs_ids(shard, tmp_path, keep_weights, monkeypatch):
    poisoned = 103  # annotation id; row 3 of the shard
    batches_with_poison = []
    draw = Augmenter.apply

    def poisoning(self, crops, indices, draws):
        batch = draw(self, crops, indices, draws)
        if 3 in indices.tolist():
            batches_with_poison.append({100 + index for index in indices.tolist()})
            batch.images[indices == 3] = np.nan
        return batch

    monkeypatch.setattr(Augmenter, "apply", poisoning)
    with pytest.raises(FarposeError, match="the loss is not finite") as caught:
        train(tiny(), shard, keep_weights, SHORT, "cpu", tmp_path / "checkpoints")
    assert poisoned in ids_in(caught.value) and ids_in(caught.value) == batches_with_poison[0] and len(batches_with_poison) == 1
    assert_earlier_output_intact(keep_weights)


def test_a_batch_without_any_joint_inside_stops_with_its_ids(tmp_path, keep_weights):
    blind = write_tiny_shard(tmp_path / "blind", persons=4, visible=False)
    whole_bodies = dataclasses.replace(SHORT, augmentation=dataclasses.replace(SHORT.augmentation, half_body_probability=0.0))
    with pytest.raises(FarposeError, match="no labelled joint lies inside any crop") as caught:
        train(tiny("udp_offset"), blind, keep_weights, whole_bodies, "cpu", tmp_path / "checkpoints")
    assert ids_in(caught.value) == {100, 101, 102, 103}
    assert_earlier_output_intact(keep_weights)


def test_a_shard_of_another_size_is_named(shard, tmp_path, keep_weights):
    with pytest.raises(FarposeError, match="crops are 64x48 px, the variant needs 128x96"):
        train(tiny(size=(128, 96)), shard, keep_weights, SHORT, "cpu", tmp_path / "checkpoints")
    assert_earlier_output_intact(keep_weights)


@pytest.fixture
def small_disk(tmp_path) -> Path:
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk_is_one_clear_error_and_the_earlier_output_stays(shard, tmp_path, small_disk):
    output = small_disk / "model"
    output.mkdir()
    (output / "model.safetensors").write_text("earlier")
    with pytest.raises(FarposeError, match="the disk is full") as caught:
        train(tiny(), shard, output, SHORT, "cpu", tmp_path / "checkpoints")
    assert "\n" not in str(caught.value) and str(small_disk) in str(caught.value)
    assert_earlier_output_intact(output)
    assert list((tmp_path / "checkpoints").glob("*/step-*.safetensors")), "the next run has only to write the model"


def test_a_checkpoint_that_finds_no_room_stops_nothing(trained, shard, tmp_path, small_disk, capfd):
    """It is said, and the weights are those of a training with room."""
    train(tiny(), shard, tmp_path / "model", dataclasses.replace(SHORT, checkpoint_seconds=0.0), "cpu", small_disk / "checkpoints")
    said = [line for line in capfd.readouterr().err.splitlines() if "no checkpoint after step" in line]
    assert len(said) == 6 and all("training goes on" in line and str(small_disk) in line and "free" in line for line in said)
    same = [load_weights(folder / "model" / "model.safetensors", tiny()) for folder in (tmp_path, trained[0].parent)]
    assert same[0].keys() == same[1].keys() and all(torch.equal(tensor, same[1][name]) for name, tensor in same[0].items())


def test_recipes_are_complete_in_the_file():
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(Recipe)), "defaults live in params/train.yaml alone"
