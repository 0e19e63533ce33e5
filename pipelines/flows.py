"""The Prefect flows: reproduce the graph, take in new data, both every night with a comparison, and promote."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from components.base.errors import FarposeError
from components.registry import tracking
from pipelines import challenging, flowruns, interrupted, pages, pooled, reproduction, settings, turns
from pipelines.driver import Driver, Passing, StageResult
from pipelines.environment import REPOSITORY
from pipelines.lifeline import Terminated
from pipelines.reproduction import RETRIES_S, Work, echo, may_pass

MOST_TASKS = 1000  # a task that waits for another holds a thread; `flow.max_parallel` is kept by the driver
HERE = str(REPOSITORY)
RUNNER: Any = ThreadPoolTaskRunner(max_workers=MOST_TASKS)
Split = Literal["dev", "val"]


def run(targets: list[str] | None = None, verify: bool = True, repository: Path = REPOSITORY, over: str | None = None) -> list[StageResult]:
    """Bring `targets` (all stages if none) and what they need up to date; what DVC decided for each, in the graph's order.

    Args:
        over: the work pool whose workers train and evaluate the variants; None: all is done here.
    Raises:
        FarposeError: a stage failed (the first failure, in the stage's own words), or DVC still sees changes at the end.
    """
    results: list[StageResult] = call(reproduce, targets, verify, str(repository), over)
    return results


def call(some_flow: Any, *parameters: Any) -> Any:
    """Run a flow in this process, and close before it what killed flows left open in Prefect.

    Raises:
        Terminated: SIGTERM arrived.
    """
    close_dead()
    try:
        return some_flow(*parameters)
    except TerminationSignal:  # Prefect's word for SIGTERM
        raise Terminated from None


def close_dead() -> None:
    """Close in Prefect what flows left open whose process on this machine was killed."""
    for name in flowruns.close_dead((*names(), pooled.FLOW)):
        echo(f"the run {name!r} of before is closed: {flowruns.REASON}")


def names() -> tuple[str, ...]:
    """Of the four flows, and of their deployments."""
    return tuple(str(one.name) for one in (reproduce, ingest, nightly, promote))


def _run_name() -> str:
    """What a run does; of a deployment's run also which, and when it was due: `nightly 2026-01-31 03:00 UTC, all stages`."""
    due, what = runtime.flow_run.scheduled_start_time, _what(runtime.flow_run.flow_name, runtime.flow_run.parameters)
    if runtime.deployment.name:
        return f"{flowruns.name_of(runtime.deployment.name, due)}, {what}"
    return what if runtime.flow_run.flow_name == reproduce.name else f"{runtime.flow_run.flow_name} {what}"


def _what(name: str, given: dict[str, Any]) -> str:
    if name == "ingest":
        return f"{given.get('source')} from {given.get('place') or 'its origin'}"
    if name == "promote":
        return "back to the former champion" if given.get("rollback") else f"{given.get('name')} on {given.get('split') or 'dev'}"
    return ", ".join(given.get("targets") or ["all stages"])


@flow(flow_run_name=_run_name, task_runner=RUNNER, validate_parameters=False)
def reproduce(targets: list[str] | None = None, verify: bool = True, repository: str = HERE, over: str | None = None) -> list[StageResult]:
    """Reproduce the graph of dvc.yaml, or the part of it that `targets` name; see `run`."""
    with _work(repository) as work:
        shared = pooled.share_out(work, targets, verify, over, variant) if over else ""
        results = reproduction.reproduce(work, targets, verify and not over)
        done = "; ".join(part for part in (shared, reproduction.in_words(results)) if part)
        _names(work, f"{', '.join(targets or ['all stages'])}: {done}")
    return _completed(results, done)


@flow(name=pooled.FLOW, flow_run_name="{name}", validate_parameters=False)
def variant(name: str, job: dict[str, Any]) -> str:
    """Train and evaluate one variant in this clone, for the flow `reproduce` of another one; see `pooled.take`."""
    pooled.begin(job, REPOSITORY)
    with _work(HERE) as work:
        done = pooled.take(work, name, job)
        _names(work, f"variant {name}: {done}")
    return _completed(done, done)


@flow(flow_run_name=_run_name, task_runner=RUNNER, validate_parameters=False)
def ingest(source: str, place: str | None = None, endpoint: str | None = None, verify: bool = True, repository: str = HERE) -> str:
    """Take in new data of a source: collect them, check them, and only then put them in place and run the pipeline.

    Args:
        source: one of `data.sources` in params/data.yaml.
        place: folder, archive, address or s3:// prefix; empty: the source's `origin`.
        endpoint: S3 endpoint other than Amazon's.
    Raises:
        FarposeError: the data cannot be had or are refused, and those that were there are untouched; or what `run` raises.
    """
    with _work(repository) as work:
        _take_in(work, source, place, endpoint)
        if settings.data().source != source:
            echo(f"{source} is not the data set in use (`source` in params/data.yaml): no stage depends on it")
            done = f"{source} is taken in"
        else:
            done = f"{source} is taken in, {reproduction.in_words(reproduction.reproduce(work, None, verify))}"
        _names(work, f"ingest: {done}")
    return _completed(done, done)


@flow(flow_run_name=_run_name, task_runner=RUNNER, validate_parameters=False)
def nightly(split: Split | None = None, verify: bool = True, repository: str = HERE) -> str:
    """Refresh the data from their origin if they have one, reproduce what changed, and compare new challengers with the champion.

    It promotes nothing: the champion is whom a person, or the flow `promote`, chose.

    Args:
        split: persons on which models are compared; None: "dev" if the data have one, else "val".
    Raises:
        FarposeError: as `run`; or the new data were refused, after everything was done with those that were there.
    """
    with _work(repository) as work:
        data, refused = settings.data(), None
        if data.files.origin:
            try:
                _take_in(work, data.source, None, None)
            except FarposeError as error:
                refused = error
                echo(f"ingest | {error}; the night goes on with the data that were there")
        results = reproduction.reproduce(work, None, verify)
        table, said = _against_the_champion(work, split)
        pages.markdown("champion", table, "New challengers and the champion")
        work.parent.tags({"challenge": said})
        done = f"{reproduction.in_words(results)}; {said}"
        _names(work, f"nightly: {done}")
        if refused is not None:
            raise refused
    return _completed(done, done)


@flow(flow_run_name=_run_name, task_runner=RUNNER, validate_parameters=False)
def promote(name: str = "", split: Split = "dev", rollback: bool = False, repository: str = HERE, heights: list[int] | None = None) -> str:
    """Make a registered model the champion if the gates of `farpose promote` hold; a refusal is told and changes nothing.

    Args:
        name: NAME (its challenger), NAME@ALIAS or NAME@VERSION.
        split: persons on which it is compared with the champion.
        rollback: give the alias back to the champion before the last promotion instead.
        heights: px that persons are limited to; with any, it must be better at each of them, and on persons as they are not worse.
    Raises:
        FarposeError: no such version, it is the champion already, a height that is none, or its evaluation fails.
    """
    flowruns.label(runtime.flow_run.id)
    with turns.turn("a promotion", Path(repository), echo):
        passed, lines = _promote(name, split, rollback, heights or [])
    for line in lines:
        echo(line)
    pages.markdown("promotion", "\n".join([f"**{lines[0]}**", "", *(f"- {line}" for line in lines[1:])]), "The decision and its reasons")
    return _completed(lines[0], "; ".join(lines), "Promoted" if passed else "Refused")


def _completed(result: Any, said: str, name: str = "Completed") -> Any:
    """What a flow returns so that the run's page says more than that it ended; its caller gets the result."""
    return Completed(name=name, message=said, data=result)


@contextmanager
def _work(repository: str) -> Iterator[Work]:
    """The clone for this flow alone, its MLflow run, and what runs its stages, all of which end with the block."""
    root, name = Path(repository), str(runtime.flow_run.name or "a flow")
    flowruns.label(runtime.flow_run.id)
    with turns.turn(name, root, echo):
        for line in interrupted.put_in_order(root):
            echo(line)
        plan = settings.load(root / "params" / "pipeline.yaml").flow
        with tracking.pipeline_run(str(runtime.flow_run.id or ""), root, name) as (parent, variables):
            driver = Driver(root, plan.stage_timeout_hours * 3600, echo, plan.max_parallel, variables)
            try:
                yield Work(root, driver, parent)
            finally:
                driver.stop()
                if runtime.deployment.name:
                    flowruns.name_planned(names())  # the scheduler has made one more by now


def _names(work: Work, what: str) -> None:
    """Name MLflow's run by what was done."""
    work.parent.tags({tracking.NAME: what})


def _take_in(work: Work, source: str, place: str | None, endpoint: str | None) -> None:
    try:
        lines = _ingest(work.driver, source, place, endpoint)
    except FarposeError as error:
        causes = "\n".join(f"- {cause}" for cause in str(error).split("; "))
        pages.markdown("data", f"**The new data were refused. Those that were there are untouched.**\n\n{causes}", "New data")
        raise
    pages.markdown("data", "```\n" + "\n".join(lines) + "\n```", "New data")


def _against_the_champion(work: Work, split: str | None) -> tuple[str, str]:
    """What is known of the challengers, as a table and in a clause."""
    try:
        found = _challenge(work.driver, split)
    except Passing as error:  # the night did all else
        return f"The challengers were not compared: {error}. The next night compares them.", "challengers wait for MLflow"
    return found.markdown(), found.in_words()


@task(
    name="ingest", task_run_name="ingest {source}", cache_policy=NO_CACHE, persist_result=False, retries=len(RETRIES_S),
    retry_delay_seconds=RETRIES_S, retry_condition_fn=may_pass,
)  # fmt: skip
def _ingest(driver: Driver, source: str, place: str | None, endpoint: str | None) -> list[str]:
    options = [*(["--from", place] if place else []), *(["--endpoint", endpoint] if endpoint else [])]
    return driver.command("ingest", ["pipelines.ingesting", source, *options])


@task(
    name="compare with the champion", task_run_name="compare with the champion", cache_policy=NO_CACHE, persist_result=False,
    retries=len(RETRIES_S), retry_delay_seconds=RETRIES_S, retry_condition_fn=may_pass,
)  # fmt: skip
def _challenge(driver: Driver, split: str | None) -> challenging.Challenges:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "challenges.json"
        driver.command("challenge", ["pipelines.challenging", "--output", str(output), *(["--split", split] if split else [])])
        return challenging.read(output)


@task(name="promote", task_run_name="gates", cache_policy=NO_CACHE, persist_result=False)
def _promote(name: str, split: str, rollback: bool, heights: list[int]) -> tuple[bool, list[str]]:
    from pipelines import promoting

    if rollback:
        return True, [promoting.roll_back()]
    if not name:
        raise FarposeError("nothing to promote", fix="give the flow's parameter `name`, a registered model's, or `rollback`")
    return promoting.promote(name, split, heights=heights)
