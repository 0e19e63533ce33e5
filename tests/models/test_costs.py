"""Parameters and multiply-adds equal those counted from the published code, to every printed digit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from components.models import costs, zoo
from components.models.backbones import HRNETS
from tests.test_official import REFERENCES

VARIANTS = zoo.load_variants()
COUNTED = {  # variant → parameters in millions, multiply-adds in 1e9, counted in the published code
    "hrnet_w32_coco_256x192": (28.536, 7.645),
    "hrnet_w48_coco_256x192": (63.596, 15.692),
    "hrnet_w32_coco_128x96": (28.536, 1.911),
    "hrnet_w48_coco_128x96": (63.596, 3.923),
    "hrnet_w32_coco_64x48": (12.802, 0.429),
    "hrnet_w48_coco_64x48": (28.208, 0.871),
    "hrnet_w32_mpii_256x256": (28.536, 10.193),
    "simple_resnet50_coco_256x192": (34.000, 5.426),
    "simple_resnet101_coco_256x192": (52.992, 9.063),
    "simple_resnet152_coco_256x192": (68.635, 12.699),
    "udp_offset_hrnet_w32_coco_256x192": (28.590, 7.684),
    "udp_offset_hrnet_w48_coco_256x192": (63.712, 15.766),
    "udp_offset_hrnet_w32_coco_64x48": (12.831, 0.431),
    "udp_offset_hrnet_w48_coco_64x48": (28.268, 0.875),
    "cal_hrnet_w32_coco_64x48": (17.847, 0.577),
    "cal_hrnet_w32_coco_128x96": (49.314, 2.697),
    "cal_hrnet_w48_coco_64x48": (39.547, 1.203),
    "cal_hrnet_w48_coco_128x96": (117.212, 9.379),
}
PUBLISHED_64X48 = {"simple_resnet50_coco_64x48": 0.383, "simple_resnet101_coco_64x48": 0.610, "simple_resnet152_coco_64x48": 0.838}


def counted_for(name: str) -> costs.Costs:
    """Costs of a variant; those of DARK are HRNet's and SimpleBaseline's."""
    variant = VARIANTS[name]
    method = "plain" if variant.method in ("hrnet", "simple", "dark") else variant.method
    key = (method, variant.backbone, variant.dataset, variant.network, variant.input_size, str(variant.codec))  # codec: SimCC's bins
    if key not in _COUNTED:
        _COUNTED[key] = costs.of_variant(variant)
    return _COUNTED[key]


_COUNTED: dict[tuple, costs.Costs] = {}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_equal_the_published_code_s(name):
    counted = counted_for(name)
    assert (round(counted.params / 1e6, 3), round(counted.macs / 1e9, 3)) == COUNTED[name]


@pytest.mark.parametrize("name", PUBLISHED_64X48)
def test_cutting_surplus_columns_saves_only_the_last_convolution(name):
    variant = VARIANTS[name]
    with torch.device("meta"):
        published = costs.count(zoo.network(variant, published=True), variant.input_size)
    ours = costs.of_variant(variant)
    assert round(published.macs / 1e9, 3) == PUBLISHED_64X48[name]
    assert published.macs - ours.macs == 4 * 16 * 256 * 17
    assert published.params == ours.params


@pytest.mark.parametrize("file", REFERENCES)
def test_counts_equal_those_of_the_reference_files_exactly(parity, file):
    with np.load(parity / "models" / f"{file}.npz") as stored:
        cost = json.loads(str(stored["meta_json"])).get("cost")
    if cost is None:
        pytest.skip("no counts in this file")
    counted = counted_for(REFERENCES[file])
    if file == "resnet50_64x48":  # the published network also computes 16 x 4 surplus cells
        cost["macs"]["conv"] -= 4 * 16 * 256 * 17
    macs = cost["macs_all_matmul"] if "macs_all_matmul" in cost else sum(cost["macs"].values())
    assert (counted.params, counted.macs) == (cost["params"], macs)


PRINTED = [
    name
    for name, v in VARIANTS.items()
    if v.paper.gflops and v.paper.counting == "summary" and v.method in ("hrnet", "dark") and v.backbone in HRNETS
]


@pytest.mark.parametrize("name", PRINTED)
def test_counts_round_to_what_the_paper_prints(name):
    """Within one unit of the last digit: DARK cuts 3.654 to 3.6. Deconvolutions are printed fourfold, so HRNets only."""
    counted, paper = counted_for(name), VARIANTS[name].paper
    assert counted.params / 1e6 == pytest.approx(paper.params_m, abs=0.1)
    assert counted.macs / 2**30 == pytest.approx(paper.gflops, abs=0.1)


def test_counting_leaves_the_network_as_it_was():
    model = zoo.network(VARIANTS["cal_hrnet_tiny_coco_64x48"]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted = costs.count(model, (64, 48))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert counted.params == sum(value.numel() for value in model.parameters())
    heads = sum(value.numel() for part in (model.heatmap_head, model.offset_head) for value in part.parameters())
    assert counted.params_head == heads
