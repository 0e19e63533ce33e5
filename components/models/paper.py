"""A row of a paper's table, as its authors printed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Counting = Literal["summary", "summary_decimal", "mmcv", "fvcore"]


@dataclass(frozen=True)
class Paper:
    """The row as its authors printed it; None where they did not.

    Attributes:
        ap, ap50, ap75, ap_medium, ap_large, ar: COCO val2017 (CrowdPose, WholeBody: their own test and val sets), percent.
        ap_without_shift, ar_without_shift: the same without the quarter-cell shift in decoding.
        ap_crowd_easy, ap_crowd_medium, ap_crowd_hard: CrowdPose test by crowd index, percent.
        ap_body, ap_foot, ap_face, ap_hand: COCO-WholeBody val by part, percent; `ap` is the whole body's.
        pckh50, pckh10: MPII val mean PCKh at 0.5 and at "0.1" (the code's 0.1 is 0.11 where it is HRNet's), percent.
        params_m: parameters, millions; params_backbone_m, params_head_m where the paper splits them.
        gflops: multiply-adds as `counting` counts them.
        counting: the tool of the paper, see `components.models.counting`: "summary" counts in units of 2³⁰ and deconvolutions at
            their output, "summary_decimal" prints the same in units of 1e9, "mmcv" adds biases and elementwise layers, "fvcore" adds
            norms and attention.
        fps: images per second as printed, on the authors' hardware.
        source: where the row was printed.
    """

    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ar: float | None = None
    ap_without_shift: float | None = None
    ar_without_shift: float | None = None
    ap_crowd_easy: float | None = None
    ap_crowd_medium: float | None = None
    ap_crowd_hard: float | None = None
    ap_body: float | None = None
    ap_foot: float | None = None
    ap_face: float | None = None
    ap_hand: float | None = None
    pckh50: float | None = None
    pckh10: float | None = None
    params_m: float | None = None
    params_backbone_m: float | None = None
    params_head_m: float | None = None
    gflops: float | None = None
    counting: Counting = "summary"
    fps: float | None = None
    source: str | None = None
