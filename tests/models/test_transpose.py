"""TransPose-R: equal to its authors' code, and its parts to torch's own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.models import official, zoo
from components.models.backbones.resnet import RESNETS, ResNet
from components.models.backbones.transpose import TRANSPOSES, EncoderLayer, TransPose, feature_size, sine_positions
from components.models.methods import transpose
from components.models.pretrained import load_backbone
from components.models.variant import Variant
from tests.models.fill import filled, fixed_input
from tests.models.subjects import counted_for
from tests.test_official import reference_module, shapes_of

GOLDEN = Path(__file__).parents[1] / "golden" / "transpose.npz"  # the published network's outputs, strided
NAME = "transpose_r_a4_coco_256x192"
SIZES = [(64, 48), (128, 96), (256, 192), (100, 76)]


def tiny(size: tuple[int, int] = (64, 48), published: bool = False) -> nn.Module:
    """With weights far from the initial ones, so that nothing is equal by chance."""
    torch.manual_seed(0)
    model = transpose.build(Variant(f"transpose_tiny_coco_{size[0]}x{size[1]}", "transpose", "transpose_tiny", "coco", size), published)
    for value in model.parameters():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value)
    return model


def images(count: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def features_of(model: nn.Module, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of layers 1 and 2 (B, channels), and the encoder's first 64 tokens (64, B, 256)."""
    with torch.no_grad():
        first, second, encoded = model.backbone.pyramid(torch.from_numpy(batch))
    tokens = encoded.flatten(2).permute(2, 0, 1)[:64]
    return first.mean((2, 3)).numpy(), second.mean((2, 3)).numpy(), tokens.numpy()


def test_features_equal_the_published_code(parity):
    reference = reference_module(parity).Reference.load(parity / "models" / "transpose_r_a4_baseline.npz")
    first, second, tokens = features_of(official.load(NAME, reference.state()), reference.input())
    for name, ours in (("layer1__mean_c", first), ("layer2__mean_c", second), ("encoder_tokens__first64__first32", tokens.reshape(64, -1))):
        stored = reference.arrays[name]
        assert stored.shape == ours.shape
        assert np.abs(ours - stored).max() <= 1e-4 * stored.std()


def test_outputs_equal_the_golden_ones():
    state = filled(shapes_of(NAME))
    state["pos_embedding"] *= 0.02 * 256**0.5  # the golden values' rule for it: N(0, 0.02²)
    model, batch = official.load(NAME, state), fixed_input((2, 3, 256, 192))
    first, second, tokens = features_of(model, batch)
    ours = {"layer1": first, "layer2": second, "tokens": tokens.reshape(64, -1)[::4, ::8]}
    ours["final"] = official.outputs(model, batch)[0].numpy()[..., ::4, ::4]
    with np.load(GOLDEN) as golden:
        for name, values in ours.items():
            assert np.abs(values - golden[name]).max() <= 1e-4 * golden[name].std()


@pytest.mark.parametrize("file", ["tokenpose_s_v1_256x192", "tokenpose_s_v2_256x192"])
def test_positions_equal_a_published_table(parity, file):
    """TokenPose's table, stored with its reference, is made by the same function."""
    stored = reference_module(parity).Reference.load(parity / "models" / f"{file}.npz").arrays["features.pos_embedding"][0]
    size = {256: (16, 16), 768: (32, 24)}[len(stored)]
    assert np.abs(sine_positions(size, stored.shape[1]).numpy() - stored).max() < 1e-5


@pytest.mark.parametrize(("size", "width"), [((8, 6), 64), ((3, 5), 8)])
def test_positions_are_sines_and_cosines_of_the_row_and_the_column(size, width):
    """Oracle: each number by itself."""
    table, half = sine_positions(size, width), width // 2
    for y in range(size[0]):
        for x in range(size[1]):
            for c in range(width):
                place, count, channel = (y, size[0], c) if c < half else (x, size[1], c - half)
                phase = 2 * math.pi * (place + 1) / count / 10000 ** (2 * (channel // 2) / half)
                expected = math.cos(phase) if channel % 2 else math.sin(phase)
                assert float(table[y * size[1] + x, c]) == pytest.approx(expected, abs=1e-5)


def test_an_encoder_layer_is_torch_s_own_without_positions():
    torch.manual_seed(0)
    shape = TRANSPOSES["transpose_tiny"]
    ours = EncoderLayer(shape).eval()
    theirs = nn.TransformerEncoderLayer(shape.width, shape.heads, shape.feedforward, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 48, shape.width)
    with torch.no_grad():
        assert torch.allclose(ours(tokens, torch.zeros(1, 48, shape.width)), theirs(tokens), atol=1e-5)


def test_positions_steer_attention_but_are_not_mixed_in():
    """With equal tokens attention averages equal values, wherever the positions make it look."""
    torch.manual_seed(0)
    shape = TRANSPOSES["transpose_tiny"]
    layer, positions = EncoderLayer(shape).eval(), sine_positions((8, 6), shape.width)[None]
    equal, different = torch.randn(1, 1, shape.width).expand(-1, 48, -1), torch.randn(1, 48, shape.width)
    with torch.no_grad():
        assert torch.allclose(layer(equal, positions), layer(equal, 0 * positions), atol=1e-5)
        assert not torch.allclose(layer(different, positions), layer(different, 0 * positions), atol=1e-2)


def test_layers_one_and_two_are_those_of_resnet_50():
    torch.manual_seed(0)
    resnet, ours = ResNet(RESNETS["resnet50"]).eval(), TransPose(TRANSPOSES["transpose_r_a4"], (8, 6)).eval()
    taken = ours.load_state_dict(
        {key: value for key, value in resnet.state_dict().items() if not key.startswith(("layer3", "layer4"))}, strict=False
    )
    assert not taken.unexpected_keys
    with torch.no_grad():
        first, second, _ = ours.pyramid(images(1))
        expected = resnet.pyramid(images(1))
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])


@pytest.mark.parametrize("size", SIZES)
def test_every_size_gives_heatmaps_and_a_pyramid_of_the_right_sizes(size):
    model = tiny(size).eval()
    with torch.no_grad():
        (heatmaps,) = model(images(2, size))
        pyramid = model.backbone.pyramid(images(2, size))
        assert torch.equal(pyramid[-1], model.backbone(images(2, size)))
    assert tuple(heatmaps.shape) == (2, 17, size[0] // 4, size[1] // 4)
    eighth = feature_size(size)
    expected = zip(model.backbone.pyramid_channels, ((size[0] // 4, size[1] // 4), eighth, eighth), strict=True)
    assert [tuple(feature.shape) for feature in pyramid] == [(2, channels, *cells) for channels, cells in expected]
    assert model.backbone.channels == 64


def test_surplus_cells_are_cut_off_unless_published():
    size = (68, 52)
    published, ours = tiny(size, published=True).eval(), tiny(size).eval()
    with torch.no_grad():
        (larger,), (heatmaps,) = published(images(2, size)), ours(images(2, size))
    assert tuple(larger.shape[-2:]) == (18, 14)
    assert tuple(heatmaps.shape[-2:]) == (17, 13)
    assert torch.allclose(larger[..., :17, :13], heatmaps, atol=1e-5 * float(heatmaps.std()))


def test_evaluation_is_deterministic_and_each_image_is_on_its_own():
    model, batch = tiny().eval(), images(3)
    with torch.no_grad():
        (whole,), (again,), (alone,) = model(batch), model(batch), model(batch[1:2])
    assert torch.equal(whole, again)
    assert torch.allclose(whole[1:2], alone, atol=1e-4 * float(whole.std()))


def test_dropout_is_for_training_and_follows_the_seed():
    backbone = TransPose(TRANSPOSES["transpose_r_a4"], (4, 3)).train()
    batch = images(2, (32, 24))

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return backbone(batch)

    with torch.no_grad():
        assert torch.equal(drawn(1), drawn(1))
        assert not torch.equal(drawn(1), drawn(2))
        backbone.eval()
        assert torch.equal(drawn(1), drawn(2))


def test_the_gradient_reaches_every_parameter_but_the_positions():
    model = tiny()
    model(images(4))[0].square().mean().backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}
    assert reached == {name for name, _ in model.named_parameters()} - {"backbone.pos_embedding"}
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == {"backbone.pos_embedding"}


def test_the_initial_weights_are_as_stated():
    torch.manual_seed(0)
    model = zoo.network(zoo.variant(NAME))
    encoder = model.backbone.global_encoder.layers[0]
    bounds = {name: float(value.detach().abs().max()) for name, value in encoder.named_parameters() if value.ndim == 2}
    for name, bound in bounds.items():
        assert bound == pytest.approx((6 / sum(encoder.get_parameter(name).shape)) ** 0.5, rel=0.01)
    others = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and name != "backbone.reduce"]
    assert float(torch.cat([m.weight.detach().flatten() for m in others]).std()) == pytest.approx(0.001, rel=0.02)
    assert float(model.backbone.reduce.weight.detach().abs().max()) == pytest.approx(512**-0.5, rel=0.01)


def test_parameters_and_multiply_adds_are_the_published_ones():
    counted = counted_for(NAME)
    assert (round(counted.params / 1e6, 3), round(counted.params_fixed / 1e6, 3)) == (5.985, 0.197)
    assert (round(counted.params_backbone / 1e6, 3), counted.params_head) == (4.932, 1053457)
    assert round(counted.macs / 1e9, 3) == 6.320


def test_imagenet_weights_of_resnet_50_fill_layers_one_and_two(tmp_path):
    torch.manual_seed(0)
    resnet = ResNet(RESNETS["resnet50"]).state_dict()
    save_file(resnet | {"fc.weight": torch.zeros(10, 2048)}, tmp_path / "imagenet.safetensors")
    model = zoo.network(zoo.variant("transpose_r_a4_coco_64x48"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_backbone(model, tmp_path / "imagenet.safetensors")
    for key, value in model.state_dict().items():
        name = key.removeprefix("backbone.")
        assert torch.equal(value, resnet[name] if key.startswith("backbone.") and name in resnet else before[key])
