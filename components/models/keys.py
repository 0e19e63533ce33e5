"""Our parameter names in the authors' words.

Inside the parts (blocks, modules, fusions) the names are the published ones already; only the parts' own names differ.
"""

from __future__ import annotations

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
}
_LONGEST_FIRST = sorted(AUTHORS_PREFIXES, key=len, reverse=True)


def authors_key(key: str) -> str:
    """The authors' name of our parameter or buffer `key` (a key of our networks' state_dict)."""
    prefix = next(prefix for prefix in _LONGEST_FIRST if key.startswith(prefix))
    return AUTHORS_PREFIXES[prefix] + key.removeprefix(prefix)
