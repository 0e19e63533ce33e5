"""`weights`: what others made, or a variant of ours, and trainings start from.

`import-weights`: an author's checkpoint file → weights that `predict` and `evaluate` take, or that a training starts from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from components.base.files import sha256_of
from pipelines import paths, terminal

if TYPE_CHECKING:
    from components.models.checkpoints import Fit

LISTED = 20  # keys per line of the report


def weights(options: argparse.Namespace) -> None:
    """Print every entry of params/weights.yaml: its file, origin, licence and training data."""
    from components.base import origins

    for name, entry in origins.load().items():
        problem = origins.problem(name, entry)
        state = str(problem) if problem else f"there: {entry.path} ({entry.file.stat().st_size / 1e6:.1f} MB)"
        use = f"start of backbone {entry.backbone} (init: {name})" if entry.use == "start" else entry.use
        rows = {
            "use": use,
            "file": state,
            "origin": f"{entry.source.file} of {entry.source.package} {entry.source.version} (`{entry.source.get}`)",
            "licence": f"{entry.licence}: {entry.licence_source}",
            "trained on": entry.trained_on,
            "changed": entry.changed,
        }
        terminal.say(name, "bold")
        terminal.listed(((f"  {key}", value) for key, value in rows.items()), 14)
        print()


def import_weights(options: argparse.Namespace) -> None:
    """Read the file, say which of its keys are used, missing and left over, and write what the network needs as safetensors.

    Raises:
        FarposeError: unknown network, a file that cannot be read or would run code, or weights that do not fit; nothing is written.
    """
    from components.base import origins
    from components.models import checkpoints, official
    from components.models.weights import save_weights

    name, source = options.name, options.file
    if name in origins.load("start"):
        return _import_start(name, source, options.output)
    if name in origins.load("detector"):
        return _import_detector(name, source, options.output)
    needed = official.expected(name, published=False)
    state = checkpoints.read(source)
    fit = checkpoints.compare(state, needed)
    print(_report(fit, len(state)))
    if not fit.complete:
        print("looking for the variant that it belongs to")  # some seconds: every network is laid out
        owners = checkpoints.owners(state, name)
        fix = f"it fits {', '.join(owners)}" if owners else "name the variant that it belongs to; none of params/variants/ fits it"
        raise FarposeError(f"not a checkpoint of {name}: {_misfit(fit)}", where=source, fix=fix)
    model = official.load(name, fit.used, published=False)
    target = options.output or paths.WEIGHTS / f"{name}.safetensors"
    save_weights(target, model, {"variant": name, "source": source.name, "source_sha256": sha256_of(source)})
    return print(f"weights of {name}: {paths.shown(target)}\n{_use(name, target)}")


def _import_start(name: str, source: Path, output: Path | None) -> None:
    """The published file of a start → our file; equal files give equal bytes, wherever they lie.

    Raises:
        FarposeError: the file cannot be read, or is not the version that params/weights.yaml names; nothing is written.
    """
    from components.base import origins
    from components.models import published
    from components.models.weights import save_weights

    entry = origins.load("start")[name]
    tensors = published.read(name, entry, source)
    target = output or entry.file
    said = {key: getattr(entry.source, key) for key in ("package", "version", "file", "sha256")}
    save_weights(target, tensors, {"variant": name, "licence": entry.licence, **said})
    found = sha256_of(target)
    print(f"start {name}: {paths.shown(target)}, {len(tensors)} tensors, {target.stat().st_size / 1e6:.1f} MB, SHA-256 {found}")
    if found != entry.sha256:
        print(f"params/weights.yaml names {entry.sha256}: write the new digest there (`{name}: sha256`), or nothing starts from this file")
    print(f"next: `init: {name}` in the recipe of a variant on backbone {entry.backbone}")


def _import_detector(name: str, source: Path, output: Path | None) -> None:
    """The ONNX file of a detector → the one that is shipped; the same file gives the same bytes.

    Raises:
        FarposeError: the file cannot be read, or is not the one that params/weights.yaml names; nothing is written.
    """
    from components.base import origins
    from components.models import half_precision

    entry = origins.load("detector")[name]
    if not source.is_file():
        raise FarposeError("file not found", where=source, fix="give the ONNX file that params/weights.yaml describes")
    given = sha256_of(source)
    if given != entry.source.sha256:
        problem = f"not the file that params/weights.yaml names: its SHA-256 is {given}, that of {name} {entry.source.sha256}"
        raise FarposeError(problem, where=source, fix="give that file, or write the other digest there if you mean this one")
    target = output or entry.file
    numbers = half_precision.store(source, target)
    print(f"detector {name}: {paths.shown(target)}, {numbers} numbers, SHA-256 {sha256_of(target)}")


def _report(fit: Fit, given: int) -> str:
    rows = {
        "missing": fit.missing,
        "of another shape": [f"{key} {list(found)} instead of {list(wanted)}" for key, (found, wanted) in fit.misshapen.items()],
        "left over": fit.left_over,
        "ignored (no weights of a pose network)": fit.ignored,
    }
    lines = [f"{len(fit.used)} of {given} keys are used"]
    return "\n".join(lines + [f"{len(keys)} {what}: {_listed(keys, LISTED)}" for what, keys in rows.items() if keys])


def _misfit(fit: Fit) -> str:
    shapes = [f"{key} is {found} instead of {wanted}" for key, (found, wanted) in fit.misshapen.items()]
    problems = {"keys missing": fit.missing, "of another shape": shapes}
    return ", ".join(f"{len(keys)} {what} ({_listed(keys, 2)})" for what, keys in problems.items() if keys)


def _listed(keys: Iterable[str], most: int) -> str:
    keys = list(keys)
    return ", ".join(keys[:most]) + (f", … ({len(keys) - most} more)" if len(keys) > most else "")


def _use(name: str, target: Path) -> str:
    from components.models.official import OTHERS

    if name in OTHERS:
        return f"variants with `network: {{upscale: spsr}}` read it from there, or from their `upscale_weights: {paths.shown(target)}`"
    commands = (f"farpose predict IMAGE --variant {name}", f"farpose evaluate {name} --shards NAME")
    return "next:\n" + "\n".join(f"  {command} --weights {paths.shown(target)}" for command in commands)
