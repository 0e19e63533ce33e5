"""Variants that take the place of those in params/, with their data set and the shards that they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import yaml

from components.approaches import approach
from components.base.errors import FarposeError
from components.degrade.params import MARGIN_SCALE, ShardSpec
from components.models import entries, zoo
from components.models.variant import Variant
from components.train import recipe as recipes


def overlays(names: Sequence[str]) -> dict[str, str]:
    """File of params/ → overlay (`pipelines.overlay`) under which these variants alone are trained and scored, by their published recipes.

    Raises:
        FarposeError: an unknown variant, or variants of several data sets.
    """
    variants = [zoo.variant(name) for name in dict.fromkeys(names)]
    datasets = list(dict.fromkeys(variant.dataset for variant in variants))
    if len(datasets) > 1:
        raise FarposeError(f"the variants are of several data sets: {', '.join(datasets)}", fix="name those of one, the pipeline has one")
    files = entries.read(zoo.VARIANTS)
    specs = {variant.name: shards_for(variant) for variant in variants}
    planned = {name: {"table": files[name].path.stem, "shards": spec.name} for name, spec in specs.items()}
    shards = {spec.name: _written(spec) for spec in specs.values()}
    pipeline = {"_replace": ["shards", "variants"], "shards": shards, "variants": planned}
    contents = {"data.yaml": {"data": {"source": datasets[0]}}, "pipeline.yaml": pipeline}
    return {file: yaml.safe_dump(value, sort_keys=False) for file, value in contents.items()}


def shards_for(variant: Variant) -> ShardSpec:
    """The shards of the papers' protocol (`direct`) that hold what the variant's published recipe looks at."""
    spec = approach(variant.approach).spec(variant)
    if spec.images:  # which have no margin
        return spec
    needed = recipes.resolve(variant, recipes.load()).augmentation.margin_scale
    return dataclasses.replace(spec, margin_scale=max(MARGIN_SCALE, round(needed, 6)))


def _written(spec: ShardSpec) -> dict[str, object]:
    """As an entry of `shards` in params/pipeline.yaml."""
    said = {**dataclasses.asdict(spec), "input_size": list(spec.input_size)}
    defaults = {field.name: field.default for field in dataclasses.fields(spec) if field.name in ("images", "margin_scale")}
    return {key: value for key, value in said.items() if defaults.get(key) != value}
