"""New challengers are compared with the champion whom a person chose, once, and nobody is promoted by it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.base.files import write_json
from components.evaluate.significance import paired_bootstrap, read_outcome
from components.registry import promotion, register, released, store, tracking
from pipelines import challenging, judging, releases, settings
from tests.test_promotion import WEAK, drawn, ground, held, registered  # noqa: F401  (fixtures)
from tests.test_registry import repository  # noqa: F401  (a fixture)

STRONG = "pose_64x48"


@pytest.fixture
def here(ground, repository, monkeypatch) -> Path:  # noqa: F811
    """The store of a test's repository, in which the pipeline plans these two models."""
    planned = (WEAK, released.read(STRONG).variant.name, "not_registered")
    monkeypatch.setattr(settings, "load", lambda: SimpleNamespace(variants=dict.fromkeys(planned)))
    return repository


def strong(root: Path) -> promotion.ModelVersion:
    with tracking.run("register", repository=root) as run:
        return register.register(releases.candidate(STRONG, released.FOLDER), run)


def challenges(root: Path) -> list[dict[str, float]]:
    client, experiment_id = store.open_store(root)
    found = client.search_runs([experiment_id], "tags.kind = 'challenge'", order_by=["attributes.start_time ASC"])
    return [run.data.metrics for run in found]


def test_without_a_champion_it_says_so(here):
    assert challenging.challenge(repository=here).in_words() == "there is no champion" and challenges(here) == []


def test_each_pair_is_compared_once_and_the_person_s_choice_stands(here, ground, tmp_path):  # noqa: F811
    weak, better = registered(here, tmp_path, 0), strong(here)
    client, _ = store.open_store(here)
    client.set_registered_model_alias(weak.name, register.CHAMPION, weak.version)  # by hand, as in MLflow's pages
    found = challenging.challenge(repository=here)  # on "val": these data have no development split
    write_json(tmp_path / "found.json", asdict(found))
    assert challenging.read(tmp_path / "found.json") == found and found.in_words().endswith("1 better")
    (one,) = found.new
    assert (one.challenger, one.champion, one.verdict) == (promotion.label(better), promotion.label(weak), challenging.BETTER)
    assert held(here) == promotion.label(weak) and found.known == ()
    assert f"farpose promote {better.name}" in found.markdown()

    for name, version in {"ours": better, "theirs": weak}.items():  # the same two, scored here
        judging.judge(promotion.read(version, here), ground, "val", tmp_path / name)
    params = settings.evaluation()
    pair = (read_outcome(tmp_path / name) for name in ("ours", "theirs"))
    expected = paired_bootstrap(*pair, params.bootstrap_resamples, params.bootstrap_seed)
    (told,) = challenges(here)
    assert told["difference_percent"] == pytest.approx(100 * expected.value) and told["p_value"] == pytest.approx(expected.p_value)

    again = challenging.challenge("val", here)
    assert again.new == () and again.known == found.new and len(challenges(here)) == 1

    client.delete_registered_model_alias(weak.name, register.CHAMPION)
    client.set_registered_model_alias(better.name, register.CHAMPION, better.version)
    (other,) = challenging.challenge("val", here).new
    assert (other.challenger, other.verdict) == (promotion.label(weak), challenging.UNDECIDED) and len(challenges(here)) == 2


def test_what_cannot_be_compared_is_told_and_stops_nothing(here, tmp_path):
    weak, better = registered(here, tmp_path, 0), strong(here)
    client, _ = store.open_store(here)
    client.set_registered_model_alias(weak.name, register.CHAMPION, weak.version)
    (found,) = challenging.challenge("dev", here).new  # these data have no development split
    assert (found.challenger, found.verdict) == (promotion.label(better), challenging.UNCOMPARED) and found.said
    assert challenges(here) == []
