"""DARK's maps, with persons ranked by the joints that are seen: ours.

COCO's AP sorts persons by a score, and a person's OKS is a mean over the joints that are labelled. The published score of heatmaps is the
mean of the joints' maxima above 0.2 (Xiao et al. 2018): a person with one sharp joint and sixteen faint ones stands before a person who is
seen well everywhere, because faint joints do not count. Here every joint counts as much as it is there:

    score = Σ q_k w_k / Σ w_k,   q_k = max of map k in [0, 1],   w_k = q_k ^ 0.5

`q_k` stands for the joint's OKS and `w_k` for the probability that it is labelled, so the score is the OKS that the maps let expect. The
exponent was chosen on the development split (results/study/ranking.json). Targets, loss and decoding are DARK's.
"""

from __future__ import annotations

from torch import Tensor

from components.codecs.codec import CodecRecord, Outputs
from components.codecs.dark import DarkCodec, DarkSettings
from components.codecs.map_codec import single_precision

PRESENCE = 0.5  # exponent of a joint's weight
NOTHING = 1e-12  # least sum of weights that is divided by


class DarkRankedCodec(DarkCodec):
    """Outputs: one tensor of heatmaps (B, K, H, W)."""

    @property
    def score_threshold(self) -> float:
        """All joints count; the ranking weights them."""
        return 0.0

    def ranking(self, outputs: Outputs, keypoints: Tensor) -> Tensor:
        """(B, K) in [0, 1]: the person's expected OKS, the same for each joint of decoded points (B, K, 2)."""
        quality = single_precision(outputs[0]).amax((-2, -1)).clamp(0, 1)
        weight = quality**PRESENCE
        expected = (quality * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=NOTHING)
        return expected.expand(*keypoints.shape[:-1])


CODEC = CodecRecord("dark_ranked", DarkRankedCodec, DarkSettings, DarkRankedCodec.convention)
