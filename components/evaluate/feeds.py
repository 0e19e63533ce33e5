"""What both approaches need to open a shard."""

from __future__ import annotations

import numpy as np

from components.base.errors import FarposeError
from components.models.variant import Variant
from components.pose.skeleton import Skeleton


def check_shard(variant: Variant, input_size: tuple[int, int], skeleton: Skeleton) -> None:
    """Whether a shard is what the variant is trained on.

    Raises:
        FarposeError: it has another input size or skeleton.
    """
    if input_size != variant.input_size:
        made, wanted = ("{}x{}".format(*size) for size in (input_size, variant.input_size))
        problem = f"the shard's {variant.approach} are {made} px, the variant needs {wanted}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="name the matching shard in params/pipeline.yaml")
    if skeleton.name != variant.skeleton.name:
        problem = f"the shard's persons have the joints {skeleton.name}, the variant predicts {variant.skeleton.name}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="make a shard of the variant's data set")


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of `count` rows, evenly."""
    rows: list[int] = np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
    return rows
