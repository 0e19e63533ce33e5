"""Registered models, scored on a data set: that of the pipeline, or another one of params/data.yaml."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.errors import FarposeError, unknown_name
from components.base.files import read_json, sha256_of
from pipelines import devices, paths, settings

if TYPE_CHECKING:
    from components.datasets.params import DataParams
    from components.pose.persons import Persons
    from components.registry.package import Package

JUDGED = paths.SCRATCH / "judged"  # what is made for models whose inputs the pipeline does not make


@dataclass(frozen=True)
class Ground:
    """What models are scored on.

    Attributes:
        data: parameters with the data set as `source`.
        persons: folder of its tables.
        shards: folders in which its inputs may lie already; the last one takes new ones.
    """

    data: DataParams
    persons: Path
    shards: tuple[Path, ...]

    @functools.cached_property
    def table(self) -> Persons:
        """All rows of its persons table."""
        from components.pose.persons import Persons

        return Persons.read(self.persons / "persons.parquet")

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""
        return paths.DATA / self.data.source


def here() -> Ground:
    """The persons of the pipeline.

    Raises:
        FarposeError: the fetch stage did not run.
    """
    if not (paths.PERSONS / "persons.parquet").is_file():
        raise FarposeError("there are no persons to score models on", where=paths.shown(paths.PERSONS), fix="farpose run fetch")
    data = settings.data()
    return Ground(data, paths.PERSONS, (paths.SHARDS, JUDGED / data.source / "shards"))


def on(dataset: str, split: str = "val") -> Ground:
    """Another data set of params/data.yaml, whose raw files are in data/<name>; its tables are made anew.

    Args:
        split: that is asked for. Without "dev" all training images stay such: a small data set need not have a development split.
    Raises:
        FarposeError: no such data set, its raw files are not there, or what `fetch` raises.
    """
    from components.datasets.fetch import fetch

    data = settings.data()
    if dataset == data.source:
        return here()
    if dataset not in data.sources:
        raise unknown_name("data set", dataset, data.sources, where="params/data.yaml: data.sources")
    shares = data.splits if split == "dev" else dataclasses.replace(data.splits, dev=0.0)
    data = dataclasses.replace(data, source=dataset, splits=shares)
    if not (paths.DATA / dataset).is_dir():
        raise FarposeError("its files are not there", where=paths.DATA / dataset, fix=f"farpose acquire {dataset} --from FOLDER")
    manifest = paths.REPOSITORY / data.files.manifest if data.files.manifest else None
    folder = JUDGED / dataset / f"for_{split}"
    fetch(data, paths.DATA / dataset, folder / "persons", manifest)
    return Ground(data, folder / "persons", (folder / "shards",))


def judge(
    model: Package, ground: Ground, split: str, folder: Path, conditions: tuple[str, ...] = (), detector_reductions: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Evaluate a model into `folder`, as the evaluate stage does; its metrics.

    Args:
        split: "val" or "dev".
        conditions, detector_reductions: as in params/evaluate.yaml.
    Raises:
        FarposeError: as `inputs`, or what the evaluation raises.
    """
    from components.approaches import approach
    from components.evaluate.approach import EvaluationContext, EvaluationData
    from components.evaluate.stage import evaluate
    from components.pose.images import IMAGES_FILE, read_images
    from components.registry import lineage

    only = {"conditions": conditions, "decodings": (), "boxes": "gt", "detector_reductions": detector_reductions}
    params = dataclasses.replace(settings.evaluation(), split=split, **only)  # type: ignore[arg-type]
    images = read_images(ground.persons / IMAGES_FILE)
    data = EvaluationData(
        inputs=inputs(ground, model, split),
        persons=ground.table.split(split),
        images=images[images["split"] == split],
        data_root=ground.root,
        degrade=model.degrade,
        split=split,
        evaluator=ground.data.files.evaluator,
    )
    built = model.build()
    provenance: dict[str, Any] = {
        "model": model.variant.name,
        "weights_sha256": sha256_of(model.weights),
        "data_set": ground.data.source,
        "split": split,
    }
    provenance |= {"git_commit": lineage.git_commit(), "versions": lineage.versions()}
    with devices.taken() as device:
        context = EvaluationContext(built.model, built.codec, data, params, folder, provenance, device, model.variant.name)
        return evaluate(approach(model.variant.approach), context)


def inputs(ground: Ground, model: Package, split: str) -> Any:
    """A split's evaluation inputs as the model takes them; a shard of them alone is made if there is none.

    Raises:
        FarposeError: the model's joints are others than the data set's, or the split has no labelled person.
    """
    from components.approaches import approach
    from components.degrade.shard import Source
    from components.degrade.stage import degrade
    from components.pose.ignored import IGNORED_FILE, IgnoredRegions
    from components.pose.images import IMAGES_FILE, read_images

    persons, params = ground.table, settings.evaluation()
    if persons.skeleton != model.variant.skeleton:
        problem = f"the model finds the joints {model.variant.skeleton.name}, {ground.data.source} has {persons.skeleton.name}"
        fix = "set `mapping` in the data set's entry of params/data.yaml, or take a model of these joints"
        raise FarposeError(problem, where=f"model {model.variant.name}", fix=fix)
    if split not in set(persons.frame["split"]):
        fix = f"take the other split (--split), or make {split} in params/data.yaml (data.splits) and run fetch again"
        raise FarposeError(f"no person is in split {split!r}", where=ground.data.source, fix=fix)
    shown = approach(model.variant.approach)
    for about in sorted(path for folder in ground.shards for path in folder.glob("*/shard.json")):
        if _made_alike(read_json(about), model, split):
            opened = shown.inputs(about.parent, model.variant, params, split)
            if shown.follows(about.parent.name, opened, persons.split(split)).passed:
                return opened
    images, ignored = read_images(ground.persons / IMAGES_FILE), IgnoredRegions.read(ground.persons / IGNORED_FILE)
    made = ground.shards[-1] / f"{model.spec.name}_{split}"
    degrade(Source(persons, ground.root, images, ignored, only=split), model.spec, model.degrade, made, progress=False)
    return shown.inputs(made, model.variant, params, split)


def _made_alike(about: dict[str, Any], model: Package, split: str) -> bool:
    """Whether a shard has a split's inputs, made as the model's; how far training views reach does not matter."""
    spec, wanted = about["spec"], model.spec
    made = tuple(spec["input_size"]), spec["protocol"], spec["images"]
    params = model.degrade.of(wanted.protocol)
    same = all(about["params"][key] == params[key] for key in ("seed", "protocols"))
    return same and split in about["splits"] and made == (wanted.input_size, wanted.protocol, wanted.images)
