"""Image → crop → targets → perfect outputs → decode → image adds no bias, in x or y, anywhere on the map, for every crop codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components import codecs
from components.models import zoo
from components.pose.crop import CropGeometry, transform
from components.pose.skeleton import COCO_17
from tests.codecs.cases import CASES, NUM_KEYPOINTS

BORDER = 1 / 8  # of the map, left out on all sides: there blurs and differences reach over the edge
ALLOWED = 0.03  # cells; a uniform map decoded per axis makes 0.06 in the outer thirds at 64x48

Subject = tuple[str, tuple[int, int], tuple[int, int], tuple[tuple[str, Any], ...]]


def subjects() -> list[Subject]:
    """Every codec at every input and map size of the variants, and with the settings of the other tests at 64x48."""
    crops = [variant for variant in zoo.load_variants().values() if variant.approach == "crops"]
    found: set[Subject] = {(v.codec_name, v.input_size, v.geometry().heatmap_size, ()) for v in crops}
    for case in CASES:
        size = min(size for name, shape, size, _ in found if name == case.name and shape == (64, 48))
        found.add((case.name, (64, 48), size, tuple(case.settings.items())))
    return sorted(found, key=str)


SUBJECTS = subjects()


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: f"{s[0]}-{s[1][0]}x{s[1][1]}-{s[2][0]}-{dict(s[3])}")
def test_the_way_there_and_back_is_unbiased_in_every_part_of_the_map(subject: Subject) -> None:
    name, input_size, heatmap_size, settings = subject
    geometry = CropGeometry(input_size, heatmap_size, codecs.convention_of(name))
    codec = codecs.build(name, geometry, COCO_17, **dict(settings))
    count = 60 if max(heatmap_size) < 128 else 24
    rng = np.random.default_rng(0)
    joints = count * NUM_KEYPOINTS
    places = np.stack([rng.permutation(joints) for _ in "xy"], -1) + 0.5  # evenly spread along either axis
    share = (BORDER + (1 - 2 * BORDER) * places / joints).reshape(count, NUM_KEYPOINTS, 2)
    center, size = rng.uniform(0, 500, (count, 2)), rng.uniform(40, 400, (count, 1)) * np.array(input_size[::-1]) / input_size[1]
    truth = center[:, None] + size[:, None] * (share - 0.5)
    crop = torch.from_numpy(transform(geometry.image_to_crop(center, size), truth).astype(np.float32))
    decoded = []
    for part in crop.split(8):
        decoded.append(codec.decode(codec.perfect(codec.targets(part, torch.ones(part.shape[:2], dtype=torch.bool))))[0].double().numpy())
    found = geometry.heatmap_to_image(np.concatenate(decoded), center, size)
    error = (found - truth) / size[:, None] * np.array(heatmap_size[::-1])  # cells
    for axis in (0, 1):
        third = np.clip(((share[..., axis] - BORDER) / (1 - 2 * BORDER) * 3).astype(int), 0, 2)
        means = [error[third == i, axis].mean() for i in range(3)]
        assert np.abs(means).max() < ALLOWED, f"axis {'xy'[axis]}, mean error of the thirds: {means} cells"


def test_every_crop_codec_and_size_is_among_the_subjects() -> None:
    assert {name for name, *_ in SUBJECTS} == {case.name for case in CASES}
    assert {(64, 48), (64, 64), (128, 96), (256, 192), (384, 288)} <= {shape for _, shape, *_ in SUBJECTS}
