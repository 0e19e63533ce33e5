"""Persons ranked by the joints that are seen: the score against sums written out, its limits, and DARK for all else."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.ranking import weighted
from components import codecs
from components.codecs.dark_ranked import PRESENCE
from components.evaluate.rescoring import person_scores
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17

GEOMETRY = CropGeometry((64, 48), (32, 24), "dark")


@pytest.fixture
def codec():
    return codecs.build("dark_ranked", GEOMETRY, COCO_17)


def maps_with(maxima: list[float]) -> torch.Tensor:
    """(1, 17, 32, 24) maps whose highest cells are these, the others below them."""
    maps = torch.full((1, 17, 32, 24), -0.5)
    maps[0, :, 9, 7] = torch.tensor(maxima)
    return maps


def person_score(codec, maps) -> float:
    """As evaluation computes it."""
    joints, _ = codec.decode((maps,))
    return float(person_scores(codec.ranking((maps,), joints).double().numpy(), torch.ones(len(maps)).numpy(), codec.score_threshold)[0])


def test_score_is_the_mean_of_maxima_each_weighted_with_its_root(codec):
    maxima = torch.rand(17, generator=torch.Generator().manual_seed(0)).tolist()
    expected = sum(value * math.sqrt(value) for value in maxima) / sum(map(math.sqrt, maxima))
    assert person_score(codec, maps_with(maxima)) == pytest.approx(expected, rel=1e-5)


def test_the_benchmark_of_scores_weights_as_the_codec_does(codec):
    maxima = torch.rand(4, 17, generator=torch.Generator().manual_seed(3))
    maps = torch.cat([maps_with(one) for one in maxima.tolist()])
    ranked = codec.ranking((maps,), codec.decode((maps,))[0])
    assert ranked.mean(1).numpy() == pytest.approx(weighted(maxima.numpy(), PRESENCE), rel=1e-5)


def test_joints_that_are_not_there_do_not_count_and_faint_ones_do(codec):
    seen = [0.8] * 9 + [0.0] * 8
    assert person_score(codec, maps_with(seen)) == pytest.approx(0.8, rel=1e-5)
    one_sharp, all_good = [0.9] + [0.15] * 16, [0.7] * 17
    assert person_score(codec, maps_with(one_sharp)) < person_score(codec, maps_with(all_good))
    published = codecs.build("dark", GEOMETRY, COCO_17)
    scores = [float(person_scores(published.decode((maps_with(one),))[1].numpy(), torch.ones(1).numpy(), published.score_threshold)[0])
              for one in (one_sharp, all_good)]  # fmt: skip
    assert scores[0] > scores[1], "what the published score says of the two"


@pytest.mark.parametrize("maxima", [[0.0] * 17, [-0.2] * 17, [1.7] * 17], ids=["nothing", "below zero", "above one"])
def test_score_stays_between_nothing_and_one(codec, maxima):
    assert person_score(codec, maps_with(maxima)) == pytest.approx(min(max(maxima[0], 0.0), 1.0), abs=1e-6)


def test_joints_targets_and_loss_are_darks(codec):
    dark, generator = codecs.build("dark", GEOMETRY, COCO_17), torch.Generator().manual_seed(1)
    maps = torch.rand(3, 17, 32, 24, generator=generator)
    places, seen = torch.rand(3, 17, 2, generator=generator) * 47, torch.rand(3, 17, generator=generator) > 0.2
    for ours, theirs in zip(codec.decode((maps,)), dark.decode((maps,)), strict=True):
        assert torch.equal(ours, theirs)
    targets = codec.targets(places, seen)
    assert all(torch.equal(value, dark.targets(places, seen)[key]) for key, value in targets.items())
    assert torch.equal(codec.loss((maps,), targets)["loss"], dark.loss((maps,), targets)["loss"])
