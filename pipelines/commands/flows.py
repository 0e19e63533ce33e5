"""`ingest`, `nightly`: the flows of these names, from a terminal. `run` is the flow `reproduce`."""

from __future__ import annotations

import argparse
from types import ModuleType


def ingest(options: argparse.Namespace) -> None:
    """New data of a source, if they are valid, and what depends on them."""
    print(f"\n{prepared().ingest(options.source, options.place, options.endpoint)}")


def nightly(options: argparse.Namespace) -> None:
    """What a night does; ends with a line of it."""
    print(f"\n{prepared().nightly(options.split)}")


def prepared() -> ModuleType:
    """`pipelines.flows`, once parameters and stores are in order and a Prefect server runs.

    Raises:
        FarposeError: what a person must mend, before a server is started.
    """
    from components.registry import tracking
    from pipelines import checks, listing, servers

    pipeline = checks.parameters()["pipeline"]
    listing.keep_in_step(pipeline)
    servers.prefect_in_use()
    tracking.ready()
    servers.own_prefect()
    from pipelines import flows

    return flows
