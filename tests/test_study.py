"""Trainings on a bare machine: its crops are the pipeline's to the byte, its weights those of the pipeline's own training."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import study
from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of, write_json
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.stage import degrade
from components.models import zoo
from components.models.weights import load_weights, read_metadata
from components.train import recipe as recipes
from components.train.loop import train
from tests.tiny_shard import tiny_source

VARIANT, SHARD = "hrnet_tiny_coco_64x48", "direct_64x48"
SHORT = {"epochs": 2, "batch_size": 4, "num_threads": 1, "validate_every": 1, "warmup_steps": 0}
LISTED = {"second": {"variant": VARIANT, "train": {**SHORT, "seed": 1}, "after": "first"}, "first": {"variant": VARIANT, "train": SHORT}}


@dataclasses.dataclass(frozen=True)
class Packed:
    """Folders: the pipeline's shards, the pack, and the shards that were made of it."""

    shards: Path
    pack: Path
    unpacked: Path


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Packed:
    root = tmp_path_factory.mktemp("study")
    source = tiny_source(root / "data", dev=4)
    (root / "persons").mkdir()
    source.persons.write(root / "persons" / "persons.parquet")
    degrade(source, ShardSpec((64, 48)), DegradeParams(threads=1), root / "shards" / SHARD, progress=False)
    study.pack(root / "persons", source.data_root, root / "shards", root / "pack", 2)
    study.unpack(root / "pack", root / "unpacked", [(64, 48)])
    return Packed(root / "shards", root / "pack", root / "unpacked")


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
        study.extract(path, raw)
    images = sorted((raw / "images").rglob("*.png"))
    images[0].write_bytes(images[1].read_bytes())
    (tmp_path / "pack").mkdir()
    with tarfile.open(tmp_path / "pack" / "part0.tar", "w") as archive:
        for path in raw.iterdir():
            archive.add(path, path.name)
    with pytest.raises(SystemExit, match=r"direct_64x48: not the pipeline's crops: .*\.npy"):
        study.unpack(tmp_path / "pack", tmp_path / "shards", [(64, 48)])
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
    study.bring(trained, tmp_path / "out")
    study.extract(tmp_path / "out" / "weights0.tar", tmp_path / "weights")
    files = tmp_path / "weights" / "first" / "model.safetensors", tmp_path / "out" / "runs.json"
    with pytest.raises(SystemExit, match=f"variant {VARIANT}: its recipe is not that of first: .*epochs"):
        study.adopt(*files, "first", packed.shards / SHARD, tmp_path / "adopted")
    one = variant()
    monkeypatch.setattr(zoo, "variant", lambda name: one)
    study.adopt(*files, "first", packed.shards / SHARD, tmp_path / "adopted")
    own = trained_by_the_pipeline(packed, tmp_path / "own")
    adopted = tmp_path / "adopted" / "model.safetensors"
    assert read_metadata(adopted) == read_metadata(own)
    ours, theirs = load_weights(adopted, one), load_weights(own, one)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].float(), tensor.float(), rtol=2**-10, atol=1e-6)  # half precision has 11 bits
    assert read_json(tmp_path / "adopted" / "summary.json")["trained_sha256"] == sha256_of(own)


def test_weights_of_other_crops_are_not_adopted(packed, trained, tmp_path):
    about = read_json(packed.shards / SHARD / "shard.json")
    about["files"]["train_pixels.npy"]["sha256"] = "0" * 64
    write_json(tmp_path / "shard" / "shard.json", about)
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps({"first": read_json(trained / "first.json")}))
    with pytest.raises(SystemExit, match=r"not what first was trained on: train_pixels\.npy"):
        study.adopt(trained / "first" / "model.safetensors", runs, "first", tmp_path / "shard", tmp_path / "adopted")
    assert not (tmp_path / "adopted").exists()


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(tmp_path / "file", "../outside")
    with pytest.raises(FarposeError, match=r"\.\./outside"):
        study.extract(tmp_path / "bad.tar", tmp_path / "folder")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks" / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_list_names_variants_recipes_and_runs_that_exist(path):
    runs = study.load_yaml(path)
    for name, run in runs.items():
        study.resolved(run)
        for before in filter(None, (run.get("after"), run.get("teacher"))):
            assert before in runs or before.startswith(("artifacts/", "released/")), f"{name} waits for {before}"
    assert np.all([set(run) <= {"variant", "recipe", "train", "teacher", "after", "place"} for run in runs.values()])


@pytest.mark.parametrize(("height", "width", "count"), [(64, 48, 19), (128, 96, 12), (256, 192, 12)])
def test_the_methods_share_budget_start_and_crops(height, width, count):
    """Only what a family of backbones optimises with, and what a method declares as its exception, may differ."""
    methods = study.load_yaml(REPOSITORY / "benchmarks" / "studies" / f"methods_{height}x{width}.yaml")
    told = {name: study.resolved(run) for name, run in methods.items()}
    kept = set(recipes.OPTIMISATION)
    budget = recipes.budgets()["crops"].recipe
    for name, (one, recipe) in told.items():
        shared = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in kept | set(one.exceptions)}
        plain = dataclasses.asdict(told["hrnet_w32_plain"][1])
        assert shared == {key: plain[key] for key in shared}, name
        assert recipe.epochs == budget["epochs"] and (recipe.init == "he" or "init" in one.exceptions)
        assert (one.input_size, one.dataset) == ((height, width), "coco")
    assert next(iter(methods)) == "hrnet_w32_plain" and len({run["variant"] for run in methods.values()}) == len(methods) == count


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
    study.bring(tmp_path / "work", tmp_path / "out", {"old": {"run": "old"}})
    assert set(read_json(tmp_path / "out" / "runs.json")) == {"old", "new"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_method_of_the_list_trains_on_a_bare_machine(packed, tmp_path, capsys):
    """One step of each, as `study.sh` starts them."""
    short = {"epochs": 1, "batch_size": 8, "num_threads": 1, "validate_every": 0, "validate_flip": False}
    with pytest.raises(SystemExit) as ended:
        methods = study.load_yaml(REPOSITORY / "benchmarks" / "studies" / "methods_64x48.yaml")
        study.train_all({name: {**run, "train": short} for name, run in methods.items()}, packed.unpacked, tmp_path, 28, 2)
    assert ended.value.code == 0, capsys.readouterr().out
    assert {path.stem for path in tmp_path.glob("*.json")} == set(methods)
