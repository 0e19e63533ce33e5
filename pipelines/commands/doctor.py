"""`doctor`: versions, devices, disk and stores of this machine, and what is missing."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines import paths, terminal

Line = tuple[str, str, str]  # what, found, advice (empty if all is well)
LEAST_DISK_GIB = 5


def doctor(options: argparse.Namespace) -> None:
    """Print every finding, with advice where something is missing."""
    missing = 0
    for what, found, advice in [*_versions(), *_devices(), *_disk(), *_stores(), *_weights(), *_pipeline()]:
        terminal.listed([(f"{what} ", found + (f"   <- {advice}" if advice else ""))], 25, "yellow" if advice else "")
        missing += bool(advice)
    terminal.say(f"\n{missing} thing(s) to do" if missing else "\nall is well", "yellow" if missing else "green")


def _versions() -> Iterator[Line]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield "python", sys.version.split()[0], "" if supported else "use Python 3.11 or 3.12"
    for package, pinned in _pins().items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "missing", "run `make setup`"
            continue
        yield package, found, "" if found.split("+")[0] == pinned else f"requirements.lock has {pinned}; run `make setup`"
    try:
        importlib.metadata.version("opencv-python")
        yield "opencv-python", "installed", "remove it: it overwrites opencv-python-headless"
    except importlib.metadata.PackageNotFoundError:
        pass
    yield "git", shutil.which("git") or "missing", "" if shutil.which("git") else "install git; DVC and lineage need it"


def _pins() -> dict[str, str]:
    """Version in requirements.lock of the packages that results depend on."""
    from components.registry.lineage import PACKAGES

    lines = (paths.REPOSITORY / "requirements.lock").read_text().splitlines()
    pairs = [line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith(" ")]
    return {name: version for name, version in pairs if name in (*PACKAGES, "great-expectations")}


def _devices() -> Iterator[Line]:
    import torch

    usable = len(os.sched_getaffinity(0))
    yield "CPU cores", f"{usable} usable of {os.cpu_count()}", ""
    if not torch.cuda.is_available():
        unseen = Path("/dev/nvidiactl").exists()  # the driver's own file
        yield (
            "GPU",
            "none that torch can use",
            "torch does not see this machine's GPU: its driver is too old, or not installed" if unseen else "",
        )
    for index in range(torch.cuda.device_count()):
        properties, (free, whole) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
        yield f"GPU {index}", f"{properties.name}, {free / 2**30:.0f} of {whole / 2**30:.0f} GiB free", ""
    yield _chosen()


def _chosen() -> Line:
    """Where a job would run, and how."""
    from components.base.errors import FarposeError
    from pipelines import devices

    try:
        names = devices.choices()
    except FarposeError as error:
        return "jobs run on", "no device", str(error)
    if names == [devices.CPU]:
        return "jobs run on", "the CPU, in fp32", ""
    one = names[0] if len(names) == 1 else f"the first free one of {', '.join(names)}, one job each"
    why = f"as {devices.VARIABLE} says" if os.environ.get(devices.VARIABLE) else f"{devices.VARIABLE}={names[-1]} or cpu chooses"
    return "jobs run on", f"{one} ({why}), in bf16, a training step as one CUDA graph", ""


def _disk() -> Iterator[Line]:
    free = shutil.disk_usage(paths.REPOSITORY).free / 2**30
    yield "free disk", f"{free:.0f} GiB", "" if free >= LEAST_DISK_GIB else f"less than {LEAST_DISK_GIB} GiB"


def _stores() -> Iterator[Line]:
    from components.base.errors import FarposeError
    from components.registry import store
    from components.registry.secrets import without_secrets
    from pipelines import served, servers

    try:
        uri = store.tracking_uri()
    except FarposeError as error:
        yield "MLflow", "no place", str(error)
        return
    local = uri.startswith("sqlite:")
    held = "made on first use" if local and not (paths.REPOSITORY / "mlruns" / "mlflow.db").is_file() else "there" if local else "server"
    yield "MLflow", f"{without_secrets(uri)} ({held})", ""
    alone = f"a server of its own for every run, history in {os.environ['PREFECT_HOME']}"
    record = served.read()
    shared = f"{record.addresses[servers.PREFECT]}/api (make serve)" if servers.PREFECT in record.living() else alone
    yield "Prefect", without_secrets(os.environ.get("PREFECT_API_URL", shared)), ""


def _weights() -> Iterator[Line]:
    """Every entry of params/weights.yaml; one that nothing uses and that comes with no clone need not be there."""
    from components.base import origins
    from components.base.errors import FarposeError

    try:
        entries, used = origins.load(), _starts_in_use()
    except FarposeError as error:
        yield "weights", "wrong", str(error)
        return
    for name, entry in entries.items():
        problem = origins.problem(name, entry)
        asked = entry.shipped or name in used or entry.file.is_file()
        found = "there" if problem is None else "other bytes than named" if entry.file.is_file() else "missing" if asked else "not here"
        yield name, f"{entry.use}, {found}", str(problem) if problem and asked else ""


def _starts_in_use() -> set[str]:
    """`init` of every variant of the pipeline."""
    from components.models import zoo
    from components.train import recipe as recipes
    from pipelines import settings

    pipeline, base, variants = settings.load(), recipes.load(), zoo.load_variants()
    return {recipes.resolve(variants[name], base, pipeline.recipe_of(name)).init for name in pipeline.variants if name in variants}


def _pipeline() -> Iterator[Line]:
    from components.base.errors import FarposeError
    from pipelines import checks

    try:
        found = checks.parameters()
    except FarposeError as error:
        yield "parameters", "wrong", str(error)
        return
    yield "parameters", f"{len(found['pipeline'].variants)} variants planned", ""
    source = found["data"].source
    data = paths.DATA / source
    yield "raw data", str(data), "" if data.is_dir() else f"missing: farpose acquire {source}"
    made = (paths.COMPARISON / "comparison.md").is_file()
    yield "results", "there: farpose compare" if made else "none yet", "" if made else "farpose run"
