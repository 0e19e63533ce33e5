"""The register stage of one variant: its package, model card and tags."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from components.base.files import atomic_directory, read_json, write_json
from pipelines import paths, plan, settings

UNKNOWN = "unknown"  # licence of an image whose annotations state none


def register(name: str, shards: str) -> None:
    """One variant's model → MLflow's registry, with its card and the alias `challenger`.

    Writes the card and `registration.json`, which names contents and no run or version: equal models leave equal files.
    """
    from components.registry import register as registry
    from components.registry import tracking

    with tracking.run(f"register@{name}", params={"variant": name}, tags={"kind": "register", "variant": name}) as run:
        candidate = _candidate(name, shards)
        version = registry.register(candidate, run)
        with atomic_directory(paths.REGISTRATION / name) as folder:
            (folder / "model_card.md").write_text(candidate.card)
            written = {"alias": registry.CHALLENGER, "weights_sha256": candidate.weights_sha256, "package_sha256": candidate.identity}
            write_json(folder / "registration.json", written)
        run.artifact(paths.REGISTRATION / name)
        print(f"{name}: version {version.version}, alias {registry.CHALLENGER}")


def _candidate(name: str, shards: str) -> Any:
    from components.base import imports
    from components.models import zoo
    from components.models.weights import read_metadata
    from components.registry.model_card import Facts, model_card
    from components.registry.register import PICTURE, Candidate

    variant = zoo.variant(name)
    weights = paths.MODELS / name / "model.safetensors"
    metrics, training = (read_json(paths.RESULTS / kind / f"{name}.json") for kind in ("evaluate", "train"))
    planned = {stage: plan.read(stage, name) for stage in (plan.TRAIN, plan.REGISTER)}
    trained = read_metadata(weights)
    sources = imports.read(paths.REPOSITORY).paths
    facts = Facts(
        start=planned[plan.REGISTER]["start"],
        origin={
            "shards (SHA-256 of shard.json)": trained["shard"],
            "code of the training (digest)": planned[plan.TRAIN]["code"],
            "code in this package (digest)": planned[plan.REGISTER]["code"],
            "source": settings.data().source,
            "shards": shards,
            "licences": licences(),
        },
        metrics=metrics,
        **training_facts(trained, training),
    )
    picture = paths.EVALUATIONS / name / PICTURE
    return Candidate(
        variant=variant,
        weights=weights,
        card=model_card(variant, training["model_sha256"], facts, picture=PICTURE if picture.is_file() else ""),
        metrics=metrics,
        examples=_examples(variant, shards),
        tags={"shards": shards, **headline(metrics), **_lock_tags(name)},
        preparation=preparation(shards),
        sources={module: sources[module] for module in planned[plan.REGISTER]["modules"]},
        picture=picture if picture.is_file() else None,
    )


def headline(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The tag of a version that says its leading number, in percent with its 95 % interval."""
    from components.evaluate.leading import leading_interval, leading_key, leading_value
    from components.registry.units import PERCENT

    ends = [100 * end for end in leading_interval(metrics) if end is not None]
    interval = " ({:.1f} to {:.1f})".format(*ends) if len(ends) == 2 else ""
    return {leading_key(metrics) + PERCENT: f"{100 * leading_value(metrics):.1f}{interval}"}


def _examples(variant: Any, shards: str) -> Any:
    """(N, 3, H, W) uint8: examples of the registered model's input."""
    from components.approaches import approach

    shown = approach(variant.approach)
    return shown.examples(shown.inputs(paths.SHARDS / shards, variant, settings.evaluation()))


def training_facts(trained: Mapping[str, str], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a training: `recipe`, `training` and `versions`.

    Args:
        trained: metadata of the weights that training wrote.
        summary: of the training, without what was measured, see `train.output.write_output`.
    """
    from components.registry.register import package_versions

    return {
        "recipe": json.loads(trained["recipe"]),
        "training": dict(summary),
        "versions": {**{f"{key} (training)": trained[key] for key in ("torch", "numpy")}, **package_versions()},
    }


def licences() -> str:
    """The licence of the data set's entry, and those that its annotations state of single images."""
    from components.pose.persons import Persons

    stated = ", ".join(sorted(set(Persons.read(paths.PERSONS / "persons.parquet").frame["licence"].unique()) - {UNKNOWN}))
    own = settings.data().files.licence
    return f"{own}; images: {stated}" if stated and stated != own else own


def preparation(shards: str) -> dict[str, dict[str, Any]]:
    """How the evaluation makes its inputs."""
    sections: dict[str, Any] = {"shards": settings.load().shards[shards], "degrade": settings.degrade(), "evaluate": settings.evaluation()}
    return {name: dataclasses.asdict(section) for name, section in sections.items()}


def _lock_tags(name: str) -> dict[str, str]:
    """DVC's hashes of what the model was trained from, and of the model itself."""
    from components.registry import lineage

    hashes = lineage.lock_hashes(f"train@{name}")
    return {f"dvc.{path}": value for path, value in hashes.items() if path.startswith("artifacts/")}
