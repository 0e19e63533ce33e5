"""What every network of whole images must do: HigherHRNet, LitePose, HigherPose, LimbPose, CenterNet and the bottom-up SR head.

Every method with its switches on a tiny backbone is quick to test; the rows of the tables are slow.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.degrade.augment import normalise
from components.models import official, zoo
from components.models.backbones.litepose import LITEPOSES
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.official import authors_key
from components.models.variant import Variant, methods
from tests.models.subjects import BOTTOM_UP, TINY, check_saved_weights, codec_of, images, network, small_variant

SWITCHES = [
    ("higherpose", {"attention": "published"}),
    ("higherpose", {"attention": "none"}),
    ("limbpose", {"limb_bias": False}),
]
FROZEN = r"(encoder|decoder)_positions"  # HigherPose's sines, parameters as in its authors' checkpoints
UNHEARD = r".*\.(linears\.1|key)\.bias"  # of keys: adds the same to all logits of a query, which softmax does not hear
slow = pytest.mark.slow


def _small() -> dict[str, Variant]:
    """Every bottom-up method on every tiny backbone that it runs on, and with its switches."""
    plain = [small_variant(method, backbone) for method in BOTTOM_UP for backbone in TINY if backbone in methods()[method].backbones]
    switched = [small_variant(method, "hrnet_tiny", network=setting) for method, setting in SWITCHES]
    settings = ["_".join(f"{name}_{value}" for name, value in setting.items()) for _, setting in SWITCHES]
    names = [f"{variant.name}_{setting}" for variant, setting in zip(switched, settings, strict=True)]
    return {variant.name: variant for variant in plain} | dict(zip(names, switched, strict=True))


def _large() -> dict[str, Variant]:
    """Every method on every backbone of its table, with each setting and each number of joints, for images of 128 px."""
    chosen: dict[tuple[object, ...], Variant] = {}
    for variant in zoo.load_variants().values():
        if variant.approach == "images" and variant.backbone not in TINY:
            name = variant.name.replace(f"_{variant.input_size[0]}", "_128")
            smaller = dataclasses.replace(variant, name=name, input_size=(128, 128))
            chosen.setdefault((variant.method, variant.backbone, variant.num_keypoints, *variant.network.changed), smaller)
    return {variant.name: variant for variant in chosen.values()}


SMALL, LARGE = _small(), _large()
FIRST = {variant.method: name for name, variant in reversed(SMALL.items())}.values()  # one of each method
QUICK = [pytest.param(variant, id=name) for name, variant in SMALL.items()]
SLOW = [pytest.param(variant, id=name, marks=slow) for name, variant in LARGE.items()]
METHODS_QUICK = [pytest.param(variant, id=name, marks=() if name in FIRST else slow) for name, variant in SMALL.items()]
over_all = pytest.mark.parametrize("variant", QUICK + SLOW)
over_small = pytest.mark.parametrize("variant", QUICK)
over_methods = pytest.mark.parametrize("variant", METHODS_QUICK)
over_methods_and_rows = pytest.mark.parametrize("variant", METHODS_QUICK + SLOW)


def mixes_the_batch(variant: Variant) -> bool:
    """Whether it is the one network that must not treat an image on its own: HigherPose as its released code computes it."""
    return getattr(variant.network, "attention", None) == "published"


def drawn_people(variant: Variant, count: int, persons: int = 2, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
    """What a codec makes targets of: joints (B, P, K, 2) in each output's cells, visibility (B, P, K), masks that count everything."""
    generator, codec, side = torch.Generator().manual_seed(seed), codec_of(variant), variant.input_size[0]
    pixels = torch.rand(count, persons, variant.num_keypoints, 2, generator=generator) * 0.9 * side + 0.05 * side
    visible = torch.rand(count, persons, variant.num_keypoints, generator=generator) < 0.8
    cells = tuple(pixels * size / side for size in codec.output_sizes)
    return cells, visible, tuple(torch.ones(count, size, size, dtype=torch.bool) for size in codec.output_sizes)


def loss_of(variant: Variant, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    codec = codec_of(variant)
    codec.progress(1.0)
    return codec.loss(model(batch), codec.targets(*drawn_people(variant, len(batch))))


SIDES = [(64, 192), (320, 128)]


@over_small
def test_outputs_follow_the_image_s_size_and_are_the_codec_s(variant: Variant):
    sizes = [variant.input_size] if mixes_the_batch(variant) else [variant.input_size, *SIDES]
    with torch.device("meta"):
        model = zoo.network(variant).eval()
        outputs = {size: model(torch.empty(2, 3, *size)) for size in sizes}
    assert [tuple(output.shape[1:]) for output in outputs[variant.input_size]] == list(codec_of(variant).output_shapes)
    joints = variant.num_keypoints
    for (height, width), found in outputs.items():
        finer = [(joints, 2)] if variant.method not in ("sr_head_bottomup", "simple_bottomup") else []
        expected = [(2 * joints, variant.record.stride), *finer]
        if variant.method == "centernet":
            expected = [(channels, 4) for channels in (1, joints, 2 * joints, 2 * joints)]
        assert isinstance(found, tuple)
        assert [tuple(output.shape) for output in found] == [(2, channels, height // cell, width // cell) for channels, cell in expected]


@over_all
def test_an_image_s_result_does_not_depend_on_its_batch(variant: Variant):
    model, batch = network(variant), images(variant, 3)
    order = [2, 0, 1]
    with torch.no_grad():
        whole, again, alone, permuted = model(batch), model(batch), model(batch[1:2]), model(batch[order])
        other_mates = model(torch.cat([batch[1:2], batch.flip(0)[:1] * 0.5, batch[:1].flip(-1)]))
    for found, repeated, single, moved, beside in zip(whole, again, alone, permuted, other_mates, strict=True):
        assert torch.isfinite(found).all() and found.std() > 0
        assert torch.equal(found, repeated)
        room = {"rtol": 1e-4, "atol": 1e-4 * float(found.std())}
        same = [torch.allclose(other, found[1:2], **room) for other in (single, beside[:1])]
        assert same == [not mixes_the_batch(variant)] * 2
        torch.testing.assert_close(moved, found[order], **room)


def convolutional(variant: Variant) -> bool:
    return variant.method not in ("higherpose", "limbpose") or getattr(variant.network, "attention", None) == "none"


@pytest.mark.parametrize("variant", [case for case in METHODS_QUICK + SLOW if convolutional(case.values[0])])
def test_a_transposed_image_gives_transposed_outputs_where_the_kernels_are_transposed(variant: Variant):
    """Oracle for images that are no square: heights and widths are nowhere mixed up."""
    model = network(variant)
    tall = normalise((torch.rand(2, 3, 192, 64, generator=torch.Generator().manual_seed(5)) * 255).to(torch.uint8))
    with torch.no_grad():
        upright = model(tall)
        for value in model.parameters():
            if value.ndim == 4:
                value.copy_(value.transpose(2, 3).clone())
        if variant.method == "sr_head_bottomup":  # its channels are the rows and columns of a cell
            converge = model.head["heatmaps"].converge
            for value in converge.parameters():
                value.copy_(value.unflatten(0, (variant.num_keypoints, 4, 4)).transpose(1, 2).flatten(0, 2))
        lying = model(tall.transpose(2, 3))
    for expected, found in zip(upright, lying, strict=True):
        torch.testing.assert_close(found.transpose(2, 3), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@over_methods_and_rows
def test_the_memory_layout_of_the_image_changes_nothing(variant: Variant):
    model, batch = network(variant), images(variant, 2)
    with torch.no_grad():
        expected = model(batch)
        found = model.to(memory_format=torch.channels_last)(batch.contiguous(memory_format=torch.channels_last))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * float(a.std()))


@over_all
def test_the_gradient_reaches_every_trainable_parameter(variant: Variant):
    model = network(variant).train()
    loss_of(variant, model, images(variant, 2))["loss"].backward()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    unreached = {name for name, _ in model.named_parameters() if name not in reached | frozen and not re.fullmatch(UNHEARD, name)}
    assert all(re.fullmatch(FROZEN, name) for name in frozen)
    assert not unreached


@over_methods
def test_training_waits_for_no_value(variant: Variant):
    """On the meta device whatever waits for a value raises. In training mode the outputs are the same in number and shape."""
    cells, visible, masks = drawn_people(variant, 2)
    codec = codec_of(variant)
    with torch.device("meta"):
        model = zoo.network(variant).train()
        outputs = model(torch.empty(2, 3, *variant.input_size))
    assert [tuple(output.shape[1:]) for output in outputs] == list(codec.output_shapes)
    targets = codec.targets(tuple(x.to("meta") for x in cells), visible.to("meta"), tuple(x.to("meta") for x in masks))
    codec.loss(outputs, targets)["loss"].backward()
    assert any(value.grad is not None for value in model.parameters())


@over_methods
def test_the_seed_decides_weights_loss_and_gradients(variant: Variant):
    first, again, other = (first_step(variant, seed) for seed in (3, 3, 4))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def first_step(variant: Variant, seed: int) -> dict[str, Tensor]:
    """Losses, gradients and state of a fresh network after one backward pass in training mode."""
    torch.manual_seed(seed)
    model = zoo.network(variant).train()
    losses = loss_of(variant, model, images(variant, 2))
    losses["loss"].backward()
    gradients = {f"{name}.grad": value.grad for name, value in model.named_parameters() if value.grad is not None}
    return losses | gradients | model.state_dict()


def scene(variant: Variant) -> tuple[Tensor, tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]]:
    """Two images with a coloured blob at every visible joint, its colour the joint's, and their persons."""
    people = drawn_people(variant, 2)
    (finest, visible, _), side, joints = (people[0][-1], people[1], people[2]), variant.input_size[0], variant.num_keypoints
    pixels = finest * side / codec_of(variant).output_sizes[-1]
    axis = torch.arange(side) + 0.0
    gauss = [torch.exp(-((axis - pixels[..., i, None]) ** 2) / (2 * 4.0**2)) for i in range(2)]  # x, y: (B, P, K, side)
    blobs = gauss[1][..., :, None] * gauss[0][..., None, :] * visible[..., None, None]
    colours = torch.rand(joints, 3, generator=torch.Generator().manual_seed(1)) * 255
    drawn = torch.einsum("bpkyx,kc->bcyx", blobs, colours).clamp(0, 255)
    return normalise(drawn.to(torch.uint8)), people


LEARNERS = {codec_of(SMALL[name]).__class__: name for name in FIRST}.values()  # one for each codec


@pytest.mark.parametrize("variant", [pytest.param(v, id=name, marks=() if name in LEARNERS else slow) for name, v in SMALL.items()])
def test_a_scene_is_learned_by_heart(variant: Variant):
    torch.manual_seed(0)
    model, codec = zoo.network(variant).train(), codec_of(variant)
    batch, people = scene(variant)
    targets = codec.targets(*people)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    history = []
    for _ in range(20):
        losses = codec.loss(model(batch), targets)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    first, last = history[0], history[-1]
    assert last["loss"] < 0.5 * first["loss"]
    persons = ("regress", "offset") if variant.method == "centernet" else ("pull", "push")  # which joints belong together
    assert sum(last[name] for name in persons) < sum(first[name] for name in persons)


@over_methods_and_rows
def test_saved_weights_give_the_same_network(variant: Variant, tmp_path):
    check_saved_weights(variant, tmp_path / "model.safetensors")


ROWS = {name: variant for name, variant in zoo.load_variants().items() if variant.approach == "images"}
HIGHERHRNET = next(name for name, variant in ROWS.items() if (variant.method, variant.backbone) == ("higherhrnet", "hrnet_tiny"))


def test_every_bottom_up_method_has_rows_and_a_small_form():
    assert {variant.method for variant in ROWS.values()} == {variant.method for variant in SMALL.values()} == set(BOTTOM_UP)


@over_all
def test_our_keys_and_the_authors_are_one_to_one(variant: Variant):
    """Also on a backbone that nobody published: it keeps our names, all else has those of the method's authors."""
    with torch.device("meta"):
        keys = {key: authors_key(key, variant) for key in zoo.network(variant, published=True).state_dict()}
    assert len(set(keys.values())) == len(keys)
    assert not any(re.search(r"(^|\.)head\.", key) for key in keys.values())  # our word for what they name otherwise
    if variant.backbone in MOBILENETS:
        assert all(name == key for key, name in keys.items() if key.startswith("backbone."))


def checkpoint(name: str) -> dict[str, Tensor]:
    """An author's checkpoint in which every tensor holds a number of its own."""
    with torch.device("meta"):
        shapes = {authors_key(key, ROWS[name]): value.shape for key, value in zoo.network(ROWS[name]).state_dict().items()}
    return {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items()) if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "name", [HIGHERHRNET, "litepose_xs_crowdpose_256", "sr_head_bottomup_resnet50_coco_256", "simple_bottomup_resnet50_coco_256"]
)
def test_every_value_of_an_authors_checkpoint_arrives_under_our_name(name):
    state = checkpoint(name)
    loaded = official.load(name, state).state_dict()
    arrived = {authors_key(key, ROWS[name]): value for key, value in loaded.items() if not key.endswith("num_batches_tracked")}
    assert arrived.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in arrived.items())


def mmpose_s(key: str) -> str:
    return f"{'keypoint_head' if key.startswith(('final_layers', 'deconv_layers')) else 'backbone'}.{key}"


WRAPPED = {  # what stands before the authors' names; mixed precision wraps the network in a pair of modules, of which it is the second
    "module.": "module.{}".format,
    "1.": "1.{}".format,
    "module.1.": "module.1.{}".format,
    "mmpose": mmpose_s,
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_higherhrnet_s_checkpoints_load_as_they_were_wrapped(wrapping):
    name = HIGHERHRNET
    state = checkpoint(name)
    found = official.load(name, {WRAPPED[wrapping](key): value for key, value in state.items()}).state_dict()
    arrived = {authors_key(key, ROWS[name]): value for key, value in found.items()}
    assert all(torch.equal(arrived[key], value) for key, value in state.items())


def test_a_checkpoint_for_other_joints_is_refused():
    with pytest.raises(FarposeError, match=r"final_layers\.0\.weight.*\(34, 32, 1, 1\).*needs \(28, 32, 1, 1\).*14 keypoints"):
        official.load("higherhrnet_w32_crowdpose_256", checkpoint("higherhrnet_w32_coco_256"))


@pytest.mark.parametrize("name", ["litepose_xs", "litepose_s", "litepose_m", "litepose_l"])
def test_litepose_s_blocks_have_shortcuts_where_shapes_agree_and_large_kernels(name):
    shape = LITEPOSES[name]
    with torch.device("meta"):
        stages = zoo.network(small_variant("litepose", name)).backbone.stages
    assert [len(stage) for stage in stages] == [6, 8, 10, 10]
    inputs = [shape.width, *shape.channels]
    for number, stage in enumerate(stages):
        stride = 2 if number < 3 else 1
        assert [block.shortcut for block in stage] == [stride == 1 and inputs[number] == inputs[number + 1], *[True] * (len(stage) - 1)]
        assert all(block.depth_conv[0].kernel_size == (7, 7) for block in stage)
        assert stage[0].inv[0].out_channels == 6 * inputs[number]


def test_the_published_higherpose_runs_at_other_sizes_than_its_table_s():
    """Its sines follow from a cell's place, so all forms are scored under one geometry."""
    model = network(SMALL["higherpose_tiny_coco_64_attention_published"]).eval()
    with torch.no_grad():
        assert [tuple(output.shape[2:]) for output in model(torch.zeros(1, 3, 64, 192))] == [(16, 48), (32, 96)]


def untrained(variant: Variant) -> Any:
    torch.manual_seed(3)
    return zoo.network(variant)


@pytest.mark.parametrize("method", ["higherhrnet", "sr_head_bottomup"])
def test_initial_outputs_are_near_zero_so_that_training_starts_calmly(method):
    """As published, convolutions start from N(0, 0.001²): heatmaps start at 0 and no tag stands out."""
    variant = small_variant(method, "hrnet_tiny")
    with torch.no_grad():
        outputs = untrained(variant).train()(images(variant, 2))
    assert all(output.abs().max() < 0.1 for output in outputs)
