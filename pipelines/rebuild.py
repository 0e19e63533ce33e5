"""A recorded result, made again: its commit, parameters, lock and data in a git worktree, and its stages run there."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.config import load_yaml
from components.base.errors import FarposeError
from pipelines import graph, paths, settings
from pipelines.driver import Driver

if TYPE_CHECKING:
    from components.registry.recorded import Part, Recorded

PLACE = Path("scratch", "reproduce")
DRAWN = "synthetic"  # the data set that every clone can draw again
ELSEWHERE = (  # variables that lead to the clone's store and runs
    "MLFLOW_TRACKING_URI",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "FARPOSE_STORE",
    "FARPOSE_PIPELINE_RUN",
    "FARPOSE_PREFECT_RUN",
)


@contextlib.contextmanager
def worktree(commit: str, repository: Path, keep: bool = False) -> Iterator[Path]:
    """A folder below scratch/reproduce with the commit checked out, removed at the end unless it is to be kept.

    Raises:
        FarposeError: the commit is not in this clone, or git refuses.
    """
    from components.registry import lineage

    if not lineage.full_commit(commit, repository):
        fix = "`git fetch --all` brings it where it was pushed; else fetch from the clone that made the run"
        raise FarposeError(f"commit {commit[:12]} is not in this clone", where=repository, fix=fix)
    place = repository / PLACE
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{commit[:8]}-", dir=place))
    try:
        _git(repository, "worktree", "add", "--quiet", "--detach", str(folder), commit)
        yield folder
    finally:
        if not keep:
            with contextlib.suppress(FarposeError):  # it was never added
                _git(repository, "worktree", "remove", "--force", str(folder))
            shutil.rmtree(folder, ignore_errors=True)


def restore(folder: Path, recorded: Recorded, kept: Path | None) -> None:
    """Lay over the commit what the run was made of besides: edits that were not committed, parameters, lock, data.dvc.

    Args:
        kept: the run's files, see `registry.snapshot`; None: those of the commit are taken.
    Raises:
        FarposeError: files differed from the commit, and the run did not keep how.
    """
    from components.registry import snapshot

    patch = kept / snapshot.PATCH if kept else None
    if recorded.dirty and (patch is None or not patch.is_file()):
        problem = f"files differed from commit {recorded.commit[:12]}, and the run did not keep how"
        raise FarposeError(problem, where=recorded.said, fix="name a run of committed files, or one made by this version or a later one")
    if kept is None:
        return
    if patch is not None and patch.is_file():
        _git(folder, "apply", "--whitespace=nowarn", str(patch))
    if (kept / snapshot.PARAMS).is_dir():
        shutil.rmtree(folder / snapshot.PARAMS, ignore_errors=True)
        shutil.copytree(kept / snapshot.PARAMS, folder / snapshot.PARAMS)
    for name in snapshot.FILES:
        if (kept / name).is_file():
            shutil.copyfile(kept / name, folder / name)


def again(folder: Path, recorded: Recorded, repository: Path, echo: Callable[[str], None]) -> list[Part]:
    """Run the result's stages in a restored worktree; what they recorded there.

    What they need comes from the clone's cache or its remotes, or is made again. They themselves are run in any case, and neither the
    cache nor the run cache learns what they made.

    Raises:
        FarposeError: data that are nowhere, a stage that is not in the graph, or what a stage says.
    """
    from components.registry import recorded as records

    has_remote = _connect(folder, repository)
    _link_weights(folder, repository)
    stages = graph.load(folder)
    wanted = [part.stage for part in recorded.parts]
    try:
        needed = [stage for stage in graph.select(stages, wanted) if stage.name not in wanted]
    except FarposeError as error:
        fix = "a variant outside of params/pipeline.yaml has no stage; put it there and run it, so that it has one"
        raise FarposeError(error.problem, where=f"dvc.yaml of {recorded.said}", fix=fix) from error
    driver = Driver(folder, settings.load().flow.stage_timeout_hours * 3600, echo, variables=_variables(recorded))
    made = []
    try:
        _bring(driver, recorded, [stage.name for stage in needed], has_remote)
        for stage in needed:
            echo(f"{stage.name} | {driver.reproduce(stage).outcome}")
        for name in wanted:
            driver.command(name, ["dvc", "--wait-for-lock", "repro", "--force", "--no-commit", "--single-item", name])
            made.append(records.rebuilt(name, folder))
    finally:
        driver.stop()
    return made


def _variables(recorded: Recorded) -> dict[str, str]:
    """A store of the worktree's own, and the recorded number of threads and kind of device, where there are such."""
    from pipelines import devices

    found = dict.fromkeys(ELSEWHERE, "")
    told = [part for part in recorded.parts if part.tags]
    threads = next((part.tags["machine.threads"] for part in told if part.tags and "machine.threads" in part.tags), "")
    if threads:
        found["OMP_NUM_THREADS"] = threads
    device = next((part.device for part in told if part.device), "")
    if device and (here := devices.fitting(device)):
        found[devices.VARIABLE] = here
    return found


def _connect(folder: Path, repository: Path) -> bool:
    """Let the worktree's DVC use the clone's cache and remotes; whether there is a default remote."""
    from dvc.repo import Repo

    with Repo(str(repository)) as repo:
        remotes = {name: dict(values) for name, values in repo.config["remote"].items()}
        default, cache = repo.config["core"].get("remote"), repo.cache.local_cache_dir
    with Repo(str(folder)) as repo, repo.config.edit("local") as local:
        local["cache"] = {"dir": cache}
        local["remote"] = remotes
        if default:
            local["core"] = {"remote": default}
    (folder / ".dvc" / "config.local").chmod(0o600)  # a person may have written credentials into the clone's
    return bool(default)


def _link_weights(folder: Path, repository: Path) -> None:
    """Imported starts lie outside of git and DVC; training checks their digests."""
    weights = paths.WEIGHTS.relative_to(paths.REPOSITORY)
    if (repository / weights).is_dir():
        (folder / weights).parent.mkdir(parents=True, exist_ok=True)
        (folder / weights).symlink_to(repository / weights, target_is_directory=True)


def _bring(driver: Driver, recorded: Recorded, stages: list[str], has_remote: bool) -> None:
    """Raw data and the outputs of earlier stages, from cache or remote; the synthetic data are drawn again where they are nowhere.

    Raises:
        FarposeError: other data are nowhere, or what was drawn is not what the run used.
    """
    said, folder = "no remote is set", driver.repository
    targets = [name for name in ("data.dvc", *stages) if name != "data.dvc" or (folder / name).is_file()]
    if has_remote:
        try:
            driver.command("fetch", ["dvc", "--wait-for-lock", "fetch", *targets])
            said = "the remote does not hold all of it"
        except FarposeError as error:
            said = error.problem.removeprefix("ERROR: ")
    with contextlib.suppress(FarposeError):  # what is missing is seen below, or made again by its stage
        driver.command("checkout", ["dvc", "--wait-for-lock", "checkout", "--force", "--allow-missing", *targets], echo=False)
    if "data.dvc" not in targets or not driver.changes("data.dvc"):
        return
    where = f"data/ of {recorded.said} (MD5 {recorded.data_md5 or 'unknown'})"
    fix = "`dvc push` in the clone that has it, and here the same `dvc remote add` (docs/operate.md)"
    if load_yaml(folder / "params" / "data.yaml")["data"].get("source") != DRAWN:
        raise FarposeError(f"neither the cache nor a remote holds it: {said}", where=where, fix=fix)
    before = (folder / "data.dvc").read_bytes()
    driver.command("acquire", ["pipelines.cli", "acquire", DRAWN])
    if (folder / "data.dvc").read_bytes() != before:
        raise FarposeError(f"neither the cache nor a remote holds it ({said}), and what is drawn now differs", where=where, fix=fix)


def _git(folder: Path, *arguments: str) -> None:
    """
    Raises:
        FarposeError: git is missing or refuses, in its own words.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FarposeError("git is not installed", where=folder, fix="install it; results are made again in a git worktree") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split()).removeprefix("fatal: ").removeprefix("error: ")
        raise FarposeError(f"git {arguments[0]}: {said[:300]}", where=folder)
