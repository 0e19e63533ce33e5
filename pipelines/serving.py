"""`make serve` and `make stop`: MLflow, Prefect, a worker and the deployments, which stay when the terminal is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import psutil

from components.base.errors import FarposeError
from components.registry import store, tracking, waiting
from components.registry.secrets import without_secrets
from pipelines import interrupted, paths, served, servers
from pipelines.servers import MLFLOW, PREFECT

WORKER = "prefect-worker"
RUN_ENDS_S = 30.0  # a run's stages get 10 s to end, and its state is then sent
SERVER_ENDS_S = 15.0


def main(arguments: list[str]) -> int:
    """`serve` (no argument) or `stop`; the exit code."""
    from pipelines.cli import report

    try:
        servers.prepare_folder()
        with _alone():
            for line in stop() if arguments == ["stop"] else serve():
                print(line, flush=True)
    except KeyboardInterrupt:
        print("interrupted; `make stop` ends what was started", file=sys.stderr)
        return 130
    except FarposeError as error:
        return report(error)
    return 0


def serve() -> Iterator[str]:
    """Start what does not run yet, wait until all answer; lines to print.

    Raises:
        FarposeError: a port is taken, a store does not open, or a server does not start; what this call started is ended.
    """
    named, record = os.environ.get("PREFECT_API_URL"), served.read()
    before = record.living()
    missing = [name for name in (MLFLOW, PREFECT, WORKER) if name not in before]
    if _uses_a_tracking_server():
        missing = [name for name in missing if name != MLFLOW]
    if not missing:
        yield "all run already"
        servers.wait_until_all_answer([], [record.addresses[PREFECT] + servers.HEALTH[1]])
        _deployments(record).apply()  # the clone's code may be newer than they are
    else:
        if before:
            yield f"{', '.join(before)}: running; starting {', '.join(missing)}"
        yield from interrupted.put_in_order()
        try:
            _start(record, missing)
        except BaseException:
            served.end(lambda: _others(record, before), SERVER_ENDS_S)
            if not before:
                served.forget()
            raise
    yield from servers.pages(record.addresses[MLFLOW], record.addresses[PREFECT], record.experiment)
    yield f"         {record.addresses[PREFECT]}/deployments   what runs on a schedule (farpose schedule)"
    yield f"Logs: {servers.LOGS}/*.log. `make stop` ends all of it."
    if named not in (None, f"{record.addresses[PREFECT]}/api"):
        fix = "unset it, so that `farpose run` and `farpose schedule` use this one"
        yield f"PREFECT_API_URL names another server, {without_secrets(named)}: {fix}"


def stop() -> Iterator[str]:
    """End the worker with its runs, then the servers, so that the runs can still say how they ended; lines to print."""
    record = served.read()
    if not record.processes:
        yield "nothing runs that `make serve` started"
        return
    living = record.living()
    gone = [name for name in record.processes if name not in living]
    servers_of = {name: process for name, process in living.items() if name != WORKER}
    if _prefect_answers(record, living):
        _deployments(record).hand_out_nothing()
    if WORKER in living:  # a run that is asked to end ends its stages itself; its worker would kill it
        worker = living[WORKER]
        runs = {process.pid for process in worker.children()}
        served.end(lambda: _others(record, servers_of, {worker.pid}), RUN_ENDS_S, only_first=lambda process: process.pid in runs)
    served.end(lambda: _others(record, servers_of), SERVER_ENDS_S)
    if _prefect_answers(record, living):
        yield from (f"ended the run {name}" for name in _deployments(record).settle("ended by `make stop`"))
    served.end(record.members, SERVER_ENDS_S)
    if left := record.members():
        raise FarposeError(f"processes {', '.join(map(str, left))} do not end", where="make stop", fix="run it again")
    served.forget()
    yield f"stopped: {', '.join(living) or 'nothing was left'}" + (f"; had ended before: {', '.join(gone)}" if gone else "")


def _start(record: served.Served, missing: list[str]) -> None:
    started: list[subprocess.Popen] = []

    def start(name: str, arguments: list[str], variables: Mapping[str, str]) -> subprocess.Popen:
        process = servers.start_process(name, arguments, {**variables, served.MARK: record.mark}, stays=True)
        record.add(name, process.pid)
        started.append(process)
        return process

    living = record.living()
    served.end(lambda: _others(record, living), SERVER_ENDS_S)  # a dead server's child keeps its port, a dead worker's runs go on
    known = {name: address.rsplit(":", 1)[1] for name, address in record.addresses.items()} if living else {}
    ports = {  # those that still run expect the others where they were
        name: servers.free_port(variable, "make serve", known.get(name, ""))
        for name, variable in zip((MLFLOW, PREFECT), servers.PORTS, strict=True)
        if name in missing
    }
    record.addresses |= {name: servers.url_of(port) for name, port in ports.items()}
    if _uses_a_tracking_server():
        record.addresses[MLFLOW] = without_secrets(store.tracking_uri().rstrip("/"))  # it is written and printed
    _, record.experiment = store.open_store()  # before a server is started: its errors are those that a person can mend
    tracking.ready()
    if MLFLOW in missing:
        servers.start_mlflow(ports[MLFLOW], start)
    if PREFECT in missing:
        servers.start_prefect(ports[PREFECT], start)
    answers = dict(zip((MLFLOW, PREFECT), servers.HEALTH, strict=True))
    servers.wait_until_all_answer(started, [record.addresses[name] + answers[name] for name in ports])
    deployments = _deployments(record)
    deployments.apply()
    if WORKER in missing:
        deployments.settle("its worker is gone")
        deployments.skip_missed()
        mlflow = store.tracking_uri() if _uses_a_tracking_server() else record.addresses[MLFLOW]
        addresses = {"PREFECT_API_URL": f"{record.addresses[PREFECT]}/api", "MLFLOW_TRACKING_URI": mlflow}
        if not _uses_a_tracking_server():
            addresses[waiting.STORE] = waiting.name_of_store(paths.REPOSITORY)
        name = f"{deployments.POOL}-{record.mark[:8]}-{int(time.time())}"
        arguments = ["prefect", "worker", "start", "--pool", deployments.POOL, "--type", "process", "--name", name]
        process = start(WORKER, [*arguments, "--install-policy", "never"], addresses)
        deadline = time.monotonic() + servers.START_S
        while not deployments.worker_is_ready(name):
            if process.poll() is not None or time.monotonic() > deadline:
                raise FarposeError("the worker does not start", fix=f"see {servers.LOGS}/{WORKER}.log")
            time.sleep(0.3)


def _prefect_answers(record: served.Served, living: Collection[str]) -> bool:
    return PREFECT in living and not servers.problem_of(record.addresses[PREFECT] + servers.HEALTH[1])


def _deployments(record: served.Served) -> ModuleType:
    """The module; the process speaks to the record's server from now on."""
    os.environ["PREFECT_API_URL"] = f"{record.addresses[PREFECT]}/api"
    from pipelines import deployments

    return deployments


def _others(record: served.Served, kept: Mapping[str, psutil.Process], pids: Collection[int] = ()) -> dict[int, psutil.Process]:
    """The record's processes but those `kept`, with what descends from them, and those of these `pids`."""
    left_alone = _family(kept) | set(pids)
    return {pid: process for pid, process in record.members().items() if pid not in left_alone}


def _family(processes: Mapping[str, psutil.Process]) -> set[int]:
    """Pids of the processes and of all that descend from them."""
    found = set()
    for process in processes.values():
        try:
            found |= {member.pid for member in (process, *process.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return found


def _uses_a_tracking_server() -> bool:
    """Whether MLFLOW_TRACKING_URI names a server, so that none is started here."""
    return store.tracking_uri().startswith(("http://", "https://"))


@contextmanager
def _alone() -> Iterator[None]:
    """Two commands at once take turns."""
    from filelock import FileLock

    with FileLock(servers.LOGS / ".served.lock"):
        yield


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
