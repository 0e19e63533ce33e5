"""The study at low resolution: one JSON file per training in results/lowres, and docs/study.md with its table and figures.

    farpose params --apply study_small; farpose acquire coco --from FOLDER; farpose run      # or another list of variants
    python -m benchmarks.lowres collect      # in that clone: what its pipeline and its MLflow store hold
    python -m benchmarks.lowres compare FOLDER ...   # differences between rows of one table, from the clones' artifacts/evaluations
    python -m benchmarks.lowres page         # the page, from the files alone

Nothing is typed in: numbers and intervals are those of the evaluations, differences those of `compare`'s own functions, curves those of
`train`, times and memory those of the training's MLflow run.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import elsewhere, lowres_summary
from benchmarks.demo import part
from benchmarks.lowres_rows import BASELINE, GROUPS, RUNS, evaluated, in_percent, value_of
from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import atomic_file, read_json, sha256_of, write_json
from components.evaluate import ranking
from components.evaluate.significance import Difference, every_pair, holm, read_outcome
from components.models import baselines, starts, zoo
from components.registry import lineage, recorded
from components.train import descent
from pipelines import comparing, paths, settings

PAGE = REPOSITORY / "docs" / "study.md"
SEEDS = REPOSITORY / "results" / "study" / "seeds.json"
PAIRS = REPOSITORY / "results" / "study" / "pairs.json"
FEWEST = 20  # persons of a height that a point of the curve stands for
SUMMARY = "<!-- summary: python -m benchmarks.lowres page -->"
MACHINE = "machine."
VERSION = "version."


def collect(example: str, runs: Path = RUNS) -> list[str]:
    """Write one file per variant of this clone's pipeline; their names.

    Args:
        example: of params/examples, that this clone was trained with.

    Raises:
        FarposeError: nothing is compared here, or a row was not trained by this clone's store.
    """
    if not (paths.COMPARISON / "comparison.json").is_file():
        raise FarposeError("nothing is compared here", where=str(paths.COMPARISON / "comparison.json"), fix="`farpose run`")
    names = list(settings.load().variants)
    for name in names:
        write_json(runs / f"{name}.json", run_of(comparing.row(name), example))
    return names


def compare(evaluations: Sequence[Path], runs: Path = RUNS, seeds: Path = SEEDS, pairs: Path = PAIRS) -> list[str]:
    """Compare the rows of each table whose evaluations are all there, and write what was found into their files; the rows' names.

    A row is compared with the best of its table, and with its variant's baseline (plain heatmaps on the same network and crop) where that
    stands in the table. Rows of several seeds become one row in the file `seeds`. The file `pairs` has every two rows of a table.

    Args:
        evaluations: folders of evaluations, by a variant's name; of two of one name the first counts.
    """
    every, found = [read_json(path) for path in sorted(runs.glob("*.json"))], []
    of_seeds, of_pairs = {}, {}
    folders = {name: given[0] for name, given in evaluated(evaluations).items()}
    for key, group in GROUPS.items():
        for mine, together in ((group.of(every), False), (group.seeds(every), True)):
            if not mine or any(run["run"] not in folders for run in mine):
                continue
            rows = [run["metrics"] | _identity(run) | ({} if together else {"group": run["run"]}) for run in mine]
            outcomes = {run["run"]: read_outcome(folders[run["run"]]) for run in mine}
            ranked = ranking.ranked(*ranking.merged([_without_differences(row) for row in rows], outcomes))
            if together:
                of_seeds[key] = [{name: value for name, value in row.items() if name != "by_height"} for row in ranked]
            else:
                between = every_pair({row["variant"]: outcomes[row["variant"]] for row in ranked})
                plain, of_pairs[key] = _baselines(outcomes, between), _pairs(between)
                for row in ranked:
                    path = runs / f"{row['variant']}.json"
                    write_json(path, read_json(path) | {"metrics": row, BASELINE: plain.get(row["variant"])})
            found += [row["variant"] for row in ranked]
    if of_seeds:
        write_json(seeds, of_seeds)
    if of_pairs:
        write_json(pairs, of_pairs)
    return found


def _pairs(found: Mapping[tuple[str, str], Difference]) -> list[dict[str, Any]]:
    """AP of the first minus the second in percent, its paired 95 % interval, and p, which is not corrected for many comparisons."""
    return [{"first": first, "second": second, **in_percent(one, digits=2)} for (first, second), one in found.items()]


def _baselines(names: Iterable[str], found: Mapping[tuple[str, str], Difference]) -> dict[str, dict[str, Any]]:
    """Of every row whose baseline is a row too: its name, and the paired difference with Holm's correction over all of them.

    Args:
        found: of every two of the rows.
    """
    variants = zoo.load_variants()
    both = {**found, **{(second, first): -one for (first, second), one in found.items()}}
    declared = {name: baselines.baseline(variants[name], variants) for name in names}
    pairs = {name: (name, plain.name) for name, plain in declared.items() if plain is not None and (name, plain.name) in both}
    corrected = holm([both[pair].p_value for pair in pairs.values()])
    rows = {}
    for (name, pair), p in zip(pairs.items(), corrected, strict=True):
        one = both[pair]
        rows[name] = {"of": pair[1], "difference": one.value, "low": one.low, "high": one.high, "p": one.p_value, "p_holm": p}
    return rows


def _identity(run: dict[str, Any]) -> dict[str, Any]:
    return {"variant": run["run"], "group": comparing.group_of(run["run"]), "seed": run["recipe"]["seed"]}


def _without_differences(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "best" and not key.startswith("difference")}


def run_of(row: dict[str, Any], example: str) -> dict[str, Any]:
    """All that is known of one row."""
    name = row["variant"]
    found = recorded.find(name)
    trained = next(one for one in found.parts if one.stage == f"train@{name}")
    tags, numbers = dict(trained.tags or {}), dict(trained.numbers or {})
    plan = read_json(paths.PLAN / "train" / f"{name}.json")
    shards = settings.load().shards_of(name)
    return {
        "run": name,
        "commands": [f"farpose params --apply {example}", "farpose acquire coco --from FOLDER", "farpose run"],
        "commit": tags.get("git.commit", found.commit),
        "hardware": {key.removeprefix(MACHINE): value for key, value in tags.items() if key.startswith(MACHINE)},
        "versions": {key.removeprefix(VERSION): value for key, value in tags.items() if key.startswith(VERSION)},
        "data": {"data.md5": lineage.data_digest(), "shards": shards, "shard.json.sha256": sha256_of(paths.SHARDS / shards / "shard.json")},
        "start": _start(plan),
        "recipe": plan["recipe"],
        "code": plan["code"],
        "weights.sha256": found.weights,
        "history": read_json(paths.MODELS / name / "history.json"),
        "measured": {key: numbers[key] for key in ("train_seconds", "images_per_second", "memory_mib") if key in numbers},
        "metrics": row,
    }


def _start(plan: dict[str, Any]) -> dict[str, Any]:
    """What others made, from which a row descends, and the trainings between."""
    init, others = plan["recipe"]["init"], plan["recipe"].get("averaged_with", ())
    if not (between := descent.earlier([init, *others])):
        return {"init": init, "sha256": plan["start"]}
    first = descent.published(init)
    return {"init": first, "sha256": starts.digest(first), "trainings between": between}


def page(runs: Path = RUNS, document: Path = PAGE, seeds: Path = SEEDS, other: Path = elsewhere.RECORD) -> None:
    """Rewrite the marked parts of the page, and its figures. Rows of different starts and sizes are kept apart."""
    every = sorted((read_json(path) for path in runs.glob("*.json")), key=lambda run: -_of(run["metrics"]))
    text = part(document.read_text(), SUMMARY, lowres_summary.table(every), document.name)
    for key, group in GROUPS.items():
        found = group.of(every)
        if not found:
            continue
        parts = {"table": _table(found), "differences": _differences(found), "plain": _plain(found), "costs": _costs(found)}
        for what, content in parts.items():
            text = part(text, mark(what, key), content, document.name)
        _figure(found, document.parent / f"{group.figure}.png")
        _curves(found, document.parent / f"{group.figure}_curves.png")
    for key, rows in (read_json(seeds) if seeds.is_file() else {}).items():
        text = part(text, mark("seeds", key), _seeds(rows), document.name)
    if other.is_file():
        record = read_json(other)
        for key in record["differences"]:
            text = part(text, mark("elsewhere", key), elsewhere.table(record, key), document.name)
    with atomic_file(document) as temporary:
        temporary.write_text(text)


def mark(what: str, group: str) -> str:
    """The line of the page below which the rows of one of `GROUPS` stand."""
    return f"<!-- {what}, {group}: python -m benchmarks.lowres page -->"


def _of(metrics: Mapping[str, Any], name: str = "AP", end: str = "") -> float:
    """A number of an evaluation; NaN where it has none."""
    value = value_of(metrics, name, end)
    return math.nan if value is None else value


def _interval(metrics: Mapping[str, Any]) -> str:
    """AP with its 95 % interval, in percent."""
    return f"{_percent(_of(metrics))} ({_percent(_of(metrics, end='_low'))}–{_percent(_of(metrics, end='_high'))})"


def _percent(value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:+.1f}".replace("-", "−") if signed else f"{100 * value:.1f}"


def _table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| method | AP (95 % interval) | AP50 | AP75 | AP, medium | AP, large | mean OKS | PCK | target AP | persons |",
        "|---|" + "---:|" * 9,
    ]
    for run in found:
        m = run["metrics"]
        rest = [_percent(_of(m, name)) for name in ("AP50", "AP75", "AP_M", "AP_L", "mean_OKS", "PCK_torso")]
        rest += [_percent(m["target_AP"]), f"{m['persons']:,}"]
        lines.append(f"| `{run['run']}` | {_interval(m)} | {' | '.join(rest)} |")
    return "\n".join(lines)


def _differences(found: list[dict[str, Any]]) -> str:
    """Of each row from the best; said only where the comparison knows it."""
    best = found[0]["run"]
    lines = [f"| method | minus `{best}` (95 % interval) | p, Holm | told apart |", "|---|---:|---:|---|"]
    for run in found[1:]:
        m = run["metrics"]
        ends = f"{_percent(m['difference_low'], True)} to {_percent(m['difference_high'], True)}"
        apart = "yes" if m["difference_p_holm"] < 0.05 else "no"
        lines.append(f"| `{run['run']}` | {_percent(m['difference'], True)} ({ends}) | {m['difference_p_holm']:.3f} | {apart} |")
    return "\n".join(lines)


def _plain(found: list[dict[str, Any]]) -> str:
    """Of each row from its baseline, the largest gain first."""
    compared = sorted((run for run in found if run.get(BASELINE)), key=lambda run: -run[BASELINE]["difference"])
    lines = ["| method | minus | difference (95 % interval) | p, Holm |", "|---|---|---:|---:|"]
    for run in compared:
        one = run[BASELINE]
        ends = f"{_percent(one['low'], True)} to {_percent(one['high'], True)}"
        lines.append(f"| `{run['run']}` | `{one['of']}` | {_percent(one['difference'], True)} ({ends}) | {one['p_holm']:.3f} |")
    return "\n".join(lines)


def _seeds(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, and their differences to the best one."""
    head = "| method | seeds | mean AP (95 % interval) | spread | minus the first row (95 % interval) | p, Holm |"
    lines = [head, "|---|" + "---:|" * 5]
    for row in rows:
        cells = [f"`{row['variant']}`", str(row["seeds"]), _interval(row), _percent(_of(row, end="_spread"))]
        if "difference" in row:
            ends = f"{_percent(row['difference_low'], True)} to {_percent(row['difference_high'], True)}"
            cells += [f"{_percent(row['difference'], True)} ({ends})", f"{row['difference_p_holm']:.3f}"]
        lines.append(f"| {' | '.join(cells + [''] * (6 - len(cells)))} |")
    return "\n".join(lines)


def _costs(found: list[dict[str, Any]]) -> str:
    lines = [
        "| method | parameters, M | GMAC | minutes | crops/s | memory, MiB | epochs | seed | AP on the development split |",
        "|---|" + "---:|" * 8,
    ]
    for run in found:
        m, measured, recipe = run["metrics"], run["measured"], run["recipe"]
        last = next((value for key, value in run["history"][-1].items() if key.startswith("dev_AP")), None)
        cells = [
            f"{m['params_m']:.2f}",
            f"{m['gmacs']:.3f}",
            f"{measured['train_seconds'] / 60:.1f}",
            f"{measured['images_per_second']:.0f}",
        ]
        cells += [f"{measured['memory_mib']:,.0f}", str(recipe["epochs"]), str(recipe["seed"]), "" if last is None else _percent(last)]
        lines.append(f"| `{run['run']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(run: dict[str, Any]) -> str:
    """Method, and what differs between the rows of one start: enlargement or backbone."""
    return re.sub(r"_mobilenet_fpn|_coco_\d+(x\d+)?", "", run["run"]).replace("_", " ")


def _style(number: int) -> str:
    """Of the line of a row; colours repeat after ten."""
    return "o-" if number < 10 else "s--"


def _figure(found: list[dict[str, Any]], path: Path) -> None:
    """AP with its interval on the left, AP against person height on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, max(3.6, 0.32 * len(found))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    for number, run in enumerate(found):
        m, colour, style = run["metrics"], f"C{number}", _style(number)
        low, middle, high = (100 * _of(m, end=end) for end in ("_low", "", "_high"))
        ends = [[middle - low], [high - middle]]
        left.errorbar(middle, len(found) - 1 - number, xerr=ends, fmt=style[0], capsize=3, color=colour)
        bins = [one for one in m["by_height"] if one["AP"] is not None and one["persons"] >= FEWEST]
        right.plot([one["middle"] for one in bins], [100 * one["AP"] for one in bins], style, color=colour, markersize=4)
    left.set_yticks(range(len(found)), [_short(run) for run in reversed(found)])
    left.set(xlabel="AP, %, with its 95 % interval")
    right.set(xscale="log", xlabel="person height, px of the image", ylabel="AP, %", ylim=(0, None))
    right.set_xticks(ticks := [30, 50, 100, 200, 300], [str(tick) for tick in ticks])
    right.minorticks_off()
    right.set_title("colours and marks as on the left", fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _curves(found: list[dict[str, Any]], path: Path) -> None:
    """AP on the development split against epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, max(3.4, 0.32 * len(found))), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(found):
        points = [(row["epoch"], 100 * value) for row in run["history"] for key, value in row.items() if key.startswith("dev_AP")]
        axes.plot(*zip(*points, strict=True), _style(number), color=f"C{number}", label=_short(run), markersize=4)
    axes.set(xlabel="epoch", ylabel="AP on the development split, %", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["collect", "compare", "page"])
    parser.add_argument("evaluations", nargs="*", type=Path, help="compare: artifacts/evaluations of each clone")
    parser.add_argument("--example", default="study_small", help="collect: the example that was applied")
    asked = parser.parse_args()
    if asked.step == "page":
        page()
    else:
        print("\n".join(collect(asked.example) if asked.step == "collect" else compare(asked.evaluations)))


if __name__ == "__main__":
    main()
