"""`params`: what would run, checked; and examples or variants laid over it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.config import PARAMS
from components.base.errors import FarposeError, unknown_name
from components.base.files import atomic_file
from pipelines import checks, listing, paths, settings, terminal
from pipelines.overlay import example_over, laid_over

if TYPE_CHECKING:
    from components.models.costs import Costs
    from components.models.variant import Variant

RULE = 60  # columns of the rule above a section


def params(options: argparse.Namespace) -> None:
    """Check everything in params/ and print it resolved, or one variant; or lay an example or variants over params/."""
    if options.apply:
        return apply(options.apply, options.force)
    if options.only:
        return only(options.only, options.force)
    found = checks.parameters()
    if options.variant:
        return _show_variant(options.variant, found)
    listing.keep_in_step(found["pipeline"])
    from components.registry.lineage import flat

    for name, value in found.items():
        print(f"{name}:")
        terminal.listed(((f"  {key}: ", text) for key, text in flat(value).items()), 4)
    return None


def apply(name: str, force: bool) -> None:
    """Lay params/examples/NAME over the committed files of params/ (`pipelines.overlay` states the rule), and print what changed.

    Raises:
        FarposeError: unknown example, params/ holds edits that are not committed, or an overlay does not fit its file.
    """
    examples = sorted(path.name for path in paths.EXAMPLES.iterdir() if path.is_dir())
    if name not in examples:
        raise unknown_name("example", name, examples, where="params/examples")
    if not force:
        _refuse_edits(_edited())
    source = paths.EXAMPLES / name
    overlays = {PARAMS / path.relative_to(source): path for path in sorted(source.rglob("*.yaml"))}
    _lay({target: _laid_over(target, overlay) for target, overlay in overlays.items()}, name)


def only(names: list[str], force: bool) -> None:
    """Put variants in the place of those in the committed params/, with their data set and the shards that they need.

    Raises:
        FarposeError: an unknown variant, variants of several data sets, or params/ holds edits that are not committed and are not an
            earlier `--only`.
    """
    laid = _only(names)
    if not force:
        _refuse_edits([place for place in _edited() if paths.REPOSITORY / place in laid and not _is_earlier(laid)])
    _lay(laid, ", ".join(names))


def _only(names: list[str]) -> dict[Path, str]:
    from pipelines import chosen

    return {PARAMS / file: laid_over(_committed(PARAMS / file), overlay, "--only") for file, overlay in chosen.overlays(names).items()}


def _is_earlier(targets: Iterable[Path]) -> bool:
    """Whether the files are what `--only` makes of the variants that they name."""
    try:
        earlier = _only(list(settings.load().variants))
    except FarposeError:  # they name what `--only` refuses
        return False
    return all(target.read_text() == earlier[target] for target in targets)


def _refuse_edits(edited: list[str]) -> None:
    if edited:
        fix = "commit them, or repeat with --force"
        raise FarposeError("these files hold edits that are not committed", where=", ".join(edited), fix=fix)


def _lay(laid: dict[Path, str], name: str) -> None:
    for target, text in laid.items():
        _show_difference(target, text)
        with atomic_file(target) as temporary:
            temporary.write_text(text)
    print(f"params/ now holds {name}; `git checkout params` and then `farpose params` take it back")
    listing.keep_in_step(settings.load())


def _laid_over(target: Path, overlay: Path) -> str:
    """The text of a parameter file with an example's on its committed state; the example's own if there is no such file."""
    base = _committed(target)
    return example_over(base, overlay) if base else overlay.read_text()


def _committed(target: Path) -> str:
    """The committed text of a parameter file; what it holds now where git knows none, and nothing where there is none."""
    place = str(target.relative_to(paths.REPOSITORY))
    committed = subprocess.run(["git", "show", f"HEAD:{place}"], cwd=paths.REPOSITORY, capture_output=True, text=True, check=False)
    if committed.returncode == 0:
        return committed.stdout
    return target.read_text() if target.is_file() else ""


def _show_difference(old: Path, new: str) -> None:
    before = old.read_text().splitlines() if old.is_file() else []
    shown = str(old.relative_to(paths.REPOSITORY))
    for line in difflib.unified_diff(before, new.splitlines(), shown, shown, lineterm="", n=0):
        print(line)


def _edited() -> list[str]:
    """Tracked or new files of params/, other than examples and manifests of data, that git sees as changed."""
    command = ["git", "status", "--porcelain", "--", "params", ":!params/examples", ":!params/manifests"]
    done = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True, check=False)
    return [line[3:] for line in done.stdout.splitlines()]


def _show_variant(name: str, found: dict[str, Any]) -> None:
    from components import codecs
    from components.models import zoo
    from components.train import recipe as recipes
    from pipelines import counts

    variant = zoo.variant(name)
    spent = counts.of_variant(variant, counts.stored())
    codec = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec)
    print(f"{name}: {variant.method} on {variant.backbone}, {variant.dataset}, {'{}x{}'.format(*variant.input_size)} px\n")
    _section("variant", _row(variant))
    _section("crop", {"convention": variant.convention, "heatmap_size": variant.heatmap_size})
    _section("codec", {"name": variant.codec_name, **codec.constants})
    kind = found["pipeline"].recipe_of(name)
    _section("recipe", {"name": kind, **dataclasses.asdict(recipes.resolve(variant, found["train"], kind))})
    _section("costs", _costs(spent))
    if variant.paper.source is not None:
        unread = () if variant.paper.gflops is not None else ("counting",)
        _section("paper", {name: value for name, value in dataclasses.asdict(variant.paper).items() if name not in unread})
    for reprint in variant.reprints:
        _section("reprint", {name: value for name, value in dataclasses.asdict(reprint).items() if value not in (None, ())})


def _row(variant: Variant) -> dict[str, Any]:
    """The entry without what other sections show, and without settings of other methods' networks."""
    elsewhere = ("name", "paper", "reprints", "train", "codec", "joints")
    row = {field: value for field, value in dataclasses.asdict(variant).items() if field not in elsewhere}
    return row | {"network": variant.settings}


def _costs(spent: Costs) -> dict[str, Any]:
    """Million parameters and 1e9 multiply-adds; then multiply-adds as each of the papers' tools prints them."""
    return {
        "params_m": round(spent.params / 1e6, 3),
        "params_backbone_m": round(spent.params_backbone / 1e6, 3),
        "params_head_m": round(spent.params_head / 1e6, 3),
        "params_train_only_m": round(spent.params_train_only / 1e6, 3),
        "params_fixed_m": round(spent.params_fixed / 1e6, 3),
        "gmacs": round(spent.macs / 1e9, 4),
        **{f"gflops_by_{tool}": round(spent.gflops(tool), 4) for tool in spent.tools},
    }


def _section(name: str, value: Any) -> None:
    """One line per value, `section.key: value`, below a rule."""
    from components.registry.lineage import flat

    print(f"{f'-- {name} ':-<{RULE}}")
    terminal.listed(((f"{key}: ", text) for key, text in flat({name: value}).items()), 4)
