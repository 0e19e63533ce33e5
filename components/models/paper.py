"""A row of a paper's table, as its authors printed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Counting = Literal["summary", "summary_decimal", "mmcv", "fvcore"]
Boxes = Literal["detector", "annotated", "none", "unknown"]
Start = Literal["imagenet", "mae", "random", "supernet", "unknown"]
STARTS: dict[str, str] = {
    "imagenet": "ImageNet start",
    "mae": "MAE start",
    "random": "random start",
    "supernet": "cut out of a trained supernet",
    "unknown": "start not said",
}


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
        boxes: where the person boxes came from: a detector with person AP `detector_ap` (percent on COCO val2017), the annotated ones,
            none (bottom-up), or unknown where the source does not say.
        start: what the network started from.
        departs: where our recipe or network departs from the authors', in words.
        source: where the row was printed.

    Raises:
        ValueError: an AP or PCKh without `boxes`, `start` and `source`: such a number cannot be compared; or boxes of a detector
            without its AP.
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
    boxes: Boxes | None = None
    detector_ap: float | None = None
    start: Start | None = None
    departs: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        missing = [name for name in ("boxes", "start", "source") if getattr(self, name) is None]
        if missing and (self.ap is not None or self.pckh50 is not None):
            raise ValueError(f"a printed AP or PCKh needs its {' and '.join(missing)}")
        if (self.boxes == "detector") != (self.detector_ap is not None):
            raise ValueError("detector_ap belongs to boxes: detector, and only there")

    @property
    def conditions(self) -> str:
        """What the printed score was measured under, such as "detector boxes (AP 56.4), ImageNet start"; "" without a score."""
        if self.boxes is None or self.start is None:
            return ""
        boxes = {"detector": f"detector boxes (AP {self.detector_ap:g})" if self.detector_ap else "", "annotated": "annotated boxes"}
        boxes |= {"none": "no boxes", "unknown": "boxes not said"}
        return f"{boxes[self.boxes]}, {STARTS[self.start]}"
