"""Every convolutional method on MobileNetFPN: shapes, gradients, and what it takes of MoveNet's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.models import starts, zoo
from components.models.backbones.mobilenet_fpn import LEVELS, MOBILENETS, build_mobilenet
from components.models.methods.siu import StableMobileNetFPN
from components.models.official import authors_key
from components.models.variant import Variant, methods
from tests.models.learning import learned_share
from tests.models.subjects import codec_of, images, people, small_variant
from tests.models.test_bottom_up import loss_of

VARIANTS = {name: variant for name, variant in zoo.load_variants().items() if variant.backbone in MOBILENETS}
ON_CROPS = {variant.method: variant for name, variant in VARIANTS.items() if name.endswith("_mobilenet_fpn_coco_64x48_x2")}
BOTTOM_UP = {name: small_variant(name, "mobilenet_fpn") for name in ("higherhrnet", "simple_bottomup", "sr_head_bottomup")}
METHODS = ON_CROPS | BOTTOM_UP
BACKBONE, BRANCH, LAST = 121, 3, 2  # tensors of the backbone without the branch, of a branch, of the last layer
TAKEN = {
    "categorical": BACKBONE + BRANCH + LAST,
    "simple": BACKBONE + BRANCH + LAST,
    "dark": BACKBONE + BRANCH + LAST,
    "dark_ranked": BACKBONE + BRANCH + LAST,
    "udp_gaussian": BACKBONE + BRANCH + LAST,
    "udp_offset": BACKBONE + BRANCH + LAST,
    "cal": BACKBONE + 2 * BRANCH + LAST,  # the second branch is the one before MoveNet's offsets
    "simcc": BACKBONE + BRANCH + LAST,
    "sr_head": BACKBONE + BRANCH,
    "srpose": BACKBONE,
    "siu": BACKBONE + BRANCH + LAST,
    "higherhrnet": BACKBONE,
    "simple_bottomup": BACKBONE + BRANCH,
    "sr_head_bottomup": BACKBONE + BRANCH,
}
over_methods = pytest.mark.parametrize("variant", [pytest.param(METHODS[name], id=name) for name in TAKEN if name in METHODS])
FUSED = [small_variant(name, "fused_fpn") for name in TAKEN]
on_every_shape = pytest.mark.parametrize(
    "variant",
    [pytest.param(METHODS[name], id=name) for name in TAKEN if name in METHODS]
    + [pytest.param(variant, id=f"{variant.method} fused") for variant in FUSED],
)
over_crops = pytest.mark.parametrize("variant", [pytest.param(ON_CROPS[name], id=name) for name in TAKEN if name in ON_CROPS])


def drawn(variant: Variant) -> nn.Module:
    torch.manual_seed(0)
    return zoo.network(variant)


def loss(variant: Variant, model: nn.Module) -> torch.Tensor:
    if variant.approach == "images":
        return loss_of(variant, model, images(variant, 2))["loss"]
    codec = codec_of(variant)
    codec.progress(1.0)
    return codec.loss(model(images(variant, 2)), codec.targets(*people(codec, 2)))["loss"]


def test_these_are_all_the_methods_that_run_on_it():
    own = {name for name, method in methods().items() if "mobilenet_fpn" in method.backbones}
    assert set(TAKEN) <= set(METHODS) <= own
    assert all(set(MOBILENETS) <= set(methods()[name].backbones) for name in TAKEN)


@on_every_shape
def test_outputs_are_the_codec_s_and_gradients_reach_everything(variant: Variant):
    model, codec = drawn(variant), codec_of(variant)
    for last in (part for part in model.modules() if isinstance(part, nn.Conv2d) and part.weight.std() < 0.01):
        nn.init.kaiming_normal_(last.weight)  # a gradient through the published 0.001 would be too small to tell from none
    loss(variant, model.train()).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    with torch.inference_mode():
        outputs = model.eval()(images(variant, 2))
    assert [tuple(output.shape[1:]) for output in outputs] == list(codec.output_shapes)
    keys = list(model.state_dict())
    assert len({authors_key(key, variant) for key in keys}) == len(keys)


@over_methods
def test_what_each_takes_of_movenet_s_weights(variant: Variant):
    model = drawn(variant)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert starts.initialise(model, "movenet_lightning", variant.skeleton) == TAKEN[variant.method]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert len(changed) == TAKEN[variant.method]
    assert all(key in changed or "shuffles" in key for key in before if key.startswith("backbone."))


def test_cal_s_offsets_start_from_the_layer_before_movenet_s_offsets():
    model, plain = drawn(ON_CROPS["cal"]), drawn(ON_CROPS["simple"])
    for each in (model, plain):
        starts.initialise(each, "movenet_lightning", ON_CROPS["cal"].skeleton)
    batch = images(ON_CROPS["cal"], 2)
    with torch.inference_mode():
        (heatmaps, offsets), (expected,) = model.eval()(batch), plain.eval()(batch)
    torch.testing.assert_close(heatmaps, expected)
    assert not torch.equal(model.offset_branch.pointwise.weight, model.backbone.branch.pointwise.weight)
    assert offsets.abs().max() < 0.05, "cells: the offsets' own last layer starts small"


@pytest.mark.parametrize("name", MOBILENETS)
def test_levels_halve_and_the_finest_is_the_pyramid(name):
    torch.manual_seed(0)
    backbone, batch = build_mobilenet(name), torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        levels = backbone.levels(batch)
        assert torch.equal(levels[0], backbone.pyramid(batch)) and torch.equal(backbone(batch), backbone.branch(levels[0]))
    assert [tuple(level.shape) for level in levels] == [(2, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate(LEVELS)]
    assert backbone.level_channels == LEVELS


def test_without_its_branch_the_backbone_ends_at_the_pyramid():
    backbone = build_mobilenet("mobilenet_fpn", branch=False)
    assert backbone.channels == backbone.pyramid_channels and not any(key.startswith("branch") for key in backbone.state_dict())


@pytest.mark.parametrize("name", MOBILENETS)
def test_random_weights_neither_fade_nor_explode(name):
    torch.manual_seed(0)
    with torch.inference_mode():
        features = build_mobilenet(name)(images(ON_CROPS["simple"], 8))
    assert 0.1 < features.std() < 10


def test_a_fused_shape_has_no_filter_per_channel_and_sees_as_far():
    """A change of the image's middle px reaches every place of the maps, as it does in MobileNetV2's form."""
    torch.manual_seed(0)
    fused, plain = build_mobilenet("fused_fpn").eval(), build_mobilenet("mobilenet_fpn").eval()
    assert all(module.groups == 1 for module in fused.modules() if isinstance(module, nn.Conv2d))
    for backbone in (fused, plain):
        image = torch.randn(1, 3, 64, 48, requires_grad=True)
        reached = torch.zeros(16, 12)
        for row in range(16):
            for column in range(12):
                (gradient,) = torch.autograd.grad(backbone(image)[0, :, row, column].sum(), image)
                reached[row, column] = gradient[0, :, 32, 24].abs().sum()
        assert (reached > 0).all()


def test_siu_changes_the_enlargements_alone():
    torch.manual_seed(0)
    stable, plain = StableMobileNetFPN(MOBILENETS["mobilenet_fpn"]).eval(), build_mobilenet("mobilenet_fpn").eval()
    assert plain.state_dict().keys() == {key for key in stable.state_dict() if not key.startswith("shuffles.")}
    stable.load_state_dict(plain.state_dict(), strict=False)
    batch = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        assert not torch.equal(stable(batch), plain(batch))
        stable.enlarge = plain.enlarge
        assert torch.equal(stable(batch), plain(batch))


@pytest.mark.parametrize(("method", "every"), [("simple", 1), ("dark", 1), ("udp_gaussian", 1), ("udp_offset", 3), ("cal", 1), ("siu", 1)])
@pytest.mark.parametrize("backbone", ["mobilenet_fpn", "fused_fpn"])
def test_heatmaps_of_random_weights_begin_at_the_mean_of_their_targets(method, every, backbone):
    variant = small_variant(method, backbone)
    with torch.inference_mode():
        maps = drawn(variant).eval()(images(variant, 4))[0]
    assert torch.allclose(maps[:, ::every], torch.tensor(0.03), atol=0.01)
    assert every == 1 or maps[:, 1::every].abs().max() < 0.1, "offsets begin at 0"


def test_from_random_weights_sigmoids_and_rectifiers_stay_alive(tmp_path):
    """With a bias of 0 before the sigmoids, the same training ends with maps of zeros."""
    assert learned_share(zoo.variant("dark_fused_fpn_synthetic_64x48_x2_start"), tmp_path, 400, own_recipe=True) > 0.9


@pytest.mark.parametrize(("method", "every"), [("simple", 1), ("dark", 1), ("udp_gaussian", 1), ("udp_offset", 3), ("cal", 1)])
def test_heatmaps_start_as_the_sigmoid_of_movenets_logits(method, every):
    logits, heatmaps = drawn(ON_CROPS["categorical"]), drawn(ON_CROPS[method])
    for model in (logits, heatmaps):
        starts.initialise(model, "movenet_lightning", ON_CROPS[method].skeleton)
    batch = images(ON_CROPS[method], 2)
    with torch.inference_mode():
        torch.testing.assert_close(heatmaps(batch)[0][:, ::every], logits(batch)[0].sigmoid(), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@over_crops
def test_each_learns_a_batch_by_heart_from_its_start(variant: Variant, tmp_path):
    steps = 5000 if variant.method == "siu" else 1600  # its shuffles have no part of the start, and hide it at first
    assert learned_share(variant, tmp_path, steps=steps, init="movenet_lightning", own_recipe=True) >= 0.95


def test_finer_maps_start_as_the_bilinear_enlargement_of_the_coarse_ones():
    finer, coarse = VARIANTS["categorical_mobilenet_fpn_coco_64x48_x2_taught"], VARIANTS["categorical_mobilenet_fpn_coco_64x48_x2"]
    fine, plain = drawn(finer).eval(), drawn(coarse).eval()
    for each in (fine, plain):
        starts.initialise(each, "movenet_lightning", coarse.skeleton)
    with torch.inference_mode():
        (enlarged,), (maps,) = fine(images(coarse, 2)), plain(images(coarse, 2))
    assert enlarged.shape[-2:] == (64, 48)
    corners = enlarged[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, maps[..., [0, 0, -1, -1], [0, -1, 0, -1]])  # the first and the last cells keep their places
    rows = torch.linspace(-1, 1, 64)[:, None].expand(64, 48)
    columns = torch.linspace(-1, 1, 48).expand(64, 48)
    grid = torch.stack([columns, rows], -1).expand(2, 64, 48, 2)
    torch.testing.assert_close(enlarged, nn.functional.grid_sample(maps, grid, align_corners=True), atol=1e-4, rtol=1e-4)


def test_each_part_of_a_finer_cell_has_weights_of_its_own():
    variant = VARIANTS["categorical_mobilenet_fpn_coco_64x48_x2_taught"]
    model = drawn(variant).eval()
    inputs = images(variant, 1)
    with torch.no_grad():
        before = model(inputs)[0].clone()
        model.between.bias[4 * 3 + 1] = 7.0  # joint 3, upper right of the four cells
        difference = model(inputs)[0] - before
    expected = torch.zeros_like(difference)
    expected[:, 3, 0::2, 1::2] = 7.0
    torch.testing.assert_close(difference, expected, atol=1e-4, rtol=0)
