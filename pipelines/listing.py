"""The lists in dvc.yaml of the files that `compare` and `report` read: those of the pipeline's variants and peers only.

DVC cannot build a stage's dependencies from a list of names, and a parent folder would also hold the files of variants that
were removed from the pipeline, so the same state would give other hashes. So dvc.yaml holds the lists, each between two marks;
`farpose params` and `farpose run` keep them in step with params/pipeline.yaml, and the first stage checks them.

dvc.lock is kept in step too. Entries of stages that left the graph are moved to artifacts/retired.lock and come back with their
stage, which is then up to date if nothing else has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.base.config import load_yaml
from components.base.errors import FarposeError
from components.base.files import atomic_file
from pipelines import paths
from pipelines.settings import Pipeline

FILES = ("results/pipeline/train/{}.json", "results/pipeline/evaluate/{}.json", "artifacts/evaluations/{}")
FIX = "`farpose params` writes it again"


@dataclass(frozen=True)
class List:
    """One list: the stage whose dependencies it is, and the word in its marks."""

    stage: str
    word: str

    @property
    def begin(self) -> str:
        return f"# {self.word}: written by `farpose params`"

    @property
    def end(self) -> str:
        return f"# end of {self.word}"

    def block(self, text: str) -> re.Match[str]:
        """Where the list stands in dvc.yaml's text.

        Raises:
            FarposeError: nowhere.
        """
        begin, end = re.escape(self.begin), re.escape(self.end)
        found = re.search(rf"(?P<begin>^(?P<indent> *){begin}[^\n]*\n)(?P<lines>.*?)(?P<end>^ *{end}$)", text, re.M | re.S)
        if found is None:
            raise FarposeError(f"no list between `{self.begin}` and `{self.end}`", where="dvc.yaml", fix="`git checkout dvc.yaml`")
        return found

    def files(self, pipeline: Pipeline) -> list[str]:
        """Of each variant its results, of peers their predictions and the persons that these are scored on; for the report also the
        shards' contact sheets."""
        files = [file.format(name) for name in pipeline.variants for file in FILES]
        peers = list(dict.fromkeys(f"data/{file}" for peer in pipeline.peers.values() for file in peer.files))
        if self.stage == "report":  # which reads the persons in any case
            return [*files, *peers, *(f"artifacts/shards/{name}/contact_sheet.png" for name in pipeline.shards)]
        return [*files, *(["artifacts/persons"] if peers else []), *peers]


LISTS = List("compare", "variants"), List("report", "report")


def check(pipeline: Pipeline, repository: Path = paths.REPOSITORY) -> None:
    """Whether dvc.yaml lists what `compare` and `report` read.

    Raises:
        FarposeError: it lists another variant's files, or not all.
    """
    text = (repository / "dvc.yaml").read_text()
    for one in LISTS:
        listed, wanted = _listed(one.block(text)), set(one.files(pipeline))
        differences = [
            f"{text} {path}" for text, found in (("lacks", wanted - listed), ("still names", listed - wanted)) for path in sorted(found)
        ]
        if differences:
            more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
            raise FarposeError(f"the list of what `{one.stage}` reads {differences[0]}{more}", where="dvc.yaml", fix=FIX)


def keep_in_step(pipeline: Pipeline, repository: Path = paths.REPOSITORY) -> bool:
    """Write the lists again, and print that, if they differ; bring dvc.lock's entries in step. Returns whether one differed.

    Raises:
        FarposeError: dvc.yaml holds no such list.
    """
    path, differs = repository / "dvc.yaml", False
    for one in LISTS:
        text = path.read_text()
        block = one.block(text)
        if _listed(block) == set(one.files(pipeline)):
            continue
        differs = True
        lines = [f"{block['indent']}- {file}\n" for file in one.files(pipeline)]
        with atomic_file(path) as temporary:
            temporary.write_text(f"{text[: block.start('lines')]}{''.join(lines)}{text[block.end('lines') :]}")
        print(f"dvc.yaml: the list of what `{one.stage}` reads follows params/pipeline.yaml again")
    _retire(pipeline, repository)
    return differs


def _listed(block: re.Match[str]) -> set[str]:
    return {line.strip().removeprefix("- ") for line in block["lines"].splitlines() if line.strip()}


def _retire(pipeline: Pipeline, repository: Path) -> None:
    """Move entries of stages that left the graph from dvc.lock to artifacts/retired.lock, and those that came back the other way."""
    lock, retired = repository / "dvc.lock", repository / "artifacts" / "retired.lock"
    planned = _addresses(pipeline, load_yaml(repository / "dvc.yaml")["stages"])
    locked, waiting = _names(lock), _names(retired)
    if locked <= planned and not planned & waiting - locked:
        return
    from dvc.utils.serialize import dump_yaml  # DVC's own reader and writer: numbers stay as it wrote them
    from dvc.utils.serialize import load_yaml as load_lock

    here, there = (load_lock(str(path))["stages"] if path.is_file() else {} for path in (lock, retired))
    there |= {name: entry for name, entry in here.items() if name not in planned}
    back = {name: entry for name, entry in there.items() if name in planned and name not in here}
    kept = {name: entry for name, entry in here.items() if name in planned} | back
    waits = {name: entry for name, entry in there.items() if name not in planned}
    for path, entries in ((retired, waits), (lock, kept)):  # in this order, so that none is lost
        with atomic_file(path) as temporary:
            dump_yaml(str(temporary), {"schema": "2.0", "stages": entries})


def _addresses(pipeline: Pipeline, stages: dict[str, Any]) -> set[str]:
    """Every stage of the graph, as dvc.lock names it."""
    items: dict[str, Iterable[str]] = {"${shards}": pipeline.shards, "${variants}": pipeline.variants}
    lists = {kind: entry["foreach"] for kind, entry in stages.items() if "foreach" in entry}
    each = {kind: items[named] if isinstance(named, str) else named for kind, named in lists.items()}
    return {kind for kind in stages if kind not in each} | {f"{kind}@{item}" for kind, found in each.items() for item in found}


def _names(path: Path) -> set[str]:
    """The stages of a lock file."""
    return set(re.findall(r"^  ([^\s:]+):$", path.read_text(), re.M)) if path.is_file() else set()
