"""The graph of dvc.yaml as Prefect's tasks: one per stage, edges from DVC, every stage one `dvc repro --single-item`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.futures import PrefectFuture

from components.base.errors import FarposeError
from components.base.files import read_json
from components.evaluate.leading import leading_key, leading_value
from components.registry import tracking, units
from pipelines import graph, pages, terminal
from pipelines.driver import Driver, Passing, StageResult

REGISTRATION = Path("artifacts", "registration")
NUMBERS = Path("results", "pipeline", "comparison.json")
VERIFY, BAR = "verify", " | "
RETRIES_S: list[float] = [10, 60, 300]  # pauses before a failure that passes by itself is tried again
_printing = threading.Lock()


@dataclass(frozen=True)
class Work:
    """What a flow works with: the clone, what runs its stages, and its own MLflow run."""

    root: Path
    driver: Driver
    parent: tracking.Run


def reproduce(work: Work, targets: list[str] | None, verify: bool) -> list[StageResult]:
    """Bring `targets` (all stages if none) and what they need up to date, and fill the flow's pages.

    Raises:
        FarposeError: a stage failed (the first failure, in the stage's own words), or DVC still sees changes at the end.
    """
    stages = graph.load(work.root)
    wanted = graph.select(stages, targets) if targets else stages
    results = _reproduce(work, wanted, verify)
    if not targets:
        if work.parent.answers:
            _register_again(work.driver, wanted)
            _register_released(work.root)
        else:
            echo("MLflow does not answer: the next run looks whether its registry holds every model")
        _require_clean(work.driver)
    work.parent.tags({f"outcome.{result.name}": result.outcome for result in results})
    numbers: dict[str, dict[str, float]] = {}  # MLflow's page shows them in this order
    table = work.root / pages.COMPARISON / "comparison.md"
    heading = ""
    if not targets and table.is_file():
        for name, row in read_json(work.root / NUMBERS).items():
            numbers.setdefault(leading_key(row) + units.PERCENT, {})[name] = 100 * leading_value(row)
        heading = f"{table.read_text()}\n"
        pages.leaderboard(work.root)
    numbers["seconds"] = {tracking.key_name(result.name): round(result.seconds, 1) for result in results}
    work.parent.metrics(numbers)
    work.parent.note(heading + units.described(numbers))
    return results


def in_words(results: list[StageResult]) -> str:
    """Such as `5 stages ran, 33 unchanged`."""
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in ("ran", "restored", "unchanged")}
    first, *others = [f"{count} {outcome}" for outcome, count in counts.items() if count] or ["0 unchanged"]
    number, _, outcome = first.partition(" ")
    return ", ".join([f"{number} stage{'' if number == '1' else 's'} {outcome}", *others])


def echo(line: str) -> None:
    """To the terminal, where a long line is broken beside the stage's name, and to the run's page."""
    with _printing:
        if terminal.watched():
            stage, bar, text = line.partition(BAR)
            terminal.listed([(stage + bar, text)], len(stage + bar))
        else:
            print(line, flush=True)
    try:
        get_run_logger().info(line)
    except MissingContextError:
        return


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether Prefect tries a task again: not after a stage's own error."""
    return isinstance(state.result(raise_on_failure=False), Passing)


def _reproduce(work: Work, stages: list[graph.Stage], verify: bool) -> list[StageResult]:
    """Submit every stage after those it waits for; stages that need no failed one still run."""
    driver = work.driver
    first: list[PrefectFuture[Any]] = [_verify.submit(driver)] if verify else []
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in stages:
        needed = [futures[name] for name in stage.after if name in futures] or first
        task_of: Any = _stage.with_options(task_run_name=stage.name)
        futures[stage.name] = task_of.submit(driver, stage, wait_for=needed)
    failed: dict[str, Any] = {}
    for name, future in [*((VERIFY, one) for one in first), *futures.items()]:
        future.wait()
        if future.state.is_failed() or future.state.is_crashed():
            failed[name] = future.result(raise_on_failure=False)
    done = {name: future for name, future in futures.items() if future.state.is_completed()}
    results = [future.result() for future in done.values()]
    waited = [name for name in futures if name not in done and name not in failed]
    pages.stages(results, {name: str(failure) for name, failure in failed.items()}, waited, pages.mlflow(work.parent))
    told = [failure for failure in failed.values() if isinstance(failure, FarposeError)]
    if failed:  # a stage that waits for a failed one is not ready, which is not a failure of its own
        raise (told or list(failed.values()))[0]
    return results


@task(
    name="stage", cache_policy=NO_CACHE, persist_result=False, retries=len(RETRIES_S), retry_delay_seconds=RETRIES_S,
    retry_condition_fn=may_pass,
)  # fmt: skip
def _stage(driver: Driver, stage: graph.Stage) -> StageResult:
    result = driver.reproduce(stage)
    echo(f"{stage.name} | {result.outcome} ({result.seconds:.0f} s)")
    return result


@task(name=VERIFY, task_run_name=VERIFY, cache_policy=NO_CACHE, persist_result=False)
def _verify(driver: Driver) -> None:
    driver.command(VERIFY, ["pipelines.cli", "verify", "--without-crops"])


def _register_again(driver: Driver, stages: list[graph.Stage]) -> None:
    """DVC knows that the models were registered once, but not that this store lacks them: a fresh clone's store is empty."""
    from components.registry import register

    named = {stage.name.removeprefix("register@"): stage for stage in stages if stage.name.startswith("register@")}
    records = {name: driver.repository / REGISTRATION / name / "registration.json" for name in named}
    expected = {name: read_json(record)["package_sha256"] for name, record in records.items() if record.is_file()}
    for name in register.missing(expected, driver.repository) if expected else ():
        driver.reproduce(named[name], force=True)


def _register_released(root: Path) -> None:
    """The models that come with a clone; DVC has no part in it, because nothing of the graph makes them."""
    from pipelines import releases

    for line in releases.register(root):
        echo(f"released | {line}")


def _require_clean(driver: Driver) -> None:
    """DVC must agree that nothing is left to do."""
    if changed := driver.changes():
        raise FarposeError(f"DVC still sees changes in {', '.join(changed)}", where="dvc status", fix="run the same command again")
