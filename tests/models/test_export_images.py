"""ONNX files of bottom-up networks: the same persons as torch's, joint by joint; a file that differs is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from components import codecs
from components.approaches import approach
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.degrade.augment import normalise
from components.models import export, zoo
from components.models.variant import Variant, methods
from components.models.weights import save_weights
from pipelines import cli, paths, stages
from tests.tiny_image_shard import write_tiny_image_shard
from tests.tiny_people import texture

DEMO = next(v for v in zoo.load_variants().values() if (v.method, v.backbone, v.tag) == ("higherhrnet", "hrnet_tiny", None))


def small(method: str, backbone: str, **network) -> Variant:
    """A variant of 128 px that no table holds."""
    record = methods()[method]
    parts = [method if record.label is None else record.label, backbone.removeprefix(record.drops), "coco", "128"]
    return Variant("_".join(part for part in parts if part), method, backbone, "coco", (128, 128), network=network)


SUBJECTS = {
    "higherhrnet": small("higherhrnet", "hrnet_tiny"),
    "litepose": small("litepose", "litepose_tiny"),
    "sr_head": small("sr_head_bottomup", "hrnet_tiny"),
    "limbpose": small("limbpose", "hrnet_tiny"),
    "higherpose": small("higherpose", "hrnet_tiny"),
    "higherpose_published": small("higherpose", "hrnet_tiny", attention="published"),
    "higherpose_none": small("higherpose", "hrnet_tiny", attention="none"),
}
LIKE_OTHERS = ("higherpose_published", "higherpose_none", "sr_head")  # seconds each, and little that the others do not show
SIZES = [(128, 128), (128, 128), (192, 128)]  # (height, width)


def pictures(sizes=SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.ascontiguousarray(texture(*size, rng).transpose(2, 0, 1)) for size in sizes]


def codec_of(variant: Variant):
    return codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, grouping={"max_persons": 4})


def write(model: nn.Module, variant: Variant, path: Path, inputs: list[np.ndarray], **origin: str) -> export.Difference:
    return export.export(model, codec_of(variant), variant, path, inputs, approach("images").form(variant), origin)


class Scaled(nn.Module):
    """A random network whose heatmaps have some peaks above the threshold of 0.1 and whose tags form a few persons."""

    def __init__(self, network: nn.Module, batch: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            outputs = network(batch)
        joints = outputs[-1].shape[1] // (1 if len(outputs) > 1 else 2)
        for number, output in enumerate(outputs):
            wanted = torch.full((output.shape[1], 1, 1), 0.05)
            wanted[joints:] = 0.15
            self.register_buffer(f"factor{number}", wanted / output.std((0, 2, 3))[:, None, None])
            self.register_buffer(f"mean{number}", output.mean((0, 2, 3))[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(images)
        return tuple((output - getattr(self, f"mean{n}")) * getattr(self, f"factor{n}") for n, output in enumerate(outputs))


def network(variant: Variant, size: tuple[int, int] = (128, 128)) -> nn.Module:
    """Random weights whose maps have structure, in eval mode."""
    torch.manual_seed(0)
    model, batch = zoo.network(variant), normalise(torch.from_numpy(np.stack(pictures([size] * 2))))
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:
            nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    with torch.no_grad():
        model.train()(batch)  # batch norms
    return Scaled(model.eval(), batch).eval()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LIKE_OTHERS else ()) for name in SUBJECTS])
def test_every_network_gives_the_same_persons(name, tmp_path):
    variant, path = SUBJECTS[name], tmp_path / "model.onnx"
    found = write(network(variant), variant, path, pictures(), weights_sha256="abc")
    assert found.within_limits and found.joints > 50
    assert found.undecided <= 0.2 * found.joints
    props = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    sizes = "any, multiples of 64 px" if approach("images").form(variant).any_size else "128x128 px"
    assert props == {"variant": variant.name, "codec": "associative_embedding", "input_size": sizes, "short_side": "128",
                     "weights_sha256": "abc"}  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["higherhrnet_w32_crowdpose_512", "litepose_s_coco_448", "sr_head_bottomup_resnet50_coco_512", "limbpose_w32_coco_256",
     "higherpose_w32_coco_256"],
)  # fmt: skip
def test_published_sizes_give_the_same_persons(name, tmp_path):
    """Their networks, recorded at 256 px where that suffices."""
    variant = zoo.variant(name)
    sizes = [(256, 256), (256, 320)] if approach("images").form(variant).any_size else [variant.input_size]
    model = network(variant, variant.input_size if len(sizes) == 1 else (256, 256))
    found = write(model, variant, tmp_path / "model.onnx", pictures(sizes))
    assert found.within_limits and found.joints > 20


@pytest.mark.parametrize("name", ["limbpose", *(pytest.param(n, marks=pytest.mark.slow) for n in ("higherhrnet", "litepose", "sr_head"))])
def test_other_sizes_and_batches_than_the_recorded_one_give_the_same_maps(name, tmp_path):
    model = network(SUBJECTS[name])
    export.to_onnx(model, (128, 128), tmp_path / "model.onnx", any_size=True)
    run = export.runtime(tmp_path / "model.onnx")
    for shape in ((1, 3, 64, 64), (3, 3, 192, 128), (2, 3, 64, 320)):
        batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert all(torch.allclose(a, b, atol=1e-3 * float(a.std())) for a, b in zip(run(batch), model(batch), strict=True))


class Swapped(nn.Module):
    """A network whose recorded form differs from the one that runs, as a wrong exporter's would."""

    def __init__(self, model: nn.Module, wrong: str) -> None:
        super().__init__()
        self.model, self.wrong = model, wrong

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        coarse, fine = self.model(images)
        if not torch.onnx.is_in_onnx_export():
            return coarse, fine
        return (coarse.roll(1, 3), fine) if self.wrong == "moved" else (torch.cat([coarse[:, :17], coarse[:, 17:] * 30], 1), fine)


@pytest.mark.parametrize("wrong", ["moved", pytest.param("tags", marks=pytest.mark.slow)])
def test_a_file_that_groups_otherwise_is_not_written_and_the_earlier_one_stays(tmp_path, wrong):
    path, variant = tmp_path / "model.onnx", SUBJECTS["higherhrnet"]
    path.write_text("earlier")
    with pytest.raises(FarposeError, match=r"differs from torch: .* px of the input .* allowed are 0\.01 px"):
        write(Swapped(network(variant), wrong), variant, path, pictures())
    assert path.read_text() == "earlier" and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_images_in_which_nobody_is_found_are_named(tmp_path):
    variant = SUBJECTS["higherhrnet"]
    model = zoo.network(variant)  # as initialised: heatmaps near 0
    with pytest.raises(FarposeError, match="nobody is found in these inputs"):
        write(model, variant, tmp_path / "model.onnx", pictures())
    assert not list(tmp_path.iterdir())


class Unrecordable(nn.Module):
    """Calls what ONNX has no operation for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return torch.linalg.svd(images[:, 0])[0][:, None], images


def test_a_network_that_cannot_be_recorded_is_one_line(tmp_path):
    variant = SUBJECTS["higherhrnet"]
    with pytest.raises(FarposeError, match="torch cannot record this network") as error:
        write(Unrecordable(), variant, tmp_path / "model.onnx", pictures())
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def persons(keypoints: list, scores: list) -> export.Joints:
    return export.Joints(np.array(keypoints, float), np.array(scores, float) != 0)


def test_distances_of_groupings():
    first = persons([[[0, 0], [3, 4], [9, 9]]], [[0.5, 0.5, 0]])
    assert np.array_equal(export.distances_px(first, first), [[0, 0, np.nan]], equal_nan=True)
    moved = persons([[[0, 0], [0, 0], [9, 9]]], [[0.5, 0.5, 0.1]])
    assert np.array_equal(export.distances_px(first, moved), [[0, 5, np.inf]])
    both = persons([*first.keypoints, *moved.keypoints], [*first.found, *moved.found])
    assert np.array_equal(export.distances_px(first, both), np.full((2, 3), np.inf))
    nobody = export.Joints(np.zeros((0, 3, 2)), np.zeros((0, 3), bool))
    assert np.isinf(export.distances_px(nobody, first)).all() and export.distances_px(nobody, nobody).size == 0


def test_the_command_compares_on_the_images_that_the_weights_name(tmp_path, monkeypatch, capsys):
    shard = write_tiny_image_shard(tmp_path, size=DEMO.input_size[0])
    (tmp_path / "shards").mkdir()
    shard = shard.rename(tmp_path / "shards" / "tiny")
    built = zoo.Built(DEMO, network(DEMO), codec_of(DEMO))
    monkeypatch.setattr(stages, "trained", lambda variant, weights: built)
    weights = tmp_path / "models" / DEMO.name / "model.safetensors"
    save_weights(weights, zoo.network(DEMO), {"variant": DEMO.name, "shard": sha256_of(shard / "shard.json")})
    for constant, folder in (("SHARDS", "shards"), ("MODELS", "models"), ("SCRATCH", "scratch")):
        monkeypatch.setattr(paths, constant, tmp_path / folder)
    assert cli.main(["export", DEMO.name]) == 0
    printed = capsys.readouterr().out
    assert "any size" in printed and "on 3 images of tiny" in printed
    assert Path(tmp_path / "scratch" / DEMO.name / f"{DEMO.name}.onnx").is_file()
