"""The settings of evaluation; `params/evaluate.yaml` says what each does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from components.codecs import Codec


@dataclass(frozen=True)
class BottomUpParams:
    """Section `evaluate.bottom_up`: how bottom-up methods are evaluated on whole images.

    Attributes:
        fit: "short_side" pads and crops nothing; "letterbox" is HigherPose's published square, whose numbers end in
            `_no_boxes_letterbox`: it reduces landscape images more and cuts portrait ones at top and bottom.
        scales: test scales, relative to the variant's input size; heatmaps are averaged over them, tags come from scale 1.
        oks_nms_threshold: OKS above which the weaker of two persons is dropped, in (0, 1]; None keeps all, as published.
        batch_size: images of one size per forward pass.

    Raises:
        ValueError: a value out of range, scales twice, or several scales without 1.
    """

    fit: Literal["short_side", "letterbox"] = "short_side"
    scales: tuple[float, ...] = (1.0,)
    oks_nms_threshold: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"bottom_up.scales must be positive and different, got {list(self.scales)}")
        if len(self.scales) > 1 and 1.0 not in self.scales:
            raise ValueError(f"several bottom_up.scales must contain 1, which gives the tags, got {list(self.scales)}")
        if self.oks_nms_threshold is not None and not 0 < self.oks_nms_threshold <= 1:
            raise ValueError(f"bottom_up.oks_nms_threshold must be in (0, 1], got {self.oks_nms_threshold}")
        if self.batch_size < 1:
            raise ValueError("bottom_up.batch_size must be at least 1")


@dataclass(frozen=True)
class EvaluateParams:
    """Section `evaluate` of params/evaluate.yaml.

    Attributes:
        split: "val", which published rows are scored on, or "dev", on which recipes and settings are chosen.
        flip: average the outputs of the upright and the mirrored crop.
        batch_size: crops per forward pass.
        bf16: network in bfloat16 on a GPU.
        boxes: "gt" scores annotated boxes; "detector" also scores a detector's boxes.
        detections: COCO results file of a detector, relative to data/<source>.
        detector_score_threshold: boxes that score lower are not cropped.
        detector_reductions: also score boxes of the shipped detector on images reduced so many times, see `evaluate.reduced_detector`.
        in_vis_threshold: joints that score lower do not count in a person's score; None takes the codec's `score_threshold`.
        oks_nms_threshold: OKS above which the weaker of two persons is dropped, in (0, 1].
        soft_nms: soft instead of hard suppression.
        bootstrap_resamples: resamplings of the images behind each interval.
        bootstrap_seed: start of the resampling.
        height_bins_px: ascending inner edges of the person-height bins, px of the image.
        reduction_bins: ascending inner edges of the bins of source px per input px.
        gallery_size: best, median and worst predictions shown of each.
        decodings: further decodings of the same weights, see `evaluate.decodings`.
        conditions: further inputs for the same weights: protocols, and heights such as h32, see `evaluate.conditions`; top-down only.
        bottom_up: evaluation of bottom-up methods; `boxes`, `detections`, `detector_score_threshold`,
            `in_vis_threshold`, `oks_nms_threshold`, `soft_nms` and `batch_size` above are for top-down methods only.

    Raises:
        ValueError: a value out of range, or `boxes: detector` without `detections`.
    """

    split: Literal["val", "dev"] = "val"
    flip: bool = True
    batch_size: int = 64
    bf16: bool = False
    boxes: Literal["gt", "detector"] = "gt"
    detections: str | None = None
    detector_score_threshold: float = 0.0
    detector_reductions: tuple[int, ...] = ()
    in_vis_threshold: float | None = None
    oks_nms_threshold: float = 0.9
    soft_nms: bool = False
    bootstrap_resamples: int = 1000
    bootstrap_seed: int = 0
    height_bins_px: tuple[float, ...] = (32.0, 64.0, 96.0, 128.0, 192.0, 256.0)
    reduction_bins: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0)
    gallery_size: int = 4
    decodings: tuple[Literal["without_shift"], ...] = ()
    conditions: tuple[str, ...] = ()
    bottom_up: BottomUpParams = BottomUpParams()

    def __post_init__(self) -> None:
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions must be different, got {list(self.conditions)}")
        if len(set(self.detector_reductions)) < len(self.detector_reductions) or min(self.detector_reductions, default=1) < 1:
            raise ValueError(f"detector_reductions must be different whole numbers from 1 upwards, got {list(self.detector_reductions)}")
        if self.boxes == "detector" and not self.detections:
            raise ValueError("boxes: detector needs detections, the detector's COCO results file")
        if min(self.batch_size, self.bootstrap_resamples, self.gallery_size) < 1:
            raise ValueError("batch_size, bootstrap_resamples and gallery_size must be at least 1")
        if not 0 < self.oks_nms_threshold <= 1:
            raise ValueError(f"oks_nms_threshold must be in (0, 1], got {self.oks_nms_threshold}")
        if self.bootstrap_seed < 0:
            raise ValueError(f"bootstrap_seed must not be negative, got {self.bootstrap_seed}")
        for name in ("height_bins_px", "reduction_bins"):
            edges = getattr(self, name)
            if not edges or edges[0] <= 0 or any(b <= a for a, b in itertools.pairwise(edges)):
                raise ValueError(f"{name} must be positive and ascending, got {list(edges)}")

    def visible_above(self, codec: Codec) -> float:
        """Score above which a joint counts: the one set here, or else the codec's."""
        return codec.score_threshold if self.in_vis_threshold is None else self.in_vis_threshold
