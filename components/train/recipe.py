"""The recipe: everything about training that a user may choose (`params/train.yaml` and a variant's `train:` overrides)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError
from components.degrade.augment import AugmentParams
from components.degrade.augment_images import ImageAugmentParams
from components.models.variant import Variant


@dataclass(frozen=True)
class Recipe:
    """One variant's training; keys, units and effects are described in `params/train.yaml`."""

    epochs: int
    batch_size: int
    optimiser: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    layer_decay: float | None
    milestones: tuple[float, ...]
    gamma: float
    warmup_steps: int
    gradient_clip: float | None
    drop_last: bool
    init: str
    seed: int
    precision: Literal["auto", "fp32", "bf16"]
    cuda_graphs: Literal["auto", "never"]
    num_threads: int
    validate_on: Literal["dev", "val"]
    validate_every: int
    validate_flip: bool
    checkpoint_seconds: float
    checkpoint_steps: int | None
    augmentation: AugmentParams
    image_augmentation: ImageAugmentParams

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "gamma", "num_threads"):
            _require(getattr(self, name) > 0, f"{name} must be positive", getattr(self, name))
        for name in ("warmup_steps", "seed", "validate_every", "checkpoint_seconds"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative", getattr(self, name))
        for name in ("gradient_clip", "checkpoint_steps"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be positive or null", value)
        _require(self.weight_decay >= 0, "weight_decay must not be negative", self.weight_decay)
        rule = "weight_decay must be 0 with optimiser adam, whose published recipes never apply theirs (adamw does)"
        _require(self.optimiser == "adamw" or self.weight_decay == 0, rule, self.weight_decay)
        _require(self.layer_decay is None or 0 < self.layer_decay <= 1, "layer_decay must lie in 0..1 or be null", self.layer_decay)
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
        HRNet's code steps before the epoch, which drops one epoch earlier.
        """
        drops = sum(step // steps_per_epoch >= epoch for epoch in self.milestone_epochs)
        warmth = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * self.gamma**drops * warmth


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{rule}, got {value!r}")


def load(path: str | Path = PARAMS / "train.yaml") -> Recipe:
    """The base recipe, before any variant's overrides.

    Raises:
        FarposeError: missing file, unknown, missing or wrongly typed key.
    """
    mapping = load_yaml(path)
    if set(mapping) != {"train"}:
        raise FarposeError(f"expected the one key 'train', got {sorted(mapping)}", where=path)
    return parse(Recipe, mapping["train"], f"{path}: train")


def resolve(variant: Variant, base: Recipe) -> Recipe:
    """The base recipe with the variant's `train` overrides on top (nested mappings are merged key by key).

    Raises:
        FarposeError: an override's key is unknown or its value of the wrong type; names the variant.
    """
    return parse(Recipe, _merged(dataclasses.asdict(base), variant.train), f"variant {variant.name}: train")


def _merged(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in overrides.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if nested else value
    return result
