"""Multiply-adds as the papers' tools count them.

Three tools are behind the printed GFLOPs. None counts exactly the multiply-adds of a network, so each tool is a function here:

    summary  `get_model_summary` in the repositories of HRNet, SimpleBaseline, DARK, UDP, CAL, TransPose, TokenPose and SimCC
    mmcv     `mmcv.cnn.get_model_complexity_info`: HRFormer, and SRPose with its baselines
    fvcore   fvcore's `FlopCountAnalysis` and mmengine's copy of it: SHaRPose and SIU

HigherHRNet and LitePose print the first one's counts in units of 10⁹ ("summary_decimal").
Each function follows the tool's published code and is checked against counts made with it; docs/counts.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from components.models.tracing import Call

GIGA = {"summary": 2**30, "summary_decimal": 10**9, "mmcv": 10**9, "fvcore": 10**9}  # what each tool prints as one G


def summary(calls: Iterable[Call]) -> int:
    """`get_model_summary`: hooks on convolutions and linear layers.

    A deconvolution's weights are multiplied by its *output* positions (four times too many at stride 2). A linear layer's
    outputs are multiplied by the *second* size of its input: that is its channels for (B, C), but the number of tokens for
    (B, N, C). Products of attention do not appear. It prints units of 2³⁰.
    """
    return sum(_summary_of(call) for call in calls if call.is_layer)


def _summary_of(call: Call) -> int:
    if call.kind in ("convolution", "deconvolution"):
        return math.prod(call.weights[0]) * math.prod(call.outputs[2:])
    return math.prod(call.outputs) * call.inputs[1] if call.kind == "linear" else 0


def summary_parameters(calls: Iterable[Call]) -> int:
    """`get_model_summary`: convolutions, linear layers and batch norms, as often as called; no LayerNorm, token or position."""
    counted = ("convolution", "deconvolution", "linear", "batch_norm")
    return sum(sum(map(math.prod, call.weights)) for call in calls if call.is_layer and call.kind in counted)


def mmcv(calls: Iterable[Call], synchronised: bool = False) -> int:
    """`mmcv.cnn.get_model_complexity_info`: hooks on layers; elementwise work counts.

    In addition to the products: one per output of a convolution with bias, two per element of a batch norm or LayerNorm, one per
    element of ReLU (out), pooling (in) and `nn.Upsample` (out). It sees neither products of attention, nor GELU, biases of
    linear layers or functional calls. Our backbones resize and our heads rectify by functional calls where the published code
    has layers: these count.

    Args:
        synchronised: the authors' backbone has SyncBatchNorm, which it does not know.
    """
    seen = (call for call in calls if call.is_layer or _is_layer_in_published_code(call))
    return sum(_mmcv_of(call) for call in seen if not (synchronised and call.kind == "batch_norm" and _in_backbone(call)))


def _is_layer_in_published_code(call: Call) -> bool:
    return call.kind in (("nearest", "bilinear") if _in_backbone(call) else ("relu",))


def _in_backbone(call: Call) -> bool:
    return call.module.startswith("backbone.")


def _mmcv_of(call: Call) -> int:
    outputs = math.prod(call.outputs)
    match call.kind:
        case "convolution":
            return call.products + (outputs if len(call.weights) > 1 else 0)
        case "deconvolution" | "linear":
            return call.products
        case "batch_norm" | "layer_norm":
            return 2 * outputs
        case "pool" | "adaptive_pool":
            return math.prod(call.inputs)
        case "relu" | "nearest" | "bilinear":
            return outputs
    return 0


_FVCORE_PER_OUTPUT = {"batch_norm": 2, "layer_norm": 5, "nearest": 1, "bilinear": 4}


def fvcore(calls: Iterable[Call]) -> int:
    """fvcore and mmengine: every product, wherever it is.

    In addition to the products: two per element of a batch norm, five of a LayerNorm, one of nearest and four of bilinear resizing
    (out), one of adaptive pooling (in). Biases, ReLU, GELU, softmax and max pooling are free.
    """
    return sum(_fvcore_of(call) for call in calls)


def _fvcore_of(call: Call) -> int:
    pooled = math.prod(call.inputs) if call.kind == "adaptive_pool" else 0
    return call.products + pooled + _FVCORE_PER_OUTPUT.get(call.kind, 0) * math.prod(call.outputs)
