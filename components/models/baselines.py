"""The variant that each variant is compared with: the declared pairs of the recipe `matched`."""

from __future__ import annotations

from collections.abc import Mapping

from components.base.errors import FarposeError, unknown_name
from components.models.variant import Variant

PLAIN_METHODS = ("hrnet", "simple", "hrformer", "transpose", "tokenpose", "simple_bottomup")
SAME = ("backbone", "dataset", "input_size")


def baseline(variant: Variant, variants: Mapping[str, Variant]) -> Variant | None:
    """The variant that `variant.baseline` means; None where it names nothing.

    "plain" is the one with plain heatmaps on the same backbone, data set and input size, with as many branches and no enlarged input.

    Raises:
        FarposeError: there is no such variant, or its data differ from those of `variant`.
    """
    if variant.baseline is None:
        return None
    where = f"variant {variant.name}: baseline"
    if variant.baseline != "plain":
        if variant.baseline not in variants:
            raise unknown_name("variant", variant.baseline, variants, where=where)
        found = variants[variant.baseline]
        for name in SAME:
            if getattr(found, name) != getattr(variant, name):
                raise FarposeError(f"{found.name} has another {name}", where=where, fix="name a variant that differs in its method only")
        return found
    for other in variants.values():
        same = all(getattr(other, name) == getattr(variant, name) for name in SAME)
        plain = other.method in PLAIN_METHODS and other.network.branches == variant.network.branches and other.upscale is None
        if same and plain and other.name != variant.name:
            return other
    raise FarposeError("no plain variant has its backbone, data set and input size", where=where, fix="add one, or take `baseline` out")


def pairs(variants: Mapping[str, Variant]) -> dict[str, str]:
    """Every declared pair, variant → baseline.

    Raises:
        FarposeError: as `baseline`.
    """
    found = {name: baseline(variant, variants) for name, variant in variants.items()}
    return {name: other.name for name, other in found.items() if other is not None}
