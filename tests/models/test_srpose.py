"""The super-resolution head and SRPose: equal to the authors' code, and the properties that make them what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import codecs
from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.shards import TrainCrops
from components.models import official, zoo
from components.models.heads.super_resolution import SuperResolutionHead
from components.models.methods import srpose
from components.models.methods.srpose import SRPose, Stage, plan
from components.models.variant import Network, Variant
from tests.codecs.cases import share_near
from tests.models.fill import filled, fixed_input
from tests.test_official import REFERENCES, reference_module, shapes_of
from tests.tiny_shard import write_tiny_shard

GOLDEN = Path(__file__).parents[1] / "golden" / "srpose.npz"  # the published networks' outputs for one image, strided
FILES = ["srpose_td_res50", "srpose_td_hrnet_w32", "srpose_td_hrt_small"]
TINY = ["hrnet_tiny", "resnet18", "hrformer_tiny", "transpose_tiny"]


def variant(method: str, backbone: str, size: tuple[int, int] = (64, 48), branches: int = 4) -> Variant:
    return Variant(f"{method}_{backbone}_coco_{size[0]}x{size[1]}", method, backbone, "coco", size, network=Network(branches))


def small(method: str, backbone: str, size: tuple[int, int] = (64, 48), branches: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return zoo.network(variant(method, backbone, size, branches))


def images(count: int, size: tuple[int, int] = (64, 48)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def training_maps(model: SRPose, batch: Tensor) -> tuple[Tensor, ...]:
    """What training puts out, with the batch norms of evaluation, as the reference values were made."""
    model.eval().head.training = True
    with torch.no_grad():
        return model(batch)


# --- equal to the authors' code


@pytest.mark.parametrize("file", FILES)
def test_training_maps_features_and_losses_equal_the_published_code(parity, file):
    reference = reference_module(parity).Reference.load(parity / "models" / f"{file}.npz")
    model = official.load(REFERENCES[file], reference.state())
    batch = torch.from_numpy(reference.input())
    with torch.no_grad():
        for i, feature in enumerate(model.backbone.pyramid(batch)):
            reference.check(f"feat{i}__mean_c", feature.mean((2, 3)).numpy())
    maps = training_maps(model, batch)
    assert len(maps) == 5
    for i in range(4):
        reference.check(f"train_heatmap{i}", maps[i].numpy())
    reference.check("final", maps[4].numpy())

    row = zoo.variant(REFERENCES[file])
    codec = codecs.build(row.codec_name, row.geometry(), row.skeleton)
    draw = {seed: np.random.Generator(np.random.PCG64(seed)) for seed in (1, 2)}  # meta["loss_recipe"]
    target = np.abs(draw[1].standard_normal(tuple(maps[4].shape))).astype(np.float32)
    weights = (draw[2].random((2, 17, 1)) > 0.3)[..., 0].astype(np.float32)
    losses = codec.loss(maps, {"heatmaps": torch.from_numpy(target), "weights": torch.from_numpy(weights)})
    published = reference.meta["losses"]
    for i in range(5):
        assert float(losses[f"map{i}_loss"]) == pytest.approx(published[f"hp{i}_2d_loss"], rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(sum(published.values()), rel=1e-4)


@pytest.mark.parametrize("file", [*FILES, "sr_td_res50"])
def test_maps_equal_the_golden_ones(file):
    name = REFERENCES[file]
    model, batch = official.load(name, filled(shapes_of(name))), torch.from_numpy(fixed_input((2, 3, 256, 192))[:1])
    maps = training_maps(model, batch) if file in FILES else official.outputs(model, batch)
    with np.load(GOLDEN) as golden:
        for i, found in enumerate(maps):
            expected = golden[f"{file}.{i}"]
            step = found.shape[-1] // expected.shape[-1]
            assert np.abs(found.numpy()[..., ::step, ::step] - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize(("name", "backbone", "head", "train_only"), [
    ("srpose_resnet50_coco_256x192", 23.508, 1.289, 0.318),
    ("srpose_hrnet_w32_coco_256x192", 29.306, 0.649, 0.318),
    ("srpose_hrformer_s_coco_256x192", 7.891, 0.649, 0.318),
    ("srpose_transpose_r_a4_coco_256x192", 4.932, 0.547, 0.053),
    ("sr_head_resnet50_coco_256x192", 23.508, 10.593, 0),
    ("sr_head_hrnet_w32_coco_256x192", 28.536, 0.091, 0),
    ("sr_head_hrformer_s_coco_256x192", 7.891, 0.091, 0),
    ("sr_head_transpose_r_a4_coco_256x192", 4.932, 1.155, 0),
])  # fmt: skip
def test_parameters_are_those_of_the_published_networks(name, backbone, head, train_only):
    with torch.device("meta"):
        model = zoo.network(zoo.variant(name))
    sizes = {"backbone.": 0, "head.": 0, "head.supervision.": 0}
    for key, value in model.named_parameters():
        sizes[max((part for part in sizes if key.startswith(part)), key=len)] += value.numel()
    assert tuple(round(size / 1e6, 3) for size in sizes.values()) == (backbone, head, train_only)


# --- the super-resolution head


@pytest.mark.parametrize(("embedding", "factor", "kernel"), [(4, 4, 9), (16, 8, 3), (3, 1, 5)])
def test_each_keypoint_sees_only_its_own_embedding(embedding, factor, kernel):
    torch.manual_seed(0)
    head = SuperResolutionHead(8, 5, embedding, factor, kernel)
    features = torch.randn(2, 8, 6, 4)
    with torch.no_grad():
        before = head(features)
        assert before.shape == (2, 5, 6 * factor, 4 * factor)
        for keypoint in range(5):
            changed = SuperResolutionHead(8, 5, embedding, factor, kernel)
            changed.load_state_dict(head.state_dict())
            changed.encoder.weight[keypoint * embedding : (keypoint + 1) * embedding] += 1
            differs = (changed(features) - before).abs().amax((0, 2, 3)) > 0
            assert differs.tolist() == [other == keypoint for other in range(5)]


def test_the_cells_of_a_feature_are_laid_out_row_by_row_for_each_keypoint():
    """Oracle: every cell of the map by itself."""
    torch.manual_seed(0)
    head, features, r = SuperResolutionHead(6, 3, 2, 4, 3), torch.randn(1, 6, 2, 3), 4
    with torch.no_grad():
        found = head(features)[0]
        channels = head.converge(head.encoder(features).relu())[0]  # (3 · 16, 2, 3)
    for keypoint in range(3):
        for y in range(8):
            for x in range(12):
                assert found[keypoint, y, x] == channels[keypoint * r * r + (y % r) * r + x % r, y // r, x // r]


# --- networks


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("size", [(64, 48), (128, 96), (96, 72)])
def test_a_map_as_large_as_the_input_on_every_backbone(backbone, size):
    for method in ("sr_head", "srpose"):
        with torch.no_grad():
            outputs = small(method, backbone, size).eval()(images(1, size))
        assert [tuple(output.shape) for output in outputs] == [(1, 17, *size)]
        assert torch.isfinite(outputs[0]).all()


@pytest.mark.parametrize(("backbone", "branches", "first"), [
    ("hrnet_tiny", 4, (2, 2)), ("hrnet_tiny", 3, (4, 3)), ("resnet18", 4, (2, 2)), ("transpose_tiny", 4, (8, 6)),
])  # fmt: skip
def test_training_puts_out_a_map_of_every_stage_cut_to_the_targets_size(backbone, branches, first):
    stages = {"transpose_tiny": 3}.get(backbone, branches)
    maps = small("srpose", backbone, branches=branches).train()(images(2))
    sizes = [tuple(output.shape[2:]) for output in maps]
    assert sizes == [first, *[(16, 12)] * (stages - 1), (64, 48)]
    assert (maps[0] >= 0).all()  # the coarsest stage's own heatmaps end in a ReLU


def test_a_surplus_cell_does_not_move_the_others():
    """The 2x2 cells at 64x48 give 16x16: what is cut off lies to the right, so the map is the same as inside a wider image."""
    model = small("srpose", "resnet18").double()
    wide = images(1, (64, 64)).double()
    wide[..., 48:] = 0
    narrow = training_maps(model, wide[..., :48].contiguous())
    assert narrow[1].shape[-2:] == (16, 12)
    with torch.no_grad():
        whole = model.head.supervision[0](model.head.coarsest(model.backbone.pyramid(wide[..., :48])[-1])[1])
    assert torch.equal(narrow[1], whole[..., :12])


@pytest.mark.parametrize("backbone", TINY)
def test_evaluation_puts_out_the_last_training_map_without_the_train_only_heads(backbone):
    model = small("srpose", backbone).eval()
    with torch.no_grad():
        (expected,) = model(images(2))
        assert torch.equal(training_maps(model, images(2))[-1], expected)
        model.eval()
        spoilt = [value.fill_(float("nan")) for name, value in model.named_parameters() if name.startswith(SRPose.TRAIN_ONLY)]
        assert spoilt
        assert torch.equal(model(images(2))[0], expected)


@pytest.mark.parametrize("backbone", TINY)
def test_the_train_only_parameters_are_exactly_those_that_evaluation_does_not_reach(backbone):
    model = small("srpose", backbone).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # far from the initial weights, so that no gradient vanishes
            nn.init.kaiming_normal_(module.weight)
    model(images(2))[0].square().sum().backward()
    unreached = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
    assert unreached == {name for name, _ in model.named_parameters() if name.startswith(SRPose.TRAIN_ONLY)}


@pytest.mark.parametrize("method", ["sr_head", "srpose"])
@pytest.mark.parametrize("backbone", TINY)
def test_the_loss_reaches_every_trainable_parameter(method, backbone):
    row, model = variant(method, backbone), small(method, backbone).train()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    codec = codecs.build(row.codec_name, row.geometry(), row.skeleton)
    targets = codec.targets(torch.rand(2, 17, 2) * 40, torch.ones(2, 17, dtype=torch.bool))
    codec.loss(model(images(2)), targets)["loss"].backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None or not torch.isfinite(gradient).all()]
    assert not [name for name, gradient in gradients.items() if gradient.ndim > 1 and not gradient.any()]


def test_only_the_convergence_starts_small():
    """As published: N(0, 0.001²) there, torch's own initialisation in the rest of the head."""
    model = small("srpose", "hrnet_tiny")
    for head in (*model.head.supervision, model.head.final):
        assert float(head.converge.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
        assert not head.converge.bias.any()
        assert float(head.encoder.weight.detach().abs().max()) == pytest.approx(head.encoder.in_channels**-0.5, rel=0.1)
    for weights in (model.backbone.trunk.conv2.weight, small("sr_head", "resnet18").head["heatmaps"].encoder.weight):
        assert float(weights.detach().std()) == pytest.approx(0.001, rel=0.05)


# --- the plan


@pytest.mark.parametrize("channels", [(256, 512, 1024, 2048), (32, 64, 128, 256), (48, 96, 192, 384)])
def test_the_published_stages_on_the_published_backbones(channels):
    stages = plan(channels)
    assert [stage.inputs for stage in stages] == list(reversed(channels))
    assert [stage[1:] for stage in stages] == [(256, 8, 16, 3), (128, 4, 8, 5), (64, 2, 4, 7), (32, 4, 4, 9)]


def test_three_branches_leave_the_coarsest_stage_out_and_narrow_features_narrow_the_stages():
    assert plan((32, 64, 128)) == plan((32, 64, 128, 256))[1:]
    assert [stage.width for stage in plan((16, 32, 64, 128))] == [128, 64, 32, 16]


def test_transpose_has_stages_on_its_encoder_and_its_two_layers():
    assert plan((256, 512, 256), srpose.TRANSPOSE) == (
        Stage(256, 256, 2, 4, 7), Stage(512, 128, 2, 4, 7), Stage(256, 32, 4, 8, 3),
    )  # fmt: skip


# --- training


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> TrainCrops:
    return TrainCrops.open(write_tiny_shard(tmp_path_factory.mktemp("tiny")))


@pytest.mark.slow  # tests/test_train.py does the same on HRNet
@pytest.mark.parametrize("backbone", ["resnet18", "hrformer_tiny", "transpose_tiny"])
@pytest.mark.parametrize("method", ["sr_head", "srpose"])
def test_one_batch_is_learnt_by_heart(method, backbone, crops):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = zoo.build(variant(method, backbone))
    model, codec = built.model.train(), built.codec
    batch = Augmenter(codec.geometry, AugmentParams.none(), crops.skeleton)(crops.to(torch.device("cpu")), torch.arange(4), 0)
    targets = codec.targets(batch.keypoints_crop, batch.visible)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    accuracy = 0.0
    for tens in range(20):
        for one in range(10):
            optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, (10 * tens + one + 1) / 50)  # see sr_head.build
            optimiser.zero_grad()
            codec.loss(model(batch.images), targets)["loss"].backward()
            optimiser.step()
        with torch.no_grad():
            accuracy = share_near(codec, model(batch.images), targets)
        if accuracy >= 0.95:
            break
    assert accuracy >= 0.95
