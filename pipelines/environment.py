"""The environment of every command and stage: telemetry off, stores inside the repository. Standard library only."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # the word, not 1
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
}
DEFAULTS = {
    "PREFECT_HOME": str(REPOSITORY / "mlruns" / "prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # of a flow started without `farpose`; a first start makes a database
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # a person reads the stages' own output; the UI gets everything
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 15 s; a missing server should be reported soon
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MPLBACKEND": "Agg",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # what FFmpeg prints of a bad video names no file; `pipelines.videos` says what matters
}
SERVERS = {  # of the servers that we start, which write to their log files, not to the terminal
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # the server's only handler; its stream is the log file
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs judge language models: five processes of 240 MB each, which nothing here uses
}
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names in malloc.h
KEPT = 1 << 30  # bytes of freed memory that a process keeps for its next tensors
LOOPBACK = ("127.0.0.1", "localhost")  # a proxy of the environment would catch our requests to our own servers


def prepare() -> None:
    """Set the variables that this process and its children need; a user's own settings override `DEFAULTS`."""
    os.environ.update(ALWAYS)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(NO_PROXY=no_proxy(os.environ), no_proxy=no_proxy(os.environ))
    os.environ.update(git_trust(os.environ))
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "").split(os.pathsep)
    if here not in path:  # `.venv/bin/farpose` must find `.venv/bin/python` without activation
        os.environ["PATH"] = os.pathsep.join([here, *path])


def keep_memory() -> None:
    """Let glibc use freed memory again instead of giving it back to the system (its limit is 32 MiB a block).

    A network's maps at fourfold size are larger than that, and the system clears every page anew in every layer: a training step
    takes 1.6 times as long (results/benchmarks/memory.json). What is computed does not change. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (MMAP_THRESHOLD, TRIM_THRESHOLD):
            mallopt(parameter, KEPT)


def no_proxy(variables: Mapping[str, str]) -> str:
    """Hosts that are reached without a proxy: those of both spellings of the variable, and this machine."""
    named = [host.strip() for name in ("NO_PROXY", "no_proxy") for host in variables.get(name, "").split(",")]
    return ",".join(dict.fromkeys(host for host in (*named, *LOOPBACK) if host))


def git_trust(variables: Mapping[str, str], repository: Path = REPOSITORY) -> dict[str, str]:
    """Variables by which git reads this clone where another user owns it; it would refuse, and a run's commit stay unknown.

    git's own check keeps programs that a stranger's `.git/config` names from running. Whoever owns this clone owns the code
    that runs already, so nothing is lost for this folder, and it holds for no other one.
    """
    count = int(variables.get("GIT_CONFIG_COUNT") or 0)
    known = [(variables.get(f"GIT_CONFIG_KEY_{i}"), variables.get(f"GIT_CONFIG_VALUE_{i}")) for i in range(count)]
    if ("safe.directory", str(repository)) in known:
        return {}
    added = {f"GIT_CONFIG_KEY_{count}": "safe.directory", f"GIT_CONFIG_VALUE_{count}": str(repository)}
    return {"GIT_CONFIG_COUNT": str(count + 1), **added}


def make_prefect_home() -> None:
    """Prefect makes its folder, but not the one around it, and without either its server does not start."""
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


prepare()
keep_memory()
