"""`ingest`, `nightly`: the flows of these names, from a terminal; `run` is the flow `reproduce`. `work` does variants for other clones."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from types import ModuleType

from components.base.errors import FarposeError


def ingest(options: argparse.Namespace) -> None:
    """New data of a source, if they are valid, and what depends on them."""
    flows = prepared()
    print(f"\n{flows.call(flows.ingest, options.source, options.place, options.endpoint)}")


def nightly(options: argparse.Namespace) -> None:
    """What a night does; ends with a line of it."""
    flows = prepared()
    print(f"\n{flows.call(flows.nightly, options.split)}")


def work(options: argparse.Namespace) -> None:
    """A worker in the place of this process, until it is stopped; it does one variant at a time.

    Raises:
        FarposeError: no Prefect server answers, or DVC has no remote here.
    """
    require_server("farpose work")
    from pipelines import flows, paths, pooled

    pooled.require_remote(paths.REPOSITORY)
    flows.close_dead()
    pooled.make_pool(options.pool)
    name = f"{socket.gethostname()}-{os.getpid()}"
    path = os.pathsep.join(part for part in (str(paths.REPOSITORY), os.environ.get("PYTHONPATH", "")) if part)
    arguments = [
        "worker",
        "start",
        "--pool",
        options.pool,
        "--type",
        "process",
        "--name",
        name,
        "--limit",
        "1",
        "--install-policy",
        "never",
    ]
    print(f"worker {name} of pool {options.pool}, in {paths.REPOSITORY}", flush=True)
    os.execve(sys.executable, [sys.executable, "-m", "prefect", *arguments], {**os.environ, "PYTHONPATH": path, pooled.WORKER: name})


def require_server(command: str) -> None:
    """
    Raises:
        FarposeError: no Prefect server runs that workers of other clones could reach.
    """
    from pipelines import servers

    if not servers.prefect_in_use():
        fix = "`make serve` in the clone that asks; PREFECT_API_URL=http://127.0.0.1:PORT/api in the others (docs/scale.md)"
        raise FarposeError("no Prefect server runs", where=command, fix=fix)


def prepared() -> ModuleType:
    """`pipelines.flows`, once parameters and stores are in order and a Prefect server runs.

    Raises:
        FarposeError: what a person must mend, before a server is started.
    """
    print("checking params/ and the stores", flush=True)  # before anything is imported, which takes seconds on a busy machine
    from components.registry import tracking
    from pipelines import checks, interrupted, listing, servers

    pipeline = checks.parameters()["pipeline"]
    if said := interrupted.mend_lock():  # before it is read
        print(said)
    listing.keep_in_step(pipeline)
    servers.prefect_in_use()
    tracking.ready()  # what a person must mend is told before a server is started
    print("starting Prefect", flush=True)
    servers.own_prefect()
    from pipelines import flows

    return flows
