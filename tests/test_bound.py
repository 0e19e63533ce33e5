"""The bound of a decoder: above every AP that a search over maps finds, on crops and on whole images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import codecs
from components.codecs.codec import CropCodec
from components.evaluate import curves
from components.evaluate.bound import crop_bound, image_bound
from components.evaluate.oks import evaluate
from components.evaluate.predict import to_predictions
from components.pose.crop import CropGeometry, transform
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from components.pose.whole_image import ImageGeometry
from tests import evaluation_cases as cases
from tests.bottom_up_cases import codec_of, without_pixels
from tests.codecs.test_reach import subcell

STRIDES = {"super_resolution": 1, "simcc": 1}
NAMES = ["heatmap", "dark", "udp_gaussian", "udp_offset", "cal", "sharpose", "simcc", "super_resolution"]


def codec_at(name: str, **settings: Any) -> CropCodec:
    stride = STRIDES.get(name, 4)
    return codecs.build(name, CropGeometry((64, 48), (64 // stride, 48 // stride), codecs.convention_of(name)), COCO_17, **settings)  # type: ignore[return-value]


def decoded_ap(codec: CropCodec, crops: Any, persons: Persons, outputs: tuple[torch.Tensor, ...], ranked: bool = True) -> float:
    """AP of maps, ranked as well as can be, by each prediction's OKS with its own person; or all with one score."""
    cells, scores = codec.decode(outputs)
    predictions = to_predictions(codec, crops, cells.double().numpy(), scores.double().numpy())
    ranks = curves.similarity_to_own_person(persons, predictions) if ranked else np.ones(len(predictions))
    return evaluate(persons, predictions, ranks)["AP"]


def bound_of(codec: CropCodec, persons: Persons, crops: Any, image_ids: np.ndarray | None = None) -> dict[str, float]:
    return evaluate(persons, *crop_bound(codec, persons, crops), image_ids)


def bound_of_images(codec: Any, images: Any) -> dict[str, float]:
    return evaluate(images.persons, *image_bound(codec, images), images.image_id)


def in_crop(codec: CropCodec, crops: Any) -> torch.Tensor:
    joints = crops.keypoints_image[..., :2]
    return torch.from_numpy(transform(codec.geometry.image_to_crop(crops.center, crops.size), joints).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_no_maps_have_a_higher_ap(name: str) -> None:
    persons = cases.persons_of(cases.random_coco(3, images=25, sizes=(40, 250)))
    codec, labelled = codec_at(name), persons.labelled()
    crops = cases.crops_of(labelled, codec.geometry)
    bound = bound_of(codec, persons, crops)["AP"]
    keypoints, visible = in_crop(codec, crops), torch.from_numpy(labelled.keypoints[..., 2] > 0)
    perfect = codec.perfect(codec.targets(keypoints, visible))
    generator = torch.Generator().manual_seed(0)
    random = tuple(torch.randn(output.shape, generator=generator) for output in perfect)
    cells = codec.geometry.crop_to_heatmap(keypoints)
    maps = [perfect, random, tuple(a + 0.05 * b for a, b in zip(perfect, random, strict=True))]
    maps += [subcell(codec, cells, sigma) for sigma in (0.7, 1.0, 2.0)]
    found = [decoded_ap(codec, crops, persons, outputs) for outputs in maps]
    assert max(found) <= bound + 1e-9 and bound <= 1
    assert max(found) > bound - 0.2, "the bound is near what maps reach, not only above it"


def test_a_neighbours_crop_counts() -> None:
    """A person is bounded by the best crop of its image, whoever's it is."""
    persons = cases.persons_of(cases.random_coco(3, images=25, sizes=(40, 250))).labelled()
    codec = codec_at("heatmap")
    crops = cases.crops_of(persons, codec.geometry)
    far = cases.crops_of(persons, codec.geometry)
    far.center[:] = far.center[np.random.default_rng(0).permutation(len(far.center))]  # every crop looks somewhere else
    assert bound_of(codec, persons, far)["AP"] < bound_of(codec, persons, crops)["AP"]
    persons.frame["image_id"] = 1  # now all crops may serve all persons, but only twenty count in an image
    crops = cases.crops_of(persons, codec.geometry)
    assert bound_of(codec, persons, crops)["AR50"] == pytest.approx(min(1, 20 / len(persons)))


def test_people_without_joints_and_images_without_people() -> None:
    persons = cases.persons_of(cases.random_coco(1, images=4))
    codec = codec_at("udp_offset")
    assert bound_of(codec, persons, cases.crops_of(persons.labelled(), codec.geometry))["AP"] == 1
    nobody = persons.select(np.zeros(len(persons), bool))
    assert bound_of(codec, nobody, cases.crops_of(nobody, codec.geometry), np.array([1, 2]))["AP"] == -1


def test_plain_maps_on_cocos_persons(real_data: Path) -> None:
    """At 64x48 the plain decoder's own targets have .59 and Gaussians around the joints themselves .87, both without a ranking."""
    coco = cases.read_coco(real_data / "annotations" / "coco_person_keypoints_val2017_official_first_fifth.json.gz")
    persons = cases.persons_of(coco).labelled().select(np.arange(600))
    codec = codec_at("heatmap")
    crops = cases.crops_of(persons, codec.geometry)
    keypoints, visible = in_crop(codec, crops), torch.from_numpy(persons.keypoints[..., 2] > 0)
    targets = codec.perfect(codec.targets(keypoints, visible))
    finer = subcell(codec, codec.geometry.crop_to_heatmap(keypoints), 1.0)
    assert decoded_ap(codec, crops, persons, targets, ranked=False) == pytest.approx(0.589, abs=0.01)
    assert decoded_ap(codec, crops, persons, finer, ranked=False) == pytest.approx(0.872, abs=0.01)
    bound = bound_of(codec, persons, crops)
    ranked = decoded_ap(codec, crops, persons, finer)  # .917
    assert ranked <= bound["AP"] < 0.97
    assert bound["AP75"] <= bound["AP50"] <= 1


@pytest.mark.parametrize(("size", "stride"), [(128, 4), (256, 4), (128, 1)])
def test_whole_images(size: int, stride: int) -> None:
    from components.evaluate.targets import perfect_persons

    images = without_pixels(cases.persons_of(cases.random_coco(2, images=6, sizes=(40, 250))), ImageGeometry(size))
    codec = codec_of(stride, size)
    bound = bound_of_images(codec, images)["AP"]
    assert evaluate(images.persons, *perfect_persons(codec, images), images.image_id)["AP"] <= bound <= 1
    coarse = bound_of_images(codec_of(4, 64), without_pixels(images.persons, ImageGeometry(64)))["AP"]
    assert coarse < bound, "a coarser input has a lower bound"
