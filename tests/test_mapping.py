"""Joint mappings: the shared joints and nothing else, by name, and models of one data set scored on another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.params import SplitFiles
from components.evaluate import oks
from components.pose.mapping import LIMBS, MAPPINGS, mapping_of
from components.pose.skeleton import COCO_17, LSPET_14
from components.pose.sources import skeleton_of
from pipelines import checks, settings
from tests import evaluation_cases as cases
from tests import evaluator_cases as scenes
from tests.coco_files import COMMITTED, read_file, source


@pytest.mark.parametrize("name", MAPPINGS)
def test_shared_joints_move_and_others_are_unlabelled(name: str) -> None:
    mapping = MAPPINGS[name]
    persons = scenes.scene(1, mapping.source)[0]
    found = mapping.persons(persons)
    assert found.skeleton is mapping.target and name == f"{mapping.source.name}_to_{mapping.target.name}"
    assert len({a for a, _ in mapping.joints}) == len({b for _, b in mapping.joints}) == len(mapping.joints) >= 12
    theirs = {b: a for a, b in mapping.joints}
    for k, joint in enumerate(mapping.target.keypoint_names):
        expected = persons.keypoints[:, mapping.source.index(theirs[joint])] if joint in theirs else np.zeros((len(persons), 3))
        assert (found.keypoints[:, k] == expected).all()
    counted = [k for k, joint in enumerate(mapping.target.keypoint_names) if joint not in mapping.target.uncounted]
    assert (found.frame["num_keypoints"] == (found.keypoints[:, counted, 2] > 0).sum(1)).all()


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mirrored_person_maps_to_the_mirrored_joints(name: str) -> None:
    """Left stays left: mapping commutes with the exchange of sides."""
    mapping = MAPPINGS[name]
    persons = scenes.scene(2, mapping.source)[0]
    mirrored = dataclasses.replace(persons, keypoints=persons.keypoints[:, list(mapping.source.flip_permutation)])
    assert (mapping.persons(mirrored).keypoints == mapping.persons(persons).keypoints[:, list(mapping.target.flip_permutation)]).all()


def test_the_limbs_are_twelve() -> None:
    assert len(LIMBS) == 12 and set(LIMBS) <= set(COCO_17.keypoint_names) & set(LSPET_14.keypoint_names)


def test_coco_predictions_are_scored_by_the_shared_joints_alone() -> None:
    """Equal to pycocotools on persons whose faces are unlabelled; other faces change nothing.

    Persons without any label are left out: COCO's rule compares these with all joints.
    """
    persons = mapping_of("lspet_14_to_coco_17").persons(scenes.scene(4, LSPET_14)[0])
    persons = persons.select((persons.frame["num_keypoints"] > 0).to_numpy())
    rng, images = np.random.default_rng(0), np.arange(1, 13)
    rows = np.repeat(np.arange(len(persons)), 2)
    joints = persons.keypoints[rows, :, :2] + rng.normal(0, 3, (len(rows), 17, 2))
    scores = rng.random(len(rows))
    found = cases.predictions_of(persons.frame["image_id"].to_numpy()[rows], joints, scores)
    ours = oks.evaluate(persons, found, scores, images)
    theirs = cases.oracle(scenes.as_coco(persons, images), cases.records_of(found, scores), images)
    assert {k: ours[k] for k in ("AP", "AR")} == pytest.approx({k: theirs[k] for k in ("AP", "AR")}, abs=1e-9)
    faces = dataclasses.replace(found, keypoints_image=np.concatenate([joints[:, :5] + 500, joints[:, 5:]], 1))
    assert oks.evaluate(persons, faces, scores, images)["AP"] == pytest.approx(ours["AP"], abs=1e-12) and 0 < ours["AP"] < 1


def test_an_entry_maps_its_persons(real_data) -> None:
    files = "annotations/lspet_val_crowdpose14.json", "images"
    mapped = read_file(real_data / "lspet", *files, "lspet_as_coco").persons
    plain = read_file(real_data / "lspet", "annotations/lspet_val_coco17.json", "images", "coco").persons
    assert mapped.skeleton is COCO_17 is skeleton_of("lspet_as_coco")
    assert (mapped.keypoints == plain.keypoints).all() and (mapped.frame["num_keypoints"] == plain.frame["num_keypoints"]).all()
    assert (mapped.keypoints[..., 2] > 0).sum() == 5397  # of 12 joints


@pytest.mark.parametrize(
    ("mapping", "message"),
    [("lspet_to_coco", "unknown mapping 'lspet_to_coco'"), ("mpii_16_to_coco_17", "is from the joints mpii_16, x has those of lspet_14")],
)
def test_a_wrong_mapping_is_named(mapping: str, message: str) -> None:
    entry = source({"val": SplitFiles("a.json", "b")}, "lspet", mapping=mapping)
    with pytest.raises(FarposeError, match=message):
        entry.table_skeleton("x")


def test_only_scoring_crosses_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    from components.models import zoo

    variants = zoo.load_variants()
    coco, crowd = (next(v for v in variants.values() if v.dataset == dataset) for dataset in ("coco", "crowdpose"))
    in_use = dataclasses.replace(settings.data(), source="lspet_as_coco", sources=COMMITTED)
    monkeypatch.setattr(settings, "data", lambda: in_use)
    checks.data_of(coco, "here", True)
    for variant, mapped in ((coco, False), (crowd, True)):
        with pytest.raises(FarposeError, match="but 'lspet_as_coco' is in use"):
            checks.data_of(variant, "here", mapped)
