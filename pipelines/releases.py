"""Released models: made of a trained variant by `farpose release`, and put into MLflow's registry by `farpose run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of
from pipelines import paths, plan, registration, settings

GREY = 128  # of the registered input example: real crops would be photographs, whose licences differ


@dataclass(frozen=True)
class Making:
    """What `farpose release` was asked for.

    Attributes:
        name: of the released model; `variant`: which was trained.
        trained: folder with model.safetensors and summary.json, as training wrote it.
        shards: name of the crops or images on which it is scored.
        commit: of this repository; None: the one that MLflow's training run names.
        example: of params/examples, with which the variant is trained again; None: the parameters as they stand.
    """

    name: str
    variant: str
    trained: Path
    shards: str
    commit: str | None = None
    example: str | None = None


def make(making: Making, folder: Path, scratch: Path, evaluation: Path | None = None) -> str:
    """Write a released model's folder, whole or not at all; what was compared and scored, in words.

    Rounds the weights to half precision; everything else is made of the rounded ones.

    Args:
        scratch: a folder for files on the way.
        evaluation: an evaluation's folder of the rounded weights; None: they are evaluated here.
    Raises:
        FarposeError: no weights, an origin that is not known, an evaluation of other weights, an ONNX file that finds other joints,
            or a file too large for a clone.
    """
    from components.evaluate.leading import leading, leading_value
    from components.models import zoo
    from components.registry import package, released
    from components.registry.model_card import model_card
    from pipelines import stages

    variant, weights = zoo.variant(making.variant), scratch / package.WEIGHTS
    origin = _traced(making)
    package.halve(making.trained / package.WEIGHTS, variant, weights)
    onnx, compared = scratch / released.ONNX, _export(variant, weights, making.shards, scratch)
    if evaluation is None:
        evaluation = scratch / "evaluation"
        stages.evaluate(variant.name, making.shards, weights, evaluation)
    _require_same(evaluation, weights)
    metrics = read_json(evaluation / "metrics.json")
    stated = _facts(making, origin, metrics)
    files = {package.WEIGHTS: weights, released.ONNX: onnx}
    card = model_card(variant, sha256_of(weights), stated, USE.format(name=making.name))
    released.write(folder, variant, files, registration.preparation(making.shards), stated, card, _notice(stated))
    released.check(folder)
    return f"{leading(metrics).label} {leading_value(metrics):.3f}; {compared}"


def register(repository: Path = paths.REPOSITORY) -> list[str]:
    """Every released model → MLflow's registry, the main one as `champion` of a store that has none; what was done, a line each.

    Raises:
        FarposeError: a released file is damaged, or the store does not answer.
    """
    from components.registry import register as registry
    from components.registry import released, tracking

    root, done = repository / paths.RELEASED.parent.name, []
    for name in released.names(root):
        made, main = candidate(name, root), name == paths.RELEASED.name
        if registry.holds(made, main, repository):
            continue
        params = {"released": name, "variant": made.variant.name}
        with tracking.run(f"register {name}", params=params, tags={"kind": "register", **params}, repository=repository) as run:
            version = registry.register_released(made, run, main)
        done.append(f"{name}: version {version.version} of {made.variant.name}")
    return done


def candidate(name: str, root: Path) -> Any:
    """A released model as a `Candidate` of the registry, see `components.registry.register`."""
    from components.base import imports
    from components.base.config import load_yaml
    from components.registry import package, released
    from components.registry.register import Candidate

    found, stated, sources = released.read(name, root), released.facts(name, root), imports.read(paths.REPOSITORY)
    modules = plan.code(plan.REGISTER, found.variant, found.spec.protocol, sources)["modules"]
    return Candidate(
        variant=found.variant,
        weights=found.weights,
        card=(found.folder / released.README).read_text(),
        metrics=stated.metrics,
        examples=np.full((1, 3, *found.variant.input_size), GREY, np.uint8),
        tags={**stated.lineage, "released": name, **registration.headline(stated.metrics)},
        preparation=load_yaml(found.folder / package.PREPARATION),
        sources={module: sources.paths[module] for module in modules},
    )


def _traced(making: Making) -> dict[str, str]:
    """`git.commit` and `data.md5` of the training."""
    from components.registry import lineage, package, register

    weights = making.trained / package.WEIGHTS
    if not weights.is_file():
        raise FarposeError("no weights to release", where=weights, fix=f"`farpose train {making.variant}`, or name their folder by --from")
    found = {"data.md5": lineage.data_digest(), **register.training_tags(sha256_of(weights))}
    if making.commit:
        found["git.commit"] = making.commit
    commit, fix = found.get("git.commit", ""), "name the commit that holds the training's code by --commit"
    if not commit:
        raise FarposeError("MLflow's store has no run that trained these weights", where=weights, fix=fix)
    if commit.endswith("-dirty"):
        raise FarposeError(f"trained from files that differ from commit {commit.removesuffix('-dirty')}", where=weights, fix=fix)
    found["git.commit"] = lineage.full_commit(commit)
    if not found["git.commit"]:
        raise FarposeError(f"commit {commit} is not in this repository", where=weights, fix=fix)
    return found


def _export(variant: Any, weights: Path, shards: str, scratch: Path) -> str:
    """Write model.onnx with constants of half precision where that changes none; how far its joints are from torch's, in words."""
    from components.approaches import approach
    from components.models import export, half_precision
    from components.registry import released
    from pipelines import stages

    exported, shown = export.exported_form(variant), approach(variant.approach)
    inputs, form = shown.compared(shown.inputs(paths.SHARDS / shards, exported)), shown.form(exported)
    built = stages.trained(exported, weights)
    full, path = scratch / "full.onnx", scratch / released.ONNX
    origin = {"weights_sha256": sha256_of(weights), "compared_on": f"{len(inputs)} {shown.name} of {shards}"}
    export.export(built.model, built.codec, exported, full, inputs, form, origin)
    half_precision.store(full, path, mixed=True)
    found = export.compare(built.model, built.codec, path, [form.fit(one) for one in inputs], form)
    if not found.within_limits:
        raise FarposeError(f"ONNX Runtime differs from torch: {found}", where=path, fix="report the variant and `farpose doctor`")
    return f"ONNX Runtime's joints against torch's on {origin['compared_on']}: {found}"


def _require_same(evaluation: Path, weights: Path) -> None:
    """Numbers of a model card are those of the file beside it."""
    records = read_json(evaluation / "predictions.json")
    scored, digest = {record["provenance"]["weights_sha256"] for record in records}, sha256_of(weights)
    if scored != {digest}:
        problem = f"scores weights {', '.join(sorted(scored)) or 'of nobody'}, not the rounded ones ({digest})"
        raise FarposeError(problem, where=evaluation, fix="leave out --evaluation, or evaluate the released file with `--weights`")


def _facts(making: Making, origin: Mapping[str, str], metrics: dict[str, Any]) -> Any:
    from components.models.weights import read_metadata
    from components.registry import package
    from components.registry.released import Facts
    from components.train import descent

    weights = making.trained / package.WEIGHTS
    trained, summary = read_metadata(weights), read_json(making.trained / "summary.json")
    made = registration.training_facts(trained, summary)
    inits = (made["recipe"]["init"], *made["recipe"].get("averaged_with", ()))
    crops = paths.SHARDS / making.shards / "shard.json"
    if sha256_of(crops) != trained["shard"]:
        raise FarposeError("these are not the crops that the weights were trained on", where=crops, fix="name those by --shards")
    return Facts(
        commit=origin["git.commit"],
        data_md5=origin["data.md5"],
        trained_sha256=summary.get("trained_sha256") or sha256_of(weights),  # a study's weights come back rounded already
        start=descent.described(inits, made["recipe"].get("teacher")),
        origin={
            "source": settings.data().source,
            "shards": making.shards,
            "shards (SHA-256 of shard.json)": trained["shard"],
            "licences": registration.licences(),
            "made by": "; ".join(_commands(making, inits)),
        },
        metrics=metrics,
        **made,
    )


def _commands(making: Making, inits: Sequence[str]) -> list[str]:
    """The commands that make it again from its commit and its data, and before them those of the trainings that it starts from."""
    from components.train import descent

    acquired = f"`farpose acquire {settings.data().source} --from FOLDER`"
    before = descent.earlier(inits)
    earlier = [command for name in before for command in (*_applied(_example_of(name)), acquired, f"`farpose run train@{name}`")]
    example = f" --example {making.example}" if making.example else ""
    released = f"`farpose release {making.variant} --as {making.name}{example}`"
    return [*earlier, *_applied(making.example), acquired, "`farpose run`", released]


def _applied(example: str | None) -> list[str]:
    return [f"`farpose params --apply {example}`"] if example else []


def _example_of(variant: str) -> str | None:
    """Of the params/examples whose pipelines train a variant, the one with the fewest others."""
    from components.base.config import load_yaml

    trained = {path.parent.name: load_yaml(path).get("variants") or {} for path in sorted(paths.EXAMPLES.glob("*/pipeline.yaml"))}
    return min((name for name, variants in trained.items() if variant in variants), key=lambda name: len(trained[name]), default=None)


def _notice(stated: Any) -> str:
    start = "\n".join(f"{key}: {value}" for key, value in stated.start.items())
    return NOTICE.format(source=stated.origin["source"], licences=stated.origin["licences"], start=start)


USE = """The weights are in half precision; the numbers above are theirs. `SHA256SUMS` is checked whenever they are read.
```python
from components.registry import released
model = released.load("{name}")  # model.built: network and codec; model.package: how its inputs are made
```
Or `farpose predict IMAGE` in the repository, which takes this model unless another is named. `model.onnx` holds the network alone:
normalised images (B, 3, H, W) in, maps out."""

NOTICE = """The code that made these weights is Apache-2.0 (LICENSE at the repository's root).

Training data
source: {source}
licences of its images: {licences}
The images themselves are not part of this repository.

Weights that the training started from
{start}
All of them were changed by training, and rounded to half precision. The NOTICE at the repository's root quotes their licences.
"""
