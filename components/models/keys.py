"""Our parameter names in the authors' words.

Inside the parts (blocks, modules, fusions) the names are the published ones already; only the parts' own names differ.
"""

from __future__ import annotations

from collections.abc import Callable

from components.models import (
    higherhrnet,
    higherpose,
    hrformer,
    limbpose,
    litepose,
    sharpose,
    simcc,
    simple_bottomup,
    siu,
    sr_head,
    sr_head_bottomup,
    srpose,
    tokenpose,
    transpose,
)
from components.models.backbones import EFFICIENTVITS
from components.models.variant import Variant

AUTHORS_PREFIXES = {
    "backbone.": "",  # ResNet
    "backbone.trunk.": "",  # HRNet
    "backbone.end.transition.": "transition3.",
    "backbone.end.stage.": "stage4.",
    "head.": "deconv_layers.",  # SimpleBaseline
    "final_layer.": "final_layer.",
    "trunk.": "",  # CAL
    "heatmap_end.transition.": "transition3.",
    "heatmap_end.stage.": "stage4.",
    "offset_end.transition.": "transition3_om.",
    "offset_end.stage.": "stage4_om.",
    "heatmap_head.0.": "head_hm.final_block1.",
    "heatmap_head.1.": "head_hm.final_block_hm.",
    "heatmap_head.2.": "head_hm.final_layer_hm.",
    "offset_head.0.": "head_om.final_block1.",
    "offset_head.1.": "head_om.final_block_om.",
    "offset_head.2.": "head_om.final_layer_om.",
    "upscale.": "upscale.",  # ours alone: an enlarged input, see upscale.py
}
_LONGEST_FIRST = sorted(AUTHORS_PREFIXES, key=len, reverse=True)


_OF_METHOD: dict[str, Callable[[str, Variant], str]] = {
    "hrformer": hrformer.authors_key,
    "transpose": transpose.authors_key,
    "tokenpose": tokenpose.authors_key,
    "sr_head": sr_head.authors_key,
    "srpose": srpose.authors_key,
    "siu": siu.authors_key,
    "sharpose": sharpose.authors_key,
    "simcc": simcc.authors_key,
    "higherhrnet": higherhrnet.authors_key,
    "litepose": litepose.authors_key,
    "higherpose": higherpose.authors_key,
    "limbpose": limbpose.authors_key,
    "sr_head_bottomup": sr_head_bottomup.authors_key,
    "simple_bottomup": simple_bottomup.authors_key,
}


def published_name(key: str) -> str:
    """The name of `key` in the released code of HRNet, SimpleBaseline, DARK, UDP and CAL, and in ImageNet checkpoints."""
    prefix = next(prefix for prefix in _LONGEST_FIRST if key.startswith(prefix))
    return AUTHORS_PREFIXES[prefix] + key.removeprefix(prefix)


def authors_key(key: str, variant: Variant) -> str:
    """The authors' name of `key`, a parameter or buffer of the variant's network (a key of its state_dict)."""
    method = "siu" if variant.backbone in EFFICIENTVITS else variant.method  # SimpleBaseline on EfficientViT is from there too
    return _OF_METHOD[method](key, variant) if method in _OF_METHOD else published_name(key)
