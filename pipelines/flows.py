"""The Prefect flow: one task per DVC stage, edges from DVC's graph, every stage one `dvc repro --single-item`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError, TerminationSignal
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from components.base.errors import FarposeError
from components.base.files import read_json
from components.evaluate.leading import leading, leading_value
from pipelines import flowruns, graph, interrupted, settings
from pipelines.driver import Driver, StageResult
from pipelines.environment import REPOSITORY
from pipelines.lifeline import Terminated

REGISTRATION = Path("artifacts", "registration")
COMPARISON = Path("artifacts", "comparison", "comparison.md")
NUMBERS = Path("results", "pipeline", "comparison.json")
VERIFY = "verify"
MOST_TASKS = 1000  # a task that waits for another holds a thread; `flow.max_parallel` is kept by the driver
_printing = threading.Lock()


def run(targets: list[str] | None = None, verify: bool = True, repository: Path = REPOSITORY) -> list[StageResult]:
    """Bring `targets` (all stages if none) and what they need up to date; what DVC decided for each, in the graph's order.

    Raises:
        FarposeError: a stage failed (the first failure, in the stage's own words), or DVC still sees changes at the end.
    """
    runner: Any = ThreadPoolTaskRunner(max_workers=MOST_TASKS)
    for name in flowruns.close_dead((farpose_flow.name,)):
        _echo(f"the run {name!r} of before is closed: {flowruns.REASON}")
    try:
        return farpose_flow.with_options(task_runner=runner)(targets, verify, str(repository))
    except TerminationSignal:  # Prefect's word for SIGTERM
        raise Terminated from None


def _run_name() -> str:
    """What a run does; of a deployment's run also which, and when it was due: `nightly 2026-01-31 03:00 UTC, all stages`."""
    targets = runtime.flow_run.parameters.get("targets")
    what = ", ".join(targets) if targets else "all stages"
    due = runtime.flow_run.scheduled_start_time
    return f"{runtime.deployment.name} {due:%Y-%m-%d %H:%M %Z}, {what}" if runtime.deployment.name else what


@flow(name="farpose", flow_run_name=_run_name, validate_parameters=False)
def farpose_flow(targets: list[str] | None = None, verify: bool = True, repository: str = str(REPOSITORY)) -> list[StageResult]:
    """Reproduce the graph of dvc.yaml, or the part of it that `targets` name; see `run`."""
    from components.registry import tracking

    flowruns.label(runtime.flow_run.id)
    root = Path(repository)
    for line in interrupted.put_in_order(root):
        _echo(line)
    stages = graph.load(root)
    wanted = graph.select(stages, targets) if targets else stages
    plan = settings.load(root / "params" / "pipeline.yaml").flow
    with tracking.pipeline_run(str(runtime.flow_run.id or ""), root) as (parent, variables):
        driver = Driver(root, plan.stage_timeout_hours * 3600, _echo, plan.max_parallel, variables)
        try:
            results = _reproduce(driver, wanted, verify)
            if not targets:
                _register_again(driver, wanted)
                _register_released(root)
                _require_clean(driver)
        finally:
            driver.stop()
        parent.metrics({"seconds": {tracking.key_name(result.name): result.seconds for result in results}})
        parent.tags({f"outcome.{result.name}": result.outcome for result in results})
        table, numbers = root / COMPARISON, root / NUMBERS
        if not targets and table.is_file():
            for name, row in read_json(numbers).items():
                parent.metrics({tracking.key_name(leading(row).label): {name: leading_value(row)}})
            parent.tags({"mlflow.note.content": table.read_text()})
            create_markdown_artifact(table.read_text(), key="comparison", description="All variants of this run")
    return results


def _reproduce(driver: Driver, stages: list[graph.Stage], verify: bool) -> list[StageResult]:
    """Submit every stage after those it waits for; stages that need no failed one still run."""
    first: list[PrefectFuture[Any]] = [_verify.submit(driver)] if verify else []
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in stages:
        needed = [futures[name] for name in stage.after if name in futures] or first
        task_of: Any = _stage.with_options(task_run_name=stage.name)
        futures[stage.name] = task_of.submit(driver, stage, wait_for=needed)
    failures = []
    for future in [*first, *futures.values()]:
        future.wait()
        if future.state.is_failed() or future.state.is_crashed():
            failures.append(future.result(raise_on_failure=False))
    told = [failure for failure in failures if isinstance(failure, FarposeError)]
    if failures:  # a stage that waits for a failed one is not ready, which is not a failure of its own
        raise (told or failures)[0]
    return [future.result() for future in futures.values()]


@task(name="stage", cache_policy=NO_CACHE, persist_result=False)
def _stage(driver: Driver, stage: graph.Stage) -> StageResult:
    result = driver.reproduce(stage)
    _echo(f"{stage.name} | {result.outcome} ({result.seconds:.0f} s)")
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
        _echo(f"released | {line}")


def _require_clean(driver: Driver) -> None:
    """DVC must agree that nothing is left to do."""
    lines = driver.command("status", ["dvc", "--wait-for-lock", "status", "--json", "--quiet"], echo=False)
    changed = json.loads(lines[-1]) if lines else {}
    if changed:
        raise FarposeError(f"DVC still sees changes in {', '.join(changed)}", where="dvc status", fix="run the same command again")


def _echo(line: str) -> None:
    with _printing:
        print(line, flush=True)
    try:
        get_run_logger().info(line)
    except MissingContextError:
        return
