"""TokenPose: equal to its authors' code, its parts to what the paper and the released code say they are."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from components.base.errors import FarposeError
from components.models import official, zoo
from components.models.backbones.tokenpose import TOKENPOSES, EncoderLayer, KeypointEncoder, cut, sine_positions
from components.models.methods.tokenpose import heatmap_head
from components.models.pretrained import load_backbone
from components.models.variant import Variant
from tests.models.fill import filled, fixed_input
from tests.models.learning import learned_share
from tests.models.subjects import counted_for
from tests.test_official import shapes_of

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenpose.npz"  # the published networks' outputs, strided
VARIANTS = zoo.load_variants()


def variant(backbone: str, size: tuple[int, int], dataset: str = "coco") -> Variant:
    return Variant(f"{backbone}_{dataset}_{size[0]}x{size[1]}", "tokenpose", backbone, dataset, size)


def images(count: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def published_state(name: str) -> dict[str, np.ndarray]:
    """The golden values' weights: drawn by the authors' names, but for the table of positions, which their code computes."""
    state, shape = filled(shapes_of(name)), zoo.variant(name)
    patch = TOKENPOSES[shape.backbone].patch(shape.input_size)
    rows, columns = (side // 4 // part for side, part in zip(shape.input_size, patch, strict=True))
    return state | {"features.pos_embedding": sine_positions(rows, columns, 192).numpy()}


@pytest.mark.parametrize("name", ["tokenpose_s_v1_coco_256x192", "simcc_tokenpose_s_coco_64x64"])
def test_outputs_equal_the_golden_ones(name):
    model = official.load(name, published_state(name))
    outputs = official.outputs(model, fixed_input((2, 3, *zoo.variant(name).input_size)))
    with np.load(GOLDEN) as golden:
        for i, output in enumerate(outputs):
            expected, stride = golden[f"{name}.{i}"], 6 if output.ndim == 4 else 3
            ours = output.numpy()[..., ::stride, ::stride] if output.ndim == 4 else output.numpy()[..., ::stride]
            assert np.abs(ours - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize(("backbone", "size", "patch"), [
    ("tokenpose_s_v1", (256, 192), (4, 3)), ("tokenpose_b", (256, 192), (4, 3)), ("tokenpose_s_v2", (256, 192), (2, 2)),  # released
    ("tokenpose_s", (64, 64), (1, 1)), ("tokenpose_s", (128, 128), (2, 2)), ("tokenpose_s", (256, 192), (4, 3)),  # from printed costs
    ("tokenpose_s_v1", (64, 48), (1, 1)), ("tokenpose_b", (128, 96), (2, 2)), ("tokenpose_s_v2", (128, 96), (1, 1)),
    ("tokenpose_s_v1", (384, 288), (6, 6)), ("tokenpose_s_v1", (256, 256), (4, 4)),
])  # fmt: skip
def test_patches(backbone, size, patch):
    assert TOKENPOSES[backbone].patch(size) == patch
    assert all(side // 4 % part == 0 for side, part in zip(size, patch, strict=True))


@pytest.mark.parametrize(("name", "params", "macs", "printed"), [  # M, 1e9 with attention, units of 2^30 as the repository counts
    ("tokenpose_s_v1_coco_256x192", 6.67, 2.73, 2.23),
    ("tokenpose_s_v2_coco_256x192", 6.37, 7.49, 11.62),
    ("tokenpose_b_coco_256x192", 13.51, 6.28, 5.66),
    ("tokenpose_s_coco_64x64", 4.92, 1.65, 1.37),
    ("tokenpose_s_v1_coco_64x48", 4.90, 1.20, None),
    ("tokenpose_s_v1_coco_128x96", 5.16, 1.42, None),
    ("tokenpose_b_coco_64x48", 12.21, 1.42, None),
    ("tokenpose_b_coco_128x96", 12.34, 2.30, None),
])  # fmt: skip
def test_counts_equal_those_of_the_published_code(name, params, macs, printed):
    counted = counted_for(name)
    assert counted.params / 1e6 == pytest.approx(params, abs=0.0051)
    assert counted.macs / 1e9 == pytest.approx(macs, abs=0.0051)
    assert printed is None or counted.gflops("summary") == pytest.approx(printed, abs=0.0051)


def test_positions_are_sines_and_cosines_of_the_row_then_of_the_column():
    """Oracle: each number by itself."""
    rows, columns, dim = 3, 5, 8
    table = sine_positions(rows, columns, dim).numpy()[0]
    for y, x, channel in itertools.product(range(rows), range(columns), range(dim)):
        place, count, own = (y, rows, channel) if channel < dim // 2 else (x, columns, channel - dim // 2)
        angle = (place + 1) / (count + 1e-6) * 2 * np.pi / 10000 ** (2 * (own // 2) / (dim // 2))
        assert table[y * columns + x, channel] == pytest.approx(np.cos(angle) if own % 2 else np.sin(angle), abs=1e-5)


def test_patches_are_cut_in_raster_order_with_channels_fastest():
    features = torch.randn(2, 5, 8, 6)
    patches = cut(features, (4, 3))
    assert patches.shape == (2, 4, 60)
    for row, column, i, j in itertools.product(range(2), range(2), range(4), range(3)):
        start = (i * 3 + j) * 5
        assert torch.equal(patches[:, row * 2 + column, start : start + 5], features[:, :, row * 4 + i, column * 3 + j])


@pytest.mark.parametrize(("backbone", "scale"), [("tokenpose_s_v1", 192**-0.5), ("tokenpose_b", 24**-0.5)])
def test_attention_is_scaled_by_all_channels_in_s_and_by_a_head_s_in_b(backbone, scale):
    """Oracle: the products written out, eight heads of 24 channels."""
    layer = EncoderLayer(TOKENPOSES[backbone]).eval()
    x = 3 * torch.randn(2, 7, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        q, k, v = layer.qkv(layer.norm1(x)).view(2, 7, 3, 8, 24).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * scale, -1)
        x1 = x + layer.out(torch.einsum("bhij,bhjd->bihd", weights, v).reshape(2, 7, 192))
        expected = x1 + layer.contract(nn.functional.gelu(layer.expand(layer.norm2(x1))))
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_positions_are_added_to_patches_before_every_layer_and_never_to_joints():
    """With layers that do nothing, the patches collect them and the joints' tokens stay as they are."""
    encoder = KeypointEncoder(TOKENPOSES["tokenpose_tiny"], (64, 48), 17)
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    encoder.layers = nn.ModuleList(Recorder() for _ in range(3))
    nn.init.normal_(encoder.keypoint_token)
    features = torch.randn(2, 64, 16, 12)
    with torch.no_grad():
        tokens = encoder(features)
    assert torch.equal(tokens, encoder.keypoint_token.expand(2, -1, -1))
    for count, x in enumerate(seen, start=1):
        patches = encoder.patch_to_embedding(cut(features, (1, 1)))
        torch.testing.assert_close(x[:, 17:], patches + count * encoder.pos_embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "layers"), [((64, 48), [192, 384, 3072]), ((96, 72), [192, 864, 6912]), ((32, 24), [192, 768]), ((16, 16), [192, 256])]
)
def test_the_head_has_a_hidden_layer_on_large_maps_only(size, layers):
    linears = [part for part in heatmap_head(192, size) if isinstance(part, nn.Linear)]
    assert [linears[0].in_features, *(part.out_features for part in linears)] == layers


@pytest.mark.parametrize("size", [(64, 48), (128, 96), (256, 192), (64, 64)])
def test_outputs_have_the_size_of_the_heatmaps(size):
    model = zoo.network(variant("tokenpose_tiny", size)).eval()
    with torch.no_grad():
        (heatmaps,) = model(images(1, size))
    assert heatmaps.shape == (1, 17, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("backbone", ["tokenpose_tiny", "tokenpose_b"])
def test_the_gradient_reaches_every_trainable_parameter(backbone):
    torch.manual_seed(0)
    model = zoo.network(variant(backbone, (64, 48)))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    model(images(2))[0].square().mean().backward()
    fixed = {name for name, value in model.named_parameters() if not value.requires_grad}
    unreached = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0}
    assert unreached == fixed == {"encoder.pos_embedding"}


def test_b_takes_imagenet_weights_into_its_convolutions_and_s_has_none_to_take(tmp_path):
    source = zoo.network(Variant("hrnet_w32_coco_64x48", "hrnet", "hrnet_w32", "coco", (64, 48)))
    weights = {key.removeprefix("backbone.trunk."): value for key, value in source.state_dict().items() if "trunk" in key}
    torch.save(weights, tmp_path / "hrnet.pth")
    model = zoo.network(variant("tokenpose_b", (64, 48)))
    load_backbone(model, tmp_path / "hrnet.pth")
    assert torch.equal(model.backbone.stage3[3].fuse_layers[0][2][0].weight, source.backbone.trunk.stage3[3].fuse_layers[0][2][0].weight)
    with pytest.raises(FarposeError, match=r"starts from random weights .*init: none"):
        load_backbone(zoo.network(variant("tokenpose_tiny", (64, 48))), tmp_path / "hrnet.pth")


@pytest.mark.parametrize("name", ["tokenpose_b_coco_256x192", "tokenpose_s_v2_coco_128x96"])
def test_checkpoints_have_the_authors_keys(name):
    keys = shapes_of(name)
    prefix = "transformer." if "_b_" in name else "features."
    assert keys[f"{prefix}transformer.layers.11.1.fn.fn.net.3.weight"] == (192, 576)
    assert keys[f"{prefix}keypoint_token"] == (1, 17, 192)
    assert f"{prefix}mlp_head.1.bias" in keys
    assert ("pre_feature.stage3.3.fuse_layers.0.2.0.weight" in keys) == ("_b_" in name)
    assert "pre_feature.stage3.3.fuse_layers.1.0.0.0.weight" not in keys  # nothing reads the coarser branches
    state = {key: np.zeros(shape, np.float32) for key, shape in keys.items()}
    assert not official.load(name, state).training


@pytest.mark.slow
def test_it_learns_one_batch_by_heart(tmp_path):
    assert learned_share(VARIANTS["tokenpose_tiny_synthetic_64x48"], tmp_path) >= 0.95
