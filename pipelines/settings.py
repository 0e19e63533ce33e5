"""`params/pipeline.yaml`, typed, and the check of every parameter file at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.base.fan_out import FanOut
from components.datasets.params import DataParams
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import EvaluateParams

T = TypeVar("T")


@dataclass(frozen=True)
class VariantPlan:
    table: str
    shards: str
    recipe: Literal["published", "matched"] = "published"


@dataclass(frozen=True)
class PeerPlan:
    """Another network's predictions, which stand beside the variants' in the comparison; files are relative to data/."""

    file: str
    label: str
    licence: str
    conditions: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Every file once."""
        return list(dict.fromkeys([self.file, *self.conditions.values()]))


@dataclass(frozen=True)
class FlowPlan:
    max_parallel: int
    stage_timeout_hours: float


@dataclass(frozen=True)
class Pipeline:
    """Which crops are cut, which variants are trained and whose predictions they are compared with; see `params/pipeline.yaml`."""

    shards: dict[str, ShardSpec]
    variants: dict[str, VariantPlan]
    flow: FlowPlan
    peers: dict[str, PeerPlan] = field(default_factory=dict)

    def shards_of(self, variant: str) -> str:
        """Name of the shards that a variant of the pipeline learns from."""
        if variant not in self.variants:
            fix = f"add it under `variants` in params/pipeline.yaml; there now: {', '.join(self.variants)}"
            raise FarposeError(f"variant {variant!r} is not in the pipeline", fix=fix)
        return self.variants[variant].shards

    def recipe_of(self, variant: str) -> Literal["published", "matched"]:
        """Which recipe a variant is trained by; outside of the pipeline its published one."""
        return self.variants[variant].recipe if variant in self.variants else "published"


def load(path: str | Path = PARAMS / "pipeline.yaml") -> Pipeline:
    """Read and check `params/pipeline.yaml`.

    Raises:
        FarposeError: unknown key or value, shards under another name than their own, a variant of shards that are not planned or under
            a name that a shell would not take for a word, or a peer under a variant's name or with a file outside of data/.
    """
    pipeline = parse(Pipeline, load_yaml(path), str(path))
    for name, spec in pipeline.shards.items():
        if name != spec.name:
            raise FarposeError(f"these shards are {spec.name!r} by their settings", where=f"{path}: shards.{name}", fix="correct either")
    for name, plan in pipeline.variants.items():
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):  # DVC makes it a word of a command line, which a shell reads
            problem = f"{name!r} is no name of a variant: letters, digits, `_`, `-` and `.` make one"
            raise FarposeError(problem, where=f"{path}: variants", fix="correct its entry, such as its `tag`")
        if plan.shards not in pipeline.shards:
            raise unknown_name("shards", plan.shards, pipeline.shards, where=f"{path}: variants.{name}.shards")
    for name, peer in pipeline.peers.items():
        if name in pipeline.variants:
            raise FarposeError("a variant has this name", where=f"{path}: peers.{name}", fix="give the peer another one")
        for file in peer.files:
            if Path(file).is_absolute() or ".." in Path(file).parts:
                raise FarposeError(f"{file} is not in data/", where=f"{path}: peers.{name}", fix="copy it there, `dvc add data`")
    if pipeline.flow.max_parallel < 1 or pipeline.flow.stage_timeout_hours <= 0:
        raise FarposeError("flow.max_parallel and flow.stage_timeout_hours must be positive", where=path)
    return pipeline


def section(cls: type[T], name: str, others: tuple[str, ...] = ()) -> T:
    """`params/<name>.yaml`'s section of the same name, parsed as `cls`.

    Args:
        others: further sections that the file may hold, parsed elsewhere.
    Raises:
        FarposeError: the section is missing or wrong, or there is one that nothing reads.
    """
    path = PARAMS / f"{name}.yaml"
    mapping = load_yaml(path)
    for key in mapping:
        if key not in (name, *others):
            raise unknown_name("parameter", str(key), (name, *others), where=path)
    return parse(cls, mapping.get(name, {}), f"{path}: {name}")


def data() -> DataParams:
    """Section `data` of params/data.yaml."""
    return section(DataParams, "data", ("synthetic",))


def degrade() -> DegradeParams:
    """Section `degrade` of params/degrade.yaml."""
    return section(DegradeParams, "degrade")


def evaluation() -> EvaluateParams:
    """Section `evaluate` of params/evaluate.yaml."""
    return section(EvaluateParams, "evaluate")


def fan_out() -> FanOut:
    """Section `fan_out` of params/fan_out.yaml."""
    return section(FanOut, "fan_out")
