"""The main AP of a model; the suffix of its name says which boxes the model was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.base.errors import FarposeError

GT, NONE, LETTERBOX = "gt_boxes", "no_boxes", "no_boxes_letterbox"
# suffix → what the model was given, in words; the order decides where a mapping holds several
PROTOCOLS = {GT: "annotated boxes", NONE: "none (whole image)", LETTERBOX: "none (published letterboxing)"}
SUFFIX_OF_FIT = {"short_side": NONE, "letterbox": LETTERBOX}  # of bottom-up metrics, by `pose.whole_image.ImageGeometry.fit`


def headline(metrics: Mapping[str, Any]) -> str:
    """The suffix of the main AP: "gt_boxes" of top-down, "no_boxes" or "no_boxes_letterbox" of bottom-up evaluations.

    Raises:
        FarposeError: there is no such AP.
    """
    found = next((suffix for suffix in PROTOCOLS if metrics.get(f"AP_{suffix}") is not None), None)
    if found is None:
        wanted = " or ".join(f"AP_{suffix}" for suffix in PROTOCOLS)
        raise FarposeError(f"{wanted} is missing", where=f"metrics of {metrics.get('variant', 'a variant')}", fix="evaluate it again")
    return found


def boxes_of(metrics: Mapping[str, Any]) -> str:
    """The boxes of the main AP, in words. Raises what `headline` does."""
    return PROTOCOLS[headline(metrics)]
