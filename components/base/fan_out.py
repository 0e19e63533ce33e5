"""Work on many parts: by threads of this process, by processes of this machine, or by the machines of a Dask scheduler.

Results come back in the order of the parts and a bounded number of them is held, so neither a result nor the memory that it takes
depends on who worked. Dask sends code and data as pickles, which run whatever they say: see docs/safety.md.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.base.errors import FarposeError
from components.base.files import digest_of, sha256_of

Part = TypeVar("Part")
Made = TypeVar("Made")

LOCAL = "local"
SETTING = "params/fan_out.yaml: fan_out.scheduler"
HELD = 2  # parts in work or waiting to be taken, per thread of the workers
ANSWERS_S = 15.0  # that a scheduler has to answer
WITHOUT_WORKERS_S = 60.0  # that a scheduler may have none
LOOK_EVERY_S = 5.0
QUIET = logging.CRITICAL + 1


@dataclass(frozen=True)
class FanOut:
    """Who works on images; see params/fan_out.yaml.

    Attributes:
        scheduler: None: threads of this process. "local": processes of this machine. tcp://HOST:PORT or tls://HOST:PORT: Dask's scheduler.
        workers: processes of "local"; None: one per usable core.
    """

    scheduler: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.scheduler not in (None, LOCAL) and not re.fullmatch(r"(tcp|tls)://\S+:\d+", self.scheduler):
            raise ValueError(f"scheduler must be null, {LOCAL}, tcp://HOST:PORT or tls://HOST:PORT, got {self.scheduler!r}")
        if self.workers is not None and (self.workers < 1 or self.scheduler != LOCAL):
            raise ValueError(f"workers is a positive number of processes of `scheduler: {LOCAL}`, or null")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def fanned_out(to: FanOut) -> Iterator[None]:
    """Within the block `mapped` works where `to` says. Processes are started at its first call, and end with the block."""
    cluster = _Cluster(to) if to.scheduler else None
    token = _cluster.set(cluster)
    try:
        yield
    finally:
        _cluster.reset(token)
        if cluster is not None:
            cluster.close()


def mapped(work: Callable[[Part], Made], parts: Iterable[Part], threads: int = 0) -> Iterator[tuple[Part, Made]]:
    """Each part with `work(part)`, in the order of the parts, which are drawn as they are needed.

    Args:
        work: a function of a module, or `functools.partial` of one, so that another process can import it. It may be called again for
            a part whose worker ended.
        threads: of this process, if it works itself; 0: one per usable core.
    Raises:
        FarposeError: no scheduler answers, it has no worker, a worker runs other code than this process, or a part ended several of them.
        Exception: what `work` raises, for the first such part in order; parts that are not yet in work are dropped.
    """
    cluster = _cluster.get()
    if cluster is not None:
        yield from cluster.mapped(work, parts)
        return
    threads = threads or usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        yield from _in_order(lambda part: pool.submit(work, part), parts, lambda: threads, Future.result, Future.cancel)


def _in_order(
    submit: Callable[[Part], Any],
    parts: Iterable[Part],
    threads: Callable[[], int],
    result: Callable[[Any], Made],
    drop: Callable[[Any], object],
) -> Iterator[tuple[Part, Made]]:
    waiting: deque[tuple[Part, Any]] = deque()
    try:
        for part in parts:
            waiting.append((part, submit(part)))
            if len(waiting) >= HELD * threads():
                first, future = waiting.popleft()
                yield first, result(future)
        while waiting:
            first, future = waiting.popleft()
            yield first, result(future)
    finally:
        for _, future in waiting:
            drop(future)


# ---------------------------------------------------------------- Dask


class _Cluster:
    """A client of Dask's scheduler, and for "local" the scheduler and its workers too."""

    def __init__(self, to: FanOut) -> None:
        self.to = to
        self._started: tuple[Any, Any] | None = None  # client and local cluster

    def mapped(self, work: Callable[[Part], Made], parts: Iterable[Part]) -> Iterator[tuple[Part, Made]]:
        client = self._client()
        call = _Same(work, fingerprint())
        with self._lost_named():
            yield from _in_order(
                lambda part: client.submit(call, part, pure=False),
                parts,
                lambda: max(1, _threads(client)),
                functools.partial(self._result, client),
                _drop,
            )

    def close(self) -> None:
        for one in self._started or ():
            if one is not None:
                with suppress(Exception):  # whatever is left of it ends with this process
                    one.close(timeout=ANSWERS_S)
        self._started = None

    def _client(self) -> Any:
        if self._started is None:
            try:
                import distributed
            except ImportError:
                raise FarposeError("Dask is not installed", where=SETTING, fix="`make setup`, or `scheduler: null`") from None
            _silence()
            self._started = self._local(distributed) if self.to.scheduler == LOCAL else (self._remote(distributed), None)
            self._started[0].subscribe_topic("all", _say_what_ended)
        return self._started[0]

    def _local(self, distributed: Any) -> tuple[Any, Any]:
        cluster = distributed.LocalCluster(
            n_workers=self.to.workers or usable_cores(),
            threads_per_worker=1,
            host="127.0.0.1",
            security=True,  # keys of this cluster alone: other users of the machine cannot give it code to run
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # parts are bounded
            silence_logs=QUIET,
        )
        return distributed.Client(cluster, set_as_default=False, direct_to_workers=True), cluster

    def _remote(self, distributed: Any) -> Any:
        start = "`dask scheduler --host HOST` starts one, `dask worker ADDRESS` its workers; or set `scheduler: null`"
        try:
            client = distributed.Client(self.to.scheduler, timeout=ANSWERS_S, set_as_default=False, direct_to_workers=True)
        except (OSError, TimeoutError, ValueError) as error:
            said = " ".join(str(error.__cause__ or error).split()).rpartition("Error: ")[2] or f"not within {ANSWERS_S:.0f} s"
            raise FarposeError(f"no Dask scheduler answers at {self.to.scheduler}: {said[:200]}", where=SETTING, fix=start) from error
        try:
            client.wait_for_workers(1, timeout=WITHOUT_WORKERS_S)
        except TimeoutError:
            with suppress(Exception):  # whatever is left of it ends with this process
                client.close(timeout=ANSWERS_S)
            raise self._no_worker() from None
        return client

    def _result(self, client: Any, future: Any) -> Any:
        from distributed import KilledWorker

        without_since = None
        while True:
            try:
                return future.result(timeout=LOOK_EVERY_S)
            except TimeoutError:
                if future.status == "error":  # the work's own, or one that has just come
                    return future.result(timeout=ANSWERS_S)
            except KilledWorker as error:
                problem = f"{error.allowed_failures + 1} workers ended over the same part, the last was {error.last_worker.address}"
                raise FarposeError(problem, where=SETTING, fix="give workers more memory, or set `scheduler: null` to see why") from None
            without_since = None if _threads(client) else without_since or time.monotonic()
            if without_since is not None and time.monotonic() - without_since > WITHOUT_WORKERS_S:
                raise self._no_worker()

    def _no_worker(self) -> FarposeError:
        problem = f"the Dask scheduler at {self.to.scheduler} has had no worker for {WITHOUT_WORKERS_S:.0f} s"
        return FarposeError(problem, where=SETTING, fix=f"`dask worker {self.to.scheduler}` starts them; or set `scheduler: null`")

    @contextmanager
    def _lost_named(self) -> Iterator[None]:
        """
        Raises:
            FarposeError: the scheduler went away, or hangs.
        """
        from distributed.client import ClosedClientError
        from distributed.comm import CommClosedError

        try:
            yield
        except (CommClosedError, ClosedClientError, CancelledError, asyncio.CancelledError):
            problem = f"the Dask scheduler at {self.to.scheduler} does not answer any more"
            raise FarposeError(problem, where=SETTING, fix="start it and run the same command again") from None


def _silence() -> None:
    """Let Dask's loggers say nothing: what matters is said here, in a line. Each has a level and a handler of its own."""
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(QUIET)


def _drop(future: Any) -> None:
    """Let the scheduler forget a part, without waiting for it: it may be gone."""
    with suppress(RuntimeError):  # the client is closed, and its parts with it
        future.release()


def _threads(client: Any) -> int:
    """Of all workers.

    Raises:
        CommClosedError: the scheduler does not answer in time, or is gone, in whichever of Dask's ways that shows.
    """
    from distributed.comm import CommClosedError

    if client.scheduler is None:
        raise CommClosedError("the client is closed")
    try:
        return sum(client.nthreads(callback_timeout=ANSWERS_S).values())
    except (OSError, TimeoutError, RuntimeError, CancelledError, asyncio.CancelledError) as error:
        raise CommClosedError(str(error)) from error


def _say_what_ended(event: tuple[float, dict[str, Any]]) -> None:
    said = event[1]
    if isinstance(said, dict) and said.get("action") == "remove-worker" and not said.get("expected"):
        parts = len({*said["processing-tasks"], *said["lost-computed-tasks"]})
        print(f"fan_out: worker {said['worker']} ended; others do its {parts} parts again", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Same:
    """Work that only the same code does, because any other might give other results."""

    work: Callable[[Any], Any]
    code: dict[str, str]

    def __call__(self, part: Any) -> Any:
        if (found := fingerprint()) != self.code:
            differing = next(name for name in self.code if found.get(name) != self.code[name])
            problem = f"a worker has {differing} {found.get(differing)}, this process {self.code[differing]}"
            raise FarposeError(problem, where=f"{SETTING}: {os.uname().nodename}", fix="check out the same commit there and `make setup`")
        return self.work(part)


@functools.cache
def fingerprint() -> dict[str, str]:
    """What results depend on: the code of `components` and the versions of what it works with."""
    import cv2
    import numpy

    root = Path(__file__).resolve().parents[1]
    code = {path.relative_to(root).as_posix(): sha256_of(path) for path in sorted(root.rglob("*.py"))}
    return {"OpenCV": cv2.__version__, "numpy": numpy.__version__, "code": digest_of(code)[:12]}


_cluster: ContextVar[_Cluster | None] = ContextVar("cluster", default=None)
