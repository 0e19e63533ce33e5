"""Trainings that start from other trainings of this repository: what decides their weights, and what their cards say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.base import origins
from components.base.errors import FarposeError
from components.models import starts, zoo
from components.models.variant import Variant
from components.train import descent
from components.train import recipe as recipes
from pipelines import plan, releases

CONTINUED = zoo.variant("dark_ranked_mobilenet_fpn_coco_64x48_x4_continued")
EARLIER = zoo.variant("dark_ranked_mobilenet_fpn_coco_128x96_x2")


AVERAGED = zoo.variant("dark_ranked_mobilenet_fpn_coco_64x48_x4_averaged")


def path_of(name: str) -> str:
    return f"artifacts/models/{name}/model.safetensors"


def from_weights_of(variant: Variant, name: str, key: str = "init") -> Variant:
    return dataclasses.replace(variant, train={**variant.train, key: path_of(name)})


def test_an_earlier_training_decides_a_later_one_before_its_weights_are_there():
    start = plan.decisions(CONTINUED)[plan.TRAIN]["start"]
    assert start["variant"] == descent.entry(EARLIER)
    assert start["recipe"] == dataclasses.asdict(recipes.resolve(EARLIER, recipes.load()))
    assert start["start"] == origins.load("start")["movenet_lightning"].sha256 and start["teacher"] is None


def test_another_recipe_of_the_earlier_training_changes_the_later_one_s_plan(monkeypatch):
    before = plan.decisions(CONTINUED)[plan.TRAIN]
    longer = dataclasses.replace(EARLIER, train={**EARLIER.train, "epochs": 21})
    known = zoo.variant
    monkeypatch.setattr(zoo, "variant", lambda name: longer if name == EARLIER.name else known(name))
    after = plan.decisions(CONTINUED)[plan.TRAIN]
    assert before["recipe"] == after["recipe"] and before["start"] != after["start"]


def test_the_card_names_the_earlier_training_and_keeps_the_first_start_s_licence():
    card, first = plan.decisions(CONTINUED)[plan.REGISTER]["start"], starts.described("movenet_lightning")
    assert card["weights"].startswith(EARLIER.name) and card["weights"].endswith("trained from movenet_lightning")
    assert {key: card[key] for key in first if key != "weights"} == {key: first[key] for key in first if key != "weights"}


def test_every_training_of_a_mean_decides_it_and_stands_in_its_card():
    planned = plan.decisions(AVERAGED)
    trained, card = planned[plan.TRAIN], planned[plan.REGISTER]["start"]
    names = [trained["start"]["variant"]["name"], *(one["variant"]["name"] for one in trained["averaged_with"])]
    assert names == ["dark_ranked_mobilenet_fpn_coco_64x48_x4", CONTINUED.name, EARLIER.name]
    assert card["weights"].startswith("the mean of ") and all(name in card["weights"] for name in names)
    assert card["licence"] == starts.described("movenet_lightning")["licence"]
    assert descent.published(str(AVERAGED.train["init"])) == "movenet_lightning" and descent.published("he") == "he"
    recipe = recipes.resolve(AVERAGED, recipes.load())
    assert descent.earlier([recipe.init, *recipe.averaged_with]) == [names[0], EARLIER.name, CONTINUED.name]


def test_a_mean_of_different_starts_is_refused():
    other = "categorical_efficientnet_lite0_coco_64x48_x4"  # from ImageNet's classes
    mixed = dataclasses.replace(AVERAGED, train={**AVERAGED.train, "averaged_with": [path_of(other)]})
    with pytest.raises(FarposeError, match="descend from movenet_lightning and from efficientnet_lite0"):
        plan.decisions(mixed)


def test_a_mean_that_holds_its_own_descendant_is_refused(monkeypatch):
    circle = dataclasses.replace(
        EARLIER, train={**EARLIER.train, "init": AVERAGED.train["init"], "averaged_with": [path_of(AVERAGED.name)]}
    )
    known = zoo.variant
    monkeypatch.setattr(zoo, "variant", lambda name: circle if name == EARLIER.name else known(name))
    with pytest.raises(FarposeError, match="descends from itself"):
        plan.decisions(AVERAGED)


def test_the_card_keeps_an_earlier_training_s_teacher():
    taught = "categorical_mobilenet_fpn_coco_128x96_x2"
    later = from_weights_of(CONTINUED, taught)
    card = plan.decisions(later)[plan.REGISTER]["start"]
    assert card["teacher"].startswith("categorical_mobilenet_fpn_175_coco_256x192")


def test_a_release_names_the_commands_of_the_earlier_training_first():
    assert descent.earlier([str(CONTINUED.train["init"])]) == [EARLIER.name] and descent.earlier(["movenet_lightning"]) == []
    making = releases.Making("pose", CONTINUED.name, Path("nowhere"), "direct_64x48", example="study_continued")
    said = releases._commands(making, [str(CONTINUED.train["init"])])
    first, second = (said.index(f"`farpose params --apply {example}`") for example in ("study_distance", "study_continued"))
    assert first < said.index(f"`farpose run train@{EARLIER.name}`") < second < said.index("`farpose run`")
    plain = releases.Making("pose", EARLIER.name, Path("nowhere"), "distance_128x96")
    assert not any("--apply" in command or "train@" in command for command in releases._commands(plain, ["movenet_lightning"]))


@pytest.mark.parametrize("key", ["init", "teacher"])
def test_a_variant_that_descends_from_itself_is_refused(monkeypatch, key):
    circle = {CONTINUED.name: from_weights_of(CONTINUED, EARLIER.name), EARLIER.name: from_weights_of(EARLIER, CONTINUED.name, key)}
    known = zoo.variant
    monkeypatch.setattr(zoo, "variant", lambda name: circle.get(name) or known(name))
    with pytest.raises(FarposeError, match=f"descends from itself: {CONTINUED.name} from {EARLIER.name} from {CONTINUED.name}"):
        plan.decisions(circle[CONTINUED.name])


def test_missing_weights_say_which_training_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FarposeError, match=f"weights file not found.*farpose run train@{EARLIER.name}"):
        starts.digest(str(CONTINUED.train["init"]))
