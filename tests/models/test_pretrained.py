"""ImageNet weights: the backbone takes them, the rest does not, and a wrong source is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.base.errors import FarposeError
from components.models import zoo
from components.models.backbones.efficientvit import authors_name
from components.models.backbones.hrnet import published_key
from components.models.pretrained import load_backbone
from components.models.variant import Variant
from tests.test_models import SMALL, small_variant


def imagenet_name(key: str) -> str:
    """The name in a classifier's checkpoint; CAL's trunk and heatmap end are an HRNet's."""
    return published_key(key.removeprefix("backbone.").removeprefix("heatmap_"))


def imagenet_checkpoint(backbone: str) -> dict[str, torch.Tensor]:
    """What a classifier's authors would publish: the whole backbone under their names, all of its branches, and a classifier."""
    torch.manual_seed(5)
    model = zoo.network(small_variant("srpose" if backbone.startswith("hrnet") else "simple", backbone))
    state = {imagenet_name(key): torch.randn(value.shape) for key, value in model.state_dict().items() if key.startswith("backbone.")}
    return {key: value for key, value in state.items() if value.ndim} | {"classifier.weight": torch.zeros(10, 8)}


def cases() -> list[Any]:
    """Every small network from either kind of file; quick to test is one network of each backbone, from alternating kinds."""
    kinds = (".safetensors", ".pth")
    firsts = list({backbone: (method, backbone) for method, backbone in reversed(SMALL)}.values())
    quick = {(*pair, kinds[number % 2]) for number, pair in enumerate(firsts)}
    every = [(*pair, suffix) for pair in SMALL for suffix in kinds]
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in every]


@pytest.mark.parametrize(("method", "backbone", "suffix"), cases())
def test_the_backbone_is_taken_and_nothing_else(tmp_path, method, backbone, suffix):
    checkpoint, path = imagenet_checkpoint(backbone), tmp_path / f"imagenet{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in checkpoint.items()}}, path)
    else:
        save_file(checkpoint, path)
    model = zoo.network(small_variant(method, backbone))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    taken = load_backbone(model, path)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert len(changed) == taken
    assert all(torch.equal(model.state_dict()[key], checkpoint[imagenet_name(key)]) for key in changed)
    kept = {key for key, value in before.items() if value.ndim and key not in changed}
    new = ("head.", "final_layer.", "heatmap_head.", "offset_head.", "offset_end.")
    new += ("extract.", "encoder", "up.", "fuse.", "decoder", "queries.", "filters.", "project.")  # HigherPose's and LimbPose's
    if method.startswith("udp") and backbone.startswith("hrnet"):
        new = (*new, "backbone.end.stage.0.fuse_layers.")  # the widened fusion of the only module
    fusions = ".fuse_layers." if method == "siu" else "no such part"
    assert kept == {key for key, value in before.items() if value.ndim and (key.startswith(new) or fusions in key)}


def test_three_branches_take_their_part_of_four(tmp_path):
    save_file(imagenet_checkpoint("hrnet_tiny"), tmp_path / "imagenet.safetensors")
    model = zoo.network(small_variant("hrnet", "hrnet_tiny", branches=3))
    assert load_backbone(model, tmp_path / "imagenet.safetensors") > 0


def test_another_backbone_s_weights_are_refused(tmp_path):
    save_file(imagenet_checkpoint("resnet18"), tmp_path / "imagenet.safetensors")
    model = zoo.network(small_variant("hrnet", "hrnet_tiny"))
    before = model.backbone.trunk.conv1.weight.clone()
    with pytest.raises(FarposeError, match=r"backbone hrnet_tiny from .*'conv1\.weight' is of shape \(64, 3, 7, 7\)"):
        load_backbone(model, tmp_path / "imagenet.safetensors")
    assert torch.equal(model.backbone.trunk.conv1.weight, before)


def test_a_missing_tensor_is_named(tmp_path):
    checkpoint = imagenet_checkpoint("resnet18")
    del checkpoint["layer3.1.bn2.weight"]
    save_file(checkpoint, tmp_path / "imagenet.safetensors")
    with pytest.raises(FarposeError, match=r"'layer3\.1\.bn2\.weight' is absent"):
        load_backbone(zoo.network(small_variant("simple", "resnet18")), tmp_path / "imagenet.safetensors")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    model = zoo.network(small_variant("simple", "resnet18"))
    with pytest.raises(FarposeError, match="weights file not found"):
        load_backbone(model, tmp_path / name)
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(FarposeError, match=f"{name}: damaged"):
        load_backbone(model, tmp_path / name)


class Harmful:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))


def test_code_in_a_pickle_is_never_run(tmp_path, capsys):
    torch.save({"conv1.weight": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(FarposeError, match="holds more than tensors"):
        load_backbone(zoo.network(small_variant("simple", "resnet18")), tmp_path / "weights.pth")
    assert "code was run" not in capsys.readouterr().out


def test_a_file_without_named_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "weights.pth")
    with pytest.raises(FarposeError, match="holds no state_dict"):
        load_backbone(zoo.network(small_variant("simple", "resnet18")), tmp_path / "weights.pth")


@pytest.mark.parametrize(("method", "backbone"), [("simple", "resnet18"), ("cal", "hrnet_w32")])
def test_timm_s_names_are_the_backbone_s(monkeypatch, method, backbone):
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=not pretrained))
    model = zoo.network(small_variant(method, backbone))
    wanted = [key for key in model.state_dict() if key.startswith(("backbone.", "trunk.", "heatmap_end."))]
    assert load_backbone(model, "timm") == sum(not key.endswith("num_batches_tracked") for key in wanted)


def test_without_the_internet_timm_ends_in_a_clear_error(monkeypatch):
    import timm

    def offline(name, pretrained):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FarposeError, match=r"resnet18 from timm: cannot be downloaded: no route to host \(give a local"):
        load_backbone(zoo.network(small_variant("simple", "resnet18")), "timm")
    with pytest.raises(FarposeError, match="hrnet_tiny from timm: timm does not know it"):
        load_backbone(zoo.network(small_variant("hrnet", "hrnet_tiny")), "timm")


def test_a_file_of_a_pose_network_serves_as_well(tmp_path):
    """mmpose's keys: the backbone's come after `backbone.`, the head's are no concern."""
    checkpoint = {f"backbone.{key}": value for key, value in imagenet_checkpoint("resnet18").items()}
    torch.save(
        {"state_dict": checkpoint | {"keypoint_head.final_layer.bias": torch.zeros(17)}, "meta": {"epoch": 210}}, tmp_path / "pose.pth"
    )
    model = zoo.network(small_variant("simple", "resnet18"))
    load_backbone(model, tmp_path / "pose.pth")
    assert torch.equal(model.backbone.conv1.weight, checkpoint["backbone.conv1.weight"])


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_efficientvit_s_own_names_serve_as_timm_s_do(tmp_path, prefix):
    variant = Variant("siu_efficientvit_tiny_coco_64x48", "siu", "efficientvit_tiny", "coco", (64, 48))
    source, model = zoo.network(variant).backbone.state_dict(), zoo.network(variant)
    save_file({prefix + authors_name(key): value for key, value in source.items()}, tmp_path / "imagenet.safetensors")
    taken = load_backbone(model, tmp_path / "imagenet.safetensors")
    assert taken == sum(not key.endswith("num_batches_tracked") for key in source)
    assert all(torch.equal(value, source[key]) for key, value in model.backbone.state_dict().items())
