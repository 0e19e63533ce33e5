"""Every row of docs/tables.md starts: two steps of its recipe on drawn persons in its data set's form, and the benchmark's numbers.

    make test-slow ARGS="tests/test_table_rows.py"

`make test` starts the small ones.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.approaches import approach
from components.base.files import read_json
from components.datasets.fetch import IGNORED_FILE, PERSONS_FILE, fetch
from components.datasets.params import DataParams, SplitShares
from components.datasets.synthetic import SyntheticParams, write_synthetic
from components.datasets.synthetic.forms import ANNOTATE
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade
from components.evaluate import stage
from components.evaluate.approach import EvaluationContext, EvaluationData
from components.evaluate.headline import headline
from components.evaluate.params import EvaluateParams
from components.models import spsr, upscale, zoo
from components.models.variant import Variant
from components.models.weights import load_weights, save_weights
from components.pose.ignored import IgnoredRegions
from components.pose.images import IMAGES_FILE, read_images
from components.pose.persons import Persons
from components.train import recipe as recipes
from components.train.loop import train
from pipelines.chosen import shards_for
from tests.coco_files import COMMITTED
from tests.test_tables import ROWS, VARIANTS

NAMES = list(dict.fromkeys(name for row in ROWS for name in row.variants))
FORM = {"coco": "synthetic", "mpii": "synthetic_mpii", "crowdpose": "synthetic_crowdpose", "wholebody": "synthetic_wholebody"}
# a seed of whole persons, alone in their images, so that every part and joint is scored
PEOPLE = SyntheticParams(train_images=4, val_images=2, seed=20181, min_height_px=100.0, max_persons=1, empty_fraction=0.0)
SHORT = {"epochs": 1, "batch_size": 2, "validate_every": 0, "validate_on": "val"}  # keys of `train:` over the row's own
PARTS = ("body", "foot", "face", "lefthand", "righthand")
NUMBERS = {  # what a row's columns are read from
    "oks": {"AP", "AP50", "AP75", "AR"},
    "pckh": {"PCKh_50", "PCKh_10", "PCKh_50_head", "PCKh_50_ankle"},
    "crowdpose": {"AP", "AP_easy"},  # these drawings are alone in their images
    "wholebody": {"AP", *(f"AP_{part}" for part in PARTS)},
}
QUICK = {  # one of each kind: seconds each
    "hrnet_w32_coco_64x48",
    "udp_offset_hrnet_w32_coco_64x48",
    "cal_hrnet_w32_coco_64x48",
    "srpose_resnet50_mpii_256x256",
    "srpose_resnet50_crowdpose_256x192",
    "siu_resnet50_wholebody_256x192",
    "litepose_xs_coco_256",
    "litepose_xs_crowdpose_256",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Data set → a folder with its form's raw files and its persons table."""

    @functools.cache
    def draw(dataset: str) -> Path:
        name, root = FORM[dataset], tmp_path_factory.mktemp(dataset)
        write_synthetic(root / "raw", PEOPLE, progress=False, workers=1, annotate=ANNOTATE[name])
        entry = dataclasses.replace(COMMITTED[name], manifest=None)
        fetch(DataParams(source=name, sources={name: entry}, splits=SplitShares()), root / "raw", root / "persons", None)
        return root

    return draw


@pytest.fixture(scope="module")
def shards(drawn: Callable[[str], Path]) -> Callable[[str, ShardSpec], Path]:
    """Data set and shards → their folder."""

    @functools.cache
    def cut(dataset: str, spec: ShardSpec) -> Path:
        root = drawn(dataset)
        persons, images = Persons.read(root / "persons" / PERSONS_FILE), read_images(root / "persons" / IMAGES_FILE)
        source = Source(persons, root / "raw", images, IgnoredRegions.read(root / "persons" / IGNORED_FILE))
        degrade(source, spec, DegradeParams(threads=1), root / spec.name, progress=False)
        return root / spec.name

    return cut


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of SPSR's generator, drawn at random, in the place of the published ones."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("generator") / "spsr_x4.safetensors"
    save_weights(path, spsr.Generator(), {"variant": upscale.GENERATOR, "recipe": "{}"})
    return path


def short(name: str, generator: Path) -> Variant:
    """The row's variant with the keys of `SHORT`, as an entry `like:` it would have them."""
    variant = VARIANTS[name]
    network = variant.network
    if variant.upscale == "spsr":
        network = dataclasses.replace(network, upscale_weights=str(generator))
    return dataclasses.replace(variant, train={**variant.train, **SHORT}, network=network)


@pytest.mark.timeout(3600)  # HigherPose at 512x512 attends over 16,384 cells in twelve layers
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES])
def test_a_row_takes_two_steps_and_is_scored(
    name: str, drawn: Callable[[str], Path], shards: Callable[[str, ShardSpec], Path], generator: Path, tmp_path: Path
) -> None:
    variant = short(name, generator)
    folder, root = shards(variant.dataset, shards_for(VARIANTS[name])), drawn(variant.dataset)
    recipe = recipes.resolve(variant, recipes.load())
    summary = train(variant, folder, tmp_path / "model", recipe, "cpu", tmp_path / "checkpoints")
    assert summary["steps"] == 2 and math.isfinite(read_json(tmp_path / "model" / "history.json")[-1]["loss"])
    torch.manual_seed(recipe.seed)
    built, judge = zoo.build(variant), approach(variant.approach)  # as before the first step: all recipes start at random
    trained = load_weights(tmp_path / "model" / "model.safetensors", variant)
    learning = {key: value for key, value in built.model.named_parameters() if value.requires_grad and value.dim() > 1}
    assert [key for key, value in learning.items() if torch.equal(trained[key], value)] == []
    built.model.load_state_dict(trained)
    images, evaluator = read_images(root / "persons" / IMAGES_FILE), COMMITTED[FORM[variant.dataset]].evaluator
    assert evaluator == COMMITTED[variant.dataset].evaluator
    params = EvaluateParams(bootstrap_resamples=10, gallery_size=1, batch_size=2)
    persons = Persons.read(root / "persons" / PERSONS_FILE).split("val")
    scored = images[images["split"] == "val"]
    data = EvaluationData(judge.inputs(folder, variant, params, "val"), persons, scored, root / "raw", evaluator=evaluator)
    metrics = stage.evaluate(judge, EvaluationContext(built.model, built.codec, data, params, tmp_path / "out", {}))
    assert all(0 <= metrics[f"{number}_{headline(metrics)}"] <= 1 for number in NUMBERS[evaluator])
    assert metrics["persons"] == 2
