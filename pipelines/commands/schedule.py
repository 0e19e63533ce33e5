"""`schedule`: when the deployment `nightly` of the running Prefect server runs."""

from __future__ import annotations

import argparse

from components.base.errors import FarposeError

FIELDS = 5  # of a cron schedule


def schedule(options: argparse.Namespace) -> None:
    """Set, end (`off`) or show the schedule.

    Raises:
        FarposeError: no server runs, it lacks the deployment, or the schedule is none.
    """
    from pipelines import servers

    cron = _cron(options.cron)
    if not servers.prefect_in_use():
        raise FarposeError("no Prefect server runs", where="farpose schedule", fix="`make serve` starts it, with all that a schedule needs")
    from pipelines import deployments

    if cron == "off":
        print("the schedule is off" if deployments.unschedule() else "there was no schedule")
        return
    if cron:
        deployments.schedule(cron, options.timezone)
    for line in deployments.planned():
        print(line)


def _cron(words: list[str]) -> str:
    """The schedule as one text. Without quotes the shell makes five words of it, and file names of its stars."""
    if len(words) not in (0, 1, FIELDS):
        raise FarposeError("a schedule is one argument", where="farpose schedule", fix='put it in quotes: farpose schedule "0 3 * * *"')
    return " ".join(words)
