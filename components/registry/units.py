"""What numbers are called in MLflow: a name with its unit, and what it means. Files in `results/` keep fractions under short names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from components.registry import lineage

PERCENT = "_percent"
PERCENTAGES = re.compile(r"(dev_|target_|bound_|paper_)?(AP|AR|PCKh?)\d*(_(?!.*left_out)|$)")  # fractions of 1 in our files
NAMES = {  # of the rest: name in MLflow, and what it is multiplied by
    "data_share": ("data_share_percent", 100.0),
    "gmacs": ("multiply_adds_billions", 1.0),
    "params_m": ("parameters_millions", 1.0),
}
MEANINGS = (  # pattern of a name in MLflow, unit, meaning; the first that fits counts
    (r"target_AP", "%", "AP of the method's own perfect targets through the same codec"),
    (r"bound_AP", "%", "the best AP over all maps that the decoder could be given"),
    (r"paper_", "%", "what the paper prints"),
    (r"dev_AP", "%", "AP on the development split, while it trains"),
    (r".*_(low|high)_percent$", "%", "an end of the 95 % interval of the number of the same name"),
    (r"AP\d*", "%", "average precision over OKS thresholds (50, 75: at this one; M, L: medium and large persons)"),
    (r"AR\d*", "%", "average recall over the same thresholds"),
    (r"PCK.*left_out", "persons", "who have no torso or head to measure by"),
    (r"PCK", "%", "joints that are found within a share of the torso's or the head's size"),
    (r"mean_OKS", "0 to 1", "object keypoint similarity, mean over persons"),
    (r"parameters_millions", "millions", "weights of the network"),
    (r"multiply_adds_billions", "billions", "multiplications with an addition, per input"),
    (r"(persons|images|checks)$", "count", "of the split that was scored, or of the table"),
    (r"learning_rate", "none", "of the optimiser, at the epoch's end"),
    (r"images_per_second", "images/s", "trained on, mean over the epoch"),
    (r"data_share_percent", "%", "of the time that went into making batches"),
    (r"memory_mib", "MiB", "most memory of the device"),
    (r"(.*_)?loss|cal_", "none", "mean over the epoch; `loss` is the total"),
    (r"seconds", "s", "that a stage took, with its start"),
)


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a nested mapping under the names that they have in MLflow, as `a.b.c`; fractions of 1 in percent."""
    return dict(_named(key, value) for key, value in lineage.nested(values).items())


def described(names: Iterable[str]) -> str:
    """A table of what numbers mean, as Markdown; kinds that no name belongs to are left out."""
    found: dict[str, list[str]] = {}
    for name in names:
        fits = next(((unit, meaning) for pattern, unit, meaning in MEANINGS if re.match(pattern, name)), None)
        if fits:
            found.setdefault(f"{fits[0]} | {fits[1]}", []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {meaning} |" for meaning, names in found.items()]
    return "\n".join(["| number | unit | what it is |", "|---|---|---|", *rows]) if rows else ""


def _named(key: str, value: Any) -> tuple[str, Any]:
    if not isinstance(value, int | float):
        return key, value
    if PERCENTAGES.match(key):
        return key + PERCENT, 100.0 * value
    name, factor = NAMES.get(key, (key, 1.0))
    return name, value if factor == 1.0 else factor * value
