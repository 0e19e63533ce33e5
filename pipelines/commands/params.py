"""`params` and `models`: what would run, checked; and examples laid over it."""

from __future__ import annotations

import argparse
import difflib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from components.base.config import PARAMS
from components.base.errors import FarposeError, unknown_name
from components.base.files import atomic_file
from pipelines import checks, paths


def params(options: argparse.Namespace) -> None:
    """Check everything in params/ and print it resolved, or one variant; or lay an example over params/."""
    if options.apply:
        return apply(options.apply, options.force)
    found = checks.parameters()
    if options.variant:
        return _show_variant(options.variant, found)
    from components.registry.lineage import flat

    for name, value in found.items():
        print(f"{name}:")
        for key, text in flat(value).items():
            print(f"  {key}: {text}")
    return None


def models(options: argparse.Namespace) -> None:
    """Every variant that can be trained, by table."""
    from components.base.config import load_yaml
    from components.models import zoo

    variants = zoo.load_variants()
    for table in sorted(zoo.VARIANTS.glob("*.yaml")):
        print(f"params/variants/{table.name}")
        for name in load_yaml(table):
            if name in variants:
                ap = variants[name].paper.ap
                print(f"  {name:52}" + (f"  paper's AP {ap:.1f}" if ap is not None else ""))


def apply(name: str, force: bool) -> None:
    """Copy params/examples/NAME over params/, file by file, and print what changed.

    Raises:
        FarposeError: unknown example, or params/ holds edits that are not committed.
    """
    examples = sorted(path.name for path in paths.EXAMPLES.iterdir() if path.is_dir())
    if name not in examples:
        raise unknown_name("example", name, examples, where="params/examples")
    if not force and _edited():
        fix = "commit them, or repeat with --force"
        raise FarposeError("these files hold edits that are not committed", where=", ".join(_edited()), fix=fix)
    source = paths.EXAMPLES / name
    for path in sorted(source.rglob("*.yaml")):
        target = PARAMS / path.relative_to(source)
        _show_difference(target, path)
        with atomic_file(target) as temporary:
            shutil.copyfile(path, temporary)
    print(f"params/ now holds {name}; `git checkout params` takes it back")


def _show_difference(old: Path, new: Path) -> None:
    before = old.read_text().splitlines() if old.is_file() else []
    shown = str(old.relative_to(paths.REPOSITORY))
    for line in difflib.unified_diff(before, new.read_text().splitlines(), shown, shown, lineterm="", n=0):
        print(line)


def _edited() -> list[str]:
    """Tracked or new files of params/, other than examples and manifests of data, that git sees as changed."""
    command = ["git", "status", "--porcelain", "--", "params", ":!params/examples", ":!params/manifests"]
    done = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True, check=False)
    return [line[3:] for line in done.stdout.splitlines()]


def _show_variant(name: str, found: dict[str, Any]) -> None:
    from components.models import costs, zoo
    from components.registry.lineage import flat
    from components.train import recipe as recipes

    variant = zoo.variant(name)
    built, spent = zoo.build(variant), costs.of_variant(variant)
    values = {
        "variant": variant,
        "crop": {"convention": variant.convention, "heatmap_size": variant.heatmap_size},
        "codec": built.codec.constants,
        "recipe": recipes.resolve(variant, found["train"]),
        "costs": {"params_m": round(spent.params / 1e6, 3), "gmacs": round(spent.macs / 1e9, 4)},
    }
    for key, text in flat(values).items():
        print(f"{key}: {text}")
