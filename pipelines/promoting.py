"""Whether a registered model may become the champion: valid data, checks of targets and export, a paired difference that says better."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from components.base.files import read_json
from pipelines import judging, paths

if TYPE_CHECKING:
    from components.evaluate.significance import Difference
    from components.registry.package import Package

LEVEL = 0.05  # of the paired bootstrap's p-value


@dataclass(frozen=True)
class Gate:
    """One condition of a promotion: whether it holds, in words, and the numbers behind it."""

    passed: bool
    said: str
    numbers: dict[str, float]


def promote(wanted: str, split: str, repository: Path = paths.REPOSITORY, heights: Sequence[int] = ()) -> tuple[bool, list[str]]:
    """Make a version the champion if every gate holds; whether it did, and why, a line each.

    Args:
        wanted: NAME (its challenger), NAME@ALIAS or NAME@VERSION.
        split: "val" or "dev", of the pipeline's data set.
        heights: px that persons are limited to (`evaluate.conditions`). With any, the version must be better at each of them, and not
            worse on persons as they are; without, better on persons as they are.
    Raises:
        FarposeError: no such version, it is the champion already, a height that is none, or its evaluation fails.
    """
    from components.evaluate.conditions import Condition
    from components.registry import promotion
    from components.registry.model_card import in_words

    conditions = tuple(Condition.of(f"h{height}").name for height in heights)
    version, before = promotion.find(wanted, repository), promotion.champion(repository)
    if before is not None and (version.name, version.version) == (before.name, before.version):
        raise FarposeError(f"{promotion.label(version)} is the champion already", fix="name another version, as NAME@VERSION")
    candidate = promotion.read(version, repository)
    ground = judging.here()
    gates = [_data(ground), _targets(candidate, ground, split), _export(candidate, ground, split)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = judging.judge(candidate, ground, split, folder / "candidate", conditions)
        if before is None:
            gates.append(Gate(True, f"there is no champion to be better than; {in_words(found)}", {}))
        else:
            judging.judge(promotion.read(before, repository), ground, split, folder / "champion", conditions)
            gates += _leads(folder, promotion.label(before), split, conditions)
    passed = all(gate.passed for gate in gates)
    lines = [f"{'holds' if gate.passed else 'fails'}: {gate.said}" for gate in gates]
    numbers = {name: value for gate in gates for name, value in gate.numbers.items()}
    decision = promotion.Decision(promotion.PROMOTED if passed else promotion.REFUSED, tuple(lines), numbers)
    promotion.decide(version, decision, repository)
    return passed, [f"{decision.decision}: {promotion.label(version)}", *lines]


def roll_back(repository: Path = paths.REPOSITORY) -> str:
    """Give the alias back to the champion before the last promotion; what happened, in words.

    Raises:
        FarposeError: see `components.registry.promotion.rolled_back`.
    """
    from components.registry import promotion

    then, now = promotion.rolled_back(repository)
    return f"champion: {promotion.label(then) if then else 'none'}; taken back: {promotion.label(now)}"


def _data(ground: judging.Ground) -> Gate:
    """The validate stage passed, on as many persons as there are now."""
    summary = paths.VALIDATION / "summary.json"
    if not summary.is_file():
        return Gate(False, "the data were not validated (`farpose run validate`)", {})
    found, persons = read_json(summary), len(ground.table)
    good = bool(found["success"]) and found["persons"] == persons and found["source"] == ground.data.source
    return Gate(good, f"the data are valid: {len(found['checks'])} checks of {found['persons']:,} persons of {found['source']}", {})


def _targets(model: Package, ground: judging.Ground, split: str) -> Gate:
    """Geometry, flips and the AP of the method's own perfect targets, on this split's persons."""
    from components.approaches import approach

    checks = list(approach(model.variant.approach).checks(model.variant, ground.table.split(split)))
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    return Gate(not failed, f"checks of targets: {'; '.join(failed) or f'all {len(checks)} pass'}", {})


def _export(model: Package, ground: judging.Ground, split: str) -> Gate:
    """ONNX Runtime finds the same joints."""
    from components.approaches import approach
    from components.base.files import sha256_of
    from components.models import export

    shown, variant = approach(model.variant.approach), export.exported_form(model.variant)
    inputs, form = shown.compared(judging.inputs(ground, model, split)), shown.form(variant)
    built = model.build()
    with tempfile.TemporaryDirectory() as scratch:
        path, origin = Path(scratch) / "model.onnx", {"weights_sha256": sha256_of(model.weights)}
        try:
            found = export.export(built.model, built.codec, variant, path, inputs, form, origin)
        except FarposeError as error:
            return Gate(False, f"export to ONNX: {error}", {})
    return Gate(True, f"export to ONNX: joints differ from torch's by {found}", {})


def better(folder: Path, champion: str, split: str, condition: str = "") -> Gate:
    """Whether the paired bootstrap says that a model leads the champion.

    Args:
        folder: holds the evaluations `candidate` and `champion`, of the same persons.
        champion: its name in words.
        condition: under which both were scored too; none: on persons as they are.
    """
    found, said, numbers = _compared(folder, champion, split, condition)
    return Gate(found.value > 0 and found.p_value < LEVEL, said, numbers)


def _leads(folder: Path, champion: str, split: str, conditions: Sequence[str]) -> list[Gate]:
    """Better on persons as they are, or, where heights count, better at each of them and on persons as they are not worse."""
    if not conditions:
        return [better(folder, champion, split)]
    found, said, numbers = _compared(folder, champion, split)
    whole = Gate(found.value >= 0 or found.p_value >= LEVEL, f"not told apart as worse on persons as they are: {said}", numbers)
    return [*(better(folder, champion, split, condition) for condition in conditions), whole]


def _compared(folder: Path, champion: str, split: str, condition: str = "") -> tuple[Difference, str, dict[str, float]]:
    """The paired difference, in words, and its numbers by name, percent."""
    from components.evaluate.conditions import HEIGHT
    from components.evaluate.headline import headline
    from components.evaluate.leading import leading
    from components.evaluate.significance import paired_bootstrap, read_outcome
    from pipelines import settings

    params, metrics = settings.evaluation(), read_json(folder / "candidate" / "metrics.json")
    end = f"_{condition}" if condition else ""
    files = f"_{headline(metrics)}{end}" if condition else ""
    ours, theirs = (read_outcome(folder / name, files) for name in ("candidate", "champion"))
    found = paired_bootstrap(ours, theirs, params.bootstrap_resamples, params.bootstrap_seed)
    ends = {"difference_percent": found.value, "difference_low_percent": found.low, "difference_high_percent": found.high}
    numbers = {**{f"{key}{end}": 100 * number for key, number in ends.items()}, f"p_value{end}": found.p_value}
    value, low, high = (f"{100 * one:+.1f}".replace("-", "−") for one in (found.value, found.low, found.high))
    where = f", persons at most {of[1]} px high," if (of := HEIGHT.fullmatch(condition)) else ""
    said = f"{leading(metrics).label} on {split}{where} differs by {value} ({low} to {high}, p = {found.p_value:.3f}) from {champion}"
    return found, said, numbers
