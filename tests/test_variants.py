"""Variants: every entry of params/variants/ builds, and a wrong entry is named with the way out."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
import yaml

from components import codecs
from components.base.config import parse
from components.base.errors import FarposeError
from components.models import zoo
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.resnet import RESNETS
from components.models.paper import Paper
from components.models.variant import Network, Variant, methods
from components.pose.skeleton import CROWDPOSE_14
from components.train import recipe

VARIANTS = zoo.load_variants()
GOOD = """
cal_hrnet_tiny_coco_64x48:
  method: cal
  backbone: hrnet_tiny
  dataset: coco
  input_size: [64, 48]
"""


def write(folder, text: str, name: str = "table.yaml"):
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_every_entry_has_a_codec_and_a_recipe(name):
    variant = VARIANTS[name]
    codec = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec)
    recipe.resolve(variant, recipe.load())
    assert codec.convention == variant.convention


@pytest.mark.parametrize(
    "name",
    [
        *(f"{b}_coco_{s}" for b in ("hrnet_w32", "hrnet_w48") for s in ("256x192", "384x288", "128x96", "64x48")),
        *(f"simple_{b}_coco_{s}" for b in ("resnet50", "resnet101", "resnet152") for s in ("256x192", "384x288", "128x96", "64x48")),
        *(f"udp_{t}_{b}_coco_{s}" for t in ("gaussian", "offset") for b in ("hrnet_w32", "hrnet_w48", "resnet50", "resnet152")
          for s in ("256x192", "384x288", "128x96", "64x48")),
        *(f"dark_{b}_coco_{s}" for b in ("hrnet_w32", "hrnet_w48") for s in ("256x192", "384x288", "128x96", "64x48")),
        *(f"cal_{b}_coco_{s}" for b in ("hrnet_w32", "hrnet_w48") for s in ("128x96", "64x48", "64x48_static")),
        *(f"{p}_tiny_{d}_64x48" for p in ("hrnet", "dark_hrnet", "udp_offset_hrnet", "cal_hrnet") for d in ("synthetic", "coco")),
    ],
)  # fmt: skip
def test_the_papers_rows_are_there(name):
    assert name in VARIANTS


def test_cal_s_table_is_complete():
    """AP and AR of the 64x48 table, W32 and W48."""
    printed = {"": (29.7, 37.3, 32.4, 39.3), "udp_gaussian_": (47.4, 53.8, 51.0, 57.3), "cal_": (58.4, 64.8, 61.5, 66.3)}
    for prefix, numbers in printed.items():
        papers = [VARIANTS[f"{prefix}hrnet_{width}_coco_64x48"].paper for width in ("w32", "w48")]
        assert tuple(value for paper in papers for value in (paper.ap, paper.ar)) == numbers


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].paper.ap is not None])
def test_printed_numbers_are_in_a_plausible_order(name):
    """Catches swapped columns: AP75 < AP50, AP between them, AP below AR."""
    paper = VARIANTS[name].paper
    rising = [(paper.ap, paper.ar), (paper.ar, 100), (paper.ap75, paper.ap50), (paper.ap, paper.ap50)]
    assert all(low < high for low, high in rising if None not in (low, high))
    if None not in (paper.ap_medium, paper.ap_large):
        assert min(paper.ap_medium, paper.ap_large) - 0.5 < paper.ap
    assert paper.source


def test_every_method_s_codec_has_its_convention():
    for method in methods().values():
        assert codecs.convention_of(method.codec) == method.convention


@pytest.mark.parametrize(("name", "convention", "heatmap_size"), [
    ("hrnet_w32_coco_256x192", "classic", (64, 48)),
    ("simple_resnet50_coco_64x48", "classic", (16, 12)),
    ("dark_hrnet_w32_coco_128x96", "dark", (32, 24)),
    ("udp_offset_hrnet_w32_coco_64x48", "unbiased", (16, 12)),
    ("cal_hrnet_w32_coco_64x48", "unbiased", (16, 12)),
])  # fmt: skip
def test_geometry_follows_from_the_method_and_the_input(name, convention, heatmap_size):
    geometry = VARIANTS[name].geometry()
    assert (geometry.convention, geometry.heatmap_size) == (convention, heatmap_size)
    assert geometry.input_size == VARIANTS[name].input_size


def test_joints_follow_from_the_data_set():
    assert VARIANTS["hrnet_w32_mpii_256x256"].num_keypoints == 16
    assert VARIANTS["hrnet_w32_coco_256x192"].num_keypoints == 17


def test_build_gives_network_and_codec_and_refuses_other_joints():
    variant = VARIANTS["cal_hrnet_tiny_coco_64x48"]
    built = zoo.build(variant)
    assert built.codec.decode(built.model.eval()(torch.zeros(1, 3, 64, 48)))[0].shape == (1, 17, 2)
    with pytest.raises(FarposeError, match="made for 17 keypoints, but skeleton crowdpose_14 has 14"):
        zoo.build(variant, CROWDPOSE_14)


def test_an_unknown_variant_suggests_the_nearest():
    with pytest.raises(FarposeError, match="did you mean 'cal_hrnet_w48_coco_64x48'"):
        zoo.variant("cal_hrnet_w48_coco_64x84")


def test_fragments_are_not_variants(tmp_path):
    folder = write(tmp_path, "_base: &base {method: dark, dataset: coco}\n\ndark_resnet18_coco_96x96:\n  <<: *base\n"
                             "  backbone: resnet18\n  input_size: [96, 96]\n")  # fmt: skip
    assert list(zoo.load_variants(folder)) == ["dark_resnet18_coco_96x96"]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("hrnet_tiny\n", "hrnet_w23\n", r"unknown backbone 'hrnet_w23' \(did you mean 'hrnet_w32'\?\)"),
    ("hrnet_tiny\n", "vgg16\n", r"unknown backbone 'vgg16' \(known: .*hrnet_tiny, .*resnet50"),
    ("hrnet_tiny\n", "resnet50\n", "method 'cal' does not run on backbone 'resnet50' .*hrnet_w32"),
    ("method: cal", "method: call", "unknown method 'call' .*did you mean 'cal'"),
    ("dataset: coco", "dataset: cocoa", "the name disagrees with the entry, which makes 'cal_hrnet_tiny_cocoa_64x48'"),
    ("[64, 48]", "[128, 96]", "which makes 'cal_hrnet_tiny_coco_128x96'"),
    ("[64, 48]", "[64, 50]", "multiples of 4"),
    ("[64, 48]", "[64, 48, 3]", "expected 2 values"),
    ("[64, 48]", "[64, 48]\n  tag: pixel", "which makes 'cal_hrnet_tiny_coco_64x48_pixel'"),
    ("[64, 48]", "[64, 48]\n  network: {branch: 3}", r"network: unknown parameter 'branch' \(did you mean 'branches'"),
    ("[64, 48]", "[64, 48]\n  network: {branches: 5}", "branches must be 3 or 4"),
    ("[64, 48]", "[64, 48]\n  paper: {mAP: 1}", "unknown parameter 'mAP'"),
    ("input_size", "size", "unknown parameter 'size'"),
    ("  dataset: coco\n", "", "parameter 'dataset' is missing"),
])  # fmt: skip
def test_a_wrong_entry_is_named(tmp_path, old, new, message):
    assert old in GOOD
    folder = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(FarposeError, match=message) as caught:
        zoo.load_variants(folder)
    assert "cal_hrnet_tiny_coco_64x48" in str(caught.value)


def test_an_entry_must_be_a_mapping(tmp_path):
    with pytest.raises(FarposeError, match="hrnet: expected a mapping, got 3"):
        zoo.load_variants(write(tmp_path, "hrnet: 3\n"))


def test_a_name_in_two_files_is_refused(tmp_path):
    write(tmp_path, GOOD, "a.yaml")
    write(tmp_path, GOOD, "b.yaml")
    with pytest.raises(FarposeError, match=r"b\.yaml: variant 'cal_hrnet_tiny_coco_64x48' is already in a\.yaml"):
        zoo.load_variants(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FarposeError, match="no variant files"):
        zoo.load_variants(tmp_path)


@pytest.mark.parametrize(("fields", "message"), [
    ({"method": "simple", "backbone": "resnet50", "network": Network(branches=3)}, "network.branches has no meaning for resnet50"),
    ({"method": "hrnet", "backbone": "hrnet_w32", "network": {"offset_width": 9}}, "network: unknown parameter 'offset_width'"),
])  # fmt: skip
def test_settings_that_nothing_reads_are_refused(fields, message):
    name = "_".join([*([] if fields["method"] == "hrnet" else [fields["method"]]), fields["backbone"], "coco_64x48"])
    with pytest.raises(FarposeError, match=message):
        Variant(name=name, dataset="coco", input_size=(64, 48), **fields)


def test_backbones_are_known_by_their_own_names():
    assert all(name == shape.name for name, shape in {**HRNETS, **RESNETS}.items())


LIKE = """
_small: {dataset: coco, input_size: [64, 48]}
cal_hrnet_tiny_coco_64x48:
  like: _small
  method: cal
  backbone: hrnet_tiny
  network: {branches: 3, offset_width: 8}
  codec: {preset: derived}
  train: {epochs: 3, augmentation: {scale_sigma: 0.1, rotation_sigma: 10.0}}
  paper: {ap: 50.0, source: here, boxes: none, start: random}
cal_hrnet_tiny_coco_64x48_seed1:
  like: cal_hrnet_tiny_coco_64x48
  tag: seed1
  train: {seed: 1}
cal_hrnet_tiny_coco_64x48_turned:
  like: cal_hrnet_tiny_coco_64x48_seed1
  tag: turned
  train: {augmentation: {rotation_sigma: 40.0}}
cal_hrnet_tiny_coco_64x48_four:
  like: cal_hrnet_tiny_coco_64x48
  tag: four
  network: {branches: 4}
"""


def test_an_entry_may_be_another_plus_what_it_overrides(tmp_path):
    """Oracle: the same entries, written in full."""
    found = zoo.load_variants(write(tmp_path, LIKE))
    common = {"method": "cal", "backbone": "hrnet_tiny", "dataset": "coco", "input_size": (64, 48), "codec": {"preset": "derived"}}
    recipes = [
        {"epochs": 3, "augmentation": {"scale_sigma": 0.1, "rotation_sigma": 10.0}},
        {"epochs": 3, "augmentation": {"scale_sigma": 0.1, "rotation_sigma": 10.0}, "seed": 1},
        {"epochs": 3, "augmentation": {"scale_sigma": 0.1, "rotation_sigma": 40.0}, "seed": 1},
        {"epochs": 3, "augmentation": {"scale_sigma": 0.1, "rotation_sigma": 10.0}},
    ]
    tags = (None, "seed1", "turned", "four")
    for tag, train in zip(tags, recipes, strict=True):
        name = "_".join(["cal_hrnet_tiny_coco_64x48", *([tag] if tag else [])])
        branches = 4 if tag == "four" else 3
        paper = found["cal_hrnet_tiny_coco_64x48"].paper if tag != "four" else Paper()  # another network is not the printed row
        network = {"branches": branches, "offset_width": 8}
        assert found[name] == Variant(name=name, tag=tag, network=network, train=train, paper=paper, **common)


def test_entries_of_other_files_can_be_meant_but_not_their_fragments(tmp_path):
    write(tmp_path, LIKE, "a.yaml")
    write(tmp_path, "cal_hrnet_tiny_coco_64x48_more:\n  like: cal_hrnet_tiny_coco_64x48\n  tag: more\n", "b.yaml")
    assert zoo.load_variants(tmp_path)["cal_hrnet_tiny_coco_64x48_more"].network.offset_width == 8
    write(tmp_path, "cal_hrnet_tiny_coco_64x48_more:\n  like: _small\n", "b.yaml")
    with pytest.raises(FarposeError, match=r"b\.yaml: cal_hrnet_tiny_coco_64x48_more\.like: unknown variant '_small'"):
        zoo.load_variants(tmp_path)


@pytest.mark.parametrize(("like", "message"), [
    ("cal_hrnet_tiny_coco_64x84", r"seed1\.like: unknown variant 'cal_hrnet_tiny_coco_64x84' \(did you mean 'cal_hrnet_tiny_coco_64x48'"),
    ("cal_hrnet_tiny_coco_64x48_turned", r"leads back to itself: .*seed1 → .*turned → .*seed1|.*turned → .*seed1 → .*turned"),
    ("cal_hrnet_tiny_coco_64x48_seed1", r"seed1\.like: leads back to itself: .*seed1 → .*seed1"),
    ("3", "expected a variant's name, got 3"),
])  # fmt: skip
def test_a_wrong_like_is_named_in_one_line(tmp_path, like, message):
    old = "like: cal_hrnet_tiny_coco_64x48\n  tag: seed1"
    assert LIKE.count(old) == 1
    with pytest.raises(FarposeError, match=message) as caught:
        zoo.load_variants(write(tmp_path, LIKE.replace(old, f"like: {like}\n  tag: seed1")))
    assert "table.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_variants_that_differ_in_their_seed_alone_are_one_group(tmp_path):
    again = "cal_hrnet_tiny_coco_64x48_again:\n  like: cal_hrnet_tiny_coco_64x48_turned\n  tag: again\n  train: {seed: 2}\n"
    found = zoo.load_variants(write(tmp_path, LIKE + again))
    groups = {name.removeprefix("cal_hrnet_tiny_coco_64x48"): zoo.group_of(variant, found.values()) for name, variant in found.items()}
    first, again = "cal_hrnet_tiny_coco_64x48", "cal_hrnet_tiny_coco_64x48_again"
    assert groups == {"": first, "_seed1": first, "_turned": again, "_again": again, "_four": "cal_hrnet_tiny_coco_64x48_four"}
    assert zoo.group_of(found[again], []) == again


def test_a_variant_survives_yaml_and_json():
    """Training keys and registered models are made of it."""
    for variant in (
        VARIANTS["cal_hrnet_tiny_coco_64x48"],
        VARIANTS["higherpose_w32_crowdpose_512"],
        VARIANTS["sharpose_base_coco_384x288"],
    ):
        entry = json.loads(json.dumps(dataclasses.asdict(variant)))
        assert parse(Variant, yaml.safe_load(yaml.safe_dump(entry)), "a registered model") == variant


FILES = sorted(zoo.VARIANTS.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_share_by_like_alone(path):
    """YAML's own aliases become one shared mapping for `dvc exp run -S`, which then changes nothing; and no fragment is left over."""
    tokens = {type(token).__name__ for token in yaml.scan(path.read_text())}
    assert not tokens & {"AnchorToken", "AliasToken"}
    written = yaml.safe_load(path.read_text())
    used = {entry.get("like") for entry in written.values()}
    assert {name for name in written if name.startswith("_")} <= used | {"_paper"}


def test_dvc_s_own_editor_changes_one_entry_and_no_other(tmp_path):
    """What `dvc exp run -S params/variants/demo.yaml:NAME.train.epochs=3` does to the file."""
    from dvc.utils.serialize import modify_yaml

    for file in FILES:
        shutil.copy(file, tmp_path)
    with modify_yaml(str(tmp_path / "demo.yaml")) as content:
        content["_demo"]["train"]["epochs"] = 3
        content["cal_hrnet_tiny_synthetic_64x48"]["codec"] = {"mask": "static"}
    changed = zoo.load_variants(tmp_path)
    assert changed["cal_hrnet_tiny_synthetic_64x48"].codec == {"mask": "static"}
    epochs = {name for name, variant in changed.items() if variant.train != VARIANTS[name].train}
    assert {"hrnet_tiny_synthetic_64x48", "cal_hrnet_tiny_synthetic_64x48"} < epochs
    assert all("synthetic_64x48" in name and changed[name].train["epochs"] == 3 for name in epochs)
