"""Prefect's deployments of the flows, made in code: the work pool `farpose`, one deployment per flow, and the schedule of `nightly`.

Every function speaks to the server that PREFECT_API_URL names when this module is imported.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runner.storage import LocalStorage
from prefect.states import Crashed

from components.base.errors import FarposeError
from pipelines import flowruns, flows, pooled
from pipelines.environment import REPOSITORY

POOL, NIGHTLY, FLOWS = pooled.OWN_POOL, flows.nightly.name, "pipelines/flows.py"
DEPLOYED: dict[Any, tuple[str, dict[str, Any]]] = {  # each under its flow's name: what its page says, and parameters of its runs
    flows.reproduce: (
        "Brings every stage up to date; unchanged stages are skipped. `targets` names a part, `over` a work pool.",
        {"targets": None, "verify": True, "over": None},
    ),
    flows.ingest: (
        "Takes in new data of a source of params/data.yaml, from `place` or its recorded origin: checked before they replace anything.",
        {"place": None, "endpoint": None, "verify": True},
    ),
    flows.nightly: (
        "Refreshes data from their origin, brings every stage up to date, and compares new challengers with the champion. "
        "It promotes nothing. `farpose schedule` says when it runs.",
        {"split": None, "verify": True},
    ),
    flows.promote: (
        "Makes a registered model the champion if it is better and all gates hold; or `rollback` to the champion before.",
        {"split": "dev", "rollback": False, "heights": None},
    ),
}
IN_POOL = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
CRON = 'five fields: minute, hour, day, month, weekday, such as farpose schedule "0 3 * * *" for 3 o\'clock every night'


def apply() -> None:
    """Make the pool and the deployments of this checkout, or bring them up to date; a schedule stays as it is.

    One run at a time is the pool's limit. That of a deployment is a lease, which a run loses when the server restarts, and Prefect then
    ends the run some minutes later.
    """
    pooled.make_pool(POOL)
    with get_client(sync_client=True) as client:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=1, is_paused=False))  # `make stop` pauses it
    for some_flow, (text, parameters) in DEPLOYED.items():
        local: Any = some_flow.from_source(LocalStorage(str(REPOSITORY)), f"{FLOWS}:{some_flow.name}")
        deployment = local.to_deployment(
            some_flow.name,
            description=text,
            parameters={**parameters, "repository": str(REPOSITORY)},
            concurrency_limit=None,
            work_pool_name=POOL,
            job_variables={  # this Python, and this checkout's code before any that is installed in it
                "command": shlex.join([sys.executable, "-m", "prefect.engine"]),
                "working_dir": str(REPOSITORY),
            },
        )
        deployment.model_fields_set.difference_update(("schedules", "paused"))  # what the server has stays: a person chose it
        deployment.apply()
    with get_client(sync_client=True) as client:
        _retire_others(client)
        for planned in client.read_deployments(work_pool_filter=IN_POOL):  # bringing a deployment up to date ends what was planned of it
            _plan(client, planned)
    flowruns.name_planned(flows.names())


def _retire_others(client: SyncPrefectClient) -> None:
    """End the deployments that an earlier release of this code made and this one does not: their schedules would start code that is gone.

    `nightly` takes over the schedule of its predecessor, unless it has one already. What a person deployed from files of their own stays.
    """
    known = {f"{FLOWS}:{some_flow.name}" for some_flow in DEPLOYED}
    for old in client.read_deployments(work_pool_filter=IN_POOL):
        if old.entrypoint in known or not (old.entrypoint or "").startswith(f"{FLOWS}:"):
            continue
        if old.name == NIGHTLY and old.schedules and not (heir := _nightly(client)).schedules:
            kept = [DeploymentScheduleCreate(schedule=entry.schedule, active=entry.active and not old.paused) for entry in old.schedules]
            client.create_deployment_schedules(heir.id, kept)
        _end_schedules(client, old)
        client.delete_deployment(old.id)


def worker_is_ready(name: str) -> bool:
    """Whether the pool's worker of this name sends heartbeats."""
    with get_client(sync_client=True) as client:
        return any(worker.name == name and worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(POOL))


def hand_out_nothing() -> None:
    """Give the worker no more runs until `apply`; those that wait would start when the run before them is ended."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):  # a server that was killed before it had a pool
        client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))


def settle(reason: str) -> list[str]:
    """Close deployed runs that are open while no worker has them; their names."""
    with get_client(sync_client=True) as client:
        states = FlowRunFilterState(type=FlowRunFilterStateType(any_=flowruns.OPEN))
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=states), work_pool_filter=IN_POOL)
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message=reason), force=True)
    return [run.name for run in runs]


def schedule(cron: str, timezone: str) -> None:
    """Run `nightly` when the cron schedule says so, and at no other time.

    Raises:
        FarposeError: it is no cron schedule, or the server lacks the deployment.
    """
    planned = _parse(cron, timezone)
    with get_client(sync_client=True) as client:
        deployment = _nightly(client)
        _end_schedules(client, deployment)
        client.create_deployment_schedules(deployment.id, [DeploymentScheduleCreate(schedule=planned, active=True)])
        _plan(client, deployment)
    flowruns.name_planned(flows.names())


def _plan(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Make the next runs of its schedules now; Prefect's scheduler may take a minute.

    A deployment that is paused has none; the server would make them all the same, and start them.
    """
    if not deployment.paused:
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment.id}, json={})


def unschedule() -> bool:
    """End every schedule of `nightly`; whether there was one. Runs that were planned go with it."""
    with get_client(sync_client=True) as client:
        deployment = _nightly(client)
        _end_schedules(client, deployment)
        return bool(deployment.schedules)


def planned() -> Iterator[str]:
    """One line per schedule of `nightly`, and the next run that the server has made of them.

    Raises:
        FarposeError: the server lacks the deployment.
    """
    with get_client(sync_client=True) as client:
        deployment = _nightly(client)
        if not deployment.schedules:
            yield f'{NIGHTLY} has no schedule (farpose schedule "0 3 * * *" sets one)'
            return
        yield from (f"{NIGHTLY} runs at {_shown(entry)}" for entry in deployment.schedules)
        waiting = _waiting(client, deployment)
        if deployment.paused:
            yield "the deployment is paused on its page: no run starts"
        elif waiting and (due := waiting[0].expected_start_time):
            yield f"next run: {due.astimezone(_zone(deployment.schedules[0])):%Y-%m-%d %H:%M %Z}"


def skip_missed() -> int:
    """Of the runs that were due while no worker ran, keep the last one only; how many are skipped."""
    with get_client(sync_client=True) as client:
        deployment = _nightly(client)
        now = datetime.now(UTC)
        missed = [run for run in _waiting(client, deployment) if run.auto_scheduled and (run.expected_start_time or now) < now][:-1]
        for run in missed:
            client.delete_flow_run(run.id)
    return len(missed)


def _waiting(client: SyncPrefectClient, deployment: DeploymentResponse) -> list[FlowRun]:
    """Runs that are planned, in the order of their times."""
    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    wanted = FlowRunFilter(state=scheduled, **_of(deployment))
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC)


def _end_schedules(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    for old in deployment.schedules:
        client.delete_deployment_schedule(deployment.id, old.id)
    for run in _waiting(client, deployment):
        if run.auto_scheduled:  # the server leaves those that are due and wait for the run before
            client.delete_flow_run(run.id)


def _of(deployment: DeploymentResponse) -> dict[str, Any]:
    return {"deployment_id": FlowRunFilterDeploymentId(any_=[deployment.id])}


def _nightly(client: SyncPrefectClient) -> DeploymentResponse:
    try:
        return client.read_deployment_by_name(f"{NIGHTLY}/{NIGHTLY}")
    except ObjectNotFound:
        raise FarposeError(f"the server has no deployment {NIGHTLY!r}", where=str(client.api_url), fix="`make serve` makes it") from None


def _parse(cron: str, timezone: str) -> CronSchedule:
    try:
        CronSchedule(cron=cron, timezone="UTC")
    except ValueError as error:
        raise FarposeError(f"{cron!r} is no cron schedule", where="farpose schedule", fix=CRON) from error
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:
        raise FarposeError(
            f"no time zone {timezone!r}", where="--timezone", fix="name it as in Europe/Berlin, or leave it out for UTC"
        ) from error


def _zone(entry: DeploymentSchedule) -> ZoneInfo:
    return ZoneInfo(getattr(entry.schedule, "timezone", None) or "UTC")


def _shown(entry: DeploymentSchedule) -> str:
    rule = entry.schedule
    text = f"{rule.cron} ({rule.timezone or 'UTC'})" if isinstance(rule, CronSchedule) else str(rule)
    return text if entry.active else f"{text}, switched off on the deployment's page"
