"""Variants that workers of a Prefect work pool train and evaluate, each worker in a clone of its own.

The asking clone's flow brings up to date what its variants wait for, pushes that to the DVC remote, and asks the pool for one run per
variant. A worker's run checks that its clone has the same files, pulls, runs the variant's stages as its DVC decides, pushes, and says in
an artifact what dvc.lock has of them now. The asking clone lays that into its dvc.lock and pulls. Its own DVC then finds these stages
unchanged, or runs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import runtime, task
from prefect.artifacts import Artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import EntrypointType
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from components.base.errors import FarposeError
from components.base.files import atomic_file
from pipelines import flowruns, graph, reproduction
from pipelines.driver import Driver, StageResult
from pipelines.graph import Stage
from pipelines.reproduction import Work, echo

STAGES = ("train", "evaluate")  # of a variant, which a worker does
OWN_POOL = "farpose"  # of `make serve`, whose worker is this clone's own
FLOW, LOCK, DATA, KEY = "variant", "dvc.lock", "data.dvc", "lock"
WORKER = "FARPOSE_WORKER"  # variable, and label of a run: the worker that has it
APART = ("dvc.lock", "results/", "mlruns/", "params/fan_out.yaml")  # of git's files, what may differ between two clones
LOOK_EVERY_S, SAY_EVERY_S = 2.0, 60.0
GONE_S = 120.0  # that a worker may be silent, on top of the 90 s after which Prefect calls it offline
TRIES = 3  # workers that a variant is given to, if they end at work
_laying = threading.Lock()


def make_pool(name: str) -> None:
    """Make a work pool of processes, if there is none of this name."""
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))


def require_remote(repository: Path) -> None:
    """
    Raises:
        FarposeError: DVC has no default remote here.
    """
    with graph.opened(repository) as repo:
        if not repo.config["core"].get("remote"):
            fix = "`dvc remote add --local --default store PLACE`, the same in every clone (docs/operate.md, Share results)"
            raise FarposeError("DVC has no default remote, by which clones give each other data and results", where=repository, fix=fix)


# ---------------------------------------------------------------- the clone that asks


def share_out(work: Work, targets: list[str] | None, verify: bool, pool: str, flow: Any) -> str:
    """Have workers of `pool` do what is to be done of the variants among `targets` (all if none); in words, what was done.

    Args:
        flow: the flow `variant`, which workers run.
    Raises:
        FarposeError: there is no remote, or a stage failed, here or in a worker's clone; the other variants are done first.
    """
    if pool == OWN_POOL:
        problem = f"the pool {pool} is that of `make serve`, whose worker waits for this very flow"
        raise FarposeError(problem, where="--over", fix="name another, and start `farpose work NAME` in other clones")
    require_remote(work.root)
    stages = graph.load(work.root)
    groups = _by_variant(graph.select(stages, targets) if targets else stages)
    before = _before(stages, [name for names in groups.values() for name in names])
    if before:
        reproduction.reproduce(work, before, verify)
    groups = {variant: names for variant, names in groups.items() if work.driver.changes(*names)}
    if not groups:
        return f"nothing is left for {pool}"
    needed = {variant: _before(stages, names) for variant, names in groups.items()}
    _transfer(work.driver, "push", {name for names in needed.values() for name in names})
    make_pool(pool)
    flow.to_deployment(
        pool, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH,
        description="Trains and evaluates one variant in the worker's clone, for the flow `reproduce` of another one.",
    ).apply()  # fmt: skip
    same = {"asks": _place(work.root), "files": contents(work.root)}
    futures = {}
    for variant, names in groups.items():
        job = {**same, "stages": names, "needs": needed[variant], "entries": entries(work.root, needed[variant])}
        asked: Any = _on_a_worker.with_options(task_run_name=f"{variant} on {pool}")
        futures[variant] = asked.submit(work, pool, variant, job, [stage for stage in stages if stage.name in names])
    failed = [future.result(raise_on_failure=False) for future in futures.values() if (future.wait(), future.state.is_failed())[1]]
    if failed:
        raise next((error for error in failed if isinstance(error, FarposeError)), failed[0])
    return f"{len(groups)} variant{'s' if len(groups) > 1 else ''} on {pool}"


def _by_variant(stages: Iterable[Stage]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stage in stages:
        kind, _, variant = stage.name.partition("@")
        if kind in STAGES and variant:
            found.setdefault(variant, []).append(stage.name)
    return found


def _before(stages: list[Stage], names: list[str]) -> list[str]:
    """What these stages wait for, themselves left out."""
    return [stage.name for stage in graph.select(stages, names) if stage.name not in names]


@task(name="variant", cache_policy=NO_CACHE, persist_result=False)
def _on_a_worker(work: Work, pool: str, variant: str, job: dict[str, Any], stages: list[Stage]) -> None:
    for attempt in range(1, TRIES + 1):
        asked: Any = run_deployment(f"{FLOW}/{pool}", parameters={"name": variant, "job": job}, flow_run_name=variant, timeout=0)
        run = _finished(asked, pool)
        if run.state is not None and run.state.is_completed():
            _lay(work, _made(run.id), stages)
            return
        said = (run.state.message if run.state is not None else None) or "it said nothing"
        crashed = run.state is not None and run.state.is_crashed()
        if not crashed or attempt == TRIES:
            raise FarposeError(said.removeprefix("Flow run encountered an exception: FarposeError: "), where=f"{variant} on {pool}")
        echo(f"{variant} | {said}; another worker is asked")


def _finished(run: FlowRun, pool: str) -> FlowRun:
    """Wait for a run. It is closed if its worker is gone; that the pool has no worker is said every minute.

    Prefect's server may restart meanwhile.
    """
    seen = said = time.monotonic()
    while True:
        with contextlib.suppress(*flowruns.AWAY), get_client(sync_client=True) as client:
            run = client.read_flow_run(run.id)
            if run.state is not None and run.state.is_final():
                return run
            online = {worker.name for worker in client.read_workers_for_work_pool(pool) if worker.status == "ONLINE"}
            has_it, now = run.labels.get(WORKER), time.monotonic()
            seen = now if has_it is None or has_it in online else seen
            if now - seen > GONE_S:
                client.set_flow_run_state(run.id, Crashed(message=f"its worker {has_it} is gone"), force=True)
            if not online and now - said > SAY_EVERY_S:
                echo(f"{run.name} | waits for a worker: `farpose work {pool}` in another clone starts one")
                said = now
        time.sleep(LOOK_EVERY_S)


def _made(run_id: UUID) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        asked = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]), key=ArtifactFilterKey(any_=[KEY]))
        found = client.read_artifacts(artifact_filter=asked)
    if not found:
        raise FarposeError("the worker's run left no entries of dvc.lock", where=f"run {run_id}", fix="see its page in Prefect")
    data = found[-1].data
    return dict(yaml.safe_load(data) if isinstance(data, str) else data)  # type: ignore[arg-type]


def _lay(work: Work, made: dict[str, Any], stages: list[Stage]) -> None:
    """Take over what a worker's clone has of the stages, and nothing else that it may name."""
    with _laying:
        lay_entries(work.root, {stage.name: made["entries"][stage.name] for stage in stages})
        for path in (output.path for stage in stages for output in stage.outputs if not output.cached):
            with atomic_file(path) as temporary:
                temporary.write_text(made["files"][path.relative_to(work.root).as_posix()])
        _transfer(work.driver, "pull", [stage.name for stage in stages], with_data=False)
    for line in made["said"]:
        echo(line)


# ---------------------------------------------------------------- the worker's clone


def take(work: Work, variant: str, job: dict[str, Any]) -> str:
    """Do a variant's stages here; in words, what became of them.

    Args:
        job: `stages` and what they wait for (`needs`), in order; the asking clone's place, its `files`, and its `entries` of dvc.lock.
    Raises:
        FarposeError: this clone has other files or no remote, the remote lacks what is needed, or a stage fails.
    """
    require_remote(work.root)
    _require_same(work.root, job["files"])
    lay_entries(work.root, job["entries"])
    _transfer(work.driver, "pull", job["needs"])
    stages = [stage for stage in graph.load(work.root) if stage.name in job["stages"]]
    results = [_said(work.driver.reproduce(stage)) for stage in stages]
    _transfer(work.driver, "push", job["stages"], with_data=False)
    kept = [output.path for stage in stages for output in stage.outputs if not output.cached]
    by = os.environ.get(WORKER, "a worker")
    made = {
        "entries": entries(work.root, job["stages"]),
        "files": {path.relative_to(work.root).as_posix(): path.read_text() for path in kept},
        "said": [f"{line}, by {by}" for line in results],
    }
    artifact: Any = Artifact(type="result", key=KEY, description="What dvc.lock has of these stages", data=made)
    artifact.create()
    return "; ".join(results)


def _said(result: StageResult) -> str:
    line = f"{result.name} | {result.outcome} ({result.seconds:.0f} s)"
    echo(line)
    return line


def begin(job: dict[str, Any], root: Path) -> None:
    """Write down which worker has the flow run.

    Raises:
        FarposeError: the clone is the one that asks, which waits for this run.
    """
    if job["asks"] == _place(root):
        raise FarposeError("this worker's clone is the one that asks, and waits for it", where=root, fix="`farpose work` in other clones")
    if (name := os.environ.get(WORKER)) and runtime.flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(UUID(runtime.flow_run.id), {WORKER: name})


def _place(root: Path) -> str:
    return f"{socket.gethostname()}:{root}"


def _require_same(root: Path, asked: dict[str, str]) -> None:
    own = contents(root)
    differing = sorted(path for path in {*own, *asked} if own.get(path) != asked.get(path))
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        problem = f"this clone differs from the one that asks in {', '.join(differing[:3])}{more}"
        raise FarposeError(problem, where=root, fix="bring both to the same commit (`git pull`), with the same params/")


# ---------------------------------------------------------------- both


def contents(root: Path) -> dict[str, str]:
    """The beginning of the SHA-256 of every file that git tracks or would track, but for those that stages write.

    Raises:
        FarposeError: there is no git.
    """
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FarposeError(f"git: {' '.join(done.stderr.split())}", where=root, fix="clones that share work are clones of git")
    paths = [path for path in done.stdout.split("\0") if path and not path.startswith(APART) and (root / path).is_file()]
    return {path: hashlib.sha256((root / path).read_bytes()).hexdigest()[:16] for path in paths}


def entries(root: Path, names: Iterable[str]) -> dict[str, Any]:
    """What dvc.lock has of these stages."""
    found = yaml.safe_load((root / LOCK).read_text())["stages"] if (root / LOCK).is_file() else {}
    return {name: found[name] for name in names if name in found}


def lay_entries(root: Path, new: dict[str, Any]) -> None:
    """Write entries into dvc.lock, in DVC's form; the others stay."""
    from dvc.utils.serialize import dump_yaml, load_yaml

    lock = root / LOCK
    found: dict[str, Any] = load_yaml(str(lock)) if lock.is_file() else {"schema": "2.0", "stages": {}}
    found["stages"] |= new
    with atomic_file(lock) as temporary:
        dump_yaml(str(temporary), found)


def _transfer(driver: Driver, what: str, names: Iterable[str], with_data: bool = True) -> None:
    """`dvc push` or `dvc pull` of the outputs of stages, and of the raw data."""
    targets = [*sorted(names), *([DATA] if with_data and (driver.repository / DATA).is_file() else [])]
    if targets:
        driver.command(what, ["dvc", "--wait-for-lock", what, *(["--force"] if what == "pull" else []), *targets])
