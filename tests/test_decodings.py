"""Second decodings: the quarter shift alone is left out, for the methods that have one."""

from __future__ import annotations

import pytest
import torch

from components import codecs
from components.evaluate.decodings import second_codecs
from components.models import zoo

VARIANTS = zoo.load_variants()


def codec_of(name):
    variant = VARIANTS[name]
    return codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec)


@pytest.mark.parametrize(
    "name", ["hrnet_w32_coco_256x192", "simple_resnet50_coco_64x48", "srpose_hrnet_w32_coco_256x192", "hrformer_s_coco_64x48"]
)
def test_the_highest_cell_stays_where_it_is(name):
    plain = codec_of(name)
    (codec,) = second_codecs(plain).values()
    heatmaps = torch.rand(3, *codec.output_shapes[0], generator=torch.Generator().manual_seed(0))
    cells = heatmaps.flatten(2).argmax(2)
    width = heatmaps.shape[-1]
    expected = torch.stack([cells % width, cells // width], -1).double()
    keypoints, scores = codec.decode((heatmaps,))
    assert torch.equal(keypoints.double(), expected)
    assert torch.equal(scores, heatmaps.flatten(2).amax(2))
    shift = (plain.decode((heatmaps,))[0].double() - expected).abs()
    assert set(shift.unique().tolist()) <= {0.0, 0.25} and 0.25 in shift


@pytest.mark.parametrize(
    "name", ["dark_hrnet_w32_coco_64x48", "udp_offset_hrnet_w32_coco_64x48", "simcc_hrnet_w32_coco_64x48", "litepose_s_coco_448"]
)
def test_methods_without_a_shift_have_no_second_decoding(name):
    assert second_codecs(codec_of(name)) == {}


def test_every_printed_number_without_shift_belongs_to_a_variant_that_can_be_read_so():
    for name, variant in VARIANTS.items():
        if any(paper.ap_without_shift is not None for paper in (variant.paper, *variant.reprints)) and variant.method != "tokenpose":
            assert "without_shift" in second_codecs(codec_of(name)), name


def test_only_asked_for_decodings_are_made():
    assert second_codecs(codec_of("hrnet_w32_coco_64x48"), ()) == {}
