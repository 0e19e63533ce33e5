"""The models of a curve: what a user names, and further results files with what they were predicted from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from components.base.errors import FarposeError, unknown_name
from components.evaluate.conditions import HEIGHT
from components.evaluate.scoring import Truth
from components.evaluate.usefulness import Model
from pipelines import asked, paths, settings
from pipelines.asked import Asked

RESULTS = re.compile(r"(?P<name>[^=@]+?)(@(?P<condition>[^=@]+))?=(?P<file>.+)")
SIZE = re.compile(r"(?P<name>[^=]+)=(?P<height>[1-9]\d*)x(?P<width>[1-9]\d*)")
INPUT_SIZE = re.compile(r"_\d+x\d+")


def asked_for(names: Sequence[str], results: Sequence[str], sizes: Sequence[str]) -> list[Asked]:
    """Everything that the curves are of.

    Args:
        names: as `asked.find` takes them; without any and without results, all variants that are evaluated and all peers.
        results: NAME=FILE, and NAME@h32=FILE for the predictions of persons of limited height.
        sizes: NAME=HxW, the input of a network whose name is none of a variant.
    Raises:
        FarposeError: a text of another form, a name that is unknown or given twice, or nothing to draw.
    """
    found = [one for name in names for one in asked.find(name)] + _files(results)
    found = found or everything()
    given = [one.name for one in found]
    repeated = next((name for name in given if given.count(name) > 1), None)
    if repeated:
        raise FarposeError("this name is given twice", where=repeated, fix="name results files differently: --results NAME=FILE")
    inputs = dict(_size(text) for text in sizes)
    for name in inputs:
        if name not in given:
            raise unknown_name("model of --size", name, given)
    return [dataclasses.replace(one, input_size=inputs.get(one.name, one.input_size)) for one in found]


def everything() -> list[Asked]:
    """All variants of the pipeline that are evaluated, and its peers.

    Raises:
        FarposeError: there are none.
    """
    pipeline, found = settings.load(), []
    for name in pipeline.variants:
        if (paths.EVALUATIONS / name / "metrics.json").is_file():
            found += asked.find(name)
    found = list({one.name: one for one in found}.values())  # a seed group's name may be that of its first variant
    found += [one for name in pipeline.peers for one in asked.find(name)]
    if not found:
        raise FarposeError("nothing is evaluated yet", fix="`farpose run`, or name a results file: --results NAME=FILE")
    return found


def _files(results: Sequence[str]) -> list[Asked]:
    main: dict[str, Path] = {}
    limited: dict[str, dict[str, Path]] = {}
    for text in results:
        parts = RESULTS.fullmatch(text)
        if parts is None:
            raise FarposeError(
                f"not of the form NAME=FILE: {text}", where="--results", fix="such as movenet=movenet.json.gz or movenet@h32=FILE"
            )
        name, condition, file = parts["name"], parts["condition"], Path(parts["file"])
        if not file.is_file():
            raise FarposeError("no such results file", where=file)
        if condition is not None and not HEIGHT.fullmatch(condition):
            raise unknown_name("condition", condition, ["h32 (any height in px)"], where=f"--results {text}")
        into, key = (main, name) if condition is None else (limited.setdefault(name, {}), condition)
        if key in into:
            raise FarposeError("this name is given twice", where=f"--results {text}", fix="name results files differently")
        into[key] = file
    orphan = next((name for name in limited if name not in main), None)
    if orphan:
        raise FarposeError("its predictions without a limit of height are missing", where=orphan, fix=f"--results {orphan}=FILE")
    return [Asked(name, file, limited.get(name, {}), peer=True) for name, file in main.items()]


def _size(text: str) -> tuple[str, tuple[int, int]]:
    parts = SIZE.fullmatch(text)
    if parts is None:
        raise FarposeError(
            f"not of the form NAME=HxW: {text}", where="--size", fix="height and width of the network's input, such as movenet=64x48"
        )
    return parts["name"], (int(parts["height"]), int(parts["width"]))


def one_split(given: Sequence[Asked], wanted: str | None, default: str) -> str:
    """The split that all were predicted on.

    Raises:
        FarposeError: they differ.
    """
    splits = {one.name: one.split for one in given if one.split is not None}
    different = sorted({*splits.values(), *([wanted] if wanted else [])})
    if len(different) > 1:
        of = ", ".join(f"{name}: {split}" for name, split in splits.items())
        raise FarposeError(f"the models are of several splits ({of})", fix="evaluate them on the same one")
    return different[0] if different else default


def model(one: Asked, truth: Truth) -> Model:
    """Read a set of predictions.

    Raises:
        FarposeError: what `Asked.read` raises.
    """
    limited = {height: one.read(file, truth)[:2] for height, file in one.heights.items()}
    family = INPUT_SIZE.sub("", one.name) if one.folder is not None and one.input_size else ""
    return Model(one.name, one.read(one.file, truth)[:2], limited, one.input_size, family, one.peer)
