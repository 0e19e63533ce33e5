"""The stages of dvc.yaml and what each waits for, read from DVC's own index. No edge is written down twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from pipelines.environment import REPOSITORY

if TYPE_CHECKING:
    from dvc.repo import Repo

NO_GIT = "is not a git repository"  # in DVC's words
WITHOUT_GIT = (
    "`git init && git add --all && git commit -m unpacked`, so that runs have their commit, "
    "or `dvc config --local core.no_scm true` to go without, and without `dvc exp` and `farpose reproduce`"
)


@dataclass(frozen=True)
class Output:
    """One output of a stage; `cached` ones come back with `dvc checkout`, the others are files in git."""

    path: Path
    cached: bool


@dataclass(frozen=True)
class Stage:
    """One stage: its address (`train@NAME`), the addresses it waits for, and its outputs."""

    name: str
    after: tuple[str, ...]
    outputs: tuple[Output, ...]


def load(repository: str | Path = REPOSITORY) -> list[Stage]:
    """The stages that have a command, each after all that it waits for.

    Raises:
        FarposeError: dvc.yaml, or a parameter file that it reads, is not valid; in DVC's words, on one line. There is no git.
    """
    import networkx
    from dvc.exceptions import DvcException

    try:
        with opened(repository) as repo:
            graph = repo.index.graph  # an edge points from a stage to one that it needs
            ordered = [stage for stage in networkx.lexicographical_topological_sort(graph.reverse(), key=_name) if stage.cmd]
            return [_stage(stage, graph) for stage in ordered]
    except DvcException as error:
        raise FarposeError(" ".join(str(error).split()), where="dvc.yaml", fix="`farpose params` checks the parameters") from error


def opened(repository: str | Path = REPOSITORY) -> Repo:
    """DVC's repository, to be closed.

    Raises:
        FarposeError: there is no git, as in an unpacked ZIP, and DVC was not told to do without.
    """
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        return Repo(str(repository))
    except SCMError as error:
        said = " ".join(str(error).split())
        raise FarposeError(said, where="DVC", fix=WITHOUT_GIT if NO_GIT in said else "`git status` may show more") from error


def select(stages: list[Stage], targets: list[str]) -> list[Stage]:
    """The `targets` (addresses, or the part before the @) and everything they wait for, in order.

    Raises:
        FarposeError: a target is not a stage.
    """
    by_name = {stage.name: stage for stage in stages}
    wanted: set[str] = set()
    for target in targets:
        matches = [name for name in by_name if target in (name, name.split("@")[0])]
        if not matches:
            raise FarposeError(f"no stage {target!r}", fix=f"known: {', '.join(by_name)}")
        wanted.update(matches)
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.after)
    return [stage for stage in stages if stage.name in wanted]


def _stage(stage, graph) -> Stage:
    after = sorted(_name(needed) for needed in graph.successors(stage) if needed.cmd)
    return Stage(_name(stage), tuple(after), tuple(Output(Path(out.fs_path), bool(out.use_cache)) for out in stage.outs))


def _name(stage) -> str:
    """`train@NAME`; an address would depend on the current folder."""
    return str(getattr(stage, "name", None) or stage.addressing)
