"""SHaRPose: equal to the published code at every stage, the gate judges each person alone, and saving follows from what is kept."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from components import codecs
from components.base.errors import FarposeError
from components.models import costs, official, sharpose, zoo
from components.models.sharpose import SHaRPose
from components.models.variant import Network, Variant
from tests.models.fill import filled, fixed_input
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
    state = filled(shapes_of(SMALL)) | {key: embedding(key, shape) for key, shape in shapes_of(SMALL).items() if is_embedding(key)}
    model = official.load(SMALL, state)
    with torch.no_grad():
        stages = model.stages(torch.from_numpy(fixed_input((2, 3, 256, 192))))
    with np.load(GOLDEN) as golden:
        found = {"coarse_heatmap": stages.coarse_heatmaps[..., ::8, ::8], "fine_heatmap": stages.fine_heatmaps[..., ::8, ::8],
                 "quality": stages.quality, "score_official": stages.scores}  # fmt: skip
        for name, value in found.items():
            assert np.abs(value.numpy() - golden[name]).max() <= 1e-4 * golden[name].std(), name
        assert_same_sets(stages.selected.numpy(), golden["selected_official"])


def is_embedding(key: str) -> bool:
    return key.endswith(("_token", "_tokens")) or "pos_embed" in key


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
    counted = costs.of_variant(VARIANTS[name])
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


# --- the two stages


def tiny(keep: float = 0.5, gate: float | None = None, size: tuple[int, int] = (64, 48)) -> Variant:
    name = f"sharpose_tiny_coco_{size[0]}x{size[1]}"
    return Variant(name, "sharpose", "vit_tiny", "coco", size, network=Network(keep=keep, gate=gate))


def network(keep: float = 0.5, gate: float | None = None, size: tuple[int, int] = (64, 48)) -> SHaRPose:
    """With weights far from the initial ones, so that persons differ and nothing is equal by chance."""
    torch.manual_seed(0)
    model = sharpose.build(tiny(keep, gate, size))
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0, 0.5 if is_embedding(name) else value[0].numel() ** -0.5 if value.ndim > 1 else 0.3)
            if "norm" in name and name.endswith("weight"):
                value.add_(1)
    return model.eval()


def images(count: int, size: tuple[int, int] = (64, 48)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(64, 48), (128, 96), (96, 96)])
@pytest.mark.parametrize("keep", [0.01, 0.3, 1.0])
@torch.no_grad()
def test_the_fine_stage_sees_the_kept_patches_children_and_the_other_parents(keep, size):
    """Oracle: the paper's patch numbers written out, one image at a time, as one sequence in another order."""
    model, batch = network(keep, size=size), images(2, size)
    backbone, stages, coarse = model.backbone, model.stages(batch), model.backbone.coarse(batch)
    (rows, columns), kept = backbone.grid, stages.selected.shape[1]
    assert kept == -(-keep * rows * columns // 1)
    reused = backbone.reuse_block(coarse.features).transpose(1, 2).unflatten(2, backbone.grid)
    reused = functional.interpolate(reused, scale_factor=2, mode="nearest").flatten(2).transpose(1, 2)
    fine = backbone.patch_embed(batch) + backbone.pos_embed_list[1] + reused
    for person in range(2):
        chosen = coarse.scores[person].argsort(descending=True)[:kept].tolist()
        first = [2 * (number // columns) * 2 * columns + 2 * (number % columns) for number in chosen]
        children = [start + step for start in first for step in (0, 1, 2 * columns, 2 * columns + 1)]
        others = [number for number in range(rows * columns) if number not in chosen]
        tokens = torch.cat([fine[person, children], coarse.embedded[person, others], backbone.keypoint_tokens[0]])[None]
        for block in backbone.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(backbone.norm(tokens)[0, -17:], stages.fine_tokens[person], rtol=0, atol=1e-4)


@torch.no_grad()
def test_keeping_everything_at_full_resolution_is_a_plain_dense_transformer():
    """With the coarse stage's features silenced, the fine stage alone remains."""
    model, batch = network(keep=1.0), images(2)
    model.backbone.reuse_block[1].fc2.weight.zero_()
    model.backbone.reuse_block[1].fc2.bias.zero_()
    patches = model.backbone.patch_embed(batch) + model.backbone.pos_embed_list[1]
    tokens = torch.cat([model.backbone.keypoint_tokens.expand(2, -1, -1), patches], 1)
    for block in model.backbone.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(model(batch)[0], model.head(model.backbone.norm(tokens)[:, :17]), rtol=0, atol=1e-4)


@torch.no_grad()
def test_attention_with_its_weights_is_the_fused_one():
    attention, tokens = network().backbone.blocks[0].attn, torch.randn(2, 9, 64)
    attended, weights = attention.with_weights(tokens)
    torch.testing.assert_close(attended, attention(tokens), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 9))


def test_patches_are_as_many_at_every_size_of_the_same_shape():
    grids = {size: network(size=size).backbone for size in [(64, 48), (128, 96), (256, 192)]}
    assert [backbone.patch_embed.proj.kernel_size for backbone in grids.values()] == [(4, 4), (8, 8), (16, 16)]
    assert {backbone.grid for backbone in grids.values()} == {(8, 6)}
    assert network(size=(384, 288)).backbone.grid == (12, 9)


@pytest.mark.parametrize("size", [(96, 80), (12, 8), (64, 52)])
def test_an_input_that_has_no_whole_patches_is_refused(size):
    with pytest.raises(FarposeError, match=r"does not divide into coarse patches of \d+ px"):
        sharpose.build(tiny(size=size))


def test_tokens_and_positions_start_apart_from_each_other_unlike_the_published_zeros():
    for published in (True, False):
        backbone = sharpose.build(tiny(), published=published).backbone
        for tokens in (backbone.keypoint_tokens, backbone.quality_token, *backbone.pos_embed_list):
            assert float(tokens.detach().std()) == (0 if published else pytest.approx(0.02, rel=0.2))


# --- the gate


@pytest.fixture(scope="module")
def judged() -> SimpleNamespace:
    """A network and five images of which two have a predicted quality below `gate`."""
    model, batch = network(), images(5)
    with torch.no_grad():
        stages = model.stages(batch)
    low, high = stages.quality.sort().values[1:3].tolist()
    assert high - low > 1e-3, "the gate must not lie within rounding errors of a quality"
    return SimpleNamespace(model=model, images=batch, stages=stages, gate=(low + high) / 2)


@torch.no_grad()
def gated(judged: SimpleNamespace, gate: float | None, batch: Tensor | None = None) -> Tensor:
    judged.model.gate = gate
    (heatmaps,) = judged.model(judged.images if batch is None else batch)
    return heatmaps


def test_without_a_gate_and_with_an_unreachable_one_everyone_is_refined(judged):
    torch.testing.assert_close(gated(judged, None), judged.stages.fine_heatmaps, rtol=0, atol=1e-5)
    assert torch.equal(gated(judged, float("inf")), gated(judged, None))


def test_with_a_gate_that_lets_all_pass_the_fine_stage_is_spared(judged, monkeypatch):
    monkeypatch.setattr(judged.model.backbone, "fine", None)
    assert torch.equal(gated(judged, float("-inf")), judged.stages.coarse_heatmaps)


def test_only_those_below_the_gate_are_refined(judged):
    poor = judged.stages.quality < judged.gate
    assert int(poor.sum()) == 2
    expected = torch.where(poor[:, None, None, None], judged.stages.fine_heatmaps, judged.stages.coarse_heatmaps)
    torch.testing.assert_close(gated(judged, judged.gate), expected, rtol=0, atol=1e-4)


def test_each_person_is_judged_and_refined_alone(judged):
    together = gated(judged, judged.gate)
    for i in range(5):
        alone = gated(judged, judged.gate, judged.images[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-4)
    reversed_batch = gated(judged, judged.gate, judged.images.flip(0))
    torch.testing.assert_close(reversed_batch.flip(0), together, rtol=0, atol=1e-4)


def test_a_recorded_network_gives_the_same_for_other_persons(judged):
    """Where shapes must be fixed, the gate selects after everyone was refined."""
    judged.model.gate = judged.gate
    recorded = torch.jit.trace(judged.model, judged.images[:2], check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(recorded(judged.images)[0], gated(judged, judged.gate), rtol=0, atol=1e-4)


# --- training


def trained_once(model: SHaRPose, progress: float, gate: float | None = None) -> dict[str, Tensor]:
    """Losses of one batch in training mode, after their backward pass."""
    codec = codecs.build("sharpose", tiny().geometry(), tiny().skeleton)
    codec.progress(progress)
    model.gate = gate
    targets = codec.targets(torch.rand(3, 17, 2) * 40, torch.ones(3, 17, dtype=torch.bool))
    losses = codec.loss(model.train()(images(3)), targets)
    losses["loss"].backward()
    return losses


def test_the_gradient_reaches_every_parameter():
    model = network()
    trained_once(model, progress=1.0)
    unreached = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert not unreached


def test_the_quality_predictor_rests_until_its_time():
    model = network()
    losses = trained_once(model, progress=0.5)
    assert losses["quality_loss"] == 0
    quality = [value.grad for name, value in model.named_parameters() if "quality_predictor" in name]
    assert quality and not any(gradient.any() for gradient in quality)


def test_training_refines_everyone_whatever_the_gate():
    model, batch = network(), images(3)
    stages = model.stages(batch)
    model.gate = float("-inf")
    coarse, fine, quality = model.train()(batch)
    for found, expected in ((coarse, stages.coarse_heatmaps), (fine, stages.fine_heatmaps), (quality, stages.quality)):
        torch.testing.assert_close(found, expected)


def test_stochastic_depth_keeps_the_mean_and_rests_in_evaluation():
    from components.models.backbones.vit import Block, ViTShape, blocks

    rates = [block.drop_path for block in blocks(ViTShape("any", 24))]
    assert rates == pytest.approx(np.linspace(0, 0.1, 12))
    torch.manual_seed(0)
    block, tokens = Block(24, 2, drop_path=0.5), torch.randn(1, 5, 24)
    change = block._dropped(tokens.expand(4000, -1, -1))
    kept = change[:, 0, 0] != 0
    assert torch.equal(change[kept][0], 2 * tokens[0]) and not change[~kept].any()
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(block.eval()._dropped(tokens), tokens)


def test_half_precision_trains_and_evaluates_near_single():
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        coarse, fine, quality = model.train()(images(3))
        (heatmaps,) = model.eval()(images(3))
    (coarse.float().square().mean() + fine.float().square().mean() + quality.float().mean()).backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
    with torch.no_grad():
        expected = model.stages(images(3))
    assert float((coarse.detach().float() - expected.coarse_heatmaps).std()) < 0.05 * float(expected.coarse_heatmaps.std())
    assert heatmaps.shape == fine.shape and torch.isfinite(heatmaps).all()
