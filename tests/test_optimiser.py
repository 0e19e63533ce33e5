"""The optimiser: Adam as ever, AdamW with one rate per layer, and a resumed run that takes the same steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from components.base.errors import FarposeError
from components.models import zoo
from components.train import recipe as recipes
from components.train.checkpoint import Checkpoints, Progress
from components.train.optimiser import build_optimiser, decays, parameter_groups, set_learning_rate

CPU = torch.device("cpu")
ADAM = recipes.load()
ADAMW = dataclasses.replace(ADAM, optimiser="adamw", weight_decay=0.1, layer_decay=0.75, learning_rate=5e-4)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return zoo.network(zoo.variant("sharpose_tiny_synthetic_64x48"))


def step(model: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
    optimiser.zero_grad()
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(number))
    sum(output.square().mean() for output in model.train()(images)).backward()
    optimiser.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_adam_is_torchs_own_bit_by_bit():
    ours, plain = small_network(), small_network()
    optimiser = build_optimiser(ours, ADAM, CPU, graphed=False)
    oracle = torch.optim.Adam(plain.parameters(), lr=ADAM.learning_rate, fused=True)
    for number, rate in enumerate((1e-3, 5e-4, 1e-4)):
        set_learning_rate(optimiser, rate)
        oracle.param_groups[0]["lr"] = rate
        step(ours, optimiser, number)
        step(plain, oracle, number)
    assert same(ours, plain)
    assert len(optimiser.param_groups) == 1


def test_adamw_without_decays_is_adam():
    ours, plain = small_network(), small_network()
    adamw = build_optimiser(ours, dataclasses.replace(ADAM, optimiser="adamw"), CPU, graphed=False)
    adam = build_optimiser(plain, ADAM, CPU, graphed=False)
    for number in range(2):
        step(ours, adamw, number)
        step(plain, adam, number)
    assert same(ours, plain)


@pytest.fixture(scope="module")
def base() -> tuple[nn.Module, dict[str, tuple[float, float]]]:
    """SHaRPose-Base without numbers, and each parameter's factor on the rate and weight decay."""
    with torch.device("meta"):
        model = zoo.network(zoo.variant("sharpose_base_coco_256x192"))
    groups = parameter_groups(model, ADAMW)
    of = {id(value): (group["scale"], group["weight_decay"]) for group in groups for value in group["params"]}
    return model, {name: of[id(value)] for name, value in model.named_parameters()}


@pytest.mark.parametrize(("name", "power", "decay"), [
    ("backbone.patch_embed.proj.weight", 13, 0.1), ("backbone.patch_embed.proj.bias", 13, 0), ("backbone.pos_embed_list.1", 13, 0),
    ("backbone.keypoint_tokens", 13, 0), ("backbone.quality_token", 13, 0), ("backbone.blocks.0.attn.qkv.weight", 12, 0.1),
    ("backbone.blocks.0.norm1.weight", 12, 0), ("backbone.blocks.11.mlp.fc2.weight", 1, 0.1), ("backbone.blocks.11.mlp.fc2.bias", 1, 0),
    ("backbone.norm.weight", 0, 0), ("backbone.reuse_block.1.fc1.weight", 0, 0.1), ("backbone.quality_predictor.mlp.0.weight", 0, 0.1),
    ("head.1.weight", 0, 0.1), ("head.0.bias", 0, 0),
])  # fmt: skip
def test_rates_and_decays_are_the_published_ones(base, name, power, decay):
    """Powers as its authors number the layers: 13 - 0 for the embeddings, 13 - (i + 1) for block i, 0 for all behind."""
    assert base[1][name] == (pytest.approx(0.75**power), decay)


def test_every_trainable_parameter_is_in_one_group(base):
    model, of = base
    assert len(of) == len(list(model.parameters()))
    assert len(parameter_groups(model, ADAMW)) == 2 * 14, "embeddings, 12 blocks and the rest, decayed and not"


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("conv.weight", (4, 3, 3, 3), True), ("bn.weight", (4,), False), ("attn.in_proj_bias", (12, 1), False),
    ("attn.relative_position_bias_table", (169, 2), False), ("pos_embedding", (1, 5, 4), False), ("tokenizer.weight", (4, 4), True),
])  # fmt: skip
def test_what_decays(name, shape, expected):
    assert decays(name, torch.empty(shape)) is expected


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("conv.weight", (4, 3, 3, 3), True), ("bn.weight", (4,), True), ("bn.bias", (4,), True), ("attn.in_proj_bias", (12,), True),
    ("relative_position_bias_table", (169, 2), False), ("backbone.pos_embed", (1, 5, 4), False), ("keypoint_tokens", (1, 17, 4), False),
])  # fmt: skip
def test_what_decays_where_norms_and_biases_do(name, shape, expected):
    """mmcv without `norm_decay_mult`: everything but what `custom_keys` sets to 0."""
    assert decays(name, torch.empty(shape), everything=True) is expected


def test_hrformers_norms_and_biases_shrink_too():
    variant = zoo.variant("srpose_hrformer_s_coco_256x192")
    recipe = recipes.resolve(variant, ADAM)
    with torch.device("meta"):
        model = zoo.network(variant)
    assert {group["weight_decay"] for group in parameter_groups(model, recipe)} == {0.01}
    spared = parameter_groups(model, dataclasses.replace(recipe, decay_all=False))
    assert {group["weight_decay"] for group in spared} == {0.01, 0.0}


def test_the_first_step_moves_each_layer_by_its_own_rate():
    """Adam's first step has the size of its rate: with all gradients 1, each weight moves by rate x scale, and decays."""
    model = small_network()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser = build_optimiser(model, ADAMW, CPU, graphed=False)
    set_learning_rate(optimiser, 0.01)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimiser.step()
    for name, value in model.named_parameters():
        rate = 0.01 * 0.75 ** (model.layers + 1 - model.layer_of(name))
        shrunk = before[name] * (1 - rate * (0.1 if decays(name, value) else 0))
        torch.testing.assert_close(value.detach(), shrunk - rate, rtol=0, atol=1e-6)


def test_frozen_parameters_are_left_out_and_alone():
    model = small_network()
    model.backbone.patch_embed.requires_grad_(False)
    before = model.backbone.patch_embed.proj.weight.clone()
    optimiser = build_optimiser(model, ADAMW, CPU, graphed=False)
    step(model, optimiser, 0)
    assert torch.equal(model.backbone.patch_embed.proj.weight, before)
    trained = sum(len(group["params"]) for group in optimiser.param_groups)
    assert trained == sum(value.requires_grad for value in model.parameters())


def test_a_recorded_step_sees_its_groups_rates_change_in_their_tensors():
    optimiser = build_optimiser(small_network(), ADAMW, CPU, graphed=True)
    rates = [group["lr"] for group in optimiser.param_groups]
    set_learning_rate(optimiser, 2e-3)
    assert all(group["lr"] is rate for group, rate in zip(optimiser.param_groups, rates, strict=True))
    assert [float(rate) for rate in rates] == pytest.approx([2e-3 * group["scale"] for group in optimiser.param_groups])


def test_a_network_without_numbered_layers_is_named():
    model = zoo.network(zoo.variant("hrnet_tiny_synthetic_64x48"))
    with pytest.raises(FarposeError, match=r"layer_decay needs a network that numbers its layers, which PlainPose does not \(set"):
        build_optimiser(model, ADAMW, CPU, graphed=False)


@pytest.mark.parametrize("recipe", [ADAM, ADAMW], ids=["adam", "adamw"])
def test_a_resumed_run_takes_the_same_steps(recipe, tmp_path):
    def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = small_network()
        return model, build_optimiser(model, recipe, CPU, graphed=False)

    store = Checkpoints(tmp_path, "a", {}, seconds=3600.0)
    whole, optimiser = begin()
    for number in range(4):
        set_learning_rate(optimiser, recipe.learning_rate / (number + 1))
        step(whole, optimiser, number)
        if number == 1:
            store.save(whole, optimiser, Progress(step=2))
    resumed, optimiser = begin()
    assert store.resume(resumed, optimiser).step == 2
    for number in (2, 3):
        set_learning_rate(optimiser, recipe.learning_rate / (number + 1))
        step(resumed, optimiser, number)
    assert same(whole, resumed)
