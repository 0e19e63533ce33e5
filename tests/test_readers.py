"""Data sets that cannot be read yet, and variants of other data than those in use: told plainly, before any work."""

from __future__ import annotations

import dataclasses

import pytest

from components.base.errors import FarposeError
from components.base.records import records
from components.datasets import params
from components.datasets.acquire import main as acquiring
from components.datasets.params import READERS, DataParams, SplitFiles, formats, require_reader
from components.datasets.reader import require_evaluator
from components.models import zoo
from components.models.variant import Variant
from components.pose import sources
from components.train import loop, recipe
from pipelines import checks, cli, settings, stages
from tests.coco_files import COMMITTED, source
from tests.tiny_shard import write_tiny_shard

READABLE = ("synthetic", "coco", "crowdpose", "mpii", "wholebody", "lspet")
UNREAD = ("mpii", "wholebody")  # in the tests that give them a form without a reader
FILES = {"train": SplitFiles("train.json", "images")}
MESSAGE = "there is no reader for the data set '{}' yet .*use synthetic, .*coco.*variants of \\w+ can be listed"
VARIANTS = zoo.load_variants()


def of_dataset(dataset: str) -> str:
    return next(name for name, variant in VARIANTS.items() if variant.dataset == dataset)


@pytest.mark.parametrize("dataset", READABLE)
def test_what_can_be_read_is_let_through(dataset):
    require_reader(dataset)
    entry = source(FILES, dataset)
    assert DataParams(source=dataset, sources={dataset: entry}).files is entry


def test_a_format_is_a_module_that_declares_a_reader_of_its_name():
    assert list(records(READERS, "READER")) == formats()
    assert {"coco", "crowdpose", "lsp", "mpii", "wholebody"} <= {*formats()} and {*READABLE} <= COMMITTED.keys()


@pytest.fixture
def unread(monkeypatch):
    """params/data.yaml as if no reader took the data sets of `UNREAD`."""
    changed = {name: {**entry, "format": "silent"} if name in UNREAD else entry for name, entry in sources.entries().items()}
    monkeypatch.setattr(params, "entries", lambda: changed)


@pytest.mark.parametrize("dataset", UNREAD)
def test_other_data_sets_can_be_neither_acquired_nor_chosen(dataset, tmp_path, unread):
    silent = source(FILES, dataset, format="silent")
    with pytest.raises(FarposeError, match=MESSAGE.format(dataset)):
        DataParams(source=dataset, sources={dataset: silent})
    with pytest.raises(FarposeError, match=MESSAGE.format(dataset)):
        acquiring.acquire(dataset, str(tmp_path), tmp_path / "data", COMMITTED | {dataset: silent})
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "format": ({"format": "cocoo"}, "there is no reader for the data set 'coco' yet .format 'cocoo', known: .*coco, crowdpose"),
    "skeleton": ({"skeleton": "coco_71"}, "unknown skeleton 'coco_71' .did you mean 'coco_17'"),
    "splits": ({"splits": {}}, "splits is empty"),
    "manifest": ({"manifest": "../x.sha256"}, "manifest is '../x.sha256', expected a file in params/manifests"),
    "category": ({"person_category": ()}, "person_category is an empty list"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_named(case):
    changes, message = WRONG[case]
    with pytest.raises((FarposeError, ValueError), match=message):
        DataParams(source="coco", sources={"coco": dataclasses.replace(source(FILES), **changes)})


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        (
            "coco",
            {"evaluator": "pckh"},
            "evaluator 'pckh' needs the column head_size, which the format 'coco' does not give .*evaluator: oks",
        ),
        ("mpii", {"evaluator": "crowdpose"}, "evaluator 'crowdpose' needs the column crowd_index"),
        ("coco", {"evaluator": "wholebody"}, "evaluator 'wholebody' needs the skeleton wholebody_133"),
    ],
)
def test_an_evaluator_that_lacks_its_numbers_is_refused(dataset, changes, message):
    require_evaluator(dataset, COMMITTED[dataset])
    with pytest.raises(FarposeError, match=message):
        require_evaluator(dataset, dataclasses.replace(COMMITTED[dataset], **changes))


@pytest.mark.parametrize("name", ["../x", ".cache", "a/b", ""])
def test_a_data_set_has_a_name_fit_for_a_folder(name):
    with pytest.raises(ValueError, match="needs a name of letters"):
        DataParams(source=name, sources={name: source(FILES)})


@pytest.mark.parametrize("dataset", UNREAD)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_their_variants_can_be_neither_trained_nor_evaluated(dataset, command, capsys, unread):
    name = of_dataset(dataset)
    for shards in ([], ["--shards", "direct_256x192"]):
        assert cli.main([command, name, *shards]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"variant {name}: there is no reader for the data set '{dataset}' yet" in error
    with pytest.raises(FarposeError, match=MESSAGE.format(dataset)):
        stages.run_stage(command, name)


def test_a_pipeline_with_such_a_variant_is_refused_before_anything_runs(monkeypatch, unread):
    name, pipeline = of_dataset("mpii"), settings.load()
    size = "{}x{}".format(*VARIANTS[name].input_size)
    shards = {f"direct_{size}": dataclasses.replace(pipeline.shards["direct_64x48"], input_size=VARIANTS[name].input_size)}
    table = next(path.stem for path in zoo.VARIANTS.glob("*.yaml") if f"\n{name}:" in path.read_text())
    planned = dataclasses.replace(pipeline, shards=shards, variants={name: settings.VariantPlan(table, f"direct_{size}")})
    monkeypatch.setattr(settings, "load", lambda: planned)
    with pytest.raises(FarposeError, match=rf"params/pipeline\.yaml: variants\.{name}: {MESSAGE.format('mpii')}"):
        checks.parameters()


def test_a_variant_of_other_data_than_those_in_use_is_refused():
    in_use = settings.data().source
    other = next(dataset for dataset in READABLE if dataset != in_use)
    name = of_dataset(other)
    checks.data_of(VARIANTS[of_dataset(in_use)], "here")
    message = f"variant {name}: a variant of the data set '{other}', but '{in_use}' is in use .*data.source"
    for command in ("train", "evaluate"):
        with pytest.raises(FarposeError, match=message):
            stages.run_stage(command, name)


def test_crops_with_other_joints_are_refused(tmp_path):
    variant = Variant("hrnet_tiny_mpii_64x48", "hrnet", "hrnet_tiny", "mpii", (64, 48))
    with pytest.raises(FarposeError, match=r"variant hrnet_tiny_mpii_64x48: .*joints coco_17, the variant predicts mpii_16"):
        loop.train(variant, write_tiny_shard(tmp_path / "data"), tmp_path / "out", recipe.load())
    assert not (tmp_path / "out").exists()
