"""Parameters and multiply-adds equal those counted from the published code, to every printed digit."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import counts as page
from components.base.errors import FarposeError
from components.models import costs, zoo
from components.models.backbones.hrnet import HRNETS
from components.models.variant import Network
from pipelines import counts
from tests.models.subjects import TINY, counted_for
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
    "hrnet_w32_coco_64x48_spsr": (53.332, 168.616),  # 24.796 and 160.971 of them the generator's
    "srpose_resnet50_coco_256x192": (25.115, 4.576),
    "srpose_hrnet_w32_coco_256x192": (30.272, 8.213),
    "srpose_hrformer_s_coco_256x192": (8.858, 3.740),
    "transpose_r_a4_coco_256x192": (5.985, 6.320),
    "sharpose_small_coco_256x192": (28.485, 4.832),
    "sharpose_base_coco_256x192": (94.116, 17.040),
    "sharpose_base_coco_384x288": (118.543, 32.676),
    "siu_resnet50_wholebody_256x192": (23.551, 4.134),
    "siu_resnet101_wholebody_384x288": (42.543, 17.484),
    "siu_hrnet_w32_wholebody_256x192": (26.606, 7.350),
    "siu_hrnet_w48_wholebody_384x288": (59.238, 33.785),
    "siu_efficientvit_l0_wholebody_384x288": (27.860, 10.305),
    "siu_efficientvit_l1_wholebody_384x288": (38.092, 11.768),
    "higherhrnet_w32_coco_256": (28.645, 11.551),
    "higherhrnet_w32_coco_512": (28.645, 46.203),
    "higherhrnet_w48_coco_640": (63.827, 149.469),
    "litepose_xs_coco_256": (1.676, 0.886),
    "litepose_s_coco_448": (2.732, 3.624),
    "litepose_m_coco_448": (3.534, 5.276),
    "litepose_l_coco_512": (5.739, 9.979),
    "higherpose_w32_coco_256_published": (29.720, 14.985),  # 14.984 without the products of attention, see test_higherpose.py
    "higherpose_w32_coco_512_published": (30.126, 59.942),  # 59.935
    "sr_head_bottomup_resnet50_coco_512": (34.106, 30.670),
    "sr_head_bottomup_hrnet_w32_coco_512": (28.627, 42.253),
}
PUBLISHED_64X48 = {"simple_resnet50_coco_64x48": 0.383, "simple_resnet101_coco_64x48": 0.610, "simple_resnet152_coco_64x48": 0.838}


STORED = counts.stored()


def smallest_of_each_network() -> list[str]:
    """One variant per method and backbone, tiny ones first, without backbones that only repeat a smaller one's parts."""
    larger = ("hrnet_w48", "resnet101", "resnet152", "efficientvit_l1", "tokenpose_s_v1", "tokenpose_s_v2", "vit_base")
    found: dict[tuple[str, str], str] = {}
    for name in sorted(VARIANTS, key=lambda name: (VARIANTS[name].backbone not in TINY, math.prod(VARIANTS[name].input_size))):
        if VARIANTS[name].backbone not in larger and VARIANTS[name].method != "dark":  # DARK's networks are HRNet's
            found.setdefault((VARIANTS[name].method, VARIANTS[name].backbone), name)
    return list(found.values())


def test_every_network_is_counted_and_nothing_else():
    assert set(STORED) == {counts.key(variant) for variant in VARIANTS.values()}, "run `farpose models --count`"


def networks() -> list[Any]:
    """`smallest_of_each_network` as parameters; quick to test is one of each method."""
    quick = {VARIANTS[name].method: name for name in reversed(smallest_of_each_network())}.values()
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in smallest_of_each_network()]


@pytest.mark.parametrize("name", networks())
def test_stored_counts_are_those_of_the_networks(name):
    assert costs.of_variant(VARIANTS[name]) == counted_for(name), f"run `{counts.COMMAND}`"


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_stored_counts_are_those_of_every_variant(name):
    assert costs.of_variant(VARIANTS[name]) == counted_for(name), f"run `{counts.COMMAND}`"


@pytest.mark.parametrize("name", COUNTED)
def test_counts_equal_the_published_code_s(name):
    counted = counted_for(name)
    assert (round(counted.params / 1e6, 3), round(counted.macs / 1e9, 3)) == COUNTED[name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if "resnet50" in name else pytest.mark.slow) for name in PUBLISHED_64X48])
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


NAME = "hrnet_tiny_coco_64x48"


def test_what_decides_a_network_decides_its_key():
    base = VARIANTS[NAME]
    assert counts.key(base) == "hrnet/hrnet_tiny/17/64x48/branches=3"
    same = dataclasses.replace(base, codec={"sigma": 3.0}, train={"epochs": 1})
    assert counts.key(same) == counts.key(base)
    wider = dataclasses.replace(base, network=Network(branches=4))
    assert counts.key(wider) == "hrnet/hrnet_tiny/17/64x48"
    simcc, coarser = VARIANTS["simcc_resnet101_coco_128x128"], {"split": 1}
    assert counts.key(dataclasses.replace(simcc, codec=coarser)) != counts.key(simcc)


def test_a_variant_that_is_not_kept_is_counted_on_the_spot():
    counted = counts.of_variant(VARIANTS[NAME], {})
    assert counted == counted_for(NAME)


def test_kept_costs_are_not_those_of_a_network_of_another_size():
    variant, key = VARIANTS[NAME], counts.key(VARIANTS[NAME])
    network, kept = zoo.network(variant), dataclasses.replace(counted_for(NAME), macs=1)
    assert counts.of_network(variant, network, {key: kept}) == kept
    other = dataclasses.replace(kept, params_backbone=kept.params_backbone + 1)
    assert counts.of_network(variant, network, {key: other}) is counts.of_network(variant, network, {}) is None


def test_counts_survive_their_file_and_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "costs.json"
    assert counts.stored(path) == {}
    said: list[str] = []
    key, other = counts.key(VARIANTS[NAME]), dataclasses.replace(counted_for(NAME), macs=1)
    assert counts.rewrite([VARIANTS[NAME]], {}, path, said.append) == 1
    assert (counts.stored(path), said) == ({key: counted_for(NAME)}, [key])
    assert counts.rewrite([VARIANTS[NAME]], {key: other, "unused": other}, path, said.append) == 1
    assert (counts.stored(path), said) == ({key: other}, [key])  # what is known is kept, what nobody needs is dropped
    path.write_text(path.read_text()[:-5])
    with pytest.raises(FarposeError, match=r"costs\.json: not valid JSON"):
        counts.stored(path)


NUMBERS = [number for variant in VARIANTS.values() for number in page.printed(variant, counted_for(variant.name))]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{number.variant}-{number.field}")
def test_printed_numbers_are_counted_or_explained(number):
    assert number.agrees or number.exception is not None, number


def test_every_explanation_is_needed_and_the_page_has_todays_tables():
    assert {number.exception for number in NUMBERS if number.exception} == set(page.EXCEPTIONS)
    text = page.PAGE.read_text()
    assert text[text.index(page.BEGIN) : text.index(page.END)] == "\n".join([page.BEGIN, *page.tables(), ""]), (
        "run python -m benchmarks.counts"
    )
