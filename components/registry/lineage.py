"""The origin of a run's numbers: digests and versions, as flat texts for tags."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.base.config import REPOSITORY
from components.base.files import sha256_of

WRITTEN = ("results", "dvc.lock", "data.dvc")  # by the pipeline itself, so no sign of edited code
CODE = ("components", "pipelines", "params")  # a new file here is an edit, whether or not git knows it yet
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pandas", "timm", "dvc", "mlflow", "prefect")


def data_digest(repository: Path = REPOSITORY) -> str:
    """DVC's digest of `data/`, as written in data.dvc; empty if there is none."""
    outs = _yaml(repository / "data.dvc").get("outs") or [{}]
    return str(outs[0].get("md5", ""))


def lock_hashes(stage: str, repository: Path = REPOSITORY) -> dict[str, str]:
    """Path → DVC hash of everything that `stage` (its address, `train@NAME`) reads and writes, as in dvc.lock."""
    entry = (_yaml(repository / "dvc.lock").get("stages") or {}).get(stage, {})
    return {item["path"]: item["md5"] for kind in ("deps", "outs") for item in entry.get(kind, []) if "md5" in item}


def git_commit(repository: Path = REPOSITORY) -> str:
    """The commit that is checked out, with `-dirty` behind it if files differ (see `patch`); empty outside of git."""
    commit = _git(repository, "rev-parse", "HEAD")
    if not commit:
        return ""
    changed = _git(repository, "status", "--porcelain", "--untracked-files=no", "--", *_own())
    return commit + ("-dirty" if changed or _new_files(repository) else "")


def patch(repository: Path = REPOSITORY) -> bytes:
    """How tracked files, and new ones among the code and the parameters, differ from the commit, for `git apply`; empty if they do not.

    What the pipeline writes itself (`WRITTEN`) is left out.
    """
    if not _git(repository, "rev-parse", "HEAD"):
        return b""
    parts = [_git_bytes(repository, "diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", "--", *_own())]
    for name in _new_files(repository):
        parts.append(_git_bytes(repository, "diff", "--binary", "--no-ext-diff", "--no-color", "--no-index", "--", "/dev/null", name))
    return b"".join(parts)


def full_commit(name: str, repository: Path = REPOSITORY) -> str:
    """All 40 digits of a commit that may be named in short; empty if the repository does not hold it."""
    return _git(repository, "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")


@functools.cache
def versions() -> dict[str, str]:
    """Package → version of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **installed(PACKAGES)}


@functools.cache
def machine() -> dict[str, str]:
    """What else the last bits of a result depend on: processor, GPU (where torch is in use), operating system, threads."""
    torch = sys.modules.get("torch")  # importing it takes seconds, and a stage that does without has no GPU either
    found = {
        "cpu": _processor(),
        "gpu": torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "",
        "os": f"{platform.system()} {platform.machine()}, {'-'.join(platform.libc_ver())}",
        "threads": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or ""),
    }
    return {key: value for key, value in found.items() if value}


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Package → version of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tags(stage: str, repository: Path = REPOSITORY) -> dict[str, str]:
    """The tags of a stage's run: commit, data digest, hash of dvc.lock, versions, machine."""
    lock = repository / "dvc.lock"
    found = {
        "git.commit": git_commit(repository),
        "mlflow.source.git.commit": _git(repository, "rev-parse", "HEAD"),
        "mlflow.source.name": f"farpose stage {stage.replace('@', ' ')}",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        "data.md5": data_digest(repository),
        "dvc.stage": stage,
        "dvc.lock.sha256": sha256_of(lock) if lock.is_file() else "",
        **{f"version.{package}": version for package, version in versions().items()},
        **{f"machine.{part}": value for part, value in machine().items()},
    }
    return {key: value for key, value in found.items() if value}


def flat(values: Any) -> dict[str, str]:
    """As `nested`, with every value as text."""
    return {key: as_text(value) for key, value in nested(values).items()}


def nested(values: Any) -> dict[str, Any]:
    """A dataclass or mapping, with others nested in it, as `a.b.c` → value; values that are None are left out."""
    found: dict[str, Any] = {}
    for key, value in (values if isinstance(values, Mapping) else dataclasses.asdict(values)).items():
        if isinstance(value, Mapping) or dataclasses.is_dataclass(value):
            found |= {f"{key}.{name}": item for name, item in nested(value).items()}
        elif value is not None:
            found[str(key)] = value
    return found


def as_text(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _yaml(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _processor() -> str:
    """Its name; Linux tells it in a file, other systems by their own call."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _user() -> str:
    """Who runs this; empty where the machine has no name for it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _own() -> list[str]:
    return [".", *(f":!{path}" for path in WRITTEN)]


def _new_files(repository: Path) -> list[str]:
    listed = _git(repository, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    return [name for name in listed.split("\0") if name]


def _git(repository: Path, *arguments: str) -> str:
    return _git_bytes(repository, *arguments).decode(errors="replace").strip()


def _git_bytes(repository: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, check=False).stdout
    except FileNotFoundError:  # no git on this machine
        return b""
