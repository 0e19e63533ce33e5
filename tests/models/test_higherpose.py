"""HigherPose: as published equal to its authors' code, corrected equal to torch's own attention, without it HigherHRNet."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from components.base.errors import FarposeError
from components.models import official, zoo
from components.models.backbones.transpose import sine_positions
from components.models.heads.spatial_attention import SpatialLayer, SpatialTransformer, attend
from components.models.methods import higherhrnet, higherpose
from components.models.official import authors_key
from components.models.tracing import trace
from components.models.variant import Variant
from tests.models.fill import filled, fixed_input
from tests.models.subjects import spread
from tests.test_official import reference_module, shapes_of

GOLDEN = Path(__file__).parents[1] / "golden" / "higherpose.npz"  # the published network's outputs, strided
NAME = "higherpose_w32_coco_256"
FILES = ["higherpose_coco_in256", "higherpose_coco_in256_b1"]  # a batch of two, and its first image alone
SETTINGS = ["spatial", "published", "none"]


def tiny(attention: str, size: int = 128, **settings: object) -> nn.Module:
    """With weights far from the initial ones, so that nothing is equal by chance."""
    variant = Variant(
        f"higherpose_tiny_coco_{size}_x", "higherpose", "hrnet_tiny", "coco", (size, size), "x", {"attention": attention, **settings}
    )
    torch.manual_seed(0)
    return spread(zoo.network(variant), images(4, (size, size)))


def images(count: int, size: tuple[int, int] = (128, 128)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model(batch)


def worst(ours: Tensor, theirs: Tensor | np.ndarray) -> float:
    """Greatest difference, in standard deviations of `theirs`."""
    return float(np.abs(ours.numpy() - np.asarray(theirs)).max() / np.asarray(theirs).std())


@pytest.mark.parametrize("file", [FILES[0], pytest.param(FILES[1], marks=pytest.mark.slow)])
def test_outputs_equal_the_published_code(parity, file):
    reference = reference_module(parity).Reference.load(parity / "models" / f"{file}.npz")
    tables = reference_module(parity).Reference.load(parity / "models" / f"{FILES[0]}.npz").arrays  # stored with one of them
    state = reference.state() | {key: tables[key] for key in ("pos_embedding_en", "pos_embedding_de")}
    found = official.outputs(official.load(NAME, state), reference.input())
    for name, ours in zip(("out0", "out1"), found, strict=True):
        reference.check(name, ours.numpy(), tolerance=1e-4)


def published_state(name: str = NAME) -> dict[str, np.ndarray]:
    """The weights of the reference values: by the authors' names, with sines for positions."""
    state = filled(shapes_of(name))
    for key in ("pos_embedding_en", "pos_embedding_de"):
        cells, _, width = state[key].shape
        side = math.isqrt(cells)
        state[key] = sine_positions((side, side), width)[:, None].numpy()
    return state | {"pos_embedding": state["pos_embedding_de"]}  # their checkpoints hold this table twice


def test_outputs_equal_the_golden_ones_and_depend_on_the_batch_as_published():
    model, batch = official.load(NAME, published_state()), fixed_input((2, 3, 256, 256))
    both, alone = official.outputs(model, batch), official.outputs(model, batch[:1])
    with np.load(GOLDEN) as golden:
        for i, step in enumerate((8, 16)):
            assert worst(both[i][..., ::step, ::step], golden[f"out{i}"]) <= 1e-4
            assert worst(alone[i][..., :: 2 * step, :: 2 * step], golden[f"alone{i}"]) <= 1e-4
            assert worst(both[i][:1], alone[i]) > 0.01


def test_sine_tables_equal_the_published_ones(parity):
    arrays = reference_module(parity).Reference.load(parity / "models" / f"{FILES[0]}.npz").arrays
    for key, side in (("pos_embedding_en", 32), ("pos_embedding_de", 64)):
        assert np.abs(sine_positions((side, side), arrays[key].shape[2]).numpy() - arrays[key][:, 0]).max() < 1e-6


@pytest.mark.parametrize("name", [NAME, "higherpose_w32_coco_512", "higherpose_w32_crowdpose_256"])
def test_published_and_corrected_have_the_same_parameters(name):
    published, corrected = (official.expected(name, published=flag).tensors for flag in (True, False))
    assert {key: (ours, value.shape) for key, (ours, value) in published.items()} == {
        key: (ours, value.shape) for key, (ours, value) in corrected.items()
    }


def test_the_corrected_network_takes_the_authors_weights():
    name = "higherpose_tiny_synthetic_256"
    state, batch = published_state(name), images(2, (128, 128))
    published, corrected = (official.load(name, state, published=flag) for flag in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(published.state_dict().values(), corrected.state_dict().values(), strict=True))
    assert worst(outputs(published, batch)[0], outputs(corrected, batch)[0]) > 0.01


def test_products_by_kind_equal_those_of_the_reference_file(parity):
    with np.load(parity / "models" / f"{FILES[0]}.npz") as stored:
        cost = json.loads(str(stored["meta_json"]))["cost"]
    with torch.device("meta"):
        model = zoo.network(zoo.variant(NAME))
    calls, _ = trace(model, (256, 256))
    found = {kind: sum(call.products for call in calls if call.kind == kind) for kind in ("convolution", "deconvolution", "linear")}
    assert found == dict(zip(found, (cost["macs"][kind] for kind in ("conv", "deconv", "linear")), strict=True))
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert (sum(value.numel() for value in model.parameters()), trained) == (cost["params"], cost["params_trainable"])


@pytest.mark.parametrize("attention", SETTINGS)
@pytest.mark.parametrize("size", [(128, 128), (64, 192)], ids=str)
def test_outputs_have_a_quarter_and_half_of_the_image_and_each_image_is_on_its_own(attention, size):
    model, batch = tiny(attention), images(3, size)
    together, alone = outputs(model, batch), outputs(model, batch[1:2])
    assert [tuple(output.shape) for output in together] == [
        (3, 34, size[0] // 4, size[1] // 4),
        (3, 17, size[0] // 2, size[1] // 2),
    ]
    for whole, single in zip(together, alone, strict=True):
        apart = worst(whole[1:2], single)
        assert apart > 1e-3 if attention == "published" else apart < 1e-4


def test_positions_of_another_size_are_its_own_sines():
    model = tiny("spatial")
    features = torch.zeros(1, 16, 16, 48)
    assert torch.equal(model._positions(model.decoder_positions, features, 1)[:, 0], sine_positions((16, 48), 16))
    square = torch.zeros(1, 16, 32, 32)
    assert model._positions(model.decoder_positions, square, 1) is model.decoder_positions
    assert torch.equal(model.decoder_positions[:, 0], sine_positions((32, 32), 16))


def test_without_its_transformer_it_is_higherhrnet():
    settings, size = ("hrnet_tiny", "coco", (128, 128)), images(2)
    without = Variant("higherpose_tiny_coco_128_none", "higherpose", *settings, "none", {"attention": "none"})
    plain = Variant("higherhrnet_tiny_coco_128", "higherhrnet", *settings)
    ours, theirs = spread(zoo.network(without), size), higherhrnet.build(plain)
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(outputs(ours, size), outputs(theirs.eval(), size), strict=True):
        assert torch.equal(a, b)
    assert {authors_key(key, without) for key in ours.state_dict()} == {authors_key(key, plain) for key in ours.state_dict()}


def layer(published: bool, width: int = 8) -> SpatialLayer:
    torch.manual_seed(0)
    made = SpatialLayer(width, feedforward=16, published=published)
    for name, buffer in made.dw[1].named_buffers():
        if buffer.ndim:
            buffer.copy_(torch.rand(width) + (name == "running_var"))
    return made.eval()


def rest_of(made: SpatialLayer, tokens: Tensor, attended: Tensor) -> Tensor:
    """A layer's output from what its attention adds, word by word."""
    tokens = tokens + attended
    return tokens + made.linear2(nn.functional.gelu(made.linear1(made.norm2(tokens))))


def parts_of(made: SpatialLayer, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, and what is both keys and values."""
    depthwise, norm = made.dw
    scaled = tokens * depthwise.weight[:, 0, 0, 0] + depthwise.bias
    scaled = (scaled - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return made.norm1(tokens) + positions, scaled + positions


def test_the_corrected_layer_is_torch_s_own_attention_over_each_image():
    made, tokens, positions = layer(published=False), torch.randn(30, 3, 8), torch.randn(30, 1, 8)
    attention = nn.MultiheadAttention(8, 4, batch_first=True)
    q, k, v, out = made.self_attn.linears
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([q.weight, k.weight, v.weight]))
        attention.in_proj_bias.copy_(torch.cat([q.bias, k.bias, v.bias]))
        attention.out_proj.load_state_dict(out.state_dict())
        query, context = (part.transpose(0, 1) for part in parts_of(made, tokens, positions))
        attended = attention(query, context, context, need_weights=False)[0].transpose(0, 1)
        assert torch.allclose(made(tokens, positions), rest_of(made, tokens, attended), atol=1e-5)


def test_the_published_layer_mixes_the_top_left_cells_of_the_batch_and_adds_that_everywhere():
    """Oracle: loops over heads and images."""
    made, tokens, positions = layer(published=True), torch.randn(5, 3, 8), torch.randn(5, 1, 8)
    q, k, v, out = made.self_attn.linears
    with torch.no_grad():
        query, context = parts_of(made, tokens, positions)
        mixed = torch.zeros(3, 8)
        for head in range(4):
            of_head = slice(2 * head, 2 * head + 2)
            for image in range(3):
                logits = [float(q(query[0, image])[of_head] @ k(context[0, other])[of_head]) / math.sqrt(2) for other in range(3)]
                weights = np.exp(logits) / np.exp(logits).sum()
                mixed[image, of_head] = sum(float(w) * v(context[0, other])[of_head] for other, w in enumerate(weights))
        assert torch.allclose(made(tokens, positions), rest_of(made, tokens, out(mixed)[None]), atol=1e-5)


def test_without_positions_cells_may_change_places():
    torch.manual_seed(0)
    transformer, order = SpatialTransformer(8, layers=2, feedforward=16).eval(), torch.randperm(24)
    features, nowhere = torch.randn(2, 8, 4, 6), torch.zeros(24, 1, 8)
    with torch.no_grad():
        found = transformer(features, nowhere).flatten(2)
        moved = transformer(features.flatten(2)[..., order].unflatten(2, (4, 6)), nowhere).flatten(2)
        assert torch.allclose(moved, found[..., order], atol=1e-5)
        placed = transformer(features, sine_positions((4, 6), 8)[:, None]).flatten(2)
        assert not torch.allclose(placed, found, atol=1e-2)


@pytest.mark.parametrize(("published", "reached"), [(False, 24), (True, 2)])
def test_a_cell_sees_the_whole_image_or_as_published_itself_and_the_top_left(published, reached):
    torch.manual_seed(0)
    transformer = SpatialTransformer(8, layers=1, feedforward=16, published=published).eval()
    features = torch.randn(1, 8, 4, 6, requires_grad=True)
    transformer(features, sine_positions((4, 6), 8)[:, None])[0, :, 2, 3].square().sum().backward()
    assert int((features.grad.abs().sum(1) > 0).sum()) == reached


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that anything puts out."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return result


@pytest.mark.parametrize("depth", [1, 8])
def test_attention_never_holds_all_pairs_of_cells(depth):
    tokens = 2048
    query, key, value = (torch.randn(1, 2, tokens, depth, requires_grad=True) for _ in range(3))
    with Largest() as seen:
        attend(query, key, value).square().sum().backward()
    assert seen.numbers <= 2 * tokens * 16
    with torch.no_grad():
        weights = (query @ key.transpose(2, 3) / math.sqrt(depth)).softmax(3)
        assert torch.allclose(attend(query, key, value), weights @ value, atol=1e-4)


def crowdpose_state(coco: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of the released code with four layers and 14 joints, cut out of COCO's with six and 17; any numbers for positions.

    Heatmaps come before tags in `final_layers.0`, whose outputs follow 32 features in the deconvolution's input.
    """
    kept = {key: value for key, value in coco.items() if not re.match(r"global_(en|de)coder\.layers\.[45]\.", key)}
    joints = [*range(14), *range(17, 31)]
    for leaf in ("weight", "bias"):
        kept[f"final_layers.0.{leaf}"] = coco[f"final_layers.0.{leaf}"][joints]
        kept[f"final_layers.1.{leaf}"] = coco[f"final_layers.1.{leaf}"][:14]
    kept["deconv_layers.0.0.0.weight"] = coco["deconv_layers.0.0.0.weight"][[*range(32), *(32 + joint for joint in joints)]]
    generator = np.random.default_rng(0)
    tables = {"pos_embedding_en": (32 * 32, 1, 4), "pos_embedding_de": (64 * 64, 1, 32)}  # randn(length, 1, d_model) in the code
    kept |= {key: generator.standard_normal(shape).astype(np.float32) for key, shape in tables.items()}
    return kept | {"pos_embedding": kept["pos_embedding_de"]}


@pytest.mark.parametrize("suffix", ["", "_published"])
def test_a_state_dict_of_the_crowdpose_configuration_loads(parity, suffix):
    state = crowdpose_state(reference_module(parity).Reference.load(parity / "models" / f"{FILES[0]}.npz").state())
    model = official.load(f"higherpose_w32_crowdpose_256{suffix}", state)
    assert len(model.encoder.layers) == len(model.decoder.layers) == 4
    tables = model.encoder_positions, model.decoder_positions
    for table, key in zip(tables, ("pos_embedding_en", "pos_embedding_de"), strict=True):
        assert table.requires_grad and np.array_equal(table.detach().numpy(), state[key])
    with pytest.raises(FarposeError, match="keys do not fit"):
        official.load(NAME, state)
    with pytest.raises(FarposeError, match=r"1 left over \(global_encoder\.layers\.4\.norm1\.weight\)"):
        official.load("higherpose_w32_crowdpose_256", state | {"global_encoder.layers.4.norm1.weight": np.zeros(4, np.float32)})


@pytest.mark.parametrize("size", [256, 512])
def test_crowdpose_rows_are_the_released_configuration_s(size):
    """Four layers and learned positions (the code's defaults) where COCO's configuration asks for six and sines."""
    with torch.device("meta"):
        coco, crowdpose = (zoo.network(zoo.variant(f"higherpose_w32_{dataset}_{size}")) for dataset in ("coco", "crowdpose"))
    for model, layers, learned in ((coco, 6, False), (crowdpose, 4, True)):
        assert len(model.encoder.layers) == len(model.decoder.layers) == layers
        assert model.encoder_positions.requires_grad == model.decoder_positions.requires_grad == learned


def test_learned_positions_may_be_any_and_sines_are_the_fixed_case():
    fixed, learned, batch = tiny("spatial", layers=2), tiny("spatial", layers=2, positions="learned"), images(2)
    assert not torch.equal(learned.decoder_positions[:, 0], sine_positions((32, 32), 16))
    before = outputs(learned, batch)[0]
    learned.load_state_dict(fixed.state_dict())
    for ours, theirs in zip(outputs(learned, batch), outputs(fixed, batch), strict=True):
        assert torch.equal(ours, theirs)
    assert worst(before, outputs(fixed, batch)[0]) > 0.01


def test_learned_positions_are_interpolated_for_a_map_of_another_size():
    model = tiny("spatial", positions="learned")
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    with torch.no_grad():  # every channel says row or column of the table
        model.decoder_positions.copy_(torch.stack([rows, columns] * 8, -1).flatten(0, 1)[:, None])
    found = model._positions(model.decoder_positions, torch.zeros(1, 16, 32, 64), 1)[:, 0].unflatten(0, (32, 64)).detach()
    assert torch.allclose(found[..., 0], rows[:, :1].expand(-1, 64), atol=1e-4)
    expected = (torch.arange(64.0) + 0.5) / 2 - 0.5  # centre of a cell on the table's own scale
    assert torch.allclose(found[5, 8:-8, 1], expected[8:-8], atol=1e-4)


@pytest.mark.parametrize(("settings", "message"), [
    ({"layers": 0}, "layers must be at least 1"),
    ({"positions": "learnable"}, r"unknown value 'learnable' \(did you mean 'learned'"),
    ({"attention": "none", "layers": 4}, "layers and positions have no meaning with attention: none"),
])  # fmt: skip
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(FarposeError, match=message):
        Variant("higherpose_tiny_coco_128_x", "higherpose", "hrnet_tiny", "coco", (128, 128), "x", settings)


def test_training_reaches_learned_positions():
    model = tiny("spatial", positions="learned").train()
    coarse, fine = model(images(4))
    (coarse.square().mean() + fine.square().mean()).backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())


@pytest.mark.parametrize("attention", SETTINGS)
def test_training_reaches_every_parameter_but_the_tables(attention):
    model = tiny(attention).train()
    coarse, fine = model(images(4))
    (coarse.square().mean() + fine.square().mean()).backward()
    unreached = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    assert unreached == ({"encoder_positions", "decoder_positions"} if attention != "none" else set())


def test_tables_and_their_copy_are_told_from_weights():
    assert official.expected(NAME).ignored == higherpose.IGNORED
    assert {"pos_embedding_en", "pos_embedding_de", "extration.weight", "final_layers.1.bias"} <= set(official.expected(NAME).tensors)
    with pytest.raises(FarposeError, match=r"left over"):
        official.load("higherpose_tiny_synthetic_256_none", published_state("higherpose_tiny_synthetic_256"))
