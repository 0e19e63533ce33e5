"""Checks of all parameter files at once: an error is reported before anything runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from pipelines import settings

if TYPE_CHECKING:
    from components.degrade.augment import AugmentParams
    from components.degrade.params import ShardSpec
    from components.models.variant import Variant


def parameters() -> dict[str, Any]:
    """Every parameter of the default run, typed: `data`, `degrade`, `fan_out`, `evaluate`, `train`, `pipeline` and each variant's recipe.

    Raises:
        FarposeError: the first error in params/, with its place.
    """
    from components.approaches import approach
    from components.datasets.synthetic.params import SyntheticParams
    from components.evaluate.conditions import Condition
    from components.models import baselines, zoo
    from components.train import recipe as recipes

    pipeline = settings.load()
    found: dict[str, Any] = {
        "data": settings.data(),
        "synthetic": parse(SyntheticParams, load_yaml(PARAMS / "data.yaml").get("synthetic", {}), "params/data.yaml: synthetic"),
        "degrade": settings.degrade(),
        "fan_out": settings.fan_out(),
        "evaluate": settings.evaluation(),
        "train": recipes.load(),
        "pipeline": pipeline,
    }
    conditions = [Condition.of(name).name for name in found["evaluate"].conditions]
    for name, peer in pipeline.peers.items():
        for condition in peer.conditions:
            if condition not in conditions:
                raise unknown_name(
                    "condition", condition, conditions, where=f"params/pipeline.yaml: peers.{name}: not in evaluate.conditions"
                )
    variants = zoo.load_variants()
    for name, plan in pipeline.variants.items():
        where = f"params/pipeline.yaml: variants.{name}"
        if name not in variants:
            raise unknown_name("variant", name, variants, where=where)
        table = PARAMS / "variants" / f"{plan.table}.yaml"
        if name not in load_yaml(table):
            raise FarposeError(f"variant is not in {table.name}", where=where, fix="correct `table`")
        if pipeline.shards[plan.shards].input_size != variants[name].input_size:
            size = "{}x{}".format(*variants[name].input_size)
            raise FarposeError(f"the variant needs input of {size} px, {plan.shards} has another size", where=where, fix="correct `shards`")
        shown = approach(variants[name].approach)
        if not shown.takes(pipeline.shards[plan.shards]):
            raise FarposeError(f"the variant needs {shown.needs}, {plan.shards} holds others", where=where, fix="correct `shards`")
        margin_of(pipeline.shards[plan.shards], recipes.resolve(variants[name], found["train"], plan.recipe).augmentation, where)
        data_of(variants[name], where)
    budgets = recipes.budgets()
    for variant in variants.values():
        for kind in get_args(recipes.Kind):
            recipes.resolve(variant, found["train"], kind, known=budgets)
    baselines.pairs(variants)
    return found


def margin_of(spec: ShardSpec, augmentation: AugmentParams, where: str) -> None:
    """Check that planned shards hold as much around the persons as the variant's augmentation needs.

    Raises:
        FarposeError: they hold less; names shards that do.
    """
    needed = round(augmentation.margin_scale, 6)
    if not spec.images and needed > spec.margin_scale:
        enough = dataclasses.replace(spec, margin_scale=needed).name
        problem = f"its augmentation needs shards with margin_scale {needed:g}, {spec.name} has {spec.margin_scale:g}"
        fix = f"plan shards {enough!r} with margin_scale: {needed:g} for it, or lower scale_sigma in its recipe"
        raise FarposeError(problem, where=where, fix=fix)


def data_of(variant: Variant, where: str, mapped: bool = False) -> None:
    """Check that the data set in use is the variant's: results on another data set would be mislabelled.

    Args:
        mapped: also allow one whose entry maps its joints to the variant's (`mapping`): it is meant for models of other data.

    Raises:
        FarposeError: no reader for the variant's data set, or another data set is in use.
    """
    from components.datasets.params import require_reader

    require_reader(variant.dataset, where)
    source = settings.data().source
    if mapped and settings.data().files.mapping and settings.data().files.table_skeleton(source) == variant.skeleton:
        return
    if variant.dataset != source:
        problem = f"a variant of the data set {variant.dataset!r}, but {source!r} is in use"
        raise FarposeError(problem, where=where, fix="set data.source in params/data.yaml, or take the variant of those data")
