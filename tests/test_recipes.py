"""The recipes `published` and `matched`, and the declared pairs that the second one compares."""

from __future__ import annotations

import dataclasses

import pytest

from components.base.errors import FarposeError
from components.models import zoo
from components.models.baselines import PLAIN_METHODS, baseline, pairs
from components.train import recipe as recipes

VARIANTS = zoo.load_variants()
BASE, BUDGETS = recipes.load(), recipes.budgets()
PAIRS = pairs(VARIANTS)


def resolved(name: str, kind: recipes.Kind) -> recipes.Recipe:
    return recipes.resolve(VARIANTS[name], BASE, kind, known=BUDGETS)


def differences(first: recipes.Recipe, second: recipes.Recipe) -> set[str]:
    return {field.name for field in dataclasses.fields(first) if getattr(first, field.name) != getattr(second, field.name)}


def test_matched_recipes_of_declared_pairs_differ_in_named_exceptions_only():
    for name, other in PAIRS.items():
        allowed = {*VARIANTS[name].exceptions, *VARIANTS[other].exceptions}
        assert differences(resolved(name, "matched"), resolved(other, "matched")) <= allowed, (name, other)


def test_published_recipes_do_differ_so_that_matched_is_needed():
    """The pairs that comments once called matched."""
    for name, keys in {
        "srpose_resnet50_coco_256x192": {"epochs", "batch_size", "augmentation"},
        "sr_head_resnet50_coco_256x192": {"epochs", "batch_size", "augmentation"},
        "siu_resnet50_coco_256x192": {"epochs", "augmentation"},
        "siu_resnet50_wholebody_256x192": {"epochs", "learning_rate", "batch_size"},
        "cal_hrnet_w48_coco_64x48": {"batch_size"},
    }.items():
        assert keys <= differences(resolved(name, "published"), resolved(PAIRS[name], "published")), name


def test_a_budget_is_equal_over_all_backbones_but_for_the_optimisation():
    seen: dict[str, recipes.Recipe] = {}
    for name, variant in VARIANTS.items():
        matched = resolved(name, "matched")
        first = seen.setdefault(recipes.budget_name(variant), matched)
        assert differences(matched, first) <= {*recipes.OPTIMISATION, *variant.exceptions}, name
    assert seen.keys() == {"crops", "images", "tiny_crops", "tiny_images"}


def test_every_method_with_a_plain_rival_names_a_baseline():
    """A method's printed row whose plain counterpart exists is compared with it, or says why not by naming another one."""

    def seen(variant):
        enlarged = getattr(variant.network, "upscale", None) and variant.network.factor
        return variant.backbone, variant.dataset, variant.input_size, enlarged

    plain = {seen(variant) for variant in VARIANTS.values() if variant.method in PLAIN_METHODS}
    for name, variant in VARIANTS.items():
        if variant.method not in PLAIN_METHODS and seen(variant) in plain:
            assert name in PAIRS or variant.tag == "long", name


def test_a_pair_sees_the_same_data():
    for name, other in PAIRS.items():
        for field in ("backbone", "dataset", "input_size", "approach"):
            assert getattr(VARIANTS[name], field) == getattr(VARIANTS[other], field), name


def test_plain_at_64x48_has_as_many_branches():
    assert PAIRS["siu_hrnet_w32_coco_64x48"] == "hrnet_w32_coco_64x48_fused"
    assert PAIRS["srpose_hrnet_w32_coco_64x48"] == "hrnet_w32_coco_64x48"
    assert PAIRS["udp_offset_hrnet_w32_coco_64x48_spsr"] == "hrnet_w32_coco_64x48_spsr"


def test_exceptions_keep_their_keys_and_no_others():
    variant = dataclasses.replace(VARIANTS["cal_hrnet_w48_coco_64x48"], exceptions={"batch_size": "for this test"})
    matched = recipes.resolve(dataclasses.replace(variant, train={"batch_size": 256, "epochs": 7}), BASE, "matched")
    assert (matched.batch_size, matched.epochs) == (256, 210)
    with pytest.raises(FarposeError, match=r"variant cal_hrnet_w48_coco_64x48: unknown exception 'epochs'"):
        recipes.resolve(dataclasses.replace(variant, train={}, exceptions={"epochs": "because"}), BASE, "published")


@pytest.mark.parametrize(("name", "message"), [
    ("hrnet_w32_coco_256x129", "unknown variant"),
    ("hrnet_w48_coco_256x192", "has another backbone"),
    ("hrnet_w32_mpii_256x256", "has another dataset"),
    ("plain", None),
])  # fmt: skip
def test_a_wrong_baseline_is_named(name, message):
    variant = dataclasses.replace(VARIANTS["srpose_hrnet_w32_coco_256x192"], baseline=name)
    if message is None:
        assert baseline(variant, VARIANTS).name == "hrnet_w32_coco_256x192"
        return
    with pytest.raises(FarposeError, match=rf"variant srpose_hrnet_w32_coco_256x192: baseline: .*{message}|{message}"):
        baseline(variant, VARIANTS)


def test_a_baseline_that_does_not_exist_is_an_error():
    variant = dataclasses.replace(VARIANTS["simcc_tokenpose_s_coco_64x48"], baseline="plain")
    with pytest.raises(FarposeError, match="no plain variant has its backbone, data set and input size"):
        baseline(variant, VARIANTS)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("matched: ", "matched_: ", "expected the keys 'train' and 'matched'"),
    ("      epochs: 210\n      batch_size: 128\n", "      epoch: 210\n", r"matched\.crops with families\.hrnet: unknown parameter 'epoch'"),
    ("vit: {optimiser: adamw", "vit: {epochs: 3, optimiser: adamw", r"matched\.crops\.families\.vit: unknown parameter 'epochs'"),
    ("vit: {optimiser: adamw", "vit: {optimiser: adam", r"weight_decay must be 0 with optimiser adam"),
    ("  tiny_images:", "  tiny_image:", "unknown parameter 'tiny_image'"),
])  # fmt: skip
def test_a_wrong_budget_is_named(tmp_path, old, new, message):
    text = recipes.TRAIN.read_text()
    assert old in text
    (tmp_path / "train.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(FarposeError, match=message):
        recipes.load(tmp_path / "train.yaml")


def test_a_backbone_of_no_family_and_an_unknown_kind_are_named(tmp_path):
    text = recipes.TRAIN.read_text().replace("      efficientvit: {", "      another: {")
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(FarposeError, match=r"matched\.crops\.families: no family holds backbone 'efficientvit_l0'"):
        recipes.resolve(VARIANTS["siu_efficientvit_l0_coco_64x48"], BASE, "matched", tmp_path / "train.yaml")
    with pytest.raises(FarposeError, match=r"unknown recipe 'match' .*did you mean 'matched'"):
        recipes.resolve(VARIANTS["hrnet_w32_coco_256x192"], BASE, "match")
