"""The data sets of params/data.yaml: what every floor needs of them, which is names, formats and joints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from components.base.config import PARAMS, load_yaml
from components.base.errors import FarposeError, unknown_name
from components.pose.mapping import mapping_of
from components.pose.skeleton import Skeleton

SOURCES_FILE = PARAMS / "data.yaml"
SECTION = "data.sources"


def entries(params_file: Path = SOURCES_FILE) -> dict[str, dict[str, Any]]:
    """The entries of `data.sources`, by the data set's name, as written.

    Raises:
        FarposeError: the file cannot be read, or has no such section.
    """
    return _entries(params_file, params_file.stat().st_mtime_ns if params_file.is_file() else 0)


@functools.lru_cache(maxsize=8)
def _entries(params_file: Path, _changed: int) -> dict[str, dict[str, Any]]:
    data = load_yaml(params_file).get("data")
    found = data.get("sources") if isinstance(data, dict) else None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise FarposeError(f"{SECTION} must hold one mapping per data set", where=params_file)
    return found


def skeleton_of(dataset: str, params_file: Path = SOURCES_FILE) -> Skeleton:
    """The joints of a data set's persons: those that it is annotated with, or those that its `mapping` takes them to.

    Raises:
        FarposeError: no entry of this name, or a wrong `skeleton` or `mapping` in it.
    """
    found = entries(params_file)
    if dataset not in found:
        raise unknown_name("data set", dataset, found, where=f"{params_file}: {SECTION}")
    return _skeleton(dataset, found[dataset], params_file)


def spelled_out(name: str, plain: Any, where: object) -> Skeleton:
    """An entry's `skeleton`: a known one's name, or one spelled out, which is named after its data set.

    Raises:
        FarposeError: see `Skeleton.of`.
    """
    joints = plain.get("keypoint_names") if isinstance(plain, dict) else None
    return Skeleton.of(plain, where, name=f"{name}_{len(joints)}" if isinstance(joints, list | tuple) else name)


def _skeleton(name: str, entry: dict[str, Any], params_file: Path) -> Skeleton:
    where = f"{params_file}: {SECTION}.{name}"
    if "skeleton" not in entry:
        raise FarposeError("parameter 'skeleton' is missing", where=where, fix="name a known one, or spell out its joints")
    return mapped(name, spelled_out(name, entry["skeleton"], f"{where}.skeleton"), entry.get("mapping"), f"{where}.mapping")


def mapped(name: str, own: Skeleton, mapping: str | None, where: object) -> Skeleton:
    """The joints that an entry's `mapping` takes its own to; its own without one.

    Args:
        name: of the data set.
    Raises:
        FarposeError: an unknown mapping, or one from other joints.
    """
    if mapping is None:
        return own
    found = mapping_of(mapping, where)
    if found.source.keypoint_names != own.keypoint_names:
        raise FarposeError(f"{mapping} is from the joints {found.source.name}, {name} has those of {own.name}", where=where)
    return found.target
