"""ONNX files: the same joints as torch's, in pixels; a file that differs is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from components.approaches import approach
from components.approaches.crops import read_crops
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.models import export, zoo
from components.models.methods.sharpose import SHaRPoseNetwork
from components.models.upscale import enlarge_input
from components.models.variant import Variant
from components.models.weights import save_weights
from pipelines import cli, paths
from tests.models.subjects import SMALL, codec_of, crops, images, network, representatives, small_variant
from tests.tiny_shard import write_tiny_shard

DARK = SMALL["dark_hrnet_tiny_coco_64x48"]
TRAINED = zoo.variant("dark_hrnet_tiny_coco_64x48")


def write(model: nn.Module, variant: Variant, path: Path, inputs: np.ndarray, **origin: str) -> export.Difference:
    return export.export(model, codec_of(variant), variant, path, inputs, approach("crops").form(variant), origin)


@pytest.mark.parametrize("variant", representatives())
def test_every_network_s_joints_lie_within_a_hundredth_of_a_pixel(variant: Variant, tmp_path):
    exported = export.exported_form(variant)
    model = network(exported)
    found = write(model, exported, tmp_path / "model.onnx", crops(exported, 9))
    assert found.px <= 0.01 and found.rounding <= export.LIMIT_ROUNDING
    assert found.joints == 9 * variant.num_keypoints
    assert found.undecided <= 0.2 * found.joints


def test_the_file_is_alone_says_what_it_holds_and_takes_any_batch(tmp_path):
    path, model = tmp_path / "model.onnx", network(DARK)
    write(model, DARK, path, crops(DARK, 4), weights_sha256="abc")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    graph = onnx.load(path)
    props = {entry.key: entry.value for entry in graph.metadata_props}
    assert props == {"variant": DARK.name, "convention": "dark", "codec": "dark", "weights_sha256": "abc"}
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [export.OPSET]
    run = export.runtime(path)
    for count in (1, 2, 5):
        batch = images(DARK, count)
        with torch.no_grad():
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(run(batch), model(batch), strict=True))


def test_the_network_stays_in_its_mode(tmp_path):
    model = network(DARK).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export.to_onnx(model, DARK.input_size, tmp_path / "model.onnx")
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Moved(nn.Module):
    """A network whose recorded form finds every joint a little to the right: what a wrong exporter would do."""

    def __init__(self, model: nn.Module, blend: float) -> None:
        super().__init__()
        self.model, self.blend = model, blend

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(images)
        if not torch.onnx.is_in_onnx_export():
            return outputs
        return tuple((1 - self.blend) * output + self.blend * output.roll(1, -1) for output in outputs)


@pytest.mark.parametrize("blend", [1.0, 0.1, 0.001])
def test_a_file_that_differs_is_not_written_and_the_earlier_one_stays(tmp_path, blend):
    path = tmp_path / "model.onnx"
    path.write_text("earlier")
    with pytest.raises(FarposeError, match=r"differs from torch: .* px of the input .* allowed are 0\.01 px"):
        write(Moved(network(DARK), blend), DARK, path, crops(DARK, 9))
    assert path.read_text() == "earlier"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


class BatchWritten(nn.Module):
    """A network with a batch size written into its recorded form."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(output + torch.zeros(images.shape[0].__index__(), 1, 1, 1) for output in self.model(images))


def test_a_batch_size_in_the_graph_is_found(tmp_path):
    with pytest.raises(Exception, match=r"(?i)broadcast|dimension|shape"):
        write(BatchWritten(network(DARK)), DARK, tmp_path / "model.onnx", crops(DARK, 9))
    assert not list(tmp_path.iterdir())


def test_equal_peaks_are_ties_and_clear_ones_are_not():
    """The same rounding error moves a joint between two equal cells, and not one whose peak stands alone."""
    codec = codec_of(small_variant("hrnet", "hrnet_tiny"))
    maps = torch.zeros(1, codec.num_keypoints, 16, 12)
    maps[:, :, 5, 3] = maps[:, :, 6, 4] = 1  # each has a slope, so that the quarter's direction is no tie
    maps[:, :, 5, 4] = maps[:, :, 6, 3] = 0.5
    maps[:, :, 4, 3] = maps[:, :, 7, 4] = 0.25
    maps[:, 0, 9, 9] = 0.9
    single = torch.zeros_like(maps)
    single[:, :, 5, 3], single[:, :, 5, 4], single[:, :, 6, 3] = 1, 0.5, 0.25
    errors = (torch.tensor([1e-6]),)
    tied, clear = (export.ties(codec, (outputs,), errors, torch.zeros(1, 3, 64, 48), read_crops)[0] for outputs in (maps, single))
    assert tied.shape == (1, codec.num_keypoints) and tied.all() and not clear.any()


def test_flat_maps_are_named(tmp_path):
    model = network(DARK)
    nn.init.zeros_(model.final_layer.weight)
    nn.init.ones_(model.final_layer.bias)
    with pytest.raises(FarposeError, match=r"all lie on a tie .*train the variant"):
        write(model, DARK, tmp_path / "model.onnx", crops(DARK, 4))
    assert not list(tmp_path.iterdir())


def test_crops_of_another_size_are_named(tmp_path):
    with pytest.raises(FarposeError, match="the crops are 32x24 px, the variant needs 64x48"):
        write(network(DARK), DARK, tmp_path / "model.onnx", np.zeros((2, 3, 32, 24), np.uint8))


def test_sharpose_is_exported_without_its_gate():
    gated = small_variant("sharpose", "vit_tiny", network={"gate": 0.5})
    assert export.exported_form(gated).network == SHaRPoseNetwork(gate=None)
    assert export.exported_form(DARK) == DARK


@pytest.fixture
def trained(tmp_path, monkeypatch) -> Path:
    """Artifacts with a variant's weights and the shard that they name; the folder."""
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tiny_shard(tmp_path).rename(shards / "direct_64x48")
    digest = sha256_of(shards / "direct_64x48" / "shard.json")
    weights = tmp_path / "models" / TRAINED.name / "model.safetensors"
    save_weights(weights, network(TRAINED), {"variant": TRAINED.name, "shard": digest})
    for constant, folder in (("SHARDS", shards), ("MODELS", tmp_path / "models"), ("SCRATCH", tmp_path / "scratch")):
        monkeypatch.setattr(paths, constant, folder)
    return tmp_path


def test_the_command_compares_on_the_crops_that_the_weights_name(trained, capsys):
    assert cli.main(["export", TRAINED.name]) == 0
    printed = capsys.readouterr().out
    assert "opset 17" in printed and "on 8 crops of direct_64x48" in printed and "allowed are 0.01 px" in printed
    assert (trained / "scratch" / TRAINED.name / f"{TRAINED.name}.onnx").is_file()


def test_the_command_takes_other_weights_crops_and_output(trained, capsys):
    (trained / "shards" / "direct_64x48").rename(trained / "shards" / "others")
    weights = trained / "models" / TRAINED.name / "model.safetensors"
    given = ["--weights", str(weights.rename(trained / "mine.safetensors")), "--output", str(trained / "x.onnx"), "--crops", "others"]
    assert cli.main(["export", TRAINED.name, *given]) == 0
    assert (trained / "x.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["hrnet_tiny_coco_64x48"], ("'hrnet_tiny_coco_64x48' is not trained", "farpose train")),
        ([TRAINED.name, "--crops", "direct_64x84"], ("unknown shards 'direct_64x84'", "did you mean 'direct_64x48'?")),
        ([TRAINED.name, "--weights", "none.safetensors"], ("none.safetensors: weights file not found",)),
    ],
)
def test_what_is_missing_is_named(trained, capsys, arguments, parts):
    assert cli.main(["export", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts)


def test_crops_that_are_gone_are_named(trained, capsys):
    (trained / "shards" / "direct_64x48" / "shard.json").write_text("{}")
    assert cli.main(["export", TRAINED.name]) == 1
    assert "the crops that these weights were trained on are not here (name others with --crops; there are: direct_64x48)" in (
        capsys.readouterr().err
    )


class Enlarged(nn.Module):
    """One map of the enlarged image."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.mean(1, keepdim=True),)


def test_an_input_enlarged_inside_the_network_is_exported(tmp_path):
    model = enlarge_input(Enlarged().eval(), "bilinear", 4.0)
    model.register_parameter("place", nn.Parameter(torch.zeros(1)))  # names the device
    export.to_onnx(model, (16, 12), tmp_path / "model.onnx")
    images = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    (found,) = export.runtime(tmp_path / "model.onnx")(images)
    assert found.shape == (3, 1, 64, 48)
    torch.testing.assert_close(found, model(images)[0], rtol=0, atol=1e-5)
