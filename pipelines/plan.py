"""Everything that decides each variant's result: the code that its stages import, its entry and its recipe, in one file per stage.

`train@NAME`, `evaluate@NAME` and `register@NAME` depend on their file. A changed comment, another method's file or another
variant's entry leaves it as it is, byte for byte, and so leaves their results up to date.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base import imports
from components.base.files import atomic_directory, read_json, write_json
from components.base.imports import Sources
from components.base.records import module_of
from pipelines import paths, settings
from pipelines.settings import Pipeline

if TYPE_CHECKING:
    from components.models.variant import Variant
    from components.train.recipe import Kind

TRAIN, EVALUATE, REGISTER = "train", "evaluate", "register"
STAGES = (TRAIN, EVALUATE, REGISTER)
SERVING = "components.registry.serving"  # what a registered model runs
NO_PART = (  # imported by a stage, but without effect on its result
    "components.registry",  # it records runs
    "components.datasets",  # it reads the table of images, which the stage depends on
)


def write(folder: Path, pipeline: Pipeline) -> int:
    """Write `folder`/<stage>/<variant>.json for every variant of the pipeline, whole or not at all; how many variants there are.

    Raises:
        FarposeError: what is wrong in params/, or code that cannot be read.
    """
    from components.models import zoo

    sources, variants = imports.read(paths.REPOSITORY), zoo.load_variants()
    with atomic_directory(folder) as made:
        for name, planned in pipeline.variants.items():
            protocol = pipeline.shards[planned.shards].protocol
            for stage, decided in decisions(variants[name], pipeline.recipe_of(name)).items():
                write_json(made / stage / f"{name}.json", {**code(stage, variants[name], protocol, sources), **decided})
    return len(pipeline.variants)


def decisions(variant: Variant, kind: Kind = "published") -> dict[str, dict[str, Any]]:
    """By stage: the resolved parameters that decide its result. Numbers that papers report do not decide weights.

    Args:
        kind: the recipe that the variant is trained by.
    Raises:
        FarposeError: the file that the recipe starts from is not there, or not the one that params/weights.yaml names.
    """
    from components.train import descent
    from components.train import recipe as recipes
    from pipelines import counts

    entry, recipe = dataclasses.asdict(variant), recipes.resolve(variant, recipes.load(), kind)
    spent = counts.stored().get(counts.key(variant))
    return {
        TRAIN: {"variant": descent.entry(variant), "recipe": dataclasses.asdict(recipe), **descent.decided(variant, recipe)},
        EVALUATE: {
            "variant": entry,
            "evaluate": dataclasses.asdict(settings.evaluation()),
            "costs": spent and dataclasses.asdict(spent),
        },
        REGISTER: {"variant": entry, "start": descent.described((recipe.init, *recipe.averaged_with), recipe.teacher)},
    }


def code(stage: str, variant: Variant, protocol: str | None, sources: Sources) -> dict[str, Any]:
    """`code`: one digest of all that the variant's stage imports; `modules`: a digest of each module, to see which one changed."""
    digests = sources.digests(sources.closure([*roots(stage, sources), *own_modules(stage, variant, protocol)]))
    return {"code": imports.together(digests), "modules": {name: digest[:16] for name, digest in digests.items()}}


def roots(stage: str, sources: Sources) -> list[str]:
    """What a stage's function in `pipelines.stages` imports of components/, or what serving a registered model imports."""
    if stage == REGISTER:
        return [name for name in sources.paths if name.startswith(SERVING)]
    named = imports.named_in(Path(__file__).with_name("stages.py"), stage, sources)
    return [name for name in named if not name.startswith(NO_PART)]


def code_now(stage: str, variant: Variant, shards: str) -> str:
    """The digest of what a variant's stage imports, from the files on disk; also for variants outside the pipeline."""
    known = settings.load().shards
    digest: str = code(stage, variant, known[shards].protocol if shards in known else None, imports.read(paths.REPOSITORY))["code"]
    return digest


def own_modules(stage: str, variant: Variant, protocol: str | None) -> list[str]:
    """The modules that are found by name at run time; a variant's stage uses one of each kind. Training uses only the feed of an
    approach."""
    from components.evaluate.conditions import Condition

    names = [
        ("components.models.methods", "METHOD", variant.method),
        ("components.codecs", "CODEC", variant.codec_name),
        ("components.approaches", "FEED" if stage == TRAIN else "APPROACH", variant.approach),
        ("components.degrade.protocols", "PROTOCOL", protocol),
    ]
    if stage == EVALUATE:  # further protocols that the weights are scored on
        conditions = [Condition.of(name).protocol for name in settings.evaluation().conditions]
        names += [("components.degrade.protocols", "PROTOCOL", name) for name in conditions]
    return list(dict.fromkeys(module_of(package, attribute, name) for package, attribute, name in names if name))


def read(stage: str, name: str) -> dict[str, Any]:
    """What was planned for a variant's stage.

    Raises:
        FarposeError: nothing was: the plan stage has not run for it.
    """
    found: dict[str, Any] = read_json(paths.PLAN / stage / f"{name}.json")
    return found
