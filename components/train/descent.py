"""What trained weights descend from: their start and their teacher, back to files that no training here made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from components.base import origins
from components.base.errors import FarposeError
from components.models import starts, zoo
from components.models.weights import trained_here
from components.train import recipe as recipes
from components.train import teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from components.models.variant import Variant
    from components.train.recipe import Recipe

TOLD = ("paper", "reprints", "baseline", "exceptions", "train")  # fields of an entry that reach training through its recipe or not at all


def entry(variant: Variant) -> dict[str, Any]:
    """The part of an entry that training depends on directly."""
    return {key: value for key, value in dataclasses.asdict(variant).items() if key not in TOLD}


def decided(variant: Variant, recipe: Recipe, descendants: tuple[str, ...] = ()) -> dict[str, Any]:
    """`start` and `teacher` of a training: a file's digest, or, where a variant is trained here, its entry, recipe, start and teacher.

    Weights that are trained here need not be there yet, nor what they start from. `averaged_with` is there where the recipe has it.

    Args:
        descendants: variants that descend from this one.
    Raises:
        FarposeError: another file is not there or not the named one, no variant trains it, or a variant descends from itself.
    """
    line, digest = (*descendants, variant.name), _named if descendants else starts.digest
    found = {"start": _decided(recipe.init, digest, line), "teacher": _decided(recipe.teacher, teacher.digest, line)}
    averaged = [_decided(path, digest, line) for path in recipe.averaged_with]
    return found | ({"averaged_with": averaged} if averaged else {})


def described(inits: Sequence[str], taught: str | None) -> dict[str, Any]:
    """What a model must say of its start and its teacher: for its card. A start that is trained here is named, with what that started from.

    Args:
        inits: of its recipe, `init` and `averaged_with`.
        taught: of its recipe, `teacher`.
    Raises:
        FarposeError: as `decided`, or starts that are averaged descend from different ones, whose licences one card could not state.
    """
    first, *others = map(published, inits)
    if other := next((start for start in others if start != first), None):
        problem = f"averages weights that descend from {first} and from {other}"
        raise FarposeError(problem, where=f"init: {inits[0]}", fix="name trainings that descend from one start in `averaged_with`")
    every = [_started(init) for init in inits]
    of_all = {key: value for start in reversed(every) for key, value in start.items()}
    if len(every) > 1:
        of_all["weights"] = f"the mean of {' and of '.join(start['weights'] for start in every)}"
    return of_all | teacher.described(taught)


def _started(init: str) -> dict[str, Any]:
    name = trained_here(init)
    if name is None:
        return starts.described(init)
    recipe = _recipe(zoo.variant(name))
    before = described((recipe.init, *recipe.averaged_with), recipe.teacher)
    return before | {"weights": f"{name} ({init}), trained from {before['weights']}"}


def earlier(inits: Sequence[str]) -> list[str]:
    """The variants whose weights lead to starts, the first to train first."""
    found: list[str] = []
    for name in filter(None, map(trained_here, inits)):
        recipe = _recipe(zoo.variant(name))
        found += [*earlier((recipe.init, *recipe.averaged_with)), name]
    return list(dict.fromkeys(found))


def published(init: str) -> str:
    """The start at the beginning of a line of trainings: what others made, or random weights."""
    name = trained_here(init)
    return published(_recipe(zoo.variant(name)).init) if name else init


def _decided(path: str | None, digest: Callable[[Any], str | None], line: tuple[str, ...]) -> object:
    name = trained_here(path) if path else None
    if name is None:
        return digest(path)
    if name in line:
        raise FarposeError(f"descends from itself: {' from '.join((*line, name))}", where=f"variant {name}", fix="name other weights")
    variant = zoo.variant(name)
    recipe = _recipe(variant)
    return {"variant": entry(variant), "recipe": dataclasses.asdict(recipe), **decided(variant, recipe, line)}


def _named(init: str) -> str | None:
    """The digest that params/weights.yaml gives a start, whose file need not be there."""
    known = origins.load("start")
    return known[init].sha256 if init in known else starts.digest(init)


def _recipe(variant: Variant) -> Recipe:
    return recipes.resolve(variant, recipes.load())
