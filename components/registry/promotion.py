"""The alias `champion`: who has it, who gave it, and who had it before.

A person may set it in MLflow's pages; `farpose promote` sets it with its reasons. Every decision, a refusal too, is a run of kind
`promotion`, which is the history that `rolled_back` follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.config import REPOSITORY
from components.base.errors import FarposeError, unknown_name
from components.registry import package, store, tracking
from components.registry.register import CHALLENGER, CHAMPION, champions

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

KIND = "promotion"
PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"
DECISION, CANDIDATE, BEFORE = "promotion.decision", "promotion.candidate", "promotion.before"  # tags of a decision's run
WHY, BY, RUN = "promotion.why", "promotion.by", "promotion.run"  # tags of the version


@dataclass(frozen=True)
class Decision:
    """What was decided of a version.

    Attributes:
        decision: `PROMOTED`, `REFUSED` or `ROLLED_BACK`.
        why: reasons in words, a line each.
        numbers: what the reasons rest on, nested.
    """

    decision: str
    why: tuple[str, ...]
    numbers: Mapping[str, Any]


def label(version: ModelVersion) -> str:
    """Such as `NAME, version 3`."""
    return f"{version.name}, version {version.version}"


def find(wanted: str, repository: Path = REPOSITORY) -> ModelVersion:
    """The registered version that a user names: NAME (its challenger), NAME@ALIAS or NAME@VERSION.

    Raises:
        FarposeError: no such model, or it has no such version or alias.
    """
    from mlflow.exceptions import MlflowException

    client, _ = store.open_store(repository)
    name, _, which = wanted.partition("@")
    which = which or CHALLENGER
    try:
        if which.isdecimal():
            return client.get_model_version(name, which)
        return client.get_model_version_by_alias(name, which)
    except MlflowException as error:
        models = {model.name: model for model in client.search_registered_models()}
        if not models:
            fix = "`farpose run` registers what it trains, and the models that come with the clone"
            raise FarposeError("no model is registered yet", where=store.tracking_uri(repository), fix=fix) from error
        if name not in models:
            raise unknown_name("registered model", name, models, where=store.tracking_uri(repository)) from error
        aliases = ", ".join(f"{name}@{alias}" for alias in sorted(models[name].aliases)) or "none"
        problem = f"{name} has no {'version' if which.isdecimal() else 'alias'} {which!r}"
        raise FarposeError(problem, where=store.tracking_uri(repository), fix=f"its aliases: {aliases}") from error


def newest(name: str, repository: Path = REPOSITORY) -> ModelVersion | None:
    """The version of a registered model that has the alias `challenger`, or else the last one; None if there is none."""
    client, _ = store.open_store(repository)
    versions = {int(one.version): one for one in client.search_model_versions(f"name = '{name}'")}
    if not versions:
        return None
    aliases = client.get_registered_model(name).aliases
    return versions[int(aliases.get(CHALLENGER, max(versions)))]


def champion(repository: Path = REPOSITORY) -> ModelVersion | None:
    """The version with the alias `champion`; of several models that have one, the one changed last."""
    client, _ = store.open_store(repository)
    named = champions(client)
    if not named:
        return None
    model = max(named, key=lambda one: one.last_updated_timestamp)
    return client.get_model_version_by_alias(model.name, CHAMPION)


def read(version: ModelVersion, repository: Path = REPOSITORY) -> package.Package:
    """The files of a version, copied from the store.

    Raises:
        FarposeError: they are not there.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    store.open_store(repository)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}"))
    except (MlflowException, OSError) as error:
        fix = "register the model again, or name another one"
        raise FarposeError(f"the files of {label(version)} are not there", where=store.tracking_uri(repository), fix=fix) from error
    return package.read(folder / "artifacts")


def decide(version: ModelVersion, decision: Decision, repository: Path = REPOSITORY) -> None:
    """Record a decision and, unless it is a refusal, make the version the only champion."""
    before = champion(repository)
    tags = {"kind": KIND, DECISION: decision.decision, CANDIDATE: _key(version), BEFORE: _key(before) if before else ""}
    with tracking.run(f"{decision.decision} {version.name} {version.version}", tags=tags, repository=repository) as run:
        run.metrics(decision.numbers)
        run.note("\n".join([f"**{decision.decision}**: {label(version)}", "", *(f"- {line}" for line in decision.why)]))
        who = run.client.get_run(run.run_id).data.tags.get("mlflow.user", "unknown")
        for key, value in {WHY: f"{decision.decision}: {'; '.join(decision.why)}", BY: who, RUN: run.run_id}.items():
            run.client.set_model_version_tag(version.name, version.version, key, value[:5000])
        if decision.decision != REFUSED:
            _give(run.client, version)


def rolled_back(repository: Path = REPOSITORY) -> tuple[ModelVersion | None, ModelVersion]:
    """Give the alias back to the version that had it before the present champion was promoted, and record that.

    Returns:
        The present champion, None where nobody had the alias before, and the former one.
    Raises:
        FarposeError: there is no champion, or no promotion made it (a person did, or it came with the clone).
    """
    client, experiment_id = store.open_store(repository)
    now = champion(repository)
    if now is None:
        raise FarposeError("no model is the champion", where=store.tracking_uri(repository), fix="farpose promote NAME")
    query = f"tags.kind = '{KIND}' and tags.`{DECISION}` = '{PROMOTED}' and tags.`{CANDIDATE}` = '{_key(now)}'"
    made = client.search_runs([experiment_id], query, order_by=["attributes.start_time DESC"], max_results=1)
    if not made:
        fix = "set the alias of the version you want in MLflow's pages (`make ui`)"
        raise FarposeError(f"no promotion made {label(now)} the champion", where=store.tracking_uri(repository), fix=fix)
    former = made[0].data.tags.get(BEFORE, "")
    why = (f"{label(now)} is taken back",)
    if former:
        name, _, number = former.rpartition("@")
        then = client.get_model_version(name, number)
        decide(then, Decision(ROLLED_BACK, why, {}), repository)
        return then, now
    with tracking.run(f"{ROLLED_BACK} {now.name} {now.version}", repository=repository, tags={
        "kind": KIND, DECISION: ROLLED_BACK, CANDIDATE: "", BEFORE: _key(now),
    }) as run:  # fmt: skip
        run.note(f"**{ROLLED_BACK}**: {why[0]}; nobody was the champion before")
        client.delete_registered_model_alias(now.name, CHAMPION)
    return None, now


def _give(client: MlflowClient, version: ModelVersion) -> None:
    """The alias first, so that there is a champion at any moment."""
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    for model in champions(client):
        if model.name != version.name:
            client.delete_registered_model_alias(model.name, CHAMPION)


def _key(version: ModelVersion) -> str:
    return f"{version.name}@{version.version}"
