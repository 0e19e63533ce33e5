"""`import-weights`: an author's checkpoint file → weights that `predict` and `evaluate` take."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from components.base.files import sha256_of
from pipelines import paths

if TYPE_CHECKING:
    from components.models.checkpoints import Fit

LISTED = 20  # keys per line of the report


def import_weights(options: argparse.Namespace) -> None:
    """Read the file, say which of its keys are used, missing and left over, and write what the network needs as safetensors.

    Raises:
        FarposeError: unknown network, a file that cannot be read or would run code, or weights that do not fit; nothing is written.
    """
    from components.models import checkpoints, official
    from components.models.weights import save_weights

    name, source = options.name, options.file
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
    print(f"weights of {name}: {paths.shown(target)}\n{_use(name, target)}")


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
