"""Trainings on a bare machine: its crops are the pipeline's to the byte, its weights those of the pipeline's own training."""

from __future__ import annotations

import dataclasses
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks import study, study_rows, study_travel
from components.approaches import approach
from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of, write_json
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.stage import degrade
from components.evaluate.approach import EvaluationContext
from components.evaluate.stage import evaluate
from components.models import zoo
from components.models.weights import load_weights, read_metadata
from components.pose.images import IMAGES_FILE, write_images
from components.train import recipe as recipes
from components.train.loop import train
from components.train.recipe import TRAIN
from pipelines import paths, settings, stages
from pipelines.overlay import example_over
from tests.tiny_shard import tiny_source

VARIANT, SHARD = "hrnet_tiny_coco_64x48", "direct_64x48"
SHORT = {"epochs": 2, "batch_size": 4, "num_threads": 1, "validate_every": 1, "warmup_steps": 0}
LISTED = {"second": {"variant": VARIANT, "train": {**SHORT, "seed": 1}, "after": "first"}, "first": {"variant": VARIANT, "train": SHORT}}


@dataclasses.dataclass(frozen=True)
class Packed:
    """Folders: the persons' tables, their images, the pipeline's shards, the pack, and the shards that were made of it."""

    persons: Path
    images: Path
    shards: Path
    pack: Path
    unpacked: Path


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Packed:
    root = tmp_path_factory.mktemp("study")
    source = tiny_source(root / "data", dev=4)
    (root / "persons").mkdir()
    source.persons.write(root / "persons" / "persons.parquet")
    images = source.persons.frame.drop_duplicates("image_id").assign(licence="")
    write_images(root / "persons" / IMAGES_FILE, images)
    degrade(source, ShardSpec((64, 48)), DegradeParams(threads=1), root / "shards" / SHARD, progress=False)
    study_travel.pack(root / "persons", source.data_root, root / "shards", root / "pack", 2)
    study_travel.unpack(root / "pack", root / "unpacked", [(64, 48)])
    return Packed(root / "persons", source.data_root, root / "shards", root / "pack", root / "unpacked")


@pytest.fixture(scope="module")
def scored(packed, tmp_path_factory) -> Packed:
    """The same with the validation images."""
    root = tmp_path_factory.mktemp("scored")
    study_travel.pack(packed.persons, packed.images, packed.shards, root / "pack", 1, scored=True)
    study_travel.unpack(root / "pack", root / "unpacked", [(64, 48)])
    return dataclasses.replace(packed, pack=root / "pack", unpacked=root / "unpacked")


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory) -> Path:
    """The folder of the list's runs."""
    out = tmp_path_factory.mktemp("work")
    with pytest.raises(SystemExit) as ended:
        study.train_all(LISTED, packed.unpacked, out, 10, 2)
    assert ended.value.code == 0
    return out


def variant(**overrides) -> zoo.Variant:
    one = zoo.variant(VARIANT)
    return dataclasses.replace(one, train={**one.train, **SHORT, **overrides})


def trained_by_the_pipeline(packed: Packed, out: Path, **overrides) -> Path:
    one = variant(**overrides)
    train(one, packed.shards / SHARD, out / "model", recipes.resolve(one, recipes.load()), "cpu", out / "checkpoints")
    return out / "model" / "model.safetensors"


def test_a_pack_for_published_rows_holds_the_validation_images_too(scored):
    own, made = scored.shards / SHARD, scored.unpacked / SHARD
    assert {path.name for path in made.iterdir()} == {path.name for path in own.iterdir()} - {"contact_sheet.png"}
    assert all((made / path.name).read_bytes() == path.read_bytes() for path in own.glob("val*"))


def test_a_pack_holds_no_validation_image_and_travels_in_parts(packed):
    names = []
    for path in sorted(packed.pack.glob("part*.tar")):
        with tarfile.open(path) as archive:
            names.append(archive.getnames())
    images = [name for part in names for name in part if name.startswith("images/")]
    numbers = {int(Path(name).stem) for name in images}
    assert numbers == {*range(100, 108), *range(300, 304)}  # training and development persons; those from 200 are for validation
    assert all(any(name.startswith("images/") for name in part) for part in names) and len(names) == 2


def test_crops_made_of_a_pack_are_the_pipeline_s_to_the_byte(packed):
    made, own = packed.unpacked / SHARD, packed.shards / SHARD
    names = {path.name for path in made.iterdir()}
    assert names == {path.name for path in own.iterdir() if not path.name.startswith("val")} - {"contact_sheet.png"}
    assert all((made / name).read_bytes() == (own / name).read_bytes() for name in names)


def test_other_crops_than_the_pipeline_s_stop_with_their_names(packed, tmp_path):
    raw = tmp_path / "raw"
    for path in packed.pack.glob("part*.tar"):
        study_travel.extract(path, raw)
    images = sorted((raw / "images").rglob("*.png"))
    images[0].write_bytes(images[1].read_bytes())
    (tmp_path / "pack").mkdir()
    with tarfile.open(tmp_path / "pack" / "part0.tar", "w") as archive:
        for path in raw.iterdir():
            archive.add(path, path.name)
    with pytest.raises(SystemExit, match=r"direct_64x48: not the pipeline's crops: .*\.npy"):
        study_travel.unpack(tmp_path / "pack", tmp_path / "shards", [(64, 48)])
    assert not (tmp_path / "shards" / SHARD).exists()


def test_runs_train_what_the_pipeline_trains_and_wait_for_the_run_before(packed, trained, tmp_path):
    expected = trained_by_the_pipeline(packed, tmp_path)
    assert read_json(trained / "first.json")["model_sha256"] == sha256_of(expected) == sha256_of(trained / "first" / "model.safetensors")
    assert sha256_of(trained / "second" / "model.safetensors") != sha256_of(expected)  # another seed
    assert (trained / "second.log").stat().st_ctime > (trained / "first.json").stat().st_ctime
    told = read_json(trained / "second.json")
    assert told["recipe"]["seed"] == 1 and told["epochs"] == 2 and 0 <= told["dev_AP_gt_boxes"] <= 1
    assert {entry["epoch"] for entry in told["history"] if "dev_AP_gt_boxes" in entry} == {1, 2}


def test_a_list_that_is_done_starts_nothing(packed, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    with pytest.raises(SystemExit):
        study.train_all(LISTED, packed.unpacked, trained, 10, 2)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    assert "failed: none" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_the_others_go_on(packed, tmp_path, capsys):
    runs = {"bad": {"variant": VARIANT, "train": {"epochs": -1}}, "good": {"variant": VARIANT, "train": SHORT}}
    with pytest.raises(SystemExit) as ended:
        study.train_all(runs, packed.unpacked, tmp_path, 10, 2)
    assert ended.value.code == 1 and "failed: bad" in capsys.readouterr().out
    assert (tmp_path / "good.json").is_file() and not (tmp_path / "bad.json").exists()


def test_a_placed_run_lies_where_the_pipeline_s_training_writes_it(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "REPOSITORY", tmp_path / "repository")
    study.train_one("teacher", {"variant": VARIANT, "train": SHORT, "place": True}, packed.unpacked, tmp_path)
    placed = tmp_path / "repository" / "artifacts" / "models" / VARIANT / "model.safetensors"
    assert sha256_of(placed) == read_json(tmp_path / "teacher.json")["model_sha256"]


def test_weights_that_come_back_are_adopted_as_the_pipeline_s_own(packed, trained, tmp_path, monkeypatch):
    study_travel.bring(trained, tmp_path / "out")
    study_travel.extract(tmp_path / "out" / "weights0.tar", tmp_path / "weights")
    files = tmp_path / "weights" / "first" / "model.safetensors", tmp_path / "out" / "runs.json"
    with pytest.raises(SystemExit, match=f"variant {VARIANT}: its recipe is not that of first: .*epochs"):
        study_travel.adopt(*files, "first", packed.shards / SHARD, tmp_path / "adopted")
    one = variant()
    monkeypatch.setattr(zoo, "variant", lambda name: one)
    study_travel.adopt(*files, "first", packed.shards / SHARD, tmp_path / "adopted")
    own = trained_by_the_pipeline(packed, tmp_path / "own")
    adopted = tmp_path / "adopted" / "model.safetensors"
    assert read_metadata(adopted) == read_metadata(own)
    ours, theirs = load_weights(adopted, one), load_weights(own, one)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor.float(), rtol=2**-10, atol=1e-6)  # half precision has 11 bits
    assert read_json(tmp_path / "adopted" / "summary.json")["trained_sha256"] == sha256_of(own)


@pytest.fixture(scope="module")
def published(scored, tmp_path_factory) -> tuple[Path, dict]:
    """What comes back of an example's run, and its JSON."""
    root = tmp_path_factory.mktemp("published")
    example = root / "examples" / "short"
    example.mkdir(parents=True)
    entry = f"    table: small\n    shards: {SHARD}\n    recipe: matched\n"
    (example / "pipeline.yaml").write_text(f"_replace: [variants]\n\nvariants:\n  {VARIANT}:\n{entry}")
    (example / "train.yaml").write_text(
        "matched:\n  tiny_crops:\n    recipe: {epochs: 2, batch_size: 4, validate_every: 1, warmup_steps: 0}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "EXAMPLES", example.parent)
        [(name, run)] = study.listed(["short"]).items()
        (root / "work").mkdir()
        study.train_one(name, run, scored.unpacked, root / "work")
    study_travel.bring(root / "work", root / "out")
    study_travel.extract(root / "out" / "predictions0.tar", root / "out" / "predictions")
    return root / "out", read_json(root / "out" / "runs.json")[name]


def test_an_example_s_run_is_trained_with_its_recipe(published):
    _, told = published
    assert (told["recipe_kind"], told["epochs"], told["recipe"]["batch_size"], told["recipe"]["init"]) == ("matched", 2, 4, "he")


def test_predictions_that_come_back_are_scored_as_the_pipeline_scores_the_weights(scored, published, tmp_path, monkeypatch):
    """The same metrics, curves and outcomes as an evaluation that predicts here."""
    monkeypatch.setattr(paths, "SHARDS", scored.shards)
    monkeypatch.setattr(paths, "PERSONS", scored.persons)
    monkeypatch.setattr(study_rows.lineage, "data_digest", lambda: "0")
    out, told = published
    read = stages.evaluation_data
    monkeypatch.setattr(study_rows, "evaluation_data", lambda *given: dataclasses.replace(read(*given), data_root=scored.images))
    row = study_rows.score(told, out / "predictions" / VARIANT / study_travel.PREDICTIONS, tmp_path / "returned")

    built, params = zoo.build(zoo.variant(VARIANT)), settings.evaluation()
    built.model.load_state_dict(load_weights(out.parent / "work" / VARIANT / "model.safetensors", zoo.variant(VARIANT)))
    shown = approach("crops")
    data = dataclasses.replace(read(shown, zoo.variant(VARIANT), SHARD, params), data_root=scored.images)
    own = evaluate(shown, EvaluationContext(built.model, built.codec, data, params, tmp_path / "own", {}, "cpu", VARIANT))
    assert {key: row[key] for key in own} == own and own["persons"] > 0 and own["mean_OKS_gt_boxes"] > 0
    for name in ("by_height.json", "by_reduction.json"):
        assert (tmp_path / "returned" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    kept = study_rows.row_of(told, row, "0" * 40)
    assert kept["start"] == {"init": "he", "sha256": None} and kept["history"] == told["history"] and kept["commit"] == "0" * 40


def test_predictions_of_other_crops_are_not_scored(scored, published, tmp_path, monkeypatch):
    out, told = published
    about = read_json(scored.shards / SHARD / "shard.json")
    about["files"]["dev.parquet"]["sha256"] = "0" * 64
    write_json(tmp_path / SHARD / "shard.json", about)
    monkeypatch.setattr(paths, "SHARDS", tmp_path)
    with pytest.raises(SystemExit, match=rf"not what {VARIANT} was trained on: dev\.parquet"):
        study_rows.score(told, out / "predictions" / VARIANT / study_travel.PREDICTIONS, tmp_path / "returned")
    assert not (tmp_path / "returned").exists()


def test_what_comes_back_is_bounded_and_large_weights_stay(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study_travel, "_half", lambda weights: weights)
    for number, size in enumerate((30, 40, 50, 250, 60, 70)):
        folder = tmp_path / "work" / f"run{number}"
        folder.mkdir(parents=True)
        (folder / study_travel.WEIGHTS).write_bytes(bytes(size))
        os.utime(folder / study_travel.WEIGHTS, (number, number))
        (folder / study_travel.PREDICTIONS).write_bytes(bytes(10))
    study_travel.bring(tmp_path / "work", tmp_path / "out", most=100)
    held = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as archive:
            held[path.name] = [name.split("/")[0] for name in archive.getnames()]
    runs = [f"run{number}" for number in range(6)]
    assert held == {
        "predictions0.tar": runs, "weights0.tar": ["run0", "run1"], "weights1.tar": ["run2"], "weights2.tar": ["run4"]
    }  # fmt: skip
    assert "1 runs' weights do not travel" in capsys.readouterr().out


def test_weights_of_other_crops_are_not_adopted(packed, trained, tmp_path):
    about = read_json(packed.shards / SHARD / "shard.json")
    about["files"]["train_pixels.npy"]["sha256"] = "0" * 64
    write_json(tmp_path / "shard" / "shard.json", about)
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps({"first": read_json(trained / "first.json")}))
    with pytest.raises(SystemExit, match=r"not what first was trained on: train_pixels\.npy"):
        study_travel.adopt(trained / "first" / "model.safetensors", runs, "first", tmp_path / "shard", tmp_path / "adopted")
    assert not (tmp_path / "adopted").exists()


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(tmp_path / "file", "../outside")
    with pytest.raises(FarposeError, match=r"\.\./outside"):
        study_travel.extract(tmp_path / "bad.tar", tmp_path / "folder")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_list_names_variants_recipes_and_runs_that_exist(path):
    runs = study.listed([str(path)])
    for name, run in runs.items():
        study.resolved(run)
        for before in filter(None, (run.get("after"), run.get("teacher"))):
            assert before in runs or before.startswith(("artifacts/", "released/")), f"{name} waits for {before}"
    assert np.all([set(run) <= {"variant", "recipe", "train", "teacher", "after", "place"} for run in runs.values()])


@pytest.mark.parametrize("example", ["study_sizes", "study_256x192", "study_published"])
def test_an_example_s_methods_share_budget_start_and_crops(example):
    """Only what a family of backbones optimises with, and what a method declares as its exception, may differ within a budget."""
    overlay = yaml.safe_load(example_over(TRAIN.read_text(), study.EXAMPLES / example / "train.yaml"))
    runs, shared = study.listed([example]), {}
    for name, run in runs.items():
        one, recipe = study.resolved(run)
        budget, kept = recipes.budget_name(one), set(recipes.OPTIMISATION) | set(one.exceptions)
        told = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in kept}
        first = shared.setdefault(budget, told)
        assert told == {key: first[key] for key in told}, name
        assert recipe.epochs == overlay["matched"][budget]["recipe"]["epochs"]
        assert recipe.init == ("movenet_lightning" if "init" in one.exceptions else "he") and one.dataset == "coco"
    assert set(shared) == ({"crops"} if example == "study_published" else {"crops", "tiny_crops"})


def test_the_examples_hold_every_method_at_every_size():
    """The study's methods, by start: what stands in a table at one size stands in it at the others."""
    variants = [study.resolved(run)[0] for run in study.listed(["study_sizes", "study_256x192"]).values()]
    found = {size: {(one.backbone, one.method) for one in variants if one.input_size == size} for size in ((64, 48), (128, 96), (256, 192))}
    assert len(found[128, 96]) == 20 and found[128, 96] == found[256, 192]
    assert found[64, 48] == {(backbone, method) for backbone, method in found[128, 96] if backbone == "mobilenet_fpn"}


def test_of_several_examples_the_smallest_crops_come_first():
    runs = study.listed(["study_sizes", "study_published"])
    sizes = [study.resolved(run)[0].input_size for run in runs.values()]
    assert sizes == sorted(sizes) and {run["example"] for run in list(runs.values())[:20]} == {"study_sizes", "study_published"}
    assert list(study.listed(["study_published"])) == list(
        study.load_yaml(study.EXAMPLES / "study_published" / "pipeline.yaml")["variants"]
    )


def test_an_example_on_other_crops_is_refused():
    with pytest.raises(SystemExit, match=r"dark_ranked.* takes distance_128x96, only direct_128x96 is made here"):
        study.listed(["study_distance"])


def test_what_a_list_changes_lies_over_either_kind_of_recipe():
    for kind in ("published", "matched"):
        _, plain = study.resolved({"variant": VARIANT, "recipe": kind})
        _, changed = study.resolved({"variant": VARIANT, "recipe": kind, "train": {"epochs": 7, "augmentation": {"scale_sigma": 0.1}}})
        expected = dataclasses.replace(plain, epochs=7, augmentation=dataclasses.replace(plain.augmentation, scale_sigma=0.1))
        assert changed == expected != plain
    assert study.resolved({"variant": VARIANT})[1] != study.resolved({"variant": VARIANT, "recipe": "matched"})[1]


def test_runs_of_an_earlier_machine_are_not_trained_again_and_are_kept(packed, tmp_path, capsys):
    run = {"variant": VARIANT, "recipe": "matched", "train": {"epochs": 1, "batch_size": 4, "num_threads": 1, "validate_every": 0}}
    (tmp_path / "work").mkdir()
    with pytest.raises(SystemExit) as ended:
        study.train_all({"old": run, "new": run}, packed.unpacked, tmp_path / "work", 10, 2, {"old": {}})
    assert ended.value.code == 0 and {path.stem for path in (tmp_path / "work").glob("*.json")} == {"new"}
    told = read_json(tmp_path / "work" / "new.json")
    assert told["recipe_kind"] == "matched" and told["recipe"]["warmup_steps"] == recipes.budgets()["tiny_crops"].recipe["warmup_steps"]
    study_travel.bring(tmp_path / "work", tmp_path / "out", {"old": {"run": "old"}})
    assert set(read_json(tmp_path / "out" / "runs.json")) == {"old", "new"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_method_of_the_list_trains_on_a_bare_machine(packed, tmp_path, capsys):
    """One step of each, as `study.sh` starts them."""
    short = {"epochs": 1, "batch_size": 8, "num_threads": 1, "validate_every": 0, "validate_flip": False}
    with pytest.raises(SystemExit) as ended:
        methods = study.listed(["study_published"])
        runs = {name: {**run, "example": None, "train": short} for name, run in methods.items()}
        study.train_all(runs, packed.unpacked, tmp_path, 28, 2)
    assert ended.value.code == 0, capsys.readouterr().out
    assert {path.stem for path in tmp_path.glob("*.json")} == set(methods)
