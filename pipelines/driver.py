"""Runs single DVC stages as subprocesses that can be watched, timed out and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from components.base import processes
from components.base.errors import FarposeError
from components.base.files import atomic_file
from pipelines import disk, environment, interrupted, lifeline, locks, passing
from pipelines.graph import Stage

PROGRESS_EVERY_S = 10.0  # a progress bar's redraws are shown this seldom when they arrive through a pipe
GRACE_S = 15.0  # between asking a stage to stop and killing it
DVC_ENDS_S = 3.0  # that DVC has to end by itself once its stage has
LOOK_EVERY_S = 0.1
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock", "Unable to read RWLock-file")  # another stage touches the same path
BUSY_RETRIES, BUSY_WAIT_S = 60, 1.0
LAST = 40  # lines of output that may say why a stage failed
CHATTER = (  # lines of DVC that no one waiting for a result needs
    "Data and pipelines are up to date",
    "Generating lock file",
    "To enable auto staging",
    "To track the changes",
    "Updating lock file",
    "Use `dvc push`",
    "WARNING: Process '",  # of a run that was killed; DVC clears its lock away
    "\tdvc config",
    "\tgit add",
)
ERROR_PREFIX = "farpose: error: "


class Stopped(FarposeError):
    """A stage was stopped, because the flow was."""


class Passing(FarposeError):
    """A process failed for a reason that passes by itself, see `pipelines.passing`."""


@dataclass(frozen=True)
class StageResult:
    """What DVC decided: `ran`, `unchanged` or `restored` (from the run cache)."""

    name: str
    outcome: str
    seconds: float


class Driver:
    """Reproduces stages, one subprocess each, several at a time if called from several threads.

    Args:
        repository: folder of dvc.yaml.
        timeout_s: after which a stage is stopped.
        echo: receives every line of output, already prefixed with the stage's name.
        max_parallel: stages that run side by side; others wait for their turn.
        variables: set for the subprocesses on top of this process's own.
    """

    def __init__(
        self,
        repository: Path,
        timeout_s: float,
        echo: Callable[[str], None],
        max_parallel: int = 1,
        variables: dict[str, str] | None = None,
    ) -> None:
        environment.prepare()
        self.repository, self.timeout_s, self.echo = repository, timeout_s, echo
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // max_parallel))}  # more threads than cores wait for each other
        marks = {"PYTHONUNBUFFERED": "1", lifeline.DRIVER: processes.this_process(), passing.ASKED: "1"}
        self.variables = {**threads, **os.environ, **marks, **(variables or {})}
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._turn = threading.Semaphore(max_parallel)

    def reproduce(self, stage: Stage, force: bool = False) -> StageResult:
        """Bring one stage up to date, as DVC decides, or run it in any case with `force`.

        Raises:
            FarposeError: the stage failed (its own message), took too long or was stopped; its earlier outputs are back.
        """
        with self._turn:
            return self._reproduce(stage, force)

    def _reproduce(self, stage: Stage, force: bool) -> StageResult:
        kept = {output.path: output.path.read_bytes() for output in stage.outputs if not output.cached and output.path.is_file()}
        started = time.monotonic()
        interrupted.begin(stage.name, self.repository)
        try:
            lines = self._reproduce_when_free(stage, force)
        except (FarposeError, KeyboardInterrupt):
            self._bring_back(stage, kept)
            raise
        finally:
            interrupted.done(stage.name, self.repository)
        with self._lock:
            interrupted.keep_lock(self.repository)
        return StageResult(stage.name, _outcome(lines), time.monotonic() - started)

    def command(self, name: str, arguments: list[str], echo: bool = True) -> list[str]:
        """Run `python -m ARGUMENTS` under the same watch; its lines of output, also echoed unless `echo` is False.

        Raises:
            FarposeError: it failed, took too long or was stopped.
        """
        code, lines = self._watched(name, arguments, echo)
        if code != 0:
            raise self._failure(name, code, lines)
        return lines

    def changes(self, *targets: str) -> dict[str, Any]:
        """What DVC sees that is not as recorded, by stage or `.dvc` file; of all of them without `targets`.

        Raises:
            FarposeError: DVC fails, or says nothing (as it does with `--quiet`, whatever there is).
        """
        lines = self.command("status", ["dvc", "--wait-for-lock", "status", "--json", *targets], echo=False)
        said = next((line for line in lines if line.startswith("{")), None)
        if said is None:
            raise FarposeError("DVC said nothing of what changed", where="dvc status", fix="run `dvc status` to see why")
        found: dict[str, Any] = json.loads(said)
        return found

    def stop(self) -> None:
        """Stop everything that runs, with its children; nothing is started after it."""
        self._stopped.set()
        with self._lock:
            running = list(self._running)
        if not running:
            return
        asked: dict[int, float] = {}
        deadline = time.monotonic() + GRACE_S
        while running and time.monotonic() < deadline:
            running = [process for process in running if _ask(process, asked)]
            time.sleep(LOOK_EVERY_S)
        for process in running:
            _signal_group(process, signal.SIGKILL)
        interrupted.mend_rwlock(self.repository)

    def _reproduce_when_free(self, stage: Stage, force: bool) -> list[str]:
        arguments = ["dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage.name]
        for attempt in range(BUSY_RETRIES):
            if attempt == 1:
                interrupted.mend_rwlock(self.repository)
            code, lines = self._watched(stage.name, arguments)
            if code == 0:
                return lines
            if not any(sign in line for line in lines[-8:] for sign in BUSY):
                break
            time.sleep(BUSY_WAIT_S)
        raise self._failure(stage.name, code, lines)

    def _watched(self, name: str, arguments: list[str], echo: bool = True) -> tuple[int, list[str]]:
        if self._stopped.is_set():
            raise Stopped("stopped before it began", where=name)
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.repository,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lifeline.end_with_parent,  # this thread stays as long as the process does
        )
        with self._lock:
            self._running.add(process)
        timer = threading.Timer(self.timeout_s, _signal_group, (process, signal.SIGKILL))
        timer.start()
        try:
            lines = self._follow(process, (lambda text: self.echo(f"{name} | {text}")) if echo else (lambda text: None))
            code = process.wait()
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            expired = not timer.is_alive()
            timer.cancel()
            _signal_group(process, signal.SIGKILL)  # whatever it left behind
            with self._lock:
                self._running.discard(process)
        if self._stopped.is_set():
            raise Stopped("stopped", where=name, fix="run the same command again; it continues where it stopped")
        if expired:
            raise FarposeError(
                f"took longer than {self.timeout_s / 3600:g} h", where=name, fix="raise flow.stage_timeout_hours in params/pipeline.yaml"
            )
        return code, lines

    def _follow(self, process: subprocess.Popen, echo: Callable[[str], None]) -> list[str]:
        assert process.stdout is not None
        lines: list[str] = []
        pending, shown = b"", 0.0
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            *whole, pending = re.split(rb"(?<=[\r\n])", pending + chunk)
            for piece in whole:
                text = piece.decode(errors="replace").rstrip()
                redraw = piece.endswith(b"\r")
                if not text or (redraw and time.monotonic() - shown < PROGRESS_EVERY_S):
                    continue
                shown = time.monotonic() if redraw else shown
                lines.append(text)
                if not text.startswith(CHATTER):
                    echo(text)
        if pending.strip():
            lines.append(pending.decode(errors="replace").rstrip())
            echo(lines[-1])
        return lines

    def _failure(self, name: str, code: int, lines: list[str]) -> FarposeError:
        said = next((line.split(ERROR_PREFIX, 1)[1] for line in reversed(lines) if ERROR_PREFIX in line), None)
        if said is None:
            said = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "it said nothing")
        if any(disk.says_full(line) for line in lines[-LAST:]) and disk.FULL not in said:
            return FarposeError(disk.FULL, where=f"stage {name}", fix=disk.way_out(self.repository))
        missing = re.search(r"(?:No such file or directory: '.*/|dependency ')data/([^/']+)'", said)
        fix = f"`farpose acquire {missing[1]}`, or `dvc pull` where a remote has it" if missing else None
        kind = Passing if code == passing.CODE or any(passing.EXITED in line for line in lines[-LAST:]) else FarposeError
        return kind(said if code > 0 else f"killed by signal {-code}: {said}", where=f"stage {name}", fix=fix)

    def _bring_back(self, stage: Stage, kept: dict[Path, bytes]) -> None:
        """DVC removes outputs before a stage runs: put the earlier ones back where the failed run left none."""
        with locks.unless_at_work(stage.name, self.repository) as free:
            if free:
                interrupted.sweep([output.path for output in stage.outputs], self.repository)
        for path, content in kept.items():
            if not path.exists():
                with atomic_file(path) as temporary:
                    temporary.write_bytes(content)
        known = interrupted.outputs_of(stage.name, self.repository)
        missing = {path: digest for path, digest in known.items() if not path.exists()}
        if missing:
            interrupted.bring_back(missing, self.repository, self.variables)


def _outcome(lines: list[str]) -> str:
    text = "\n".join(lines)
    if "is cached - skipping run" in text:
        return "restored"
    return "ran" if "Running stage" in text else "unchanged"


def _ask(process: subprocess.Popen, asked: dict[int, float]) -> bool:
    """Ask what runs in the process's group to end, each once; whether anything still does.

    DVC itself, the first of the group, gives the files free that it uses once its stage has ended, so it is asked some time later.

    Args:
        asked: when each process was asked; of DVC, since when it has been alone.
    """
    members, now = _members(process), time.monotonic()
    for member in members:
        if member.pid == process.pid:
            if len(members) > 1 or now - asked.setdefault(member.pid, now) < DVC_ENDS_S:
                continue
        elif member.pid in asked:
            continue
        asked.setdefault(member.pid, now)
        with contextlib.suppress(psutil.Error):
            member.terminate()
    return bool(members)


def _members(process: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for member in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(member.pid) == process.pid and member.status() != psutil.STATUS_ZOMBIE:
                found.append(member)
    return found


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
