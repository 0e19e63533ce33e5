"""AP of the codecs' own perfect targets on real persons, and the checks before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components import codecs
from components.approaches.crop_checks import crops_follow_the_table
from components.approaches.verify import verify
from components.codecs.codec import Codec
from components.evaluate.oks import evaluate
from components.evaluate.targets import Boxes, perfect_predictions
from components.evaluate.verify import targets_reach, truth_scores_one
from components.models.paper import Paper
from components.models.variant import Variant
from components.pose.crop import CropGeometry
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from tests import evaluation_cases as cases

METHODS = {"hrnet": "heatmap", "dark": "dark", "udp_gaussian": "udp_gaussian", "udp_offset": "udp_offset", "cal": "cal"}

# (codec, settings, height, width): AP with perfect targets of the published code on the same 600 persons
PUBLISHED = [
    ("heatmap", {}, (64, 48), 0.589),
    ("heatmap", {}, (128, 96), 0.883),
    ("heatmap", {}, (256, 192), 0.982),
    ("dark", {"preset": "published"}, (64, 48), 0.980),
    ("dark", {"preset": "published"}, (128, 96), 0.987),
    ("udp_gaussian", {"preset": "published", "sigma": 1.0}, (64, 48), 0.899),
    ("udp_gaussian", {"preset": "published", "sigma": 1.0}, (128, 96), 0.985),
    ("udp_offset", {"preset": "published"}, (64, 48), 0.267),
    ("udp_offset", {"preset": "published"}, (128, 96), 0.970),
    ("cal", {"preset": "published_w32"}, (64, 48), 0.989),
    ("cal", {"preset": "published_w48"}, (64, 48), 0.995),
    ("cal", {"preset": "published_w32"}, (128, 96), 0.989),
]


def codec_of(name: str, size: tuple[int, int], **settings: object) -> Codec:
    geometry = CropGeometry(size, (size[0] // 4, size[1] // 4), codecs.convention_of(name))
    return codecs.build(name, geometry, COCO_17, **settings)


def target_ap(codec: Codec, persons: Persons) -> float:
    found = perfect_predictions(codec, Boxes.of(persons, codec.geometry))
    return evaluate(persons, found, np.ones(len(found)))["AP"]


def printed(ap: float) -> Paper:
    return Paper(ap=ap, boxes="annotated", start="random", source="here")


def some_persons(seed: int = 0) -> Persons:
    return cases.persons_of(cases.random_coco(seed, sizes=(30, 250)))


@pytest.fixture(scope="module")
def official_persons(real_data: Path) -> Persons:
    coco = cases.read_coco(real_data / "annotations" / "coco_person_keypoints_val2017_official_first_fifth.json.gz")
    return cases.persons_of(coco).labelled().select(np.arange(600))


@pytest.mark.parametrize(("name", "settings", "size", "expected"), PUBLISHED)
def test_targets_of_the_published_codecs(
    official_persons: Persons, name: str, settings: dict[str, object], size: tuple[int, int], expected: float
) -> None:
    assert target_ap(codec_of(name, size, **settings), official_persons) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", METHODS.values())
def test_perfect_predictions_lie_near_the_joints(name: str) -> None:
    persons, codec = some_persons(), codec_of(name, (128, 96))
    predictions = perfect_predictions(codec, Boxes.of(persons, codec.geometry))
    truth = persons.labelled().keypoints
    cell = (persons.labelled().bbox_xywh[:, 3] * 1.25 / 32)[:, None]
    error = np.linalg.norm(predictions.keypoints_image - truth[..., :2], axis=-1) / cell
    assert np.median(error[truth[..., 2] > 0]) < 0.75
    assert predictions.annotation_id.tolist() == persons.labelled().frame["annotation_id"].tolist()


def test_finer_maps_lose_less() -> None:
    persons = some_persons()
    reached = [target_ap(codec_of("heatmap", size), persons) for size in ((64, 48), (128, 96), (256, 192))]
    assert reached[0] < reached[1] < reached[2] <= 1


def variant(method: str, **more: object) -> Variant:
    prefix = "" if method == "hrnet" else f"{method}_"
    return Variant(f"{prefix}hrnet_w32_coco_64x48", method, "hrnet_w32", "coco", (64, 48), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_the_checks(method: str) -> None:
    checks = verify(some_persons(), [variant(method)])
    assert len(checks) == 6 and all(check.passed for check in checks), checks


def test_the_papers_ap_is_compared_with_the_bound_and_not_with_the_targets() -> None:
    """Targets of .5 say nothing against a paper's .6: a network may output better maps. A bound of .55 does."""
    persons = some_persons()
    truth, _ = cases.truth_as_predictions(persons)
    scores = np.ones(len(truth))
    moved = replace(truth, keypoints_image=truth.keypoints_image + 0.02 * np.sqrt(truth.areas)[:, None, None])
    claimed = variant("hrnet", paper=printed(99.0))
    assert not targets_reach(claimed, persons, (truth, scores), (truth, scores)).warning
    assert not targets_reach(claimed, persons, (moved, scores), (truth, scores)).warning
    flagged = targets_reach(claimed, persons, (truth, scores), (moved, scores))
    assert flagged.passed and flagged.warning and "99.0" in flagged.detail
    assert not targets_reach(variant("hrnet", paper=printed(1.0)), persons, (truth, scores), (moved, scores)).warning


def test_rounding_in_a_few_joints_is_no_misaligned_flip() -> None:
    """Of two persons each, whose joints round to cells by chance: the published shift passes, none at all is caught on many persons."""
    persons = some_persons().labelled()
    pairs = [persons.select(np.arange(start, start + 2)) for start in range(0, 40, 2)]
    flips = [check for pair in pairs for check in verify(pair, [variant("hrnet")]) if "flipped maps" in check.name]
    assert len(flips) == 20 and all(check.passed for check in flips), flips
    assert any(float(check.detail.split()[2]) > 0.35 for check in flips), "some of them round farther than a map may be off"


def test_broken_codecs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = codecs.build

    def failed(**changes: object) -> list[str]:
        def broken(*arguments: object, **settings: object) -> Codec:
            codec = real(*arguments, **settings)  # type: ignore[arg-type]
            for name, value in changes.items():
                monkeypatch.setattr(codec, name, value)
            return codec

        monkeypatch.setattr(codecs, "build", broken)
        return [check.name.split(": ")[1] for check in verify(some_persons(), [variant("udp_gaussian")]) if not check.passed]

    assert failed(flip=lambda outputs: tuple(o.flip(-1).roll(1, -1) for o in outputs)) == ["flipped maps align"]
    assert failed(flip=lambda outputs: tuple(2 * o.flip(-1) for o in outputs))[0] == "flip twice is identity"
    corner = lambda outputs: (torch.zeros(len(outputs[0]), 17, 2), torch.ones(len(outputs[0]), 17))  # noqa: E731
    assert failed(decode=corner) == ["encode and decode return the joints", "AP of its targets"]


def test_truth_that_cannot_score_one_is_caught() -> None:
    persons = some_persons()
    assert truth_scores_one(persons).passed
    persons.frame.loc[persons.frame["num_keypoints"] > 0, "area"] = np.nan
    assert not truth_scores_one(persons).passed


def test_images_beyond_the_limit_of_detections_are_left_out() -> None:
    persons = some_persons()
    row = int(np.flatnonzero((persons.frame["num_keypoints"] > 0) & ~persons.frame["iscrowd"])[0])
    crowded = persons.select(np.concatenate([np.arange(len(persons)), np.full(25, row)]))
    crowded.frame["annotation_id"] = np.arange(len(crowded))
    check = truth_scores_one(crowded)
    assert check.passed and check.warning and "1 images with more than 20" in check.detail


def test_crops_of_another_table_are_caught() -> None:
    persons = some_persons()
    labelled = persons.labelled().select(np.random.default_rng(0).permutation(len(persons.labelled())))
    crops = cases.crops_of(labelled, CropGeometry((8, 8), (2, 2)))
    assert crops_follow_the_table("direct_64x48", crops, persons).passed
    moved = replace(persons, keypoints=persons.keypoints + 1)
    assert "differ" in crops_follow_the_table("direct_64x48", crops, moved).detail
    fewer = persons.select(np.arange(len(persons) // 2))
    assert not crops_follow_the_table("direct_64x48", crops, fewer).passed
