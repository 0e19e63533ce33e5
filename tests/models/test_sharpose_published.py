"""SHaRPose against the published code: every stage, the losses, and the costs."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from components import codecs
from components.models import official, zoo
from components.models.methods import sharpose
from components.models.methods.sharpose import SHaRPose
from tests.models.fill import filled, fixed_input
from tests.models.subjects import counted_for
from tests.test_official import reference_module, shapes_of

SMALL, BASE, BASE_384 = (f"sharpose_{name}" for name in ("small_coco_256x192", "base_coco_256x192", "base_coco_384x288"))
FILES = {"sharpose_small_256": SMALL, "sharpose_base_256": BASE}
VARIANTS = zoo.load_variants()
GOLDEN = Path(__file__).parents[1] / "golden" / "sharpose.npz"


# --- equal to the published code


@pytest.fixture(scope="module", params=FILES)
def published(request, parity) -> SimpleNamespace:
    """A reference file, our network with its weights, and what that computes."""
    reference = reference_module(parity).Reference.load(parity / "models" / f"{request.param}.npz")
    model = official.load(FILES[request.param], reference.state())
    images = torch.from_numpy(reference.input())
    with torch.no_grad():
        return SimpleNamespace(reference=reference, model=model, images=images, stages=model.stages(images), name=FILES[request.param])


def test_scores_are_the_published_ones_before_anything_depends_on_them(published):
    published.reference.check("score_official", published.stages.scores.numpy())
    assert_same_sets(published.stages.selected.numpy(), published.reference.arrays["selected_official"])


def assert_same_sets(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(expected, 1))


@pytest.mark.parametrize("name", ["coarse_tokens", "fine_tokens", "quality", "coarse_heatmap", "fine_heatmap"])
def test_every_stage_equals_the_published_one(published, name):
    found = getattr(published.stages, f"{name}s" if name.endswith("map") else name).numpy()
    if f"{name}__first32" in published.reference.arrays:
        expected = published.reference.arrays[f"{name}__first32"]
        found = found.reshape(len(found), -1)[:, : expected.shape[1]]
        assert np.abs(found - expected).max() <= 1e-4 * expected.std()
    else:
        published.reference.check(name, found)


def test_the_gate_refines_whom_the_published_one_refines(published):
    gated = published.reference.meta["gated"]
    published.model.gate = gated["threshold"]
    assert (published.stages.quality < gated["threshold"]).tolist() == gated["mask_refined"]
    with torch.no_grad():
        published.reference.check("gated_heatmap", published.model(published.images)[0].numpy())


def test_the_corrected_slice_scores_the_last_keypoint_too(published):
    model = official.load(published.name, published.reference.state(), published=False)
    with torch.no_grad():
        coarse = model.backbone.coarse(published.images)
    published.reference.check("score_fixed", coarse.scores.numpy())
    assert_same_sets(coarse.order[:, : model.backbone.kept].numpy(), published.reference.arrays["selected_fixed"])


def test_losses_equal_the_published_ones(published):
    """By the file's recipe: random targets and weights, and boxes of the crop's aspect, for which the OKS needs no box."""
    variant, expected = VARIANTS[published.name], published.reference.meta["losses"]
    codec = codecs.build("sharpose", variant.geometry(), variant.skeleton, preset="published")
    codec.progress(1.0)
    shape = tuple(published.stages.fine_heatmaps.shape)
    target = np.abs(np.random.Generator(np.random.PCG64(1)).standard_normal(shape)).astype(np.float32)
    weights = (np.random.Generator(np.random.PCG64(2)).random((*shape[:2], 1)) > 0.3).astype(np.float32)
    outputs = published.stages.coarse_heatmaps, published.stages.fine_heatmaps, published.stages.quality
    losses = codec.loss(outputs, {"heatmaps": torch.from_numpy(target), "weights": torch.from_numpy(weights)[..., 0]})
    names = {"coarse_loss": "heatmap_loss_0", "fine_loss": "heatmap_loss_1", "quality_loss": "qp_loss_0", "coarse_oks": "oks_0"}
    for ours, theirs in names.items():
        assert float(losses[ours]) == pytest.approx(expected[theirs], rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(sum(expected[names[part]] for part in names if part != "coarse_oks"), rel=1e-6)


def test_golden_values_of_the_published_code():
    shapes = shapes_of(SMALL)
    state = filled(shapes) | {key: embedding(key, shape) for key, shape in shapes.items() if "_token" in key or "pos_embed" in key}
    model = official.load(SMALL, state)
    with torch.no_grad():
        stages = model.stages(torch.from_numpy(fixed_input((2, 3, 256, 192))))
    with np.load(GOLDEN) as golden:
        found = {"coarse_heatmap": stages.coarse_heatmaps[..., ::8, ::8], "fine_heatmap": stages.fine_heatmaps[..., ::8, ::8],
                 "quality": stages.quality, "score_official": stages.scores}  # fmt: skip
        for name, value in found.items():
            assert np.abs(value.numpy() - golden[name]).max() <= 1e-4 * golden[name].std(), name
        assert_same_sets(stages.selected.numpy(), golden["selected_official"])


def embedding(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Tokens and positions were filled with small values in the reference, whatever their shape."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return (0.02 * np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)).astype(np.float32)


# --- costs


COUNTED = {  # counted in the published code: parameters of backbone and head, millions
    SMALL: (23.168, 5.317),
    BASE: (91.752, 2.364),
    BASE_384: (91.983, 26.561),
}
MULTIPLY_ADDS = {  # by the kept share, in 1e9, counted in the published code with everyone refined
    SMALL: {0.3: 4.20, 0.4: 4.55, 0.5: 4.83},
    BASE: {0.3: 15.70, 0.4: 17.04, 0.5: 18.12},
    BASE_384: {0.2: 29.62, 0.3: 32.68, 0.4: 35.77, 0.5: 38.62},
}


def on_shapes(name: str, keep: float | None = None) -> tuple[SHaRPose, Tensor]:
    """The variant's network, and one image, without numbers."""
    variant = VARIANTS[name]
    network = dataclasses.replace(variant.network, keep=keep or variant.network.keep, gate=None)
    with torch.device("meta"):
        return sharpose.build(dataclasses.replace(variant, network=network)).eval(), torch.empty(1, 3, *variant.input_size)


def multiply_adds(function, *inputs) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*inputs)
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_equal_those_of_the_published_code(name):
    counted = counted_for(name)
    assert (round(counted.params_backbone / 1e6, 3), round(counted.params_head / 1e6, 3)) == COUNTED[name]


@pytest.mark.parametrize(("name", "keep"), [(name, keep) for name, table in MULTIPLY_ADDS.items() for keep in table])
def test_multiply_adds_equal_those_of_the_published_code(name, keep):
    """Which also turns the coarse tokens into heatmaps, and throws them away; ours does not."""
    model, images = on_shapes(name, keep)
    published = multiply_adds(model.published_outputs, images)
    assert round(published, 2) == MULTIPLY_ADDS[name][keep]
    head = multiply_adds(model.head, torch.empty(1, 17, model.backbone.shape.width, device="meta"))
    assert multiply_adds(model, images) == pytest.approx(published - head)


@pytest.mark.parametrize("name", [SMALL, BASE, BASE_384, "sharpose_small_coco_64x48", "sharpose_base_coco_64x48"])
def test_both_stages_together_cost_less_than_one_dense_stage(name):
    """The dense one: all patches at full resolution through the same blocks, without any coarse stage."""
    model, images = on_shapes(name)
    dense, _ = on_shapes(name, keep=1.0)
    with torch.no_grad():
        coarse = dense.backbone.coarse(images)
    alone = multiply_adds(lambda: dense.head(dense.backbone.fine(images, coarse)))
    reuse = multiply_adds(dense.backbone.reuse_block, coarse.features)
    assert multiply_adds(model, images) < alone - reuse
