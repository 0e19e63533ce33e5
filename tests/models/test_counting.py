"""The papers' tools: hand-counted layers, and the numbers that the tools themselves gave for the published networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from components.models import costs, counting, tracing, zoo
from pipelines import counts
from tests.test_official import REFERENCES

VARIANTS, STORED = zoo.load_variants(), counts.stored()


class Net(nn.Module):
    """These layers, with `function(network, images)` as its forward pass; by default layer `a`."""

    def __init__(self, function=lambda net, x: net.a(x), **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self, images)


def tokens(images: Tensor) -> Tensor:
    return images.flatten(2).transpose(1, 2)  # 8x6 px: (1, 48, 3)


def attend(net: nn.Module, images: Tensor) -> Tensor:
    cells = tokens(images)[:, None]  # one head
    return functional.scaled_dot_product_attention(cells, cells, cells)


def attend_with_projections(net: nn.Module, images: Tensor) -> Tensor:
    cells = tokens(images)
    return net.a(cells, cells, cells, need_weights=False)[0]


IMAGE = 3 * 8 * 6  # numbers in an image
CONV = 5 * 3 * 9 * 8 * 6  # multiply-adds of a 3x3 convolution from 3 to 5 channels
GROUPED = 6 * 9 * 4 * 3  # of a depthwise one with stride 2 from 3 to 6 channels
DECONV = 3 * 5 * 16 * 8 * 6  # of a 4x4 deconvolution from 3 to 5 channels
PRODUCT = 48 * 48 * 3  # of 48 tokens of 3 channels with each other
PROJECTION = 48 * 3 * 3

# what runs → (network, its products, summary, mmcv, fvcore), counted by hand
HAND = {
    "convolution": (Net(a=nn.Conv2d(3, 5, 3, 1, 1)), CONV, CONV, CONV + 5 * 48, CONV),
    "convolution without bias": (Net(a=nn.Conv2d(3, 5, 3, 1, 1, bias=False)), CONV, CONV, CONV, CONV),
    "depthwise convolution": (Net(a=nn.Conv2d(3, 6, 3, 2, 1, groups=3, bias=False)), GROUPED, GROUPED, GROUPED, GROUPED),
    "functional convolution": (Net(lambda net, x: functional.conv2d(x, net.a.weight, padding=1), a=nn.Conv2d(3, 5, 3)), CONV, 0, 0, CONV),
    "deconvolution": (Net(a=nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=False)), DECONV, 4 * DECONV, DECONV, DECONV),
    "linear on tokens": (Net(lambda net, x: net.a(tokens(x)), a=nn.Linear(3, 7)), 48 * 3 * 7, 48 * 48 * 7, 48 * 3 * 7, 48 * 3 * 7),
    "linear on a vector": (Net(lambda net, x: net.a(x.flatten(1)), a=nn.Linear(144, 7)), 144 * 7, 144 * 7, 144 * 7, 144 * 7),
    "batch norm": (Net(a=nn.BatchNorm2d(3)), 0, 0, 2 * IMAGE, 2 * IMAGE),
    "layer norm": (Net(lambda net, x: net.a(tokens(x)), a=nn.LayerNorm(3)), 0, 0, 2 * IMAGE, 5 * IMAGE),
    "relu in place": (Net(a=nn.ReLU(inplace=True)), 0, 0, IMAGE, 0),
    "functional relu in a head": (Net(lambda net, x: functional.relu(x)), 0, 0, IMAGE, 0),
    "functional relu in a backbone": (Net(lambda net, x: net.backbone(x), backbone=Net(a=Net(lambda net, x: x.relu()))), 0, 0, 0, 0),
    "gelu": (Net(a=nn.GELU()), 0, 0, 0, 0),
    "max pooling": (Net(a=nn.MaxPool2d(2)), 0, 0, IMAGE, 0),
    "adaptive pooling": (Net(a=nn.AdaptiveAvgPool2d(1)), 0, 0, IMAGE, IMAGE),
    "nearest": (Net(a=nn.Upsample(scale_factor=2)), 0, 0, 4 * IMAGE, 4 * IMAGE),
    "functional bilinear": (Net(lambda net, x: functional.interpolate(x, scale_factor=2, mode="bilinear")), 0, 0, 0, 16 * IMAGE),
    "product": (Net(lambda net, x: tokens(x) @ x.flatten(2)), PRODUCT, 0, 0, PRODUCT),
    "einsum": (Net(lambda net, x: torch.einsum("bchw,bcvw->bhv", x, x)), 8 * IMAGE, 0, 0, 8 * IMAGE),
    "attention": (Net(attend), 2 * PRODUCT, 0, 0, 2 * PRODUCT),
    "multi-head attention": (
        Net(attend_with_projections, a=nn.MultiheadAttention(3, 1, batch_first=True)),
        *(4 * PROJECTION + 2 * PRODUCT, 0, 0, 4 * PROJECTION + 2 * PRODUCT),
    ),
}


@pytest.mark.parametrize("layer", HAND)
def test_each_tool_counts_layers_as_by_hand(layer):
    network, *expected = HAND[layer]
    calls, macs = tracing.trace(network, (8, 6))
    assert [sum(call.products for call in calls), *(tool(calls) for tool in (counting.summary, counting.mmcv, counting.fvcore))] == expected
    assert macs == expected[0]


def test_torch_counts_the_products_of_attention_also_without_numbers():
    """On shapes alone it sees them as two matrix products, on a processor as one fused operation: the same number."""
    totals = []
    for device in ("cpu", "meta"):
        query, key = torch.zeros(2, 4, 48, 16, device=device), torch.zeros(2, 4, 30, 16, device=device)
        with FlopCounterMode(display=False) as counter:
            functional.scaled_dot_product_attention(query, key, key)
        totals.append(counter.get_total_flops())
    assert totals == [2 * 2 * 2 * 4 * 48 * 30 * 16] * 2


def test_parameters_are_counted_as_often_as_they_are_used_and_only_in_some_layers():
    conv, norm, layer_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.LayerNorm(3)
    network = Net(lambda net, x: net.c(tokens(net.b(net.a(net.a(x))))), a=conv, b=norm, c=layer_norm)
    calls, _ = tracing.trace(network, (8, 6))
    assert counting.summary_parameters(calls) == 2 * (9 + 3) + 6


def test_synchronised_batch_norms_of_the_backbone_are_not_seen():
    network = Net(lambda net, x: net.head(net.backbone(x)), backbone=Net(a=nn.BatchNorm2d(3)), head=nn.BatchNorm2d(3))
    calls, _ = tracing.trace(network, (8, 6))
    assert (counting.mmcv(calls), counting.mmcv(calls, synchronised=True)) == (4 * IMAGE, 2 * IMAGE)


def test_tracing_leaves_no_hooks():
    model = zoo.network(VARIANTS["hrnet_tiny_coco_64x48"])
    tracing.trace(model, (64, 48))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


MMCV = {  # counted with the tool in the published code, 1e9
    "srpose_resnet50_coco_256x192": 4.611,
    "srpose_hrnet_w32_coco_256x192": 8.276,
    "srpose_hrformer_s_coco_256x192": 3.302,
    "simple_resnet50_coco_256x192": 5.462,
    "hrnet_w32_coco_256x192": 7.704,
    "hrformer_s_coco_256x192": 2.818,
    "sr_head_resnet50_coco_256x192": 5.774,
    "sr_head_hrnet_w32_coco_256x192": 7.981,
    "transpose_r_a4_coco_256x192": 4.336,
    "sr_head_bottomup_resnet50_coco_512": 30.864,
    "sr_head_bottomup_hrnet_w32_coco_512": 42.574,
}
FVCORE = {
    "siu_resnet50_wholebody_256x192": 4.156,
    "siu_resnet50_wholebody_384x288": 9.351,
    "siu_resnet101_wholebody_256x192": 7.803,
    "siu_resnet101_wholebody_384x288": 17.556,
    "siu_hrnet_w32_wholebody_256x192": 7.392,
    "siu_hrnet_w32_wholebody_384x288": 16.631,
    "siu_hrnet_w48_wholebody_256x192": 15.072,
    "siu_hrnet_w48_wholebody_384x288": 33.912,
    "siu_efficientvit_l0_wholebody_384x288": 10.331,
    "siu_efficientvit_l1_wholebody_384x288": 11.795,
    "sharpose_small_coco_256x192": 4.842,
    "sharpose_base_coco_256x192": 17.059,
    "sharpose_base_coco_384x288": 32.711,  # 32.712 with the published copying of coarse features, which costs ours nothing
}
SUMMARY = {  # units of 2³⁰
    "hrnet_w32_coco_256x192": 7.120,
    "hrnet_w48_coco_256x192": 14.614,
    "hrnet_w32_coco_128x96": 1.780,
    "hrnet_w48_coco_128x96": 3.654,
    "hrnet_w32_coco_64x48": 0.400,
    "hrnet_w48_coco_64x48": 0.811,
    "hrnet_w32_mpii_256x256": 9.493,
    "simple_resnet50_coco_256x192": 8.991,
    "simple_resnet101_coco_256x192": 12.378,
    "simple_resnet152_coco_256x192": 15.765,
    "udp_offset_hrnet_w32_coco_256x192": 7.156,
    "udp_offset_hrnet_w48_coco_256x192": 14.684,
    "udp_offset_hrnet_w32_coco_64x48": 0.402,
    "udp_offset_hrnet_w48_coco_64x48": 0.815,
    "cal_hrnet_w32_coco_64x48": 0.537,
    "cal_hrnet_w32_coco_128x96": 2.512,
    "cal_hrnet_w48_coco_64x48": 1.120,
    "cal_hrnet_w48_coco_128x96": 8.735,
    "tokenpose_s_v1_coco_256x192": 2.226,
    "tokenpose_s_v2_coco_256x192": 11.618,
    "tokenpose_b_coco_256x192": 5.655,
    "simcc_resnet50_coco_256x192": 8.991,
    "higherhrnet_w32_coco_512": 44.577,
    "higherhrnet_w48_coco_640": 143.708,
    "litepose_xs_coco_256": 1.077,
    "litepose_s_coco_448": 4.497,
    "higherpose_w32_coco_256": 11.217,  # the corrected attention's products are as invisible to it as the published one's
    "higherpose_w32_coco_512": 44.867,
    "higherpose_w32_coco_256_published": 11.217,
}
TABLES = {"mmcv": MMCV, "fvcore": FVCORE, "summary": SUMMARY}
MEASURED = [(name, tool, value) for tool, table in TABLES.items() for name, value in table.items()]


@pytest.mark.parametrize(("name", "tool", "value"), MEASURED)
def test_each_tool_counts_the_published_networks_as_the_tool_itself_did(name, tool, value):
    spent = counts.of_variant(VARIANTS[name], STORED)
    assert round(spent.gflops(tool), 3) == value


def test_some_papers_print_the_same_count_in_units_of_a_thousand_million():
    spent = counts.of_variant(VARIANTS["higherhrnet_w48_coco_640"], STORED)
    assert round(spent.gflops("summary_decimal"), 1) == 154.3
    assert spent.gflops("summary_decimal") == pytest.approx(spent.gflops("summary") * 2**30 / 1e9)


@pytest.mark.parametrize("name", ["higherpose_w32_coco_256", "limbpose_w32_coco_256"])
def test_what_a_bottom_up_method_adds_to_its_backbone_is_its_head(name):
    backbone = counts.of_variant(VARIANTS["higherhrnet_w32_coco_256"], STORED).params_backbone
    assert counts.of_variant(VARIANTS[name], STORED).params_backbone == backbone


def traced(name: str) -> tuple[list[tracing.Call], int]:
    with torch.device("meta"):
        model = zoo.network(VARIANTS[name])
    return tracing.trace(model, VARIANTS[name].input_size)


@pytest.mark.parametrize("name", ["siu_efficientvit_l0_coco_64x48", "sharpose_small_coco_64x48", "tokenpose_s_v1_coco_64x48"])
def test_products_are_what_torch_counts(name):
    calls, macs = traced(name)
    assert sum(call.products for call in calls) == macs


def test_ordinary_batch_norms_cost_hrformer_what_synchronised_ones_hide():
    calls, macs = traced("srpose_hrformer_s_coco_256x192")
    assert round(counting.mmcv(calls) / 1e9, 3) == 3.358
    assert sum(call.products for call in calls) == macs


@pytest.mark.parametrize("file", REFERENCES)
def test_summary_equals_that_of_the_reference_files_exactly(parity, file):
    with np.load(parity / "models" / f"{file}.npz") as stored:
        cost = json.loads(str(stored["meta_json"])).get("cost") or {}
    value = cost.get("official_summary_gflops", cost.get("official_summary_gflops_gib"))
    if value is None:
        pytest.skip("this file has no counts by the tool")
    spent = counts.of_variant(VARIANTS[REFERENCES[file]], STORED)
    cut = 4 * 16 * 256 * 17 / 2**30 if file == "resnet50_64x48" else 0  # surplus cells of the published network
    assert spent.gflops("summary") == pytest.approx(value - cut, rel=1e-12)
    assert spent.params_summary == cost.get("official_summary_params", spent.params_summary)


def test_a_network_s_fixed_tables_and_train_only_parts_are_told_apart():
    spent: costs.Costs = counts.of_variant(VARIANTS["srpose_resnet50_coco_256x192"], STORED)
    parts = spent.params_backbone, spent.params_head, spent.params_train_only, spent.params
    assert [round(part / 1e6, 3) for part in parts] == [23.508, 1.289, 0.318, 25.115]
    assert spent.params_fixed == 0
    assert counts.of_variant(VARIANTS["transpose_r_a4_coco_256x192"], STORED).params_fixed == 256 * 32 * 24  # sine positions at 1/8
