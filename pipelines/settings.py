"""`params/pipeline.yaml`, typed, and the check of every parameter file at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name


@dataclass(frozen=True)
class ShardPlan:
    input_size: tuple[int, int]  # H, W in px
    protocol: Literal["direct", "antialias", "sensor"]


@dataclass(frozen=True)
class VariantPlan:
    table: str
    shards: str


@dataclass(frozen=True)
class FlowPlan:
    max_parallel: int
    stage_timeout_hours: float


@dataclass(frozen=True)
class Pipeline:
    """Which crops are cut and which variants are trained; see `params/pipeline.yaml`."""

    shards: dict[str, ShardPlan]
    variants: dict[str, VariantPlan]
    flow: FlowPlan

    def shards_of(self, variant: str) -> str:
        """Name of the shards that a variant of the pipeline learns from."""
        if variant not in self.variants:
            fix = f"add it under `variants` in params/pipeline.yaml; there now: {', '.join(self.variants)}"
            raise FarposeError(f"variant {variant!r} is not in the pipeline", fix=fix)
        return self.variants[variant].shards


def load(path: str | Path = PARAMS / "pipeline.yaml") -> Pipeline:
    """Read and check `params/pipeline.yaml`.

    Raises:
        FarposeError: unknown key or value, or a variant that names shards which are not planned.
    """
    pipeline = parse(Pipeline, load_yaml(path), str(path))
    for name, plan in pipeline.variants.items():
        if plan.shards not in pipeline.shards:
            raise unknown_name("shards", plan.shards, pipeline.shards, where=f"{path}: variants.{name}.shards")
    if pipeline.flow.max_parallel < 1 or pipeline.flow.stage_timeout_hours <= 0:
        raise FarposeError("flow.max_parallel and flow.stage_timeout_hours must be positive", where=path)
    return pipeline
