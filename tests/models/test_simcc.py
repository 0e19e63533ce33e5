"""SimCC's networks: equal to the published code, their sizes to what it and its README say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from components import codecs
from components.models import official, zoo
from components.models.variant import Variant
from tests.models.fill import filled, fixed_input
from tests.models.learning import learned_share
from tests.models.subjects import counted_for
from tests.test_official import shapes_of

GOLDEN = Path(__file__).parents[1] / "golden" / "simcc.npz"  # the published networks' outputs, strided
VARIANTS = zoo.load_variants()
SMALL = ["hrnet_tiny", "resnet18", "tokenpose_tiny"]
TABLE = {name: v for name, v in VARIANTS.items() if (v.paper.source or "").startswith("SimCC") and v.paper.params_m}
COUNTED = [name for name, v in TABLE.items() if v.method in ("simcc", "tokenpose")]  # the others are in test_costs.py
MISPRINTED = {"simcc_resnet101_coco_256x192": 55.745}  # M; the README prints 53.7


def small(backbone: str, size: tuple[int, int] = (64, 48), **settings: object) -> Variant:
    return Variant(f"simcc_{backbone}_coco_{size[0]}x{size[1]}", "simcc", backbone, "coco", size, **settings)


def images(count: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["simcc_hrnet_w32_coco_64x64", "simcc_resnet50_coco_64x64"])
def test_outputs_equal_the_golden_ones(name):
    outputs = official.outputs(official.load(name, filled(shapes_of(name))), fixed_input((2, 3, 64, 64)))
    with np.load(GOLDEN) as golden:
        for i, output in enumerate(outputs):
            expected = golden[f"{name}.{i}"]
            assert np.abs(output.numpy()[..., ::3] - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("name", COUNTED)
def test_counts_round_to_what_the_readme_prints(name):
    """By its own counter, which leaves layer norms, tokens and positions out; 0.749 is printed as .7."""
    paper = TABLE[name].paper
    assert counted_for(name).params_summary / 1e6 == pytest.approx(MISPRINTED.get(name, paper.params_m), abs=0.051)
    assert counted_for(name).gflops("summary") == pytest.approx(paper.gflops, abs=0.051)


@pytest.mark.parametrize(("name", "macs"), [
    ("simcc_resnet50_coco_64x64", 0.45), ("simcc_resnet50_coco_128x128", 1.82), ("simcc_resnet50_coco_256x192", 5.47),
    ("simcc_resnet50_coco_384x288", 12.37), ("simcc_resnet50_coco_128x96", 1.36), ("simcc_tokenpose_s_coco_64x64", 1.65),
    ("simcc_resnet101_coco_128x128", 3.03), ("simcc_resnet101_coco_256x192", 9.11),
    ("simcc_hrnet_w32_coco_64x64", 0.64), ("simcc_hrnet_w32_coco_128x128", 2.56),
    ("simcc_hrnet_w32_coco_256x192", 7.69), ("simcc_hrnet_w32_coco_128x96", 1.92),
    ("simcc_hrnet_w48_coco_64x64", 1.31), ("simcc_hrnet_w48_coco_128x128", 5.24),
    ("simcc_hrnet_w48_coco_256x192", 15.74), ("simcc_hrnet_w48_coco_384x288_gaussian", 35.43),
])  # fmt: skip
def test_multiply_adds_equal_those_of_the_published_code(name, macs):
    assert counted_for(name).macs / 1e9 == pytest.approx(macs, abs=0.0051)


@pytest.mark.parametrize(("name", "cells", "columns", "rows"), [
    ("simcc_hrnet_w48_coco_384x288_gaussian", 6912, 432, 576), ("simcc_hrnet_w48_coco_256x192", 3072, 384, 512),
    ("simcc_resnet101_coco_128x128", 1024, 256, 256), ("simcc_resnet152_coco_384x288", 6912, 576, 768),
    ("simcc_resnet50_coco_128x128", 1024, 384, 384), ("simcc_hrnet_w32_mpii_64x64", 256, 192, 192),
    ("simcc_hrnet_w32_mpii_256x256", 4096, 512, 512), ("simcc_hrnet_w32_mpii_256x256_gaussian", 4096, 512, 512),
])  # fmt: skip
def test_checkpoints_of_every_released_configuration_fit(name, cells, columns, rows):
    """The linear layers' sizes are the released ones, and a state_dict of the authors' names loads."""
    keys, joints = shapes_of(name), VARIANTS[name].num_keypoints
    assert (keys["mlp_head_x.weight"], keys["mlp_head_y.weight"]) == ((columns, cells), (rows, cells))
    assert keys["final_layer.weight"][0] == joints
    assert ("deconv_layers.6.weight" in keys) == ("resnet" in name)
    model = official.load(name, {key: np.zeros(shape, np.float32) for key, shape in keys.items()})
    if cells <= 256:
        outputs = official.outputs(model, fixed_input((1, 3, *VARIANTS[name].input_size)))
        assert [tuple(output.shape) for output in outputs] == [(1, joints, columns), (1, joints, rows)]


def test_published_resnets_flatten_the_surplus_columns_that_ours_cut_off():
    name = "simcc_resnet50_coco_64x48"
    with torch.device("meta"):
        published, ours = (zoo.network(VARIANTS[name], published=flag).eval() for flag in (True, False))
        assert (published.head.x.in_features, ours.head.x.in_features) == (16 * 16, 16 * 12)
        shapes = [[tuple(output.shape) for output in model(torch.empty(1, 3, 64, 48))] for model in (published, ours)]
    assert shapes == [[(1, 17, 144), (1, 17, 192)]] * 2


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("size", [(64, 48), (128, 96), (64, 64), (256, 192)])
def test_outputs_have_the_shapes_that_the_codec_expects(backbone, size):
    variant = small(backbone, size)
    codec = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton)
    with torch.no_grad():
        outputs = zoo.network(variant).eval()(images(1, size))
    assert [tuple(output.shape[1:]) for output in outputs] == list(codec.output_shapes)


@pytest.mark.parametrize("settings", [{"split": 4.0}, {"target": "gaussian", "split": 1.5, "preset": "published"}], ids=str)
@pytest.mark.parametrize("backbone", SMALL)
def test_the_codec_decides_how_many_bins_there_are(backbone, settings):
    model = zoo.network(small(backbone, codec=settings)).eval()
    with torch.no_grad():
        x, y = model(images(1))
    assert (x.shape[-1], y.shape[-1]) == (int(48 * settings["split"]), int(64 * settings["split"]))


def draw_large(model: nn.Module) -> None:
    """Weights far from the initial ones, so that nothing is equal or 0 by chance."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)


@pytest.mark.parametrize("backbone", SMALL)
def test_the_gradient_reaches_every_trainable_parameter(backbone):
    torch.manual_seed(0)
    model = zoo.network(small(backbone))
    draw_large(model)
    sum(output.square().mean() for output in model(images(2))).backward()
    unreached = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0}
    assert unreached == {name for name, value in model.named_parameters() if not value.requires_grad}


def test_joints_share_the_linear_layers_and_are_classified_from_their_own_map():
    """Exchanging two joints' rows of the last convolution exchanges their logits and changes no others."""
    torch.manual_seed(0)
    model = zoo.network(small("hrnet_tiny")).eval()
    draw_large(model)
    with torch.no_grad():
        before = model(images(1))
        for value in (model.head.final_layer.weight, model.head.final_layer.bias):
            value[[3, 5]] = value[[5, 3]].clone()
        after = model(images(1))
    order = list(range(17))
    order[3], order[5] = 5, 3
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a[:, order])
        assert not torch.allclose(a[:, 3], a[:, 5])


def test_the_table_names_every_row_of_the_readme():
    sizes = {"64x64": 5, "128x128": 5, "256x192": 5}
    for size, count in sizes.items():
        rows = [v for name, v in TABLE.items() if name.endswith(size) and v.method == "simcc"]
        assert len(rows) == count
    best = {size: VARIANTS[f"simcc_tokenpose_s_coco_{size}"].paper.ap for size in sizes}
    assert best == {"64x64": 62.8, "128x128": 71.4, "256x192": 73.6}
    for name, v in TABLE.items():
        if v.method != "simcc":
            assert v.paper.ap_without_shift < v.paper.ap, name


@pytest.mark.parametrize(("name", "settings"), [
    ("simcc_resnet101_coco_256x192", {"split": 2, "label_smoothing": 0.4}),
    ("simcc_hrnet_w32_coco_128x128", {"split": 2, "label_smoothing": 0.2}),
    ("simcc_hrnet_w48_coco_128x128", {"split": 2, "label_smoothing": 0.1}),
    ("simcc_hrnet_w48_coco_256x192_gaussian", {"split": 2, "sigma": 4}),
    ("simcc_hrnet_w48_coco_384x288_gaussian", {"split": 1.5, "sigma": 4}),
    ("simcc_resnet50_coco_384x288_gaussian", {"split": 2, "sigma": 6}),
    ("simcc_hrnet_w32_mpii_64x64", {"split": 3, "label_smoothing": 0.2}),
])  # fmt: skip
def test_settings_are_the_released_ones(name, settings):
    variant = VARIANTS[name]
    codec = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec)
    assert {key: codec.constants[key] for key in settings} == settings
    assert codec.normalise == ("mpii" in name or "gaussian" in name)


@pytest.mark.parametrize("file", ["simcc_tokenpose_s_64x64"])
def test_the_head_on_tokens_is_said_to_be_ours(parity, file):
    """The reference file's own note, and our docstring."""
    with np.load(parity / "models" / f"{file}.npz") as stored:
        assert "NOT OFFICIAL" in json.loads(str(stored["meta_json"]))["notes"]
    from components.models.methods import simcc

    assert "neither repository holds the head" in " ".join(simcc.__doc__.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simcc_hrnet_tiny_synthetic_64x48", "simcc_tokenpose_tiny_synthetic_64x48"])
def test_it_learns_one_batch_by_heart(name, tmp_path):
    backbone = name.removeprefix("simcc_").removesuffix("_synthetic_64x48")
    assert learned_share(Variant(name, "simcc", backbone, "synthetic", (64, 48)), tmp_path) >= 0.95
