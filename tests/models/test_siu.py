"""SIU: the upsampling equals its definition, sits where the paper says and nowhere else, and costs what its authors print."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from components.base.errors import FarposeError
from components.models import official, zoo
from components.models.heads.pixel_shuffle import PixelShuffleHead
from components.models.methods.siu import DepthwisePath, PixelShufflePath
from components.models.official import authors_key
from components.models.variant import Variant, methods
from tests.models.fill import filled, fixed_input
from tests.models.subjects import counted_for
from tests.test_official import REFERENCES

VARIANTS = {name: variant for name, variant in zoo.load_variants().items() if variant.method == "siu" or variant.dataset == "wholebody"}
GOLDEN = Path(__file__).parents[1] / "golden" / "siu.npz"
FILES = {file: name for file, name in REFERENCES.items() if file.startswith("siu_")}
STRIDES = {"siu_res50_256": 4, "siu_hrnet_w32_256": 4, "siu_evit_l0_384": 8}  # of the stored outputs, cells
TINY = [backbone for backbone in methods()["siu"].backbones if "tiny" in backbone or backbone == "resnet18"]
LARGE = [(256, 192), (384, 288), (128, 96), (64, 48)]
COUNTED = {  # backbone, height → millions of parameters, 1e9 multiply-adds with attention, counted in the published code
    ("resnet50", 256): (23.551, 4.134),
    ("resnet50", 384): (23.551, 9.302),
    ("resnet101", 256): (42.543, 7.771),
    ("resnet101", 384): (42.543, 17.484),
    ("hrnet_w32", 256): (26.606, 7.350),
    ("hrnet_w32", 384): (26.606, 16.537),
    ("hrnet_w48", 256): (59.238, 15.015),
    ("hrnet_w48", 384): (59.238, 33.785),
    ("efficientvit_l0", 384): (27.860, 10.305),
    ("efficientvit_l1", 384): (38.092, 11.768),
}
LARGEST = (("hrnet_w32", 384), ("hrnet_w48", 384))


@cache
def meta(name: str, **network) -> nn.Module:
    """A variant's network without numbers, with other settings where given."""
    variant = VARIANTS[name]
    with torch.device("meta"):
        return zoo.network(dataclasses.replace(variant, network=dataclasses.replace(variant.network, **network)))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def tiny(backbone: str, size: tuple[int, int] = (64, 48), method: str = "siu", **network) -> Variant:
    name = "_".join(part for part in (methods()[method].label or method, backbone, "coco", "{}x{}".format(*size)) if part)
    name = name.removeprefix("hrnet_") if method == "hrnet" else name
    return Variant(name, method, backbone, "coco", size, network=network)


def shuffled(x: np.ndarray, factor: int) -> np.ndarray:
    """The definition: channel c r² + i r + j of a cell becomes channel c of the cell's part in row i and column j."""
    batch, channels, height, width = x.shape
    y = np.zeros((batch, channels // factor**2, height * factor, width * factor), x.dtype)
    for channel in range(channels):
        row, column = divmod(channel % factor**2, factor)
        y[:, channel // factor**2, row::factor, column::factor] = x[:, channel]
    return y


def depthwise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Each channel with its own kernel, zeros outside the map."""
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return np.einsum("bchwij,cij->bchw", windows, weight[:, 0]) + bias[:, None, None]


@pytest.mark.parametrize(("kernel", "between"), [(3, None), (7, 64)])
def test_the_head_equals_its_definition(kernel, between):
    torch.manual_seed(0)
    head = PixelShuffleHead(128, kernel, between).double()
    x = torch.randn(2, 128, 2, 3, dtype=torch.float64)
    weights = {key: value.detach().numpy() for key, value in head.state_dict().items()}
    expected = shuffled(x.numpy(), 8)
    for suffix in ("1", "") if between else ("",):
        expected = np.maximum(depthwise(expected, weights[f"depth_conv{suffix}.weight"], weights[f"depth_conv{suffix}.bias"]), 0)
        mixed = np.einsum("bchw,oc->bohw", expected, weights[f"point_conv{suffix}.weight"][..., 0, 0])
        expected = np.maximum(mixed + weights[f"point_conv{suffix}.bias"][:, None, None], 0)
    assert expected.shape == (2, 256, 16, 24)
    np.testing.assert_allclose(head(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_path_to_a_finer_branch_equals_its_definition(factor):
    torch.manual_seed(0)
    path = PixelShufflePath(2 * factor**2, 5, factor).eval().double()
    norm = path[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 2 * factor**2, 3, 2, dtype=torch.float64)
    expected = np.einsum("bchw,oc->bohw", shuffled(x.numpy(), factor), path[0].weight.detach().numpy()[..., 0, 0])
    mean, deviation = norm.running_mean.numpy(), np.sqrt(norm.running_var.numpy() + 1e-5)
    expected = (expected - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(path(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_path_to_a_coarser_branch_has_one_activation_fewer_than_steps(steps):
    path = DepthwisePath(8, 8 * 2**steps, steps)
    assert sum(isinstance(layer, nn.ReLU) for layer in path.modules()) == steps - 1
    assert tuple(path(torch.randn(2, 8, 16, 13)).shape) == (2, 8 * 2**steps, 16 >> steps, -(-13 // 2**steps))


@pytest.mark.parametrize("branches", [3, 4])
def test_on_hrnet_only_the_fusions_differ_from_hrnet(branches):
    ours, plain = (
        shapes(zoo.network(variant))
        for variant in (tiny("hrnet_tiny", branches=branches), tiny("hrnet_tiny", method="hrnet", branches=branches))
    )
    different = {key for key in ours.keys() | plain.keys() if ours.get(key) != plain.get(key)}
    assert different and all(".fuse_layers." in key for key in different)


def test_hrnet_s_downsampling_leaves_the_paths_to_finer_branches_alone_to_differ():
    ours = shapes(meta("siu_hrnet_w32_wholebody_256x192", downsample="convolution"))
    plain = shapes(meta("hrnet_w32_wholebody_256x192"))
    assert ours.keys() == plain.keys()
    for key in (key for key in ours if ours[key] != plain[key]):
        target, source = key.split(".fuse_layers.")[1].split(".")[:2]
        assert source > target and key.endswith(".0.weight")
        assert ours[key][1] * 4 ** (int(source) - int(target)) == plain[key][1]


@pytest.mark.parametrize(("name", "saved"), [("siu_hrnet_w32_wholebody_256x192", 1.754), ("siu_hrnet_w48_wholebody_256x192", 3.958)])
def test_depthwise_downsampling_saves_what_a_3x3_kernel_costs_more(name, saved):
    """9 a b numbers become 9 a + a b in every fusion from a channels to b; shuffling itself saves but a tenth of that."""
    convolution, depthwise_ = meta(name, downsample="convolution"), meta(name)
    kernels = [shape for key, shape in shapes(convolution).items() if ".fuse_layers." in key and shape[2:] == (3, 3)]
    expected = sum(9 * a * b - (9 * a + a * b) for b, a, _, _ in kernels)
    sizes = [sum(value.numel() for value in model.parameters()) for model in (convolution, depthwise_)]
    assert sizes[0] - sizes[1] == expected
    assert round(expected / 1e6, 3) == saved


@pytest.mark.parametrize(
    "key",
    [pytest.param(key, marks=[pytest.mark.slow] if key in LARGEST else []) for key in COUNTED],
    ids=[f"{backbone}-{height}" for backbone, height in COUNTED],
)
def test_parameters_and_multiply_adds_equal_the_published_code_s(key):
    backbone, height = key
    counted = counted_for(f"siu_{backbone}_wholebody_{height}x{height * 3 // 4}")
    assert (round(counted.params / 1e6, 3), round(counted.macs / 1e9, 3)) == COUNTED[key]


ROWS = [name for name, variant in VARIANTS.items() if variant.paper.params_m is not None]


@pytest.mark.parametrize("name", ROWS)
def test_parameters_round_to_what_the_paper_prints(name):
    parameters = sum(value.numel() for value in meta(name).parameters())
    assert parameters / 1e6 == pytest.approx(VARIANTS[name].paper.params_m, abs=0.0501)


def test_the_table_is_complete():
    """Whole-body AP of SIU and of the baseline beside it, 256x192 then 384x288, as printed."""
    printed = {
        "resnet50": (53.7, 52.1, 58.1, 57.4), "resnet101": (55.4, 53.1, 61.2, 59.7), "hrnet_w32": (54.3, 53.6, 59.4, 58.6),
        "hrnet_w48": (58.6, 57.9, 64.0, 63.2), "efficientvit_l0": (61.8, 61.2), "efficientvit_l1": (61.8, 61.1),
    }  # fmt: skip
    assert len(ROWS) == 20
    for backbone, expected in printed.items():
        sizes = ("256x192", "384x288") if len(expected) == 4 else ("384x288",)
        baseline = "" if backbone.startswith("hrnet") else "simple_"
        names = [f"{method}{backbone}_wholebody_{size}" for size in sizes for method in ("siu_", baseline)]
        assert tuple(VARIANTS[name].paper.ap for name in names) == expected


@pytest.mark.parametrize("name", ROWS)
def test_parts_surround_the_whole_body(name):
    """Catches swapped columns: hands are hardest, and the body is easier than the whole."""
    paper = VARIANTS[name].paper
    assert paper.ap_hand < paper.ap < paper.ap_body
    assert paper.ap_hand < paper.ap_face and paper.counting == "fvcore" and paper.fps > 190


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("size", [(64, 48), (96, 72), (128, 96)])
def test_maps_have_a_quarter_of_the_input_s_size(backbone, size):
    torch.manual_seed(0)
    (heatmaps,) = zoo.network(tiny(backbone, size))(torch.randn(2, 3, *size))
    assert tuple(heatmaps.shape) == (2, 17, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize(("backbone", "size"), [(b, s) for b in ("resnet50", "efficientvit_l1") for s in LARGE] + [("hrnet_w48", (64, 48))])
def test_maps_of_the_large_ones_have_a_quarter_of_the_input_s_size(backbone, size):
    with torch.device("meta"):
        (heatmaps,) = zoo.network(tiny(backbone, size)).eval()(torch.empty(1, 3, *size))
    assert tuple(heatmaps.shape) == (1, 17, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientvit_tiny"])
def test_surplus_cells_are_cut_off_and_change_nothing_else(backbone):
    variant, images = tiny(backbone), torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    published, ours = zoo.network(variant, published=True).eval(), zoo.network(variant).eval()
    ours.load_state_dict(published.state_dict())
    with torch.no_grad():
        (whole,), (cut,) = published(images), ours(images)
    assert tuple(whole.shape) == (1, 17, 16, 16)
    assert torch.allclose(whole[..., :12], cut, rtol=0, atol=1e-7)


@pytest.mark.parametrize("backbone", TINY)
def test_the_gradient_reaches_every_parameter(backbone):
    torch.manual_seed(0)
    model = zoo.network(tiny(backbone))
    for layer in model.modules():  # far from the initial weights, with which some gradients are too small for float32
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    model(torch.randn(4, 3, 64, 48))[0].square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("backbone", ["resnet18", "efficientvit_tiny"])
def test_the_initial_head_passes_the_signal_on(backbone):
    """Convolutions from N(0, 0.001²) without batch norms would leave a hundred-thousandth of it."""
    torch.manual_seed(0)
    model = zoo.network(tiny(backbone))
    features = torch.randn(2, model.backbone.channels, 4, 3)
    assert model.head(features).std() > 1e-3
    assert float(model.final_layer.weight.detach().std()) == pytest.approx(0.001, rel=0.1)


def test_settings_that_other_methods_do_not_read_are_refused():
    with pytest.raises(FarposeError, match="network: unknown parameter 'downsample'"):
        tiny("hrnet_tiny", method="hrnet", downsample="convolution")


@pytest.mark.parametrize("file", FILES)
def test_every_parameter_is_one_of_the_authors(parity, file):
    with np.load(parity / "models" / f"{file}.npz") as stored:
        keys = json.loads(str(stored["meta_json"]))["keys"]
    theirs = {key: tuple(shape) for key, shape, _ in keys}
    assert authors_shapes(FILES[file]) == theirs


def authors_shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {authors_key(key, VARIANTS[name]): shape for key, shape in shapes(meta(name)).items()}


@pytest.mark.parametrize("file", FILES)
def test_outputs_equal_the_golden_ones(file):
    name = FILES[file]
    model = official.load(name, filled(authors_shapes(name)))
    (heatmaps,) = official.outputs(model, fixed_input((2, 3, *VARIANTS[name].input_size)))
    with np.load(GOLDEN) as golden:
        expected = golden[file]
    stride = STRIDES[file]
    assert np.abs(heatmaps[:, ::8, ::stride, ::stride].numpy() - expected).max() <= 1e-4 * expected.std()


def test_shuffling_is_torch_s_own():
    x = torch.randn(2, 3 * 16, 3, 2)
    assert np.array_equal(shuffled(x.numpy(), 4), functional.pixel_shuffle(x, 4).numpy())
