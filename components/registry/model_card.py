"""The model card: what a model is, its origin, its results and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.approaches import approach
from components.evaluate.headline import PROTOCOLS, boxes_of, headline
from components.evaluate.leading import PCKH, beside, leading, leading_interval, leading_key, leading_value
from components.models.variant import Variant
from components.registry import units
from components.registry.lineage import as_text, nested


@dataclass(frozen=True)
class Facts:
    """What a card states.

    Attributes:
        start: what the training started from, see `models.starts.described`.
        origin: what the model was made of: digests of crops and code, `source`, `licences`. It holds nothing that may
            change while the package stays the same, such as a commit or a date.
        recipe: the training's parameters.
        metrics: the evaluation's numbers, nested; intervals as `..._low` and `..._high`.
        training: the training's summary, without what was measured by a clock.
        versions: package → version.
    """

    start: dict[str, Any]
    origin: dict[str, Any]
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    training: dict[str, Any]
    versions: dict[str, str]

    @property
    def origins(self) -> dict[str, Any]:
        """All that the card says of where the model came from."""
        return self.origin


def model_card(variant: Variant, weights_sha256: str, facts: Facts, use: str | None = None, picture: str = "") -> str:
    """The card as Markdown. It names contents, not runs, so equal models have equal cards.

    Args:
        weights_sha256: digest of model.safetensors.
        use: how the model is loaded; by default from the registry.
        picture: name of a file beside the card that shows the results by person height; empty if there is none.
    """
    served = approach(variant.approach).served(variant)
    origin = {"weights (SHA-256)": weights_sha256, **facts.origins}
    return f"""# {variant.name}

Finds {variant.num_keypoints} joints ({variant.skeleton.name}) of {served.task}.
Method `{variant.method}` on backbone `{variant.backbone}`, crop convention `{variant.convention}`, codec `{variant.codec_name}`.

{in_words(facts.metrics)}

## Results
{_results(facts.metrics)}{_picture(picture)}
The main {leading(facts.metrics).label} is {_main(facts.metrics)}. `target_AP` is the AP of the method's own
perfect targets through the same codec, `bound_AP` the best AP over all maps that the decoder could be given. {_paper(variant)}

## Where it came from
{_table(origin, ("what", "which"))}
## What it started from
{_table(facts.start, ("what", "which"))}
## How it was trained
{_table({**facts.recipe, **facts.training}, ("parameter", "value"))}
## Limits
- {served.needs}
- It was scored on the validation split above and on boxes as the numbers' names say. Elsewhere (other cameras, other persons,
  other heights in px) measure before you rely on it. AP against person height is in the evaluation's curves.
- Scores order persons for AP; they are not probabilities.
- A model trained on synthetic people finds synthetic people: it is a check of the pipeline, not a product.

## Licence
The code is Apache-2.0. Weights carry what the training data's licences ask for: {facts.origin.get("licences", "see the data's source")}.
{_start_licence(facts)}

## Use
{use or _use(variant, served.usage)}

## Versions
{_table(facts.versions, ("package", "version"))}"""


def in_words(metrics: Mapping[str, Any]) -> str:
    """The leading number in percent, its 95 % interval, what the benchmark reports beside it and what it was measured on."""
    ends = leading_interval(metrics)
    interval = "" if None in ends else " (95 % interval {:.1f} to {:.1f})".format(*(100 * float(end) for end in ends if end is not None))
    counted = [f"{metrics[key]:,} {key if metrics[key] != 1 else key[:-1]}" for key in ("persons", "images") if key in metrics]
    on = f", {' in '.join(counted)}" if counted else ""
    others = "".join(f", {label} {100 * value:.1f} %" for label, value in beside(metrics).items())
    return f"{leading(metrics).label} {100 * leading_value(metrics):.1f} %{interval}{others}; boxes: {boxes_of(metrics)}{on}."


def _use(variant: Variant, usage: str) -> str:
    return f"""```python
import mlflow
model = mlflow.pyfunc.load_model("models:/{variant.name}@challenger")
{usage}
```
Or `farpose predict IMAGE --variant {variant.name}` in the repository."""


def _start_licence(facts: Facts) -> str:
    licence = facts.start.get("licence")
    return f"The weights that it started from: {licence}.\n" if licence else ""


def _results(metrics: Mapping[str, Any]) -> str:
    """Numbers in their units, each with the ends of its 95 % interval if it has one."""
    shown = units.named(metrics)
    ends = {key: tuple(shown.get(key.replace(units.PERCENT, f"_{end}{units.PERCENT}")) for end in ("low", "high")) for key in shown}
    told = {end for key in shown for end in (f"{key.removesuffix(units.PERCENT)}_{side}{units.PERCENT}" for side in ("low", "high"))}
    rows = {}
    for key, value in shown.items():
        low, high = ends[key]
        interval = "" if None in (low, high) or not key.endswith(units.PERCENT) else f" ({low:.1f} to {high:.1f})"
        if key not in told:
            rows[key] = f"{value:.1f}{interval}" if key.endswith(units.PERCENT) else value
    return _table(rows, ("number (95 % interval)", "value"))


def _picture(file: str) -> str:
    return f"![results by person height]({file})\n\n" if file else ""


def _main(metrics: Mapping[str, Any]) -> str:
    return f"`{leading_key(metrics)}{units.PERCENT}`, boxes given: {PROTOCOLS[headline(metrics)]}"


def _paper(variant: Variant) -> str:
    printed = next((f"{name} {value:g}" for name, value in (("AP", variant.paper.ap), (PCKH.label, variant.paper.pckh50)) if value), None)
    if printed is None:
        return "No paper reports this variant."
    departs = "".join(f" Ours differs: {text}." for text in variant.paper.departs)
    conditions = f"{variant.dataset} with {variant.paper.conditions}"
    return f"The paper reports {printed} on {conditions} ({variant.paper.source}).{departs}"


def _table(values: dict[str, Any], head: tuple[str, str]) -> str:
    rows = [f"| {key} | {_text(value)} |" for key, value in nested(values).items()]
    return "\n".join(["", f"| {head[0]} | {head[1]} |", "|---|---|", *rows, "", ""])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return as_text(value).replace("|", "\\|").replace("\n", " ")
