"""The recipe: everything about training that a user may choose, in `params/train.yaml`.

There are two recipes. `published` is the authors' own: section `train` with the variant's own `train:` on top. `matched`
is for comparisons: section `train` with a budget of section `matched` on top, which every variant of the same backbone shares.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.degrade.augment import AugmentParams
from components.degrade.augment_images import ImageAugmentParams
from components.models import starts
from components.models.entries import merged
from components.models.variant import Variant

TRAIN = PARAMS / "train.yaml"
Kind = Literal["published", "matched"]
OPTIMISATION = ("optimiser", "learning_rate", "weight_decay", "decay_all", "layer_decay", "gradient_clip")


@dataclass(frozen=True)
class Budget:
    """Cost and data of `matched` training, the same for every backbone.

    Attributes:
        recipe: keys of `Recipe` over section `train`.
        families: by the start of a backbone's name, how such networks are optimised: the keys `OPTIMISATION`, and no others.
    """

    recipe: dict[str, Any]
    families: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Budgets:
    """Section `matched` of params/train.yaml."""

    crops: Budget
    images: Budget
    tiny_crops: Budget
    tiny_images: Budget


@dataclass(frozen=True)
class Recipe:
    """One variant's training; keys, units and effects are described in `params/train.yaml`."""

    epochs: int
    batch_size: int
    optimiser: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    decay_all: bool
    layer_decay: float | None
    schedule: Literal["steps", "cosine"]
    milestones: tuple[float, ...]
    gamma: float
    warmup_steps: int
    gradient_clip: float | None
    drop_last: bool
    average: float | None
    init: str = field(metadata={"null": "none"})
    averaged_with: tuple[str, ...]
    teacher: str | None
    teacher_share: float
    seed: int
    precision: Literal["auto", "fp32", "bf16"]
    cuda_graphs: Literal["auto", "never"]
    deterministic: bool
    num_threads: int
    processes: int
    sync_batch_norm: bool
    validate_on: Literal["dev", "val"]
    validate_every: int
    validate_flip: bool
    checkpoint_seconds: float
    checkpoint_steps: int | None
    augmentation: AugmentParams
    image_augmentation: ImageAugmentParams

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "gamma", "num_threads", "processes"):
            _require(getattr(self, name) > 0, f"{name} must be positive", getattr(self, name))
        for name in ("warmup_steps", "seed", "validate_every", "checkpoint_seconds"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative", getattr(self, name))
        for name in ("gradient_clip", "checkpoint_steps"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be positive or null", value)
        _require(self.processes <= self.batch_size, "processes must not be more than batch_size", self.processes)
        _require(not self.sync_batch_norm or self.processes > 1, "sync_batch_norm means nothing with one process", self.sync_batch_norm)
        _require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)
        rule = "weight_decay must be 0 with optimiser adam, whose published recipes never apply theirs (adamw does)"
        _require(self.optimiser == "adamw" or self.weight_decay == 0, rule, self.weight_decay)
        _require(self.layer_decay is None or 0 < self.layer_decay <= 1, "layer_decay must lie in 0..1 or be null", self.layer_decay)
        _require(self.average is None or 0 < self.average < 1, "average must lie between 0 and 1 or be null", self.average)
        _require(0 < self.teacher_share <= 1, "teacher_share must lie above 0 and not above 1", self.teacher_share)
        rule = "averaged_with needs an init that is a weights file too"
        _require(not self.averaged_with or self.init.endswith(".safetensors"), rule, self.init)
        epochs = self.milestone_epochs
        _require(all(a > 0 for a in self.milestones), "milestones must be positive", list(self.milestones))
        _require(list(epochs) == sorted(epochs), "milestones must rise", list(self.milestones))

    @property
    def milestone_epochs(self) -> tuple[int, ...]:
        """First epoch (counted from 0) after each drop of the learning rate."""
        return tuple(round(value * self.epochs) if value < 1 else round(value) for value in self.milestones)

    def validates_after(self, epoch: int) -> bool:
        """Whether epoch `epoch`, counted from 1, is followed by a validation."""
        return epoch == self.epochs or (self.validate_every > 0 and epoch % self.validate_every == 0)

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of an optimiser step, counted from 0.

        Drops at the start of the milestone epochs, as with a schedule that is stepped after each epoch (UDP, CAL);
        HRNet's code steps before the epoch, which drops one epoch earlier. With `schedule: cosine` it falls to 0 along half a
        cosine (Loshchilov & Hutter 2017, "SGDR", equation 5, without restarts).
        """
        warmth = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "cosine":
            return self.learning_rate * warmth * 0.5 * (1 + math.cos(math.pi * step / (self.epochs * steps_per_epoch)))
        drops = sum(step // steps_per_epoch >= epoch for epoch in self.milestone_epochs)
        return self.learning_rate * self.gamma**drops * warmth


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}, got {value!r}")


def load(path: str | Path = TRAIN) -> Recipe:
    """The base recipe, before any variant's overrides.

    Raises:
        FarposeError: missing file, unknown, missing or wrongly typed key, of the budgets too.
    """
    mapping = load_yaml(path)
    if set(mapping) != {"train", "matched"}:
        raise FarposeError(f"expected the keys 'train' and 'matched', got {sorted(mapping)}", where=path)
    base = parse(Recipe, mapping["train"], f"{path}: train")
    for name, budget in budgets(path).items():
        for family, optimisation in budget.families.items():
            where = f"{path}: matched.{name}"
            for key in optimisation:
                if key not in OPTIMISATION:
                    raise unknown_name("parameter", key, OPTIMISATION, where=f"{where}.families.{family}")
            parse(Recipe, merged(dataclasses.asdict(base), {**budget.recipe, **optimisation}), f"{where} with families.{family}")
    return base


def budgets(path: str | Path = TRAIN) -> dict[str, Budget]:
    """Section `matched`: the budgets by name, see `budget_name`.

    Raises:
        FarposeError: a budget is missing or wrong.
    """
    parsed = parse(Budgets, load_yaml(path).get("matched", {}), f"{path}: matched")
    return {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}


def budget_name(variant: Variant) -> str:
    """The budget that the variant shares: by its approach, and whether its backbone is one of the demo's tiny ones."""
    return f"tiny_{variant.approach}" if variant.backbone.endswith("_tiny") else variant.approach


def resolve(
    variant: Variant, base: Recipe, kind: Kind = "published", path: str | Path = TRAIN, known: Mapping[str, Budget] | None = None
) -> Recipe:
    """The variant's recipe of one kind (nested mappings are merged key by key).

    Args:
        base: section `train` of params/train.yaml.
        kind: "published": the variant's own `train` on top. "matched": its budget on top, and of its own `train` only the keys
            that it names under `exceptions`, with the reason why the method needs them.
        path: the file with section `matched`.
        known: its budgets, see `budgets`; None: they are read.
    Raises:
        FarposeError: an override's key is unknown or its value of the wrong type, an exception is no key of the variant's `train`,
            no budget holds the backbone's family, or `init` is a start of another backbone; names the variant.
    """
    where = f"variant {variant.name}"
    for key in variant.exceptions:
        if key not in variant.train:
            raise unknown_name("exception", key, variant.train, where=where)
    if kind == "published":
        return _checked(parse(Recipe, merged(dataclasses.asdict(base), variant.train), f"{where}: train"), variant, where)
    if kind != "matched":
        raise unknown_name("recipe", kind, get_args(Kind), where=where)
    name = budget_name(variant)
    budget = (budgets(path) if known is None else known)[name]
    family = next((family for family in budget.families if variant.backbone.startswith(family)), None)
    if family is None:
        problem = f"no family holds backbone {variant.backbone!r} (known: {', '.join(budget.families)})"
        raise FarposeError(problem, where=f"{path}: matched.{name}.families", fix="add the start of the backbone's name")
    needed = {key: variant.train[key] for key in variant.exceptions}
    overrides = {**budget.recipe, **budget.families[family], **needed}
    return _checked(parse(Recipe, merged(dataclasses.asdict(base), overrides), f"{where}: recipe matched"), variant, where)


def _checked(recipe: Recipe, variant: Variant, where: str) -> Recipe:
    starts.check(recipe.init, variant.backbone, where)
    return recipe
