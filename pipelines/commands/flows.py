"""`ingest`, `nightly`: the flows of these names, from a terminal. `run` is the flow `reproduce`."""

from __future__ import annotations

import argparse
from types import ModuleType


def ingest(options: argparse.Namespace) -> None:
    """New data of a source, if they are valid, and what depends on them."""
    flows = prepared()
    print(f"\n{flows.call(flows.ingest, options.source, options.place, options.endpoint)}")


def nightly(options: argparse.Namespace) -> None:
    """What a night does; ends with a line of it."""
    flows = prepared()
    print(f"\n{flows.call(flows.nightly, options.split)}")


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
