"""Parts of a start that training leaves as they are: their weights and statistics stay, the gradients of the others are unchanged."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from components.base.errors import FarposeError
from components.models import starts, zoo
from components.models.weights import load_weights
from components.train import recipe as recipes
from components.train.frozen import freeze
from components.train.loop import train
from components.train.synced_norm import sync_batch_norms
from tests.test_train import CPU, shard  # noqa: F401  (a fixture)

SEEING = zoo.variant("categorical_mobilenet_fpn_synthetic_64x48_x2")
NORMED = zoo.variant("hrnet_tiny_synthetic_64x48")
CASES = [
    (SEEING, ("backbone.stem", "backbone.blocks.0", "backbone.blocks.3")),
    (SEEING, ("backbone",)),
    (NORMED, ("backbone.trunk.conv1", "backbone.trunk.bn1", "backbone.trunk.layer1")),
    (zoo.variant("tokenpose_tiny_synthetic_64x48"), ("backbone",)),
    (zoo.variant("sharpose_tiny_synthetic_64x48"), ("backbone",)),
]


def network(variant) -> nn.Module:
    torch.manual_seed(0)
    return zoo.network(variant).train()


def is_frozen(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize(("variant", "modules"), CASES, ids=lambda value: getattr(value, "name", None))
def test_gradients_of_what_is_trained_are_those_of_the_whole_network_and_nothing_else_has_one(variant, modules):
    images = torch.randn(2, 3, *variant.input_size, generator=torch.Generator().manual_seed(1))
    whole = network(variant)
    part = copy.deepcopy(whole)
    freeze(part, modules, "here")
    for module in whole.modules():  # the same statistics in both
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for model in (whole, part):
        torch.manual_seed(2)
        sum(output.float().square().mean() for output in model(images)).backward()
    wanted = dict(whole.named_parameters())
    for name, parameter in part.named_parameters():
        if is_frozen(name, modules):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            torch.testing.assert_close(parameter.grad, wanted[name].grad, msg=name)


def test_statistics_of_frozen_batch_norms_stay_in_training_and_those_of_others_follow():
    model = network(NORMED)
    before = copy.deepcopy(model.state_dict())
    freeze(model, ("backbone.trunk.bn1", "backbone.trunk.layer1"), "here")
    sync_batch_norms(model)  # must not take them back
    model.eval().train()  # as after a validation
    frozen = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) and not module.training]
    assert frozen and all(is_frozen(name, ("backbone.trunk.bn1", "backbone.trunk.layer1")) for name in frozen)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.training:
            module.__class__ = nn.BatchNorm2d  # there are no other processes here
    model(torch.randn(2, 3, *NORMED.input_size))
    after = model.state_dict()
    moved = {name for name in before if name.endswith("running_mean") and not torch.equal(before[name], after[name])}
    assert moved and not any(is_frozen(name, ("backbone.trunk.bn1", "backbone.trunk.layer1")) for name in moved)
    assert set(after) == set(before), "names stay, so that a file of weights fits both"


def test_a_training_keeps_the_frozen_weights_to_the_bit_and_changes_all_others(shard, tmp_path):  # noqa: F811
    modules = ("backbone.stem", *(f"backbone.blocks.{index}" for index in range(6)))
    recipe = dataclasses.replace(
        recipes.resolve(SEEING, recipes.load()), epochs=1, batch_size=4, warmup_steps=0, validate_every=0, frozen=modules, average=0.9
    )
    summary = train(SEEING, shard, tmp_path / "model", recipe, CPU, tmp_path / "checkpoints")
    assert summary["parameters"] == sum(parameter.numel() for parameter in network(SEEING).parameters()), "all of the model's count"
    start = network(SEEING)
    starts.initialise(start, recipe.init, SEEING.skeleton)
    wanted, found = start.state_dict(), load_weights(tmp_path / "model" / "model.safetensors", SEEING.name)
    equal = {name for name, value in found.items() if torch.equal(value, wanted[name])}
    assert equal == {name for name in found if is_frozen(name, modules)}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("backbone.blocks.99",), r"variant x: frozen: unknown module 'backbone.blocks.99' \(did you mean 'backbone.blocks.9'\?\)"),
        (("backbone.stemm",), r"unknown module 'backbone.stemm' \(did you mean 'backbone.stem'\?\)"),
        (("nothing.like.it",), r"unknown module 'nothing.like.it' \(known: backbone, "),
        (("",), r"unknown module ''"),
        (("backbone", "final_layer"), r"variant x: frozen: no weight is left to train \(name fewer modules\)"),
    ],
)
def test_a_name_that_is_no_module_is_one_line_and_so_is_a_network_without_trained_weights(modules, message):
    model = network(SEEING)
    with pytest.raises(FarposeError, match=message):
        freeze(model, modules, "variant x")
