"""Published recipes against the authors' configurations: which value, of which key, from where."""

from __future__ import annotations

from typing import Any

import pytest

from components import codecs
from components.models import zoo
from components.train import recipe as recipes

VARIANTS = zoo.load_variants()
BASE, BUDGETS = recipes.load(), recipes.budgets()

HRNET = "leoxiaobin/deep-high-resolution-net.pytorch experiments/coco/hrnet"
RESNET = "leoxiaobin/deep-high-resolution-net.pytorch experiments/coco/resnet"
MPII = "leoxiaobin/deep-high-resolution-net.pytorch experiments/mpii"
DARK = "ilovepose/DarkPose experiments/coco"
CAL = "ilovepose/Low-resolution-human-pose experiments/coco/hrnet"
UDP = "HuangJunJie2017/UDP-Pose, configurations of pose_resnet"
SIMCC = "leeyegy/SimCC experiments/coco"
TOKENPOSE = "leeyegy/TokenPose experiments/coco"
SRPOSE = "haonanwang0522/SRPose configs/top_down/srpose/coco"
SR_BOTTOM_UP = "haonanwang0522/SRPose configs/bottom_up/sr/coco"
SIU = "adena2000/SIU configs"
MMPOSE = "mmpose 1.x configs/wholebody_2d_keypoint"
SHARPOSE = "AnxQ/sharpose configs"
HIGHER = "HRNet/HigherHRNet-Human-Pose-Estimation experiments/coco"
LITEPOSE = "mit-han-lab/litepose experiments"
HIGHERPOSE = "jcong0226/higherpose experiments/coco/higher_pose"

RESNET_RECIPE = {
    "epochs": 140, "milestone_epochs": (90, 120), "batch_size": 128, "augmentation.scale_sigma": 0.3, "augmentation.rotation_sigma": 40.0,
    "augmentation.half_body_probability": 0.0,
}  # fmt: skip
HRNET_RECIPE = {
    "epochs": 210, "milestone_epochs": (170, 200), "batch_size": 128, "optimiser": "adam", "learning_rate": 1e-3, "gamma": 0.1,
    "weight_decay": 0.0, "warmup_steps": 0, "augmentation.scale_sigma": 0.35, "augmentation.rotation_sigma": 45.0,
    "augmentation.rotation_probability": 0.6, "augmentation.flip_probability": 0.5, "augmentation.half_body_probability": 0.3,
    "augmentation.half_body_joints": 8, "augmentation.half_body_choice": "published", "augmentation.shift_probability": 0.0,
}  # fmt: skip
MMPOSE_BOXES = {"augmentation.scale_sigma": 0.5, "augmentation.rotation_sigma": 40.0, "augmentation.shift_probability": 0.3,
                "augmentation.shift_factor": 0.16, "augmentation.half_body_choice": "published"}  # fmt: skip
MPII_RECIPE = {"augmentation.scale_sigma": 0.25, "augmentation.rotation_sigma": 30.0, "augmentation.half_body_probability": 0.0}
SRPOSE_RECIPE = {**HRNET_RECIPE, **MMPOSE_BOXES, "batch_size": 256, "learning_rate": 5e-4, "warmup_steps": 500}
SIU_RECIPE = {"epochs": 410, "milestone_epochs": (370, 400), "learning_rate": 1e-3, "warmup_steps": 500, **MMPOSE_BOXES}
MMPOSE_RECIPE = {"epochs": 210, "milestone_epochs": (170, 200), "learning_rate": 5e-4, "warmup_steps": 500, **MMPOSE_BOXES}
SHARPOSE_RECIPE = {"optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.1, "decay_all": False, "warmup_steps": 500,
                   "milestone_epochs": (170, 200), **MMPOSE_BOXES}  # fmt: skip
HIGHER_RECIPE = {"epochs": 300, "milestone_epochs": (200, 260), "learning_rate": 1e-3, "optimiser": "adam",
                 "image_augmentation.max_rotation": 30.0, "image_augmentation.min_scale": 0.75, "image_augmentation.max_scale": 1.5,
                 "image_augmentation.max_translation": 40.0, "image_augmentation.scale_type": "short"}  # fmt: skip

# Variant, what its configuration says, and where. Batches are per GPU times GPUs.
TABLE: list[tuple[str, dict[str, Any], str]] = [
    ("hrnet_w32_coco_256x192", HRNET_RECIPE, f"{HRNET}/w32_256x192_adam_lr1e-3.yaml: 32 x 4"),
    ("hrnet_w32_coco_384x288", HRNET_RECIPE, f"{HRNET}/w32_384x288_adam_lr1e-3.yaml: 32 x 4"),
    ("hrnet_w48_coco_256x192", HRNET_RECIPE, f"{HRNET}/w48_256x192_adam_lr1e-3.yaml: 32 x 4"),
    ("hrnet_w48_coco_384x288", {**HRNET_RECIPE, "batch_size": 96}, f"{HRNET}/w48_384x288_adam_lr1e-3.yaml: 24 x 4"),
    ("simple_resnet50_coco_256x192", RESNET_RECIPE, f"{RESNET}/res50_256x192_d256x3_adam_lr1e-3.yaml: 32 x 4"),
    ("simple_resnet50_coco_384x288", RESNET_RECIPE, f"{RESNET}/res50_384x288_d256x3_adam_lr1e-3.yaml: 32 x 4"),
    ("simple_resnet50_mpii_256x256", {**RESNET_RECIPE, **MPII_RECIPE}, f"{MPII}/resnet/res50_256x256_d256x3_adam_lr1e-3.yaml"),
    ("hrnet_w32_mpii_256x256", {**HRNET_RECIPE, **MPII_RECIPE}, f"{MPII}/hrnet/w32_256x256_adam_lr1e-3.yaml"),
    ("dark_hrnet_w32_coco_128x96", {**HRNET_RECIPE, "codec.blur": 3}, f"{DARK}/hrnet/w32_128x96_adam_lr1e-3.yaml: 64 x 2"),
    ("dark_hrnet_w48_coco_128x96", {**HRNET_RECIPE, "codec.blur": 11}, f"{DARK}/hrnet/w48_128x96_adam_lr1e-3.yaml: 64 x 2"),
    ("dark_hrnet_w48_coco_256x192", {"batch_size": 120, "codec.blur": 11}, f"{DARK}/hrnet/w48_256x192_adam_lr1e-3.yaml: 30 x 4"),
    ("dark_hrnet_w32_coco_384x288", {"batch_size": 112, "codec.blur": 11}, f"{DARK}/hrnet/w32_384x288_adam_lr1e-3.yaml: 28 x 4"),
    ("dark_hrnet_w48_coco_384x288", {"batch_size": 72, "codec.blur": 11}, f"{DARK}/hrnet/w48_384x288_adam_lr1e-3.yaml: 18 x 4"),
    ("dark_resnet50_coco_128x96", {**RESNET_RECIPE, "codec.blur": 3}, f"{DARK}/resnet/res50_128x96_d256x3_adam_lr1e-3.yaml: 64 x 2"),
    *((f"udp_offset_resnet{depth}_coco_{size}", RESNET_RECIPE, UDP) for depth in (50, 152) for size in ("256x192", "384x288")),
    ("udp_offset_hrnet_w32_coco_256x192", HRNET_RECIPE, "HuangJunJie2017/UDP-Pose w32_256x192_adam_lr1e-3_offset_ofm.yaml: 32 x 4"),
    ("cal_hrnet_w32_coco_64x48", HRNET_RECIPE, f"{CAL}/w32_64x48_adam_lr1e-3.yaml: 64 x 2"),
    ("cal_hrnet_w48_coco_64x48", {**HRNET_RECIPE, "batch_size": 256}, f"{CAL}/w48_64x48_adam_lr1e-3.yaml: 128 x 2"),
    ("simcc_resnet50_coco_256x192", RESNET_RECIPE, f"{SIMCC}/resnet"),
    ("simcc_hrnet_w32_coco_64x64", {**HRNET_RECIPE, "codec.split": 3.0}, f"{SIMCC}/hrnet"),
    ("tokenpose_s_v1_coco_256x192", {**HRNET_RECIPE, "epochs": 300, "milestone_epochs": (200, 260)}, TOKENPOSE),
    ("tokenpose_s_v2_coco_256x192", {"epochs": 300, "milestone_epochs": (200, 260), "batch_size": 48}, TOKENPOSE),
    *((f"{head}_{backbone}_coco_256x192", SRPOSE_RECIPE,
       f"{SRPOSE}: 32 x 8; the top-down SR head was not released")
      for head in ("sr_head", "srpose") for backbone in ("resnet50", "hrnet_w32")),
    ("srpose_hrformer_s_coco_256x192", {**MMPOSE_BOXES, "optimiser": "adamw", "learning_rate": 5e-4, "weight_decay": 0.01,
                                        "decay_all": True,
                                        "batch_size": 256, "epochs": 210, "milestone_epochs": (170, 200), "warmup_steps": 500},
     f"{SRPOSE}/hrt_small_srpose_coco_256x192.py: decay_mult 0 for the position tables only"),
    ("sr_head_bottomup_hrnet_w32_coco_512", {**HIGHER_RECIPE, "learning_rate": 1.5e-3, "batch_size": 192, "warmup_steps": 500},
     f"{SR_BOTTOM_UP}: 24 x 8"),
    ("siu_resnet50_wholebody_256x192", {**SIU_RECIPE, "batch_size": 256}, f"{SIU}: 64 on each of 4 GPUs, of 3 or 4"),
    ("siu_resnet101_wholebody_384x288", {**SIU_RECIPE, "batch_size": 128}, f"{SIU}: 32 on each"),
    ("siu_hrnet_w48_wholebody_256x192", {**SIU_RECIPE, "batch_size": 128}, f"{SIU}: 32 on each"),
    ("siu_efficientvit_l0_wholebody_384x288", {"epochs": 610, "milestone_epochs": (370, 600), "learning_rate": 5e-4, **MMPOSE_BOXES}, SIU),
    ("simple_resnet50_wholebody_256x192", {**MMPOSE_RECIPE, "batch_size": 512}, f"{MMPOSE}: td-hm_res50_8xb64-210e"),
    ("hrnet_w48_wholebody_384x288", {**MMPOSE_RECIPE, "batch_size": 256}, f"{MMPOSE}: td-hm_hrnet-w48_8xb32-210e"),
    ("sharpose_base_coco_256x192", {**SHARPOSE_RECIPE, "epochs": 210, "batch_size": 256, "layer_decay": 0.75}, f"{SHARPOSE}: 64 x 4"),
    ("sharpose_base_coco_384x288", {**SHARPOSE_RECIPE, "epochs": 210, "batch_size": 256, "layer_decay": 0.7}, f"{SHARPOSE}: 64 x 4"),
    ("sharpose_small_coco_256x192", {**SHARPOSE_RECIPE, "epochs": 250, "batch_size": 512, "layer_decay": 0.8}, f"{SHARPOSE}: 128 x 4"),
    ("higherhrnet_w32_coco_512", {**HIGHER_RECIPE, "batch_size": 48}, f"{HIGHER}: 12 x 4"),
    ("higherhrnet_w48_coco_640", {**HIGHER_RECIPE, "batch_size": 40}, f"{HIGHER}: 10 x 4"),
    ("litepose_s_coco_448", {**HIGHER_RECIPE, "epochs": 500, "milestone_epochs": (350, 480), "learning_rate": 4e-3},
     f"{LITEPOSE}, normal training"),
    ("higherpose_w32_coco_256", {**HIGHER_RECIPE, "batch_size": 12}, f"{HIGHERPOSE}/w32_256_adam_lr1e-3.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected", "source"), TABLE, ids=[row[0] for row in TABLE])
def test_a_published_recipe_is_its_authors(name, expected, source):
    variant = VARIANTS[name]
    found: dict[str, Any] = {"recipe": recipes.resolve(variant, BASE, "published")}
    found["codec"] = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec).constants
    for key, value in expected.items():
        owner, _, name = key.rpartition(".")
        section = found["codec"] if owner == "codec" else getattr(found["recipe"], owner) if owner else found["recipe"]
        actual = section[name] if owner == "codec" else getattr(section, name)
        assert actual == pytest.approx(value) if isinstance(value, float) else actual == value, f"{key}, by {source}"


def test_rows_that_print_a_score_of_networks_that_read_bgr_say_so():
    """COLOR_RGB: false in the ResNet configurations of HRNet's, DARK's and SimCC's repositories."""
    for name, variant in VARIANTS.items():
        if variant.backbone.startswith("resnet") and variant.paper.ap is not None and variant.method in ("simple", "dark", "simcc"):
            says = any("BGR" in text for text in variant.paper.departs)
            assert says == (variant.dataset != "wholebody"), name


def test_every_printed_row_with_a_shift_says_how_it_departs():
    for name, variant in VARIANTS.items():
        shifts = recipes.resolve(variant, BASE, "published").augmentation.shift_factor > 0
        if shifts and variant.paper.ap is not None and variant.method != "sharpose":
            assert any("shift" in text for text in variant.paper.departs), name


def test_files_name_the_shards_whose_margin_their_recipes_need():
    headers = {path: path.read_text() for path in zoo.VARIANTS.glob("*.yaml")}
    wide = 0
    for name, variant in VARIANTS.items():
        published, matched = (
            recipes.resolve(variant, BASE, kind, known=BUDGETS).augmentation.margin_scale for kind in ("published", "matched")
        )
        assert matched <= 1.35
        if published > 1.35:
            height, width = variant.input_size
            (header,) = [text for text in headers.values() if f"\n{name}:" in text]
            assert f"direct_{height}x{width}_margin{100 * published:.0f}" in header, name
            wide += 1
    assert wide == 41
