"""What a killed run leaves, and how the next one puts it in order: processes, half-written files, outputs that DVC had removed.

A note in `.dvc/tmp/farpose` names each stage that is being worked on. A stage that ended well, or whose outputs were brought back,
has none; a note whose process is gone belongs to a run that was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.base import processes
from components.base.config import REPOSITORY
from components.base.files import atomic_file
from pipelines import lifeline, locks

LOCK = "dvc.lock"
ENDS_S = 15.0  # a stage that is asked to end closes its records first


def begin(address: str, repository: Path = REPOSITORY) -> None:
    """Note that this process works on a stage."""
    _note(address, repository).parent.mkdir(parents=True, exist_ok=True)
    _note(address, repository).write_text(json.dumps({"stage": address, "process": processes.this_process()}))


def done(address: str, repository: Path = REPOSITORY) -> None:
    """Nobody needs to look after the stage."""
    _note(address, repository).unlink(missing_ok=True)


@contextmanager
def noted(address: str, repository: Path = REPOSITORY) -> Iterator[None]:
    """A note while a stage runs that no driver looks after; it stays if the stage fails, because DVC brings nothing back itself."""
    watched = lifeline.DRIVER in os.environ
    if not watched:
        begin(address, repository)
    yield
    if not watched:
        done(address, repository)


def put_in_order(repository: Path = REPOSITORY) -> Iterator[str]:
    """End what a killed run left running, and bring back outputs that it had removed; lines to print."""
    ended = end_processes(repository)
    if ended:
        yield f"ended {ended} processes of a run that was killed"
    if said := mend_lock(repository):
        yield said
    mend_rwlock(repository)
    for address in _left(repository):
        with locks.unless_at_work(address, repository) as free:
            if not free:
                continue
            outputs = outputs_of(address, repository)
            sweep(list(outputs), repository)
            missing = {path: digest for path, digest in outputs.items() if not path.exists()}
            if bring_back(missing, repository):
                yield f"{address}: its earlier results are back, after a run that was killed"
            done(address, repository)


def end_processes(repository: Path = REPOSITORY) -> int:
    """End stages whose flow is gone, where no kernel did it for us; how many."""
    import psutil

    from pipelines import served

    def left() -> dict[int, psutil.Process]:
        found = {}
        psutil.process_iter.cache_clear()  # it would give an earlier process where a number is used again
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = process.environ().get(lifeline.DRIVER)
                if named and processes.living(named) is None and Path(process.cwd()).is_relative_to(repository):
                    found[process.pid] = process
        found.pop(os.getpid(), None)
        return {pid: process for pid, process in found.items() if process.status() != psutil.STATUS_ZOMBIE}

    count = len(left())
    if count:
        served.end(left, ENDS_S)
    return count


def outputs_of(address: str, repository: Path = REPOSITORY) -> dict[Path, str]:
    """A stage's outputs as dvc.lock has them: their digests by path."""
    entry = (_parsed(repository / LOCK) or {}).get("stages", {}).get(address, {})
    return {repository / out["path"]: str(out.get("md5", "")) for out in entry.get("outs", ())}


def bring_back(missing: Mapping[Path, str], repository: Path = REPOSITORY, variables: Mapping[str, str] | None = None) -> bool:
    """Restore outputs from DVC's cache, or from git where git holds the same bytes; whether one came back."""
    for path, digest in missing.items():
        shown = ["git", "show", f"HEAD:./{path.relative_to(repository).as_posix()}"]
        kept = subprocess.run(shown, cwd=repository, capture_output=True, check=False)
        if kept.returncode == 0 and hashlib.md5(kept.stdout, usedforsecurity=False).hexdigest() == digest:
            with atomic_file(path) as temporary:
                temporary.write_bytes(kept.stdout)
    places = [str(path) for path in missing if not path.exists()]
    if places:
        subprocess.run(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--quiet", "--force", *places],
            cwd=repository,
            env=None if variables is None else dict(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            start_new_session=True,  # a second Ctrl-C does not cut it off
        )
    return any(path.exists() for path in missing)


def sweep(outputs: Sequence[Path], repository: Path = REPOSITORY) -> None:
    """Remove half-written files and folders next to a stage's outputs; only while nobody works on the stage."""
    for place in {place for output in outputs for place in (output, output.parent) if place != repository}:
        for left in (*place.parent.glob(f".{place.name}.*.tmp"), *place.parent.glob(f".{place.name}.*.old")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def keep_lock(repository: Path = REPOSITORY) -> None:
    """Keep a copy of dvc.lock, which DVC writes in place: a kill at that moment leaves half of it."""
    if _parsed(repository / LOCK):
        with atomic_file(repository / locks.FOLDER / LOCK) as temporary:
            shutil.copyfile(repository / LOCK, temporary)


def mend_lock(repository: Path = REPOSITORY) -> str:
    """Replace a dvc.lock that is not whole by the copy of the last stage, or by git's; a line to print, or nothing.

    Stages whose entries are lost come back from DVC's run cache.
    """
    lock, copy = repository / LOCK, repository / locks.FOLDER / LOCK
    if not lock.is_file() or _parsed(lock) is not None:
        return ""
    content = copy.read_bytes() if copy.is_file() and _parsed(copy) else None
    if content is None:
        shown = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], cwd=repository, capture_output=True, check=False)
        content = shown.stdout if shown.returncode == 0 else b""
    with atomic_file(lock) as temporary:
        temporary.write_bytes(content)
    return f"{LOCK} was half written by a run that was killed; the copy from before is back"


def mend_rwlock(repository: Path = REPOSITORY) -> None:
    """Drop from DVC's list of files in use what names no DVC that lives, and the whole list if it is not JSON.

    DVC itself drops processes that are gone, but not those whose number another program has now, nor half a list.
    """
    path = repository / ".dvc" / "tmp" / "rwlock"
    if not path.is_file() or _in_use(path) == _read_json(path):
        return
    from dvc.lock import LockError, make_lock

    guard = make_lock(str(path.with_name("rwlock.lock")), tmp_dir=str(path.parent))  # as DVC does
    with contextlib.suppress(LockError), guard, atomic_file(path) as temporary:
        temporary.write_text(json.dumps(_in_use(path)))


def _in_use(path: Path) -> dict[str, Any]:
    """The list with those entries only whose DVC lives; empty if it is damaged."""
    try:
        found = _read_json(path)
        read = {name: [info for info in infos if _is_dvc(info)] for name, infos in found.get("read", {}).items()}
        write = {name: info for name, info in found.get("write", {}).items() if _is_dvc(info)}
    except (AttributeError, KeyError, TypeError):
        return {"read": {}, "write": {}}
    return {"read": {name: infos for name, infos in read.items() if infos}, "write": write}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError):
        return None


def _is_dvc(info: Mapping[str, Any]) -> bool:
    import psutil

    try:
        return "dvc" in " ".join(psutil.Process(int(info["pid"])).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _left(repository: Path) -> list[str]:
    """Stages whose note names a process that is gone."""
    found = []
    for note in sorted((repository / locks.FOLDER).glob("*.begun")):
        try:
            said = json.loads(note.read_text())
            if processes.living(said["process"]) is None:
                found.append(str(said["stage"]))
        except (ValueError, KeyError, OSError):  # half a note
            note.unlink(missing_ok=True)
    return found


def _note(address: str, repository: Path) -> Path:
    return locks.path_of(address, repository).with_suffix(".begun")


def _parsed(path: Path) -> dict[str, Any] | None:
    """A lock file of DVC; empty if it is not there, None if it is not whole."""
    import yaml

    try:
        found = yaml.safe_load(path.read_bytes()) or {}
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    entries = found.get("stages", {}) if isinstance(found, dict) else None
    if not isinstance(entries, dict) or (entries and "schema" not in found):
        return None
    return found if all(isinstance(entry, dict) and "cmd" in entry for entry in entries.values()) else None
