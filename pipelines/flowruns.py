"""Prefect's flow runs: their names, and the processes that they run in; a run whose process was killed is closed by the next one.

Every function speaks to the server that PREFECT_API_URL names.
"""

from __future__ import annotations

import contextlib
import socket
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.states import Crashed

from components.base import processes

PROCESS, HOST = "farpose.process", "farpose.host"  # labels of a flow run
OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
UNLABELLED = timedelta(minutes=2)  # a run gets its labels at its start; one without is given up after this time
REASON = "its process was killed"
AWAY = (PrefectException, httpx.HTTPError, OSError)  # what the client raises where no server answers


def name_of(deployment: str, due: datetime) -> str:
    """Which deployment's run it is, and when it is due: `nightly 2026-01-31 03:00 UTC`."""
    return f"{deployment} {due:%Y-%m-%d %H:%M %Z}"


def name_planned(flows: tuple[str, ...]) -> None:
    """Prefect's scheduler gives the runs that it plans two random words for a name: say what they are. A server that is away stops nothing.

    Args:
        flows: their names, which are also those of their deployments.
    """
    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    with contextlib.suppress(*AWAY), get_client(sync_client=True) as client:
        for flow in flows:
            named = FlowFilter(name=FlowFilterName(any_=[flow]))
            for run in client.read_flow_runs(flow_filter=named, flow_run_filter=FlowRunFilter(state=scheduled)):
                if run.auto_scheduled and run.expected_start_time is not None:
                    name = name_of(flow, run.expected_start_time)
                    if not run.name.startswith(name):  # one that waits to be tried again says more
                        client.update_flow_run(run.id, name=name)


def label(flow_run_id: str | None) -> None:
    """Write down which process a flow run runs in; a server that does not answer is no reason to stop."""
    if flow_run_id:
        with contextlib.suppress(*AWAY), get_client(sync_client=True) as client:
            client.update_flow_run_labels(UUID(flow_run_id), {PROCESS: processes.this_process(), HOST: socket.gethostname()})


def close_dead(flows: tuple[str, ...]) -> list[str]:
    """Close as crashed the open runs of these flows whose process on this host is gone; their names."""
    with get_client(sync_client=True) as client:
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN))
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))), flow_run_filter=FlowRunFilter(state=state)
        )
        dead = [run for run in runs if _is_dead(run)]
        for run in dead:
            _close(client, run)
    return [run.name for run in dead]


def _is_dead(run: FlowRun) -> bool:
    named = run.labels.get(PROCESS)
    if named is None:  # of a deployment: its worker has it, or `make serve` closes it
        began = run.start_time or run.created
        return run.deployment_id is None and began is not None and datetime.now(UTC) - began > UNLABELLED
    return run.labels.get(HOST) == socket.gethostname() and processes.living(str(named)) is None


def _close(client: SyncPrefectClient, run: FlowRun) -> None:
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=OPEN))),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=REASON), force=True)
    client.set_flow_run_state(run.id, Crashed(message=REASON), force=True)
