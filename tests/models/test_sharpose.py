"""SHaRPose: what the two stages see, whom the gate refines, what trains, and where the first weights come from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components import codecs
from components.base.errors import FarposeError
from components.models import zoo
from components.models.methods import sharpose
from components.models.methods.sharpose import SHaRPose
from components.models.pretrained import load_backbone
from components.models.variant import Variant
from tests.models.learning import learned_share

# --- the two stages


def is_embedding(key: str) -> bool:
    return key.endswith(("_token", "_tokens")) or "pos_embed" in key


def tiny(keep: float = 0.5, gate: float | None = None, size: tuple[int, int] = (64, 48)) -> Variant:
    name = f"sharpose_tiny_coco_{size[0]}x{size[1]}"
    return Variant(name, "sharpose", "vit_tiny", "coco", size, network={"keep": keep, "gate": gate})


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
    torch.manual_seed(0)
    for published in (True, False):
        backbone = sharpose.build(tiny(), published=published).backbone
        for tokens in (backbone.keypoint_tokens, backbone.quality_token, *backbone.pos_embed_list):
            assert float(tokens.detach().std()) == (0 if published else pytest.approx(0.02, rel=0.3))


# --- starting from MAE's weights


def mae_checkpoint(width: int = 64, depth: int = 3) -> dict[str, Tensor]:
    """What MAE's authors would publish for a backbone of this width: 14x14 patches of 16 px and a class token."""
    torch.manual_seed(3)
    blocks = {
        f"blocks.{i}.{key}": torch.randn_like(value)
        for i in range(depth)
        for key, value in network().backbone.blocks[0].state_dict().items()
    }
    rest = {"norm.weight": (width,), "norm.bias": (width,), "patch_embed.proj.weight": (width, 3, 16, 16),
            "patch_embed.proj.bias": (width,), "pos_embed": (1, 197, width), "cls_token": (1, 1, width)}  # fmt: skip
    return blocks | {key: torch.randn(shape) for key, shape in rest.items()}


@pytest.mark.parametrize("size", [(64, 48), (256, 192)])
def test_mae_s_weights_fill_the_transformer_and_its_positions(size, tmp_path):
    checkpoint, model = mae_checkpoint(), network(size=size)
    torch.save({"model": checkpoint}, tmp_path / "mae.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    taken = load_backbone(model, tmp_path / "mae.pth")
    changed = {key.removeprefix("backbone.") for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == checkpoint.keys() - {"cls_token", "pos_embed"} | {"pos_embed_list.0", "pos_embed_list.1"} and len(changed) == taken
    image = checkpoint["pos_embed"][0, 1:].reshape(14, 14, 64).permute(2, 0, 1)[None]
    for number, grid in enumerate([(8, 6), (16, 12)]):
        expected = functional.interpolate(image, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
        torch.testing.assert_close(model.backbone.pos_embed_list[number][0], expected)
    side = size[0] // 16
    flat = [
        functional.conv2d(torch.ones(1, 3, s, s), w)
        for s, w in ((side, model.backbone.patch_embed.proj.weight), (16, checkpoint["patch_embed.proj.weight"]))
    ]
    torch.testing.assert_close(flat[0], flat[1], rtol=1e-3, atol=1e-3)


def test_weights_of_another_width_are_refused(tmp_path):
    torch.save(mae_checkpoint() | {"norm.weight": torch.ones(384)}, tmp_path / "mae.pth")
    with pytest.raises(FarposeError, match=r"'norm\.weight' is of shape \(384,\), the backbone needs \(64,\)"):
        load_backbone(network(), tmp_path / "mae.pth")


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


def test_the_demo_s_form_learns_one_batch_by_heart(tmp_path):
    assert learned_share(zoo.variant("sharpose_tiny_synthetic_64x48"), tmp_path) >= 0.95


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
