"""Adding a method takes two files: its own and its variants'. Everything else finds it by its record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.base.config import REPOSITORY
from components.base.files import sha256_of

METHOD = '''"""Thin: one 1x1 convolution on a ResNet's last feature, nearest cells to the target's size. No paper has it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.resnet import RESNETS
from components.models.backbones.resnet import ResNet
from components.models.naming import renamed
from components.models.variant import STRIDE, Method, Network, Variant


@dataclass(frozen=True)
class ThinNetwork(Network):
    """Settings of the network: `hidden` channels before the heatmaps; None for none."""

    hidden: int | None = None


class Thin(nn.Module):
    """(B, 3, H, W) normalised images → ((B, K, H/4, W/4),)."""

    def __init__(self, backbone: ResNet, keypoints: int, hidden: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        widths = [backbone.channels, *([hidden] if hidden else []), keypoints]
        self.head = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in zip(widths, widths[1:])))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        size = images.shape[-2] // STRIDE, images.shape[-1] // STRIDE
        return (functional.interpolate(self.head(self.backbone(images)), size=size, mode="nearest"),)


def build(variant: Variant, published: bool = False) -> Thin:
    return Thin(ResNet(RESNETS[variant.backbone]), variant.num_keypoints, variant.network.hidden)


def authors_key(key: str, variant: Variant) -> str:
    return renamed(key, {"backbone.": "body.", "head.": "mouth."})


METHOD = Method(
    "thin", build, tuple(RESNETS), "heatmap", authors_key, network=ThinNetwork, ignored=("epoch",), counting="fvcore"
)
'''
VARIANTS = """
thin_resnet18_coco_64x48:
  method: thin
  backbone: resnet18
  dataset: coco
  input_size: [64, 48]
thin_resnet18_coco_64x48_wide:
  like: thin_resnet18_coco_64x48
  tag: wide
  network: {hidden: 64}
thin_resnet18_coco_64x48_seed1:
  like: thin_resnet18_coco_64x48
  tag: seed1
  train: {seed: 1}
"""
PROGRAM = """
import json, sys
import torch
from components.base.errors import FarposeError
from components.models import checkpoints, costs, official, pretrained, zoo
from components.models.weights import load_weights, save_weights
from pipelines import counts

NAME, WIDE = "thin_resnet18_coco_64x48", "thin_resnet18_coco_64x48_wide"
variant, wide, repeated = (zoo.variant(name) for name in (NAME, WIDE, f"{NAME}_seed1"))
built = zoo.build(variant)
images = torch.randn(2, 3, 64, 48)
keypoints, scores = built.codec.decode(built.model.eval()(images))
state = {official.authors_key(key, variant): value for key, value in built.model.state_dict().items()}
loaded = official.load(NAME, state | {"epoch": torch.zeros(1)})
fit = checkpoints.compare(state, official.expected(NAME))
imagenet = {key.removeprefix("backbone."): value for key, value in built.model.state_dict().items() if key.startswith("backbone.")}
save_weights("thin.safetensors", built.model, {"variant": NAME})
torch.save(imagenet, "imagenet.pth")
spent = costs.of_variant(variant)
try:
    zoo.variant("thin_resnet18_coco_64x84")
except FarposeError as error:
    suggestion = str(error)
json.dump({
    "shapes": [list(keypoints.shape), list(scores.shape)],
    "keys": sorted(state)[:1] + sorted(state)[-1:],
    "same": bool(torch.equal(loaded(images)[0], built.model(images)[0])),
    "fit": [fit.complete, fit.left_over, len(fit.used) == len(state)],
    "owners": checkpoints.owners(state, WIDE, most=1),
    "weights": len(load_weights("thin.safetensors", variant)) == len(state),
    "imagenet": pretrained.load_backbone(zoo.network(wide), "imagenet.pth"),
    "params": [spent.params, sum(value.numel() for value in built.model.parameters()), spent.params_head],
    "tool": costs.tool_of(variant),
    "count_keys": [counts.key(variant), counts.key(wide)],
    "groups": [zoo.group_of(each) for each in (variant, wide, repeated)],
    "exported": variant.record.exported(variant) == variant,
    "suggestion": suggestion,
}, sys.stdout)
"""
FILES = {"components/models/methods/thin.py": METHOD, "params/variants/thin.yaml": VARIANTS}


def content(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): sha256_of(path) for path in paths}


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A copy of the code with the two files, and what was there before."""
    folder = tmp_path_factory.mktemp("house")
    for part in ("components", "params", "pipelines"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    before = content(folder)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder, before


def test_two_files_make_a_method(house):
    folder, before = house
    after = content(folder)
    assert {name for name in after if after[name] != before.get(name)} == set(FILES) and before.keys() <= after.keys()
    assert len(FILES) == 2
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shapes"] == [[2, 17, 2], [2, 17]]
    assert found["keys"][0].startswith("body.") and found["keys"][1].startswith("mouth.")
    assert found["same"] and found["weights"] and found["exported"]
    assert found["fit"] == [True, [], True]
    assert found["owners"] == ["thin_resnet18_coco_64x48"]
    assert found["imagenet"] == 100  # 20 convolutions, and four tensors for each of their norms
    assert found["params"] == [found["params"][1], found["params"][1], 17 * 512 + 17]
    assert found["tool"] == "fvcore"
    assert found["count_keys"] == ["thin/resnet18/17/64x48", "thin/resnet18/17/64x48/hidden=64"]
    assert found["groups"] == ["thin_resnet18_coco_64x48", "thin_resnet18_coco_64x48_wide", "thin_resnet18_coco_64x48"]
    assert "did you mean 'thin_resnet18_coco_64x48'" in found["suggestion"]


def test_a_method_without_a_record_is_named(house):
    folder, _ = house
    stray = folder / "components" / "models" / "methods" / "zz_stray.py"
    stray.write_text("METHODS = 1\n")
    program = "from components.models import zoo\nzoo.load_variants()"
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)
    stray.unlink()
    assert "components.models.methods.zz_stray: the module declares no METHOD" in done.stderr
