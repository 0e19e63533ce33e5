"""Second decodings of the same weights: a column of a paper's table that needs no second training.

"without_shift" is SRPose's "w/o Post." and SimCC's "hm-": the highest cell as it is, without the quarter of a cell towards its higher
neighbour. Its scores end in the name, `AP_gt_boxes_without_shift`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from components import codecs
from components.models.variant import Variant
from components.pose.skeleton import Skeleton

Decoding = Literal["without_shift"]
CHANGES: Mapping[Decoding, dict[str, Any]] = {"without_shift": {"quarter_shift": False}}


def second_codecs(variant: Variant, skeleton: Skeleton, names: tuple[Decoding, ...] = get_args(Decoding)) -> dict[Decoding, Any]:
    """Codecs that read the variant's outputs in another way, by the name of the decoding.

    Left out are decodings whose settings the variant's codec does not have or already has at that value, as DARK's, which never shifts.

    Args:
        skeleton: the joints of the outputs.
        names: which decodings, of `evaluate.decodings` in params/evaluate.yaml.
    """
    geometry = variant.geometry()
    settings = codecs.build(variant.codec_name, geometry, skeleton, **variant.codec).settings
    found: dict[Decoding, Any] = {}
    for name in names:
        changes = CHANGES[name]
        if all(getattr(settings, key, value) != value for key, value in changes.items()):
            found[name] = codecs.build(variant.codec_name, geometry, skeleton, **{**variant.codec, **changes})
    return found
