"""A network in training that imitates another: the loss is the divergence from its maps, and what decides the result is recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from components.approaches.crop_feed import CropFeed
from components.base import origins
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.degrade.shards import EvalCrops
from components.models import starts, zoo
from components.models.variant import Variant
from components.models.weights import read_metadata, save_weights, trained_here
from components.pose.crop import CropGeometry
from components.train import recipe as recipes
from components.train import teacher as teachers
from components.train.batches import Batches, step_seed
from components.train.loop import train
from components.train.teacher import open_teacher
from pipelines import plan
from tests.test_train import CPU, shard  # noqa: F401  (a fixture)

TEACHING = zoo.variant("categorical_mobilenet_fpn_coco_64x48_x4")  # of the same crops
RELEASED = "released/pose_128x96/model.safetensors"
TAUGHT = zoo.variant("categorical_mobilenet_fpn_coco_64x48_x2_taught")
SHARP = zoo.variant("categorical_mobilenet_fpn_175_coco_256x192")
RECIPE = dataclasses.replace(
    recipes.load(), epochs=2, batch_size=4, learning_rate=1e-4, optimiser="adam", num_threads=1, validate_every=0, init="movenet_lightning",
    teacher_share=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def teaching(tmp_path_factory) -> str:
    """The weights of a network with the student's crops and maps that finds joints."""
    path = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    network = built(TEACHING).model
    starts.initialise(network, "movenet_lightning", TEACHING.skeleton)
    save_weights(path, network, {"variant": TEACHING.name})
    return str(path)


def built(variant: Variant = TAUGHT) -> zoo.Built:
    torch.manual_seed(0)
    return zoo.build(variant)


def random_images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def test_the_imitation_is_torch_s_divergence_from_the_teacher_s_maps_over_all_joints(teaching):
    student = built()
    teacher = open_teacher(teaching, 0.7, TAUGHT, student.codec, CPU)
    images = random_images()
    outputs, supervised = student.model.eval()(images), torch.tensor(3.0)
    found = teacher.loss(outputs, teacher.maps(images, {}), supervised)
    network = zoo.network(TEACHING)
    network.load_state_dict(load_file(teaching))
    with torch.no_grad():
        wanted = network.eval()(images)[0].flatten(2).softmax(-1)
    ours = outputs[0].flatten(2).log_softmax(-1)
    expected = functional.kl_div(ours.flatten(0, 1), wanted.flatten(0, 1), reduction="batchmean")
    torch.testing.assert_close(found["imitation"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], 0.3 * supervised + 0.7 * expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_equals_its_teacher_has_nothing_to_learn_of_it(teaching):
    student = built()
    teacher = open_teacher(teaching, 1.0, TAUGHT, student.codec, CPU)
    images = random_images()
    with torch.no_grad():
        logits = teacher.network(images)[0] + 5.0  # a constant does not change a softmax
    logits.requires_grad_()
    loss = teacher.loss((logits,), teacher.maps(images, {}), torch.tensor(1.0))["loss"]
    loss.backward()
    assert abs(loss.item()) < 1e-5 and logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_training_goes_towards_the_teacher_and_leaves_it_as_it_was(shard, teaching, tmp_path):  # noqa: F811
    """With a share of 1 labels do not count, and the divergence on held-out crops falls."""
    recipe = dataclasses.replace(RECIPE, init="he", learning_rate=1e-3, teacher=teaching, teacher_share=1.0, epochs=6)
    digest = sha256_of(teaching)
    train(TAUGHT, shard, tmp_path / "model", recipe, checkpoints=tmp_path / "checkpoints")
    crops = EvalCrops.open(shard, "unbiased", "val")
    images = functional.interpolate(torch.as_tensor(crops.pixels[:8]).float() / 64 - 2, (64, 48))
    divergences = []
    for weights in (None, tmp_path / "model" / "model.safetensors"):
        student = built()
        if weights is None:
            starts.initialise(student.model, recipe.init, TAUGHT.skeleton)
        else:
            student.model.load_state_dict(teachers.load_weights(weights, TAUGHT))
        teacher = open_teacher(teaching, 1.0, TAUGHT, student.codec, CPU)
        with torch.inference_mode():
            outputs, wanted = student.model.eval()(images), teacher.maps(images, {})
            divergences.append(float(teacher.loss(outputs, wanted, torch.tensor(0.0))["imitation"]))
    assert divergences[1] < 0.9 * divergences[0], divergences
    assert sha256_of(teaching) == digest == read_metadata(tmp_path / "model" / "model.safetensors")["teacher"]


def test_a_variant_with_other_maps_cannot_be_the_teacher(tmp_path):
    other = zoo.variant("categorical_mobilenet_fpn_coco_64x48_x2")  # coarser maps
    save_weights(tmp_path / "coarse.safetensors", zoo.network(other), {"variant": other.name})
    with pytest.raises(FarposeError, match=r"heatmap size of the teacher is \(32, 24\), of .* \(64, 48\)"):
        open_teacher(str(tmp_path / "coarse.safetensors"), 0.5, TAUGHT, built().codec, CPU)


def test_a_codec_that_cannot_imitate_is_refused_with_the_way_out(teaching):
    dark = zoo.variant("dark_mobilenet_fpn_coco_64x48_x4")
    with pytest.raises(FarposeError, match=r"codec 'dark' cannot imitate a teacher.*remove `teacher`"):
        open_teacher(teaching, 0.5, dark, zoo.build(dark).codec, CPU)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FarposeError, match="the teacher's weights are not there"):
        teachers.digest(str(tmp_path / "none.safetensors"))


def test_a_teacher_trained_here_is_planned_by_what_decides_its_weights():
    """Its file need not be there yet; another recipe of the teacher retrains the student."""
    assert trained_here(RELEASED) is None and trained_here(TAUGHT.train["teacher"]) == SHARP.name
    planned = plan.decisions(TAUGHT)
    teacher, recipe = planned[plan.TRAIN]["teacher"], recipes.resolve(SHARP, recipes.load())
    assert teacher["variant"]["name"] == SHARP.name and teacher["recipe"] == dataclasses.asdict(recipe)
    assert teacher["start"] == origins.load("start")[recipe.init].sha256
    assert planned[plan.REGISTER]["start"]["teacher"].startswith(SHARP.name)
    with pytest.raises(FarposeError, match=f"not there.*farpose run train@{SHARP.name}"):
        teachers.digest("artifacts/models/" + SHARP.name + "/model.safetensors")


def test_a_teacher_sees_the_same_view_with_more_px(shard, tmp_path):  # noqa: F811
    """Corners of crops lie on corners, so every second px of a crop of twice as many less one is the student's own px."""
    feed = CropFeed(TAUGHT, shard, "val")
    feed.place(built().codec, RECIPE, CPU)
    indices, (height, width) = torch.arange(4), TAUGHT.input_size
    same = feed.view(indices, 7, TAUGHT.geometry())
    torch.testing.assert_close(same, feed.draw(indices, 7).images)
    finer = feed.view(indices, 7, CropGeometry((2 * height - 1, 2 * width - 1), TAUGHT.heatmap_size, "unbiased"))
    torch.testing.assert_close(finer[..., ::2, ::2], same, rtol=0, atol=0.02)  # a grey level is 0.017


def test_training_imitates_the_maps_of_the_larger_view(shard, tmp_path, monkeypatch):  # noqa: F811
    """One step of a training whose teacher sees more px: its imitation is torch's divergence from the teacher's maps of that view."""
    torch.manual_seed(1)
    network = zoo.network(SHARP).eval()
    save_weights(tmp_path / "sharp.safetensors", network, {"variant": SHARP.name})
    recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=4, teacher=str(tmp_path / "sharp.safetensors"), drop_last=True)
    seen: list[dict[str, torch.Tensor]] = []
    loss = teachers.Teacher.loss

    def watched(self, outputs, wanted, supervised):
        found = loss(self, outputs, wanted, supervised)
        seen.append({"outputs": outputs[0].detach(), "imitation": found["imitation"].detach()})
        return found

    monkeypatch.setattr(teachers.Teacher, "loss", watched)
    train(TAUGHT, shard, tmp_path / "model", recipe, checkpoints=tmp_path / "checkpoints")
    feed = CropFeed(TAUGHT, shard, "val")
    feed.place(built().codec, recipe, CPU)
    first = Batches(len(feed), 4, recipe.seed, True, CPU).indices(0)
    with torch.no_grad():
        wanted = network(feed.view(first, step_seed(recipe.seed, 0), SHARP.geometry()))[0].flatten(2).softmax(-1)
    expected = functional.kl_div(seen[0]["outputs"].flatten(2).log_softmax(-1).flatten(0, 1), wanted.flatten(0, 1), reduction="batchmean")
    torch.testing.assert_close(seen[0]["imitation"], expected, rtol=1e-3, atol=1e-4)


def test_a_teacher_that_sees_fewer_px_is_refused(teaching):
    larger = zoo.variant("categorical_mobilenet_fpn_coco_128x96_x2")
    with pytest.raises(FarposeError, match=r"crops of the teacher are 64x48 px, of .* 128x96.*as many px or more"):
        open_teacher(teaching, 0.5, larger, zoo.build(larger).codec, CPU)


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_outside_its_range_is_refused(share: float):
    with pytest.raises(ValueError, match="teacher_share must lie above 0"):
        dataclasses.replace(RECIPE, teacher_share=share)


def test_another_file_of_the_teacher_changes_the_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "REPOSITORY", tmp_path)
    file: Path = tmp_path / RELEASED
    file.parent.mkdir(parents=True)
    digests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_weights(file, nn.Linear(2, 2), {"variant": TEACHING.name})
        decided = plan.decisions(dataclasses.replace(TAUGHT, train={**TAUGHT.train, "teacher": RELEASED}))
        assert decided[plan.TRAIN]["teacher"] == decided[plan.REGISTER]["start"]["SHA-256 of the teacher"] == sha256_of(file)
        digests.append(decided[plan.TRAIN]["teacher"])
    assert digests[0] != digests[1]
    assert plan.decisions(zoo.variant("categorical_mobilenet_fpn_coco_64x48_x2"))[plan.TRAIN]["teacher"] is None
