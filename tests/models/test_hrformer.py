"""HRFormer: equal to the released pose code, and its parts to plain re-computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from components.models import official, zoo
from components.models.backbones.hrformer import (
    HRFORMERS,
    HRFormer,
    LocalAttention,
    TransformerBlock,
    from_windows,
    relative_position_index,
    to_windows,
)
from components.models.methods import hrformer
from components.models.pretrained import load_backbone
from components.models.variant import Variant
from tests.models.fill import filled, fixed_input
from tests.models.subjects import counted_for
from tests.test_official import reference_module, shapes_of

GOLDEN = Path(__file__).parents[1] / "golden" / "hrformer.npz"  # spatial means of the published backbone's features
TINY = "hrformer_tiny_synthetic_64x48"
SIZES = [(64, 48), (128, 96), (256, 192), (384, 288), (100, 76)]


def tiny(size: tuple[int, int] = (64, 48), relative_positions: bool = False) -> nn.Module:
    """With weights far from the initial ones, so that nothing is equal by chance."""
    torch.manual_seed(0)
    network = {"relative_positions": relative_positions}
    model = hrformer.build(Variant(f"hrformer_tiny_coco_{size[0]}x{size[1]}", "hrformer", "hrformer_tiny", "coco", size, network=network))
    for name, value in model.named_parameters():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value)
        elif value.ndim == 2:
            nn.init.normal_(value, std=1.0 if name.endswith("table") else value.shape[1] ** -0.5)
    return model


def images(count: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def features_of(state: dict[str, np.ndarray], batch: np.ndarray) -> list[np.ndarray]:
    """Spatial means of the HRFormer-S pyramid of a checkpoint, (B, channels) each, finest first."""
    with torch.device("meta"):
        model = HRFormer(HRFORMERS["hrformer_s"])
    model.load_state_dict({key.removeprefix("backbone."): torch.as_tensor(value) for key, value in state.items()}, assign=True)
    with torch.no_grad():
        return [feature.mean((2, 3)).numpy() for feature in model.eval().pyramid(torch.from_numpy(batch))]


def test_features_equal_the_published_code(parity):
    reference = reference_module(parity).Reference.load(parity / "models" / "srpose_td_hrt_small.npz")
    state = {key: value for key, value in reference.state().items() if key.startswith("backbone.")}
    for i, feature in enumerate(features_of(state, reference.input())):
        reference.check(f"feat{i}__mean_c", feature, tolerance=1e-4)


def test_features_equal_the_golden_ones():
    state = {key: value for key, value in filled(shapes_of("hrformer_s_coco_256x192")).items() if key.startswith("backbone.")}
    state |= {f"{key}.num_batches_tracked": np.zeros((), np.int64) for key in _batch_norms(state)}
    with np.load(GOLDEN) as golden:
        for i, feature in enumerate(features_of(state, fixed_input((2, 3, 256, 192)))):
            expected = golden[f"feat{i}"]
            assert np.abs(feature - expected).max() <= 1e-4 * expected.std()


def _batch_norms(state: dict[str, np.ndarray]) -> list[str]:
    return [key.removesuffix(".running_var") for key in state if key.endswith(".running_var")]


@pytest.mark.parametrize("index", [True, False])
def test_authors_checkpoints_load_with_and_without_the_constant_index(index):
    state = filled(shapes_of(TINY))
    extra = {
        key.replace("bias_table", "index"): np.zeros((49, 49), np.int64) for key in state if key.endswith("relative_position_bias_table")
    }
    assert len(extra) == 2 + 3 + 4  # blocks
    batch = fixed_input((2, 3, 64, 48))
    (expected,) = official.outputs(official.load(TINY, state), batch)
    (heatmaps,) = official.outputs(official.load(TINY, state | (extra if index else {})), batch)
    assert torch.equal(heatmaps, expected)
    assert {"keypoint_head.final_layer.weight", "backbone.stage4.0.branches.3.0.attn.attn.q_proj.weight"} <= state.keys()


@pytest.mark.parametrize(("height", "width"), [(7, 7), (14, 21), (35, 28)])
def test_windows_are_the_map_s_and_come_back(height, width):
    cells = torch.randn(3, height, width, 5)
    windows = to_windows(cells, 7)
    assert torch.equal(from_windows(windows, 7, height, width), cells)
    across = width // 7
    for i, window in enumerate(windows):
        image, rest = divmod(i, height // 7 * across)
        y, x = (7 * part for part in divmod(rest, across))
        assert torch.equal(window, cells[image, y : y + 7, x : x + 7].reshape(49, 5))


@pytest.mark.parametrize("relative_positions", [False, True])
@pytest.mark.parametrize("size", [(16, 12), (8, 6), (4, 3), (2, 2), (14, 7)])
def test_attention_equals_a_loop_over_windows_of_the_padded_map(size, relative_positions):
    """Oracle: every window by itself, with zeros around the map and the bias looked up cell by cell."""
    torch.manual_seed(0)
    local = LocalAttention(8, heads=2, window=7, relative_positions=relative_positions)
    nn.init.normal_(local.attn.relative_position_bias_table)
    cells = torch.randn(2, *size, 8)
    rows, columns = (-(-side // 7) * 7 for side in size)
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    padded = torch.zeros(2, rows, columns, 8)
    padded[:, top : top + size[0], left : left + size[1]] = cells
    expected = torch.zeros_like(padded)
    with torch.no_grad():
        for y in range(0, rows, 7):
            for x in range(0, columns, 7):
                expected[:, y : y + 7, x : x + 7] = _attend(local.attn, padded[:, y : y + 7, x : x + 7], relative_positions)
        ours = local(cells)
    assert torch.allclose(ours, expected[:, top : top + size[0], left : left + size[1]], atol=1e-5)


def _attend(attention: nn.Module, window: torch.Tensor, relative_positions: bool) -> torch.Tensor:
    tokens = window.reshape(len(window), 49, -1)
    q, k, v = (part(tokens).reshape(-1, 49, 2, 4) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 4**0.5
    if relative_positions:
        table = attention.relative_position_bias_table.reshape(13, 13, 2)
        for i in range(49):
            for j in range(49):
                scores[:, :, i, j] += table[i // 7 - j // 7 + 6, i % 7 - j % 7 + 6]
    mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(-1, 49, 8)
    return attention.out_proj(mixed).reshape(window.shape)


def test_opposite_pairs_have_opposite_rows_of_the_table():
    index = relative_position_index(7)
    assert torch.equal(index + index.T, torch.full((49, 49), 168))
    assert (int(index.min()), int(index.max())) == (0, 168)


def test_the_relative_bias_is_trained_only_where_it_is_used():
    plain, biased = tiny(), tiny(relative_positions=True)
    assert plain.state_dict().keys() == biased.state_dict().keys()
    tables = [name for name, _ in plain.named_parameters() if name.endswith("relative_position_bias_table")]
    assert not any(plain.get_parameter(name).requires_grad for name in tables)
    assert all(biased.get_parameter(name).requires_grad for name in tables)
    biased.load_state_dict(plain.state_dict())
    with torch.no_grad():
        (without,), (with_bias,) = plain.eval()(images(1)), biased.eval()(images(1))
    assert float((without - with_bias).std()) > 0.01 * float(without.std())


@pytest.mark.parametrize("size", SIZES)
def test_every_size_gives_heatmaps_and_a_pyramid_of_the_right_sizes(size):
    model = tiny(size).eval()
    with torch.no_grad():
        (heatmaps,) = model(images(1, size))
        pyramid = model.backbone.pyramid(images(1, size))
    assert tuple(heatmaps.shape) == (1, 17, size[0] // 4, size[1] // 4)
    expected = [(1, channels, *(-(-side // 2 ** (i + 2)) for side in size)) for i, channels in enumerate(model.backbone.pyramid_channels)]
    assert [tuple(feature.shape) for feature in pyramid] == expected
    assert model.backbone.channels == model.backbone.pyramid_channels[0] == 16


def test_evaluation_is_deterministic_and_each_image_is_on_its_own():
    model, batch = tiny().eval(), images(3)
    with torch.no_grad():
        (whole,), (again,), (alone,) = model(batch), model(batch), model(batch[1:2])
    assert torch.equal(whole, again)
    assert torch.allclose(whole[1:2], alone, atol=1e-4 * float(whole.std()))


@pytest.mark.parametrize("relative_positions", [False, True])
def test_the_gradient_reaches_every_parameter_that_is_trained(relative_positions):
    """Where it vanishes by construction it is only known to be computed: biases of keys, and before batch norms."""
    model = tiny(relative_positions=relative_positions)
    model(images(4))[0].square().mean().backward()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(value.grad is not None for value in trained.values())
    vanishing = ("k_proj.bias", "fc1.bias", "dw3x3.bias", "fc2.bias")
    assert all(value.grad.abs().sum() > 0 for name, value in trained.items() if not name.endswith(vanishing))
    fixed = {name for name, _ in model.named_parameters()} - trained.keys()
    unused = tuple(f"backbone.stage4.0.fuse_layers.{branch}." for branch in (1, 2, 3))
    tables = () if relative_positions else ("relative_position_bias_table",)
    assert fixed == {name for name, _ in model.named_parameters() if name.startswith(unused) or name.endswith(tables)}


def test_a_multi_scale_backbone_trains_all_its_fusions():
    backbone = HRFormer(HRFORMERS["hrformer_tiny"])
    sum(feature.square().mean() for feature in backbone.pyramid(images(4))).backward()
    fusions = {name: value for name, value in backbone.named_parameters() if ".fuse_layers." in name}
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in fusions.values())


def test_stochastic_depth_rises_linearly_and_is_one_per_module_s_depth():
    backbone = HRFormer(HRFORMERS["hrformer_s"])
    modules = [*backbone.stage2, *backbone.stage3, *backbone.stage4]
    rates = [[block.drop_path for block in branch] for module in modules for branch in module.branches[:1]]
    assert np.allclose(np.concatenate(rates), np.linspace(0, 0.1, 14))
    assert all(
        [block.drop_path for block in branch] == rate for module, rate in zip(modules, rates, strict=True) for branch in module.branches
    )


def test_a_dropped_sample_passes_unchanged_and_a_kept_one_counts_more():
    torch.manual_seed(0)
    block = TransformerBlock(HRFORMERS["hrformer_tiny"], 0, drop_path=0.5, relative_positions=False)
    block.mlp = nn.Identity()
    block.norm2 = _Zero()
    x = images(64, (8, 6))[:, :1].expand(-1, 16, -1, -1) * torch.linspace(1, 2, 16)[:, None, None]
    with torch.no_grad():
        change = block.eval()(x) - x
        drawn = block.train()(x) - x
    dropped = drawn.flatten(1).abs().sum(1) == 0
    assert 10 < int(dropped.sum()) < 54
    assert torch.allclose(drawn[~dropped], 2 * change[~dropped], atol=1e-5)


class _Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def test_the_mlp_ends_in_an_activation():
    mlp = tiny().backbone.stage2[0].branches[0][0].mlp
    with torch.no_grad():
        y = mlp(torch.randn(8, 16, 16, 12))
    assert float(y.min()) == pytest.approx(float(functional.gelu(torch.linspace(-2, 0, 10001)).min()), abs=1e-3)


def test_the_initial_weights_are_as_stated():
    torch.manual_seed(0)
    modules = list(zoo.network(zoo.variant("hrformer_s_coco_64x48")).modules())
    linear = torch.cat([module.weight.detach().flatten() for module in modules if isinstance(module, nn.Linear)])
    convolutions = torch.cat([module.weight.detach().flatten() for module in modules if isinstance(module, nn.Conv2d)])
    assert (float(linear.std()), float(convolutions.std())) == (pytest.approx(0.02, rel=0.02), pytest.approx(0.001, rel=0.02))
    assert not any(module.bias.any() for module in modules if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None)
    assert all(module.eps == 1e-6 for module in modules if isinstance(module, nn.LayerNorm))


def test_parameters_and_multiply_adds_are_the_published_ones():
    """The paper's tool gives 7.892 M and 2.818 G (SyncBatchNorm uncounted); with the products of attention 3.26 G."""
    counted = counted_for("hrformer_s_coco_256x192")
    assert round(counted.params / 1e6, 3) == 7.892
    assert round(counted.params_backbone / 1e6, 3) == 7.891
    assert round(counted.macs / 1e9, 3) == 3.259
    assert round(counted.gflops("mmcv"), 3) == 2.818


def test_imagenet_weights_fill_the_whole_backbone(tmp_path):
    source = HRFormer(HRFORMERS["hrformer_tiny"])
    for value in source.parameters():
        nn.init.normal_(value)
    save_file(source.state_dict() | {"classifier.weight": torch.zeros(10, 8)}, tmp_path / "imagenet.safetensors")
    model = tiny()
    head = model.final_layer.weight.clone()
    load_backbone(model, tmp_path / "imagenet.safetensors")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.backbone.state_dict().items())
    assert torch.equal(model.final_layer.weight, head)
