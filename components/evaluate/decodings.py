"""Second decodings of the same weights: a column of a paper's table that needs no second training.

"without_shift" is SRPose's "w/o Post." and SimCC's "hm-": the highest cell itself, without the quarter of a cell towards its higher
neighbour. Its scores end in the name, `AP_gt_boxes_without_shift`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from components.codecs.codec import Codec

Decoding = Literal["without_shift"]
CHANGES: Mapping[Decoding, dict[str, Any]] = {"without_shift": {"quarter_shift": False}}


def second_codecs(codec: Codec, names: tuple[Decoding, ...] = get_args(Decoding)) -> dict[Decoding, Codec]:
    """Codecs that decode the same outputs in another way, by the name of the decoding.

    A decoding is left out where the codec lacks its setting or already has that value; DARK, for example, never shifts.

    Args:
        codec: the variant's own.
        names: which decodings, of `evaluate.decodings` in params/evaluate.yaml.
    """
    found: dict[Decoding, Codec] = {}
    for name in names:
        changes = CHANGES[name]
        if all(getattr(codec.settings, key, value) != value for key, value in changes.items()):
            make: Any = type(codec)
            found[name] = make(codec.geometry, codec.skeleton, replace(codec.settings, **changes))
    return found
