"""A trained model as the files of one folder: weights, variant, preparation of inputs and card. Released and registered models are such.

model.safetensors   weights; a released model's are in half precision
variant.yaml        the variant's entry, its joints written out
preparation.yaml    how the evaluation made inputs: `shards`, `degrade` and `evaluate`
model_card.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from components.base.config import load_yaml, parse
from components.base.errors import FarposeError
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import EvaluateParams
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights, read_metadata, save_weights
from components.models.zoo import Built

WEIGHTS, VARIANT, PREPARATION, CARD = "model.safetensors", "variant.yaml", "preparation.yaml", "model_card.md"


@dataclass(frozen=True)
class Package:
    """What a folder holds.

    Attributes:
        spec, degrade, evaluate: how the evaluation made its inputs and scored persons.
    """

    folder: Path
    variant: Variant
    spec: ShardSpec
    degrade: DegradeParams
    evaluate: EvaluateParams

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def build(self) -> Built:
        """The network with its weights, and its codec.

        Raises:
            FarposeError: the weights are missing, damaged or another variant's.
        """
        built = zoo.build(self.variant)
        built.model.load_state_dict(load_weights(self.weights, self.variant))  # numbers of half precision are widened
        return built


def read(folder: Path) -> Package:
    """Read a folder that `released.write` or the registry made; the weights are read by `Package.build`.

    Raises:
        FarposeError: a file is missing or wrong.
    """
    for name in (WEIGHTS, VARIANT, PREPARATION):
        if not (folder / name).is_file():
            raise FarposeError(f"no packaged model: {name} is missing", where=folder, fix="name the folder of a released model")
    path, preparation = folder / VARIANT, load_yaml(folder / PREPARATION)
    where = str(folder / PREPARATION)
    missing = {"shards", "degrade", "evaluate"} - preparation.keys()
    if missing:
        raise FarposeError(f"section {min(missing)!r} is missing", where=where, fix="make the package again")
    return Package(
        folder,
        parse(Variant, load_yaml(path), str(path)),
        parse(ShardSpec, preparation["shards"], f"{where}: shards"),
        parse(DegradeParams, preparation["degrade"], f"{where}: degrade"),
        parse(EvaluateParams, preparation["evaluate"], f"{where}: evaluate"),
    )


def halve(weights: Path, variant: Variant, target: Path) -> None:
    """Write the weights in half precision; the same file gives the same bytes. What the file said of itself stays with it.

    Args:
        weights: of `variant`, as training wrote them.
    Raises:
        FarposeError: the weights are damaged, another variant's, or a number is too large for half precision.
    """
    state = {}
    for name, value in load_weights(weights, variant).items():
        state[name] = value.half() if value.is_floating_point() else value
        if not torch.isfinite(state[name]).all():
            raise FarposeError(f"{name} does not fit half precision", where=weights, fix="look at the training's loss")
    save_weights(target, state, read_metadata(weights))


def texts(variant: Variant, preparation: Mapping[str, Any], card: str) -> dict[str, str]:
    """The package's text files by name."""
    complete = dataclasses.replace(variant, joints=variant.skeleton)  # a package has no params/data.yaml beside it
    return {
        VARIANT: yaml.safe_dump(_plain(dataclasses.asdict(complete)), sort_keys=False),
        PREPARATION: yaml.safe_dump(_plain(dict(preparation)), sort_keys=False),
        CARD: card,
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, so that YAML stays YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
