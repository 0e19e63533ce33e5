"""Protocol `distance`: training crops look like those of persons who stand further away, and joints stay where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocols.distance import PROTOCOL, Distances, distances, reduce_and_enlarge
from components.degrade.sample import Rendered
from components.degrade.shard import Source
from components.degrade.shards import Boxes, TrainCrops, crop_boxes
from components.degrade.stage import degrade
from tests.test_degraded_training import SIZE, grey_levels, persons_in, rms_laplacian


def training_crops(persons, root, name, **settings):
    """(N, 3, H, W) grey levels without geometric augmentation."""
    spec, folder = ShardSpec(SIZE, name), root / f"{name}{len(list(root.iterdir()))}"
    degrade(Source(persons, root), spec, DegradeParams(protocols={name: settings} if settings else {}), folder, progress=False)
    crops = TrainCrops.open(folder)
    return grey_levels(Augmenter(spec.geometry("classic"), AugmentParams.none(), crops.skeleton)(crops, torch.arange(len(crops)), 3).images)


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"farthest": 1.0}])
def test_persons_who_are_not_moved_are_those_of_antialias(tmp_path, settings):
    persons = persons_in(tmp_path, 2.6, "detail")
    near = training_crops(persons, tmp_path, "distance", **settings)
    np.testing.assert_allclose(near, training_crops(persons, tmp_path, "antialias"), atol=5e-3)
    assert np.abs(near - training_crops(persons, tmp_path, "distance", share=1.0)).mean() > 1


@pytest.mark.parametrize(("step", "softer"), [(1.7, 0.2), (2.0, 0.0), (3.3, 0.1), (4.0, 0.0)])
def test_moved_persons_are_as_sharp_as_evaluated_ones_of_that_height(tmp_path, step, softer):
    """Against the evaluation of persons in a reduced image, within 5 %; softer where px of the crop are split between reduced px."""
    persons = persons_in(tmp_path, 1.3, "detail", count=160)
    spec, train = ShardSpec(SIZE, "distance"), persons.split("train").labelled()
    paths, ids = train.frame["image_path"].to_numpy(object), train.frame["image_id"].to_numpy()
    boxes = Boxes(tmp_path, paths, ids, train.bbox_xywh)
    near, expected = (
        crop_boxes(boxes, "classic", spec, DegradeParams(), train.skeleton, reduction=reduction).pixels for reduction in (1.0, 1.3 * step)
    )
    padding, count = PROTOCOL.padding(Distances()), len(near)
    planes = torch.nn.functional.pad(torch.from_numpy(near).float(), [padding] * 4, mode="reflect")
    phases = torch.rand(2, count, generator=torch.Generator().manual_seed(0))
    rows, columns = (reduce_and_enlarge(side, padding, torch.full((count,), step), phase) for side, phase in zip(SIZE, phases, strict=True))
    ours = (rows[:, None] @ planes @ columns[:, None].transpose(2, 3)).numpy()
    inside = np.s_[:, :, 8:-8, 8:-8]
    assert rms_laplacian(ours[inside]) == pytest.approx((1 - softer) * rms_laplacian(expected[inside]), rel=0.05)
    assert np.abs(ours[inside] - expected[inside]).mean() < np.abs(near[inside].astype(float) - expected[inside]).mean()


def by_hand(signal, side, padding, step, phase):
    """Area means of a signal of unit px by a sum over 1,000 points per px, and linear interpolation between them."""
    fine = np.repeat(signal, 1000)
    places = (np.arange(side) + 0.5) / step - phase - 0.5
    found = []
    for place in places:
        near = int(np.floor(place))
        means = []
        for cell in (near, near + 1):
            first, last = ((cell + phase + more) * step + padding for more in (0, 1))
            means.append(fine[round(first * 1000) : round(last * 1000)].mean())
        found.append(means[0] + (place - near) * (means[1] - means[0]))
    return np.array(found)


@pytest.mark.parametrize(("step", "phase"), [(1.5, 0.2), (2.0, 0.0), (3.7, 0.9), (4.0, 0.5)])
def test_reducing_and_enlarging_is_area_means_and_linear_interpolation(step, phase):
    signal = np.random.default_rng(0).uniform(0, 255, 24 + 12)
    matrix = reduce_and_enlarge(24, 6, torch.tensor([step]), torch.tensor([phase]))[0].double().numpy()
    np.testing.assert_allclose(matrix @ signal, by_hand(signal, 24, 6, step, phase), atol=0.2)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)


def test_a_step_of_one_changes_nothing():
    matrix = reduce_and_enlarge(24, 6, torch.ones(2), torch.tensor([0.0, 0.7]))
    assert torch.equal(matrix[:, :, 6:-6], torch.eye(24).expand(2, -1, -1))
    assert not matrix[:, :, :6].any() and not matrix[:, :, -6:].any()


def test_joints_stay_where_they_are():
    """A blob's centre of mass: on average over the places of the reduced px within 0.02 px."""
    settings, keys = Distances(share=1.0), torch.arange(400)
    padding = PROTOCOL.padding(settings)
    y, x = np.mgrid[0 : SIZE[0] + 2 * padding, 0 : SIZE[1] + 2 * padding] - padding
    blob = torch.from_numpy(200 * np.exp(-((x - 21.3) ** 2 + (y - 30.6) ** 2) / (2 * 3.0**2))).float().expand(400, 3, -1, -1)
    made = PROTOCOL.degrade(Rendered(blob, torch.zeros(400, 2, 3), torch.zeros(400), torch.zeros(400), keys), settings)[:, 0].double()
    rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    place = torch.stack([(made * columns).sum((1, 2)), (made * rows).sum((1, 2))], 1) / made.sum((1, 2))[:, None]
    np.testing.assert_allclose(place.mean(0), [21.3, 30.6], atol=0.02)
    assert (place - torch.tensor([21.3, 30.6])).abs().max() < 0.35


def test_distances_are_drawn_as_stated():
    """Whether, how far (uniform in its logarithm) and where: by the key alone, and independent of each other."""
    settings, keys = Distances(farthest=3.0, share=0.6), torch.arange(20_000)
    step, phases = distances(keys, settings)
    moved = step > 1
    assert moved.double().mean().item() == pytest.approx(0.6, abs=0.01) and step.max() <= 3 + 1e-5
    for uniform in (step[moved].log() / np.log(3.0), *phases):
        assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef([step.numpy(), *(phase.numpy() for phase in phases)]) - np.eye(3)).max() < 0.03
    again, _ = distances(keys.flip(0), settings)
    assert torch.equal(again.flip(0), step)


@pytest.mark.parametrize(("wrong", "said"), [({"farthest": 0.5}, "farthest must be at least 1"), ({"share": 1.2}, "share must lie in")])
def test_settings_without_meaning_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Distances(**wrong)
