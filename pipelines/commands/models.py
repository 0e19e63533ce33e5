"""`models`: every variant with what it costs and what its paper reports. `compare`: the table of what was evaluated, or two in words."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from components.base.errors import FarposeError, unknown_name
from pipelines import terminal

if TYPE_CHECKING:
    from components.evaluate.resampling import Outcome
    from components.models.costs import Costs
    from components.models.paper import Paper
    from components.models.variant import Variant

WIDTH = 160  # columns of the table where no terminal gives its own


def models(options: argparse.Namespace) -> None:
    """Print the table, or the same as JSON; or keep the counts."""
    from components.models import zoo
    from pipelines import counts

    variants = zoo.load_variants()
    if options.count:
        known = {} if options.count == "all" else counts.stored()
        number = counts.rewrite(variants.values(), known, say=lambda key: print(key, file=sys.stderr))
        return print(f"{number} networks of {len(variants)} variants are counted in {counts.FILE.relative_to(counts.REPOSITORY)}")
    chosen, known = _chosen(variants, options), counts.stored()
    missing = {counts.key(variant) for variant in chosen.values()} - set(known)
    if missing:
        print(
            f"counting {len(missing)} network(s) that are not in {counts.FILE.name} (`farpose models --count` keeps them)", file=sys.stderr
        )
    if options.json:
        return print(json.dumps([_record(variant, counts.of_variant(variant, known)) for variant in chosen.values()], indent=2))
    return _print_tables(chosen, known)


def _chosen(variants: dict[str, Variant], options: argparse.Namespace) -> dict[str, Variant]:
    """The variants that pass all filters.

    Raises:
        FarposeError: no variant has such a method, data set or size.
    """
    for name, read in _FILTERS.items():
        wanted = getattr(options, name)
        if wanted is not None:
            known = {read(variant) for variant in variants.values()}
            if wanted not in known:
                raise unknown_name(name, wanted, known, where="params/variants")
            variants = {key: variant for key, variant in variants.items() if read(variant) == wanted}
    return variants


def _size(variant: Variant) -> str:
    return "{}x{}".format(*variant.input_size)


_FILTERS = {"method": lambda variant: variant.method, "dataset": lambda variant: variant.dataset, "size": _size}


def _record(variant: Variant, spent: Costs) -> dict[str, Any]:
    from components.models.costs import tool_of

    return {
        "name": variant.name,
        "method": variant.method,
        "backbone": variant.backbone,
        "dataset": variant.dataset,
        "input_size": list(variant.input_size),
        "tool": tool_of(variant),
        "costs": dataclasses.asdict(spent) | {"params": spent.params},
        "paper": {key: value for key, value in dataclasses.asdict(variant.paper).items() if value is not None and key != "counting"},
    }


def _print_tables(variants: dict[str, Variant], known: dict[str, Costs]) -> None:
    from rich.table import Table

    from components.base.config import load_yaml
    from components.models import zoo
    from pipelines import counts

    console = terminal.console()
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("variant", overflow="fold")
    for heading in ("backbone M", "head M", "train only M", "ours G", "tool's G", "printed G"):
        table.add_column(heading.replace(" M", "\nM").replace(" G", "\nG"), justify="right", no_wrap=True)
    for heading in ("tool", "input", "data set", "paper"):
        table.add_column(heading, no_wrap=True)
    for path in sorted(zoo.VARIANTS.glob("*.yaml")):
        rows = [variants[name] for name in load_yaml(path) if name in variants]
        if rows:
            table.add_row(f"[bold]{path.name}[/bold]")
        for variant in rows:
            table.add_row(variant.name, *_cells(variant, counts.of_variant(variant, known)))
    console.print(table)
    terminal.say(f"\n{_LEGEND}")


_LEGEND = """\
M: million parameters. backbone and head: what inference needs, fixed tables included; train only: what it leaves out.
G: multiply-adds of one image. ours: as executed, 1e9; tool's: what the paper's tool makes of the same network; printed: by the
paper (docs/counts.md explains the tools and the differences). paper: AP, or PCKh on MPII, as printed, in percent."""


def _cells(variant: Variant, spent: Costs) -> list[str]:
    from components.models.costs import tool_of

    return [
        f"{spent.params_backbone / 1e6:.3f}",
        f"{spent.params_head / 1e6:.3f}",
        f"{spent.params_train_only / 1e6:.3f}" if spent.params_train_only else "",
        f"{spent.macs / 1e9:.3f}",
        f"{spent.gflops(tool_of(variant)):.3f}",
        f"{variant.paper.gflops:g}" if variant.paper.gflops is not None else "",
        tool_of(variant),
        _size(variant),
        variant.dataset,
        score(variant.paper),
    ]


def score(paper: Paper) -> str:
    """The paper's main number, with its name."""
    if paper.ap is not None:
        return f"AP {paper.ap:.1f}"
    return f"PCKh {paper.pckh50:.1f}" if paper.pckh50 is not None else ""


def compare(options: argparse.Namespace) -> None:
    """Print the table of all variants; or of two, which is better, by how much and how sure that is.

    Raises:
        FarposeError: nothing was compared or evaluated yet, one name alone, or runs on different images.
    """
    return terminal.say(_verdict(options.names)) if options.names else print_table()


def print_table() -> None:
    """The table of all variants.

    Raises:
        FarposeError: nothing was compared yet.
    """
    from pipelines import paths

    path = paths.COMPARISON / "comparison.md"
    if not path.is_file():
        raise FarposeError("nothing has been compared yet", where=paths.shown(path), fix="`farpose run` makes it")
    print()
    terminal.markdown(path.read_text())


def _verdict(names: list[str]) -> str:
    if len(names) != 2:
        raise FarposeError(f"compare takes two names or none, got {len(names)}", fix="`farpose compare A B`")
    from components.evaluate.ranking import merged, verdict
    from components.evaluate.significance import paired_bootstrap
    from pipelines import comparing

    rows: list[dict[str, Any]] = []
    runs: list[list[Outcome]] = []
    for name in names:
        found = comparing.evaluated(name)
        named = {row["variant"]: matches for row, matches in found}
        group = [dict(row) | {"group": name} for row, _ in found]
        row, matches = merged(group, named)
        rows += row
        runs += matches.values()
    return verdict(rows[0], rows[1], paired_bootstrap(runs[0], runs[1]))
