"""The champion: found, promoted with reasons, refused without a trace of change, and taken back; judged on the pipeline's persons."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.codecs.codec import as_crop_codec
from components.datasets.fetch import fetch
from components.datasets.params import DataParams
from components.datasets.synthetic.coco import write_synthetic
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.validate import validate
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.shards import EvalCrops
from components.degrade.stage import degrade
from components.evaluate.predict import predict
from components.evaluate.significance import Difference
from components.models import zoo
from components.models.weights import save_weights
from components.pose.crop import CONVENTIONS
from components.pose.persons import Persons
from components.registry import promotion, register, released, store, tracking
from pipelines import cli, judging, paths, promoting, releases
from tests.coco_files import COMMITTED
from tests.test_registry import packaged, repository  # noqa: F401  (a fixture)

PEOPLE = SyntheticParams(train_images=4, val_images=12, min_height_px=60.0, max_persons=3, empty_fraction=0.0)
WEAK, SYNTHETIC = "hrnet_tiny_coco_64x48", "synthetic"


def candidate(folder: Path, seed: int, name: str = WEAK) -> register.Candidate:
    """A variant with random weights."""
    torch.manual_seed(seed)
    variant = zoo.variant(name)
    weights = folder / f"{name}_{seed}" / "model.safetensors"
    weights.parent.mkdir()
    save_weights(weights, zoo.build(variant).model, {"variant": name})
    crops = np.random.default_rng(seed).integers(0, 256, (5, 3, *variant.input_size), dtype=np.uint8)
    preparation = {"shards": ShardSpec(variant.input_size), "degrade": DegradeParams(), "evaluate": judging.settings.evaluation()}
    plain = {key: dataclasses.asdict(value) for key, value in preparation.items()}
    return register.Candidate(variant, weights, f"# card {seed}", {"AP_gt_boxes": 0.25}, crops, {}, plain, packaged(variant))


def registered(root: Path, folder: Path, seed: int, name: str = WEAK) -> promotion.ModelVersion:
    with tracking.run(f"register@{name}", repository=root) as run:
        return register.register(candidate(folder, seed, name), run)


def held(root: Path) -> str:
    found = promotion.champion(root)
    return promotion.label(found) if found else "nobody"


def runs(root: Path) -> list[dict[str, str]]:
    client, experiment_id = store.open_store(root)
    return [run.data.tags for run in client.search_runs([experiment_id], "tags.kind = 'promotion'", order_by=["attributes.start_time ASC"])]


def decision(kind: str = promotion.PROMOTED, why: str = "it is better") -> promotion.Decision:
    return promotion.Decision(kind, (why,), {"difference": 0.1})


def test_versions_are_named_as_a_user_names_them(repository, tmp_path):  # noqa: F811
    with pytest.raises(FarposeError, match=r"no model is registered yet .*farpose run"):
        promotion.find(WEAK, repository)
    first, second = (registered(repository, tmp_path, seed) for seed in (0, 1))
    promotion.decide(first, decision(), repository)
    named = {wanted: promotion.find(wanted, repository).version for wanted in (WEAK, f"{WEAK}@challenger", f"{WEAK}@champion", f"{WEAK}@1")}
    assert {wanted: str(version) for wanted, version in named.items()} == {
        WEAK: "2", f"{WEAK}@challenger": "2", f"{WEAK}@champion": "1", f"{WEAK}@1": "1",
    }  # fmt: skip
    assert promotion.read(second, repository).variant.name == WEAK
    for wanted, said in {
        "hrnet_tiny_coco_64x4": f"did you mean {WEAK!r}",
        f"{WEAK}@best": f"no alias 'best' .*{WEAK}@challenger, {WEAK}@champion",
        f"{WEAK}@7": "no version '7'",
    }.items():
        with pytest.raises(FarposeError, match=said):
            promotion.find(wanted, repository)


def test_one_model_is_the_champion_and_each_decision_says_who_why_and_who_was_before(repository, tmp_path):  # noqa: F811
    first, other = registered(repository, tmp_path, 0), registered(repository, tmp_path, 1, "dark_hrnet_tiny_coco_64x48")
    promotion.decide(first, decision(), repository)
    promotion.decide(other, decision(promotion.REFUSED, "it is worse"), repository)
    assert held(repository) == promotion.label(first)
    promotion.decide(other, decision(why="now it is better"), repository)
    assert held(repository) == promotion.label(other)
    client, _ = store.open_store(repository)
    assert [model.name for model in client.search_registered_models() if register.CHAMPION in model.aliases] == [other.name]
    told = [(tags[promotion.DECISION], tags[promotion.CANDIDATE], tags[promotion.BEFORE]) for tags in runs(repository)]
    one, two = f"{WEAK}@1", "dark_hrnet_tiny_coco_64x48@1"
    assert told == [(promotion.PROMOTED, one, ""), (promotion.REFUSED, two, one), (promotion.PROMOTED, two, one)]
    tags = client.get_model_version(other.name, "1").tags
    assert tags[promotion.WHY] == "promoted: now it is better" and tags[promotion.BY] == runs(repository)[2]["mlflow.user"]


def test_promotions_are_taken_back_one_by_one_and_a_person_s_choice_is_not(repository, tmp_path):  # noqa: F811
    versions = [registered(repository, tmp_path, seed) for seed in (0, 1, 2)]
    client, _ = store.open_store(repository)
    with pytest.raises(FarposeError, match=r"no model is the champion .*farpose promote"):
        promotion.rolled_back(repository)
    client.set_registered_model_alias(WEAK, register.CHAMPION, versions[0].version)  # by hand
    for version in versions[1:]:
        promotion.decide(version, decision(), repository)
    for after in (2, 1):
        then, now = promotion.rolled_back(repository)
        assert (str(then.version), str(now.version)) == (str(after), str(after + 1)) and held(repository) == promotion.label(then)
    with pytest.raises(FarposeError, match=r"no promotion made .*version 1 the champion"):
        promotion.rolled_back(repository)
    assert held(repository) == f"{WEAK}, version 1" and runs(repository)[-1][promotion.DECISION] == promotion.ROLLED_BACK


def test_the_first_promotion_taken_back_leaves_no_champion(repository, tmp_path):  # noqa: F811
    promotion.decide(registered(repository, tmp_path, 0), decision(), repository)
    assert promotion.rolled_back(repository)[0] is None and held(repository) == "nobody"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[DataParams, Path]:
    """A small synthetic data set: its parameters, and the folder of its raw files and tables."""
    root = tmp_path_factory.mktemp("drawn")
    write_synthetic(root / SYNTHETIC, PEOPLE, progress=False, workers=1)
    params = DataParams(source=SYNTHETIC, sources={SYNTHETIC: dataclasses.replace(COMMITTED[SYNTHETIC], manifest=None)})
    fetch(params, root / SYNTHETIC, root / "persons", None)
    return params, root


@pytest.fixture
def ground(drawn, tmp_path, monkeypatch) -> judging.Ground:
    params, root = drawn
    monkeypatch.setattr(paths, "DATA", root)
    monkeypatch.setattr(paths, "VALIDATION", tmp_path / "validation")
    monkeypatch.setenv("FARPOSE_DEVICE", "cpu")
    found = judging.Ground(params, root / "persons", (tmp_path / "shards",))
    monkeypatch.setattr(judging, "here", lambda: found)
    return found


def test_a_model_is_judged_on_crops_that_are_made_once(ground, repository, tmp_path):  # noqa: F811
    version = registered(repository, tmp_path, 0)
    model = promotion.read(version, repository)
    found = judging.judge(model, ground, "val", tmp_path / "judged")
    source = Source(Persons.read(ground.persons / "persons.parquet"), ground.root)
    degrade(source, ShardSpec((64, 48)), DegradeParams(), tmp_path / "own", progress=False)
    built = model.build()
    crops = EvalCrops.open(tmp_path / "own", model.variant.convention)
    expected = predict(built.model, as_crop_codec(built.codec), crops)
    rows = {row["annotation_id"]: row["keypoints"] for row in json.loads((tmp_path / "judged" / "predictions.json").read_text())}
    assert found["persons"] == len(crops) >= len(rows) > 0
    for row, number in enumerate(expected.annotation_id.tolist()):
        if number in rows:  # repeats of one person are dropped
            np.testing.assert_allclose(np.reshape(rows[number], (-1, 3))[:, :2], expected.keypoints_image[row], atol=1e-6)
    (made,) = (tmp_path / "shards").iterdir()
    assert {path.name for path in made.iterdir()} == {"shard.json", "val.parquet", *(f"val_{name}.npy" for name in CONVENTIONS)}
    before = made.stat().st_mtime_ns
    judging.inputs(ground, model, "val")
    assert made.stat().st_mtime_ns == before


def test_a_split_is_judged_without_the_images_of_the_others(ground, repository, tmp_path, monkeypatch):  # noqa: F811
    """`farpose evaluate NAME --on DATASET` reads the files of what it scores alone."""
    table = Persons.read(ground.persons / "persons.parquet")
    shutil.copytree(ground.root, tmp_path / "data" / SYNTHETIC)
    for path in set(table.split("train").frame["image_path"]):
        (tmp_path / "data" / SYNTHETIC / path).unlink()
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    model = promotion.read(registered(repository, tmp_path, 0), repository)
    assert judging.judge(model, ground, "val", tmp_path / "judged")["persons"] == len(table.split("val").labelled())
    with pytest.raises(FarposeError, match=r"no person is in split 'dev'.*--split"):
        judging.inputs(ground, model, "dev")


def test_crops_of_other_persons_are_made_anew(ground, repository, tmp_path):  # noqa: F811
    model = promotion.read(registered(repository, tmp_path, 0), repository)
    judging.inputs(ground, model, "val")
    moved = Persons.read(ground.persons / "persons.parquet")
    shutil.copytree(ground.persons, tmp_path / "persons")
    moved.bbox_xywh[:, 0] += 1
    moved.write(tmp_path / "persons" / "persons.parquet")
    inputs = judging.inputs(dataclasses.replace(ground, persons=tmp_path / "persons"), model, "val")
    np.testing.assert_array_equal(np.sort(inputs.bbox_xywh[:, 0]), np.sort(moved.split("val").labelled().bbox_xywh[:, 0]))


def test_a_better_model_with_valid_data_is_promoted_and_a_worse_one_refused(ground, repository, tmp_path):  # noqa: F811
    weak = registered(repository, tmp_path, 0)
    passed, lines = promoting.promote(WEAK, "val", repository)
    assert not passed and "fails: the data were not validated (`farpose run validate`)" in lines and held(repository) == "nobody"
    validate(ground.persons, ground.root, ground.data, paths.VALIDATION)
    passed, lines = promoting.promote(WEAK, "val", repository)
    assert passed and held(repository) == promotion.label(weak) and any("there is no champion to be better than" in line for line in lines)
    with pytest.raises(FarposeError, match="is the champion already"):
        promoting.promote(WEAK, "val", repository)

    with tracking.run("register", repository=repository) as run:
        strong = register.register(releases.candidate(paths.RELEASED.name, released.FOLDER), run)
    passed, lines = promoting.promote(strong.name, "val", repository)
    assert passed and held(repository) == promotion.label(strong) and lines[0] == f"promoted: {promotion.label(strong)}"
    assert any(line.startswith("holds: AP on val differs by +") for line in lines)
    passed, lines = promoting.promote(f"{WEAK}@1", "val", repository)
    assert not passed and held(repository) == promotion.label(strong)
    assert any(line.startswith("fails: AP on val differs by −") for line in lines)
    client, experiment_id = store.open_store(repository)
    (last, *_) = client.search_runs([experiment_id], "tags.kind = 'promotion'", order_by=["attributes.start_time DESC"])
    numbers = last.data.metrics
    assert numbers["difference_percent"] < numbers["difference_high_percent"] < 0 and numbers["p_value"] < 0.05
    assert "refused" in last.data.tags["mlflow.note.content"]


def test_a_model_for_all_heights_must_be_better_at_each(ground, repository, tmp_path):  # noqa: F811
    validate(ground.persons, ground.root, ground.data, paths.VALIDATION)
    weak = registered(repository, tmp_path, 0)
    promotion.decide(weak, decision(), repository)
    with tracking.run("register", repository=repository) as run:
        strong = register.register(releases.candidate(paths.RELEASED.name, released.FOLDER), run)
    with pytest.raises(FarposeError, match=r"unknown condition 'h0'.*h32"):
        promoting.promote(strong.name, "val", repository, heights=(32, 0))
    passed, lines = promoting.promote(strong.name, "val", repository, heights=(24, 48))
    assert passed and held(repository) == promotion.label(strong)
    judged = [line.partition(" differs by ") for line in lines[4:]]
    assert [line for line, _, _ in judged] == [
        "holds: AP on val, persons at most 24 px high,", "holds: AP on val, persons at most 48 px high,",
        "holds: not told apart as worse on persons as they are: AP on val",
    ]  # fmt: skip
    client, experiment_id = store.open_store(repository)
    (last, *_) = client.search_runs([experiment_id], "tags.kind = 'promotion'", order_by=["attributes.start_time DESC"])
    of = {end: last.data.metrics[f"difference_percent{end}"] for end in ("", "_h24", "_h48")}
    assert all(f"{of[end]:+.1f}" in said for end, (_, _, said) in zip(("_h24", "_h48", ""), judged, strict=True))
    assert len(set(of.values())) == 3
    passed, lines = promoting.promote(f"{WEAK}@1", "val", repository, heights=(24,))
    assert not passed and [line.partition(":")[0] for line in lines[4:]] == ["fails", "fails"]


@pytest.mark.parametrize(("value", "p_value", "passed"), [(0.02, 0.5, True), (-0.02, 0.2, True), (-0.02, 0.01, False), (0.02, 0.01, True)])
def test_worse_on_persons_as_they_are_is_refused_only_if_it_is_told_apart(value, p_value, passed, monkeypatch, tmp_path):
    found = Difference(value, value - 0.01, value + 0.01, p_value, 12)
    monkeypatch.setattr(promoting, "_compared", lambda *_: (found, "", {}))
    assert promoting._leads(tmp_path, "it", "val", ("h32",))[-1].passed is passed


def test_a_model_of_other_joints_is_refused_before_anything_is_written(ground, repository, tmp_path):  # noqa: F811
    model = promotion.read(registered(repository, tmp_path, 0), repository)
    other = dataclasses.replace(model, variant=zoo.variant("simple_resnet50_mpii_256x256"))
    with pytest.raises(FarposeError, match=r"finds the joints mpii_16, synthetic has coco_17.*mapping"):
        judging.judge(other, ground, "val", tmp_path / "judged")
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote"], "nothing to promote"),
        (["promote", WEAK, "--rollback"], "--rollback takes no model"),
        (["evaluate", "--on", SYNTHETIC], "--on needs a registered model"),
        (["evaluate", WEAK, "--on", SYNTHETIC, "--shards", "direct_64x48"], "--on takes no shards"),
    ],
)
def test_wrong_questions_are_one_line(arguments, said, capsys):
    assert cli.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_data_set_that_is_not_there_names_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(FarposeError, match="farpose acquire synthetic_mpii --from FOLDER"):
        judging.on("synthetic_mpii")
    with pytest.raises(FarposeError, match="unknown data set 'nobody'"):
        judging.on("nobody")
    assert REPOSITORY == paths.REPOSITORY


def test_a_small_data_set_needs_no_development_split_to_be_scored_on(monkeypatch, tmp_path):
    data = judging.settings.data()
    few = dataclasses.replace(data.sources[SYNTHETIC], manifest=None)
    assert 0 < data.splits.dev < 0.1
    monkeypatch.setattr(judging.settings, "data", lambda: dataclasses.replace(data, sources={**data.sources, "few": few}))
    monkeypatch.setattr(paths, "DATA", tmp_path)
    monkeypatch.setattr(judging, "JUDGED", tmp_path / "judged")
    write_synthetic(tmp_path / "few", PEOPLE, progress=False, workers=1)
    assert set(judging.on("few").table.frame["split"]) == {"train", "val"}
    with pytest.raises(FarposeError, match="no labelled person is left in split 'dev'"):
        judging.on("few", "dev")
