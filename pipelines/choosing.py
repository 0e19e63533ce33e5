"""Which model predicts: a registered one, a released one, or a variant with weights of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError
from pipelines import paths, settings, stages

PATIENCE_S = 5.0  # for a locked store: whoever waits for joints has the released model
ANSWER_S = "10"  # for a server that takes requests and does not answer


@dataclass(frozen=True)
class Subject:
    """The model that predicts, and how its inputs are made.

    Attributes:
        built: `zoo.Built`.
        weights: their file.
        spec, degrade, evaluate: a `ShardSpec`, `DegradeParams` and `EvaluateParams`.
        notes: what a user should know of the choice, a line each.
    """

    built: Any
    weights: Path
    spec: Any
    degrade: Any
    evaluate: Any
    notes: tuple[str, ...] = ()


def chosen(
    name: str | None = None, weights: Path | None = None, check: Callable[[Any], None] | None = None, model: str | None = None
) -> Subject:
    """The named variant or model; or else the registry's champion, or the released model where the store has none or does not answer.

    Args:
        name: a variant: its registered version, or the weights that `train` made where it is not registered.
        weights: of the named variant, in place of both.
        check: called with the variant before its weights are read.
        model: a released model, or a registered one as NAME@ALIAS or NAME@VERSION.
    Raises:
        FarposeError: the variant is neither registered nor trained, no model has this name, both are named, or there is none at all.
    """
    from components.models import zoo

    check = check or (lambda variant: None)
    if name is not None and model is not None:
        raise FarposeError("--model and --variant both name what predicts", fix="give one of them")
    if name is None and weights is not None:
        raise FarposeError("--weights needs --variant", fix="name the variant that they belong to")
    notes: list[str] = []
    if name is not None:
        variant = zoo.variant(name)
        check(variant)
        found = None if weights else _registered(variant.name, notes)
        if found is None:
            weights = weights or weights_of(variant.name)
            return Subject(
                stages.trained(variant, weights), weights, _spec(variant), settings.degrade(), settings.evaluation(), tuple(notes)
            )
    else:
        found = _named(model) if model else _usual(notes)
        check(found.variant)
    return Subject(found.build(), found.weights, found.spec, found.degrade, found.evaluate, tuple(notes))


def _named(model: str) -> Any:
    """A registered or a released model, as a `Package`."""
    from components.registry import promotion, released

    return promotion.read(promotion.find(model)) if "@" in model else released.read(model, paths.RELEASED.parent)


def _usual(notes: list[str]) -> Any:
    """The registry's champion; where there is none, or the store does not answer, the model that comes with the clone."""
    from components.registry import promotion, released, store

    if store.exists():
        try:
            with _briefly():
                version = promotion.champion()
                if version is not None:
                    return promotion.read(version)
        except FarposeError as error:
            if not paths.RELEASED.is_dir():
                raise
            notes.append(f"no champion was read, so the released model {paths.RELEASED.name} predicts: {error}")
    if paths.RELEASED.is_dir():
        return released.read(paths.RELEASED.name, paths.RELEASED.parent)
    fix = f"name a trained variant by --variant; trained: {', '.join(_trained()) or 'none'}"
    raise FarposeError("no champion in the registry and no released model", where=paths.shown(paths.RELEASED), fix=fix)


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    """Meanwhile nobody waits long for a store that is locked or away."""
    from components.registry import store

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", ANSWER_S)
    with store.patience(PATIENCE_S):
        yield


def _registered(name: str, notes: list[str]) -> Any:
    """The newest registered version of a variant, as a `Package`; None where it has none or the store does not answer.

    Outputs of the train stage are no place to read models from: DVC removes them while the variant is trained anew.
    """
    from components.base.files import sha256_of
    from components.registry import promotion, store

    if not store.exists():
        return None
    try:
        with _briefly():
            version = promotion.newest(name)
            found = promotion.read(version) if version is not None else None
    except FarposeError as error:
        notes.append(f"no registered version of {name} was read: {error}")
        return None
    if version is None or found is None:
        return None
    trained = paths.MODELS / name / "model.safetensors"
    if not trained.is_file():
        why = "the weights of its last training are not there"
    elif sha256_of(trained) != sha256_of(found.weights):
        why = f"{paths.shown(trained)} is another training (`farpose run register@{name}`, or --weights FILE)"
    else:
        why = "the weights of its last training"
    notes.append(f"registered version {version.version} of {name} predicts: {why}")
    return found


def weights_of(name: str) -> Path:
    """The variant's weights: the pipeline's, or those of `farpose train` in scratch/.

    Raises:
        FarposeError: it is not trained; lists what is.
    """
    for folder in (paths.MODELS / name, paths.SCRATCH / name / "model"):
        if (folder / "model.safetensors").is_file():
            return folder / "model.safetensors"
    raise FarposeError(f"variant {name!r} is not trained", fix=f"`farpose train {name}`; trained: {', '.join(_trained()) or 'none'}")


def _trained() -> list[str]:
    return sorted(path.parent.name for path in paths.MODELS.glob("*/model.safetensors"))


def _spec(variant: Any) -> Any:
    """How inputs of the variant are made: as the shards it was trained on, or directly."""
    from components.approaches import approach

    pipeline = settings.load()
    plan = pipeline.variants.get(variant.name)
    return pipeline.shards[plan.shards] if plan else approach(variant.approach).spec(variant)
