"""Challengers against the champion, whom a person may have chosen: told, never promoted."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of, write_json
from pipelines import judging, paths, promoting, settings

if TYPE_CHECKING:
    from components.registry.promotion import ModelVersion

KIND = "challenge"
AGAINST, FOUND = "challenge.against", "challenge.found"  # tags of the challenger's version
BETTER, UNDECIDED, UNCOMPARED = "better", "not better", "not compared"


@dataclass(frozen=True)
class Challenge:
    """How a challenger compares with the champion.

    Attributes:
        challenger, champion: as `NAME, version 3`.
        verdict: `BETTER`, `UNDECIDED` or `UNCOMPARED`.
        said: the paired difference, or why there is none, in words.
    """

    challenger: str
    champion: str
    verdict: str
    said: str


@dataclass(frozen=True)
class Challenges:
    """What is known of all challengers.

    Attributes:
        champion: as `NAME, version 3`; empty if there is none.
        new: comparisons that were made now.
        known: those that were made before, against the same champion on the same persons.
    """

    champion: str
    new: tuple[Challenge, ...]
    known: tuple[Challenge, ...]

    def markdown(self) -> str:
        """For a page."""
        if not self.champion:
            return "No model is the champion: `farpose promote NAME`, or set the alias in MLflow's pages."
        if not self.new and not self.known:
            return f"Champion: {self.champion}. No model of the pipeline challenges it."
        rows = [f"| {one.challenger} | {one.verdict} | {one.said} |" for one in (*self.new, *self.known)]
        better = [one.challenger.partition(",")[0] for one in (*self.new, *self.known) if one.verdict == BETTER]
        end = [f"To promote: `farpose promote {name}`, the flow *promote*, or the alias in MLflow's pages." for name in better[:1]]
        return "\n".join([f"Champion: {self.champion}", "", "| challenger | verdict | why |", "|---|---|---|", *rows, "", *end])

    def in_words(self) -> str:
        """One clause."""
        if not self.champion:
            return "there is no champion"
        better = sum(one.verdict == BETTER for one in self.new)
        return f"{len(self.new)} challengers compared with {self.champion}, {better} better" if self.new else "no new challenger"


def challenge(split: str | None = None, repository: Path = paths.REPOSITORY) -> Challenges:
    """Compare every challenger of the pipeline's variants that was not compared with the present champion on these persons yet.

    Each comparison is a run of kind `challenge` in MLflow, and two tags of the challenger's version.

    Args:
        split: "val" or "dev"; None: "dev" if the data have one.
    Raises:
        FarposeError: the fetch stage did not run, or the store does not answer.
    """
    from components.registry import promotion

    champion = promotion.champion(repository)
    if champion is None:
        return Challenges("", (), ())
    holder = promotion.label(champion)
    others = [version for version in _challengers(repository) if promotion.label(version) != holder]
    if not others:
        return Challenges(holder, (), ())
    ground = judging.here()
    split = split or ("dev" if "dev" in set(ground.table.frame["split"]) else "val")
    against = f"{holder}, {split}, persons {sha256_of(ground.persons / 'persons.parquet')[:12]}"
    known = [_told(version, holder) for version in others if version.tags.get(AGAINST) == against]
    with tempfile.TemporaryDirectory() as scratch:
        field = _Field(repository, champion, ground, split, Path(scratch))
        new = [_compared(version, field, against) for version in others if version.tags.get(AGAINST) != against]
    return Challenges(holder, tuple(new), tuple(known))


class _Field:
    """The champion's evaluation, made once, when the first challenger needs it."""

    def __init__(self, repository: Path, champion: ModelVersion, ground: judging.Ground, split: str, folder: Path) -> None:
        self.repository, self.champion, self.ground, self.split, self.folder = repository, champion, ground, split, folder

    def compare(self, challenger: ModelVersion) -> promoting.Gate:
        """
        Raises:
            FarposeError: one of the two cannot be scored on these persons, or its files are not there.
        """
        from components.registry import promotion

        if not (self.folder / "champion" / "metrics.json").is_file():
            judging.judge(promotion.read(self.champion, self.repository), self.ground, self.split, self.folder / "champion")
        judging.judge(promotion.read(challenger, self.repository), self.ground, self.split, self.folder / "candidate")
        return promoting.better(self.folder, promotion.label(self.champion), self.split)


def _compared(version: ModelVersion, field: _Field, against: str) -> Challenge:
    from components.registry import promotion, tracking

    label, champion = promotion.label(version), promotion.label(field.champion)
    try:
        gate = field.compare(version)
    except FarposeError as error:
        print(f"{label}: {UNCOMPARED}: {error}", flush=True)
        return Challenge(label, champion, UNCOMPARED, str(error))
    found = Challenge(label, champion, BETTER if gate.passed else UNDECIDED, gate.said)
    tags = {"kind": KIND, AGAINST: against, "challenge.candidate": f"{version.name}@{version.version}"}
    with tracking.run(f"challenge {version.name} {version.version}", tags=tags, repository=field.repository) as run:
        run.metrics(gate.numbers)
        run.note(f"{label}: **{found.verdict}** than the champion. {found.said}")
        for key, value in {AGAINST: against, FOUND: f"{found.verdict}: {found.said}"}.items():
            run.client.set_model_version_tag(version.name, version.version, key, value[:5000])
    print(f"{label}: {found.verdict}: {found.said}", flush=True)
    return found


def _told(version: ModelVersion, champion: str) -> Challenge:
    """What an earlier comparison wrote."""
    from components.registry import promotion

    verdict, _, said = version.tags.get(FOUND, "").partition(": ")
    return Challenge(promotion.label(version), champion, verdict, said)


def _challengers(repository: Path) -> list[ModelVersion]:
    """The versions with the alias `challenger`, of the variants of the pipeline."""
    from components.registry import promotion

    found = []
    for name in settings.load().variants:
        with contextlib.suppress(FarposeError):  # it was not registered yet
            found.append(promotion.find(name, repository))
    return found


def read(path: Path) -> Challenges:
    """What `main` wrote."""
    saved = read_json(path)
    lists = {key: tuple(Challenge(**one) for one in saved[key]) for key in ("new", "known")}
    return Challenges(saved["champion"], **lists)


def main(arguments: list[str]) -> int:
    """Exit code of `python -m pipelines.challenging --output FILE [--split SPLIT]`, which the nightly flow runs and watches."""
    from pipelines.cli import report

    parser = argparse.ArgumentParser(prog="pipelines.challenging")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--split", choices=("val", "dev"))
    options = parser.parse_args(arguments)
    try:
        found = challenge(options.split)
    except Exception as error:
        return report(error)
    write_json(options.output, asdict(found))
    print(found.in_words())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
