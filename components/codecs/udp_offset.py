"""UDP with offset targets: the "combined" representation of the paper (Huang et al. 2020), `offset` in the released code.

Each joint has a disc of ones and, inside it, the offset to the joint in units of the disc's radius.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from components.codecs.blur import blur, blurred_at
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.losses import udp_offset_loss
from components.codecs.map_codec import MapCodec, choose, require_odd, require_positive, scaled_blur, single_precision
from components.codecs.peaks import find_peaks
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

PUBLISHED_RADIUS, PUBLISHED_BLUR_HEATMAP, PUBLISHED_BLUR_OFFSET = 4.0, 15, 7  # KPD and kernels, hard-coded at every resolution


@dataclass(frozen=True)
class UdpOffsetSettings:
    """Settings of the `udp_offset` codec.

    Attributes:
        preset: "derived" scales radius and blurs with the map; "published" uses 4.0, 15 and 7 on every map and gives weight 1
            to a joint whose disc lies outside the map.
        radius: of the disc, cells (KPD of the released code).
        blur_heatmap, blur_offset: kernel sizes in decoding, cells, odd.
        loss: "mse" (published) or "l1" (smooth L1).
    """

    preset: Literal["derived", "published"] = "derived"
    radius: float | None = None
    blur_heatmap: int | None = None
    blur_offset: int | None = None
    loss: Literal["mse", "l1"] = "mse"


class UdpOffsetCodec(MapCodec):
    """Outputs: one tensor (B, 3 K, H, W), channels heatmap, x, y of each joint."""

    convention: ClassVar[Convention] = "unbiased"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: UdpOffsetSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = s = settings or UdpOffsetSettings()
        self.published = s.preset == "published"
        width = geometry.heatmap_size[1]
        radius = PUBLISHED_RADIUS if self.published else scaled_radius(width)
        blurs = (PUBLISHED_BLUR_HEATMAP, PUBLISHED_BLUR_OFFSET)
        if not self.published:
            blurs = scaled_blur(PUBLISHED_BLUR_HEATMAP, width), scaled_blur(PUBLISHED_BLUR_OFFSET, width)
        self.radius = require_positive("radius", choose("radius", s.radius, s.preset, radius))
        self.blur_heatmap = require_odd("blur_heatmap", choose("blur_heatmap", s.blur_heatmap, s.preset, blurs[0]))
        self.blur_offset = require_odd("blur_offset", choose("blur_offset", s.blur_offset, s.preset, blurs[1]))

    @property
    def output_channels(self) -> tuple[int, ...]:
        return (3 * self.num_keypoints,)

    @property
    def constants(self) -> dict[str, Any]:
        return {"radius": self.radius, "blur_heatmap": self.blur_heatmap, "blur_offset": self.blur_offset}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        """`heatmaps` (B, K, H, W) discs, `combined` (B, 3 K, H, W) in the form of the network's output, `weights` (B, K)."""
        x, y = self.cells(keypoints_crop, visible)
        columns, rows = self.grid(x)
        dx = (x[..., None, None] - columns) / self.radius
        dy = (y[..., None, None] - rows) / self.radius
        disc = ((dx.square() + dy.square() <= 1) & visible[..., None, None]).to(x.dtype)
        weights = visible.to(x.dtype) if self.published else disc.amax((-2, -1))
        combined = torch.stack([disc, dx * disc, dy * disc], 2).flatten(1, 2)
        return {"heatmaps": disc, "combined": combined, "weights": weights}

    def perfect(self, targets: Targets) -> Outputs:
        return (targets["combined"],)

    def flip(self, outputs: Outputs) -> Outputs:
        mirrored = self.mirror(outputs[0], group=3).unflatten(1, (-1, 3))
        return (torch.stack([mirrored[:, :, 0], -mirrored[:, :, 1], mirrored[:, :, 2]], 2).flatten(1, 2),)

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        return decode_offset(single_precision(outputs[0]), self.radius, self.blur_heatmap, self.blur_offset)

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """Any point, because offsets are unlimited."""
        return keypoints_heatmap

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        combined = single_precision(outputs[0])
        heatmap, offset = udp_offset_loss(combined, targets["combined"], targets["weights"], self.settings.loss)
        return {"loss": heatmap + offset, "heatmap_loss": heatmap.detach(), "offset_loss": offset.detach()}


def scaled_radius(width: int) -> float:
    """A twelfth of the map's width, at least 2: the published 4 at 256x192, 2 at 128x96 and 64x48.

    With at least two cells, there is still an offset where the peak is found a cell or two off.
    """
    return max(2.0, width / 12)


def decode_offset(combined: Tensor, radius: float, blur_heatmap: int, blur_offset: int) -> tuple[Tensor, Tensor]:
    """Peak of the blurred heatmap plus the blurred offset there, as in the released code.

    An offset may place a joint outside the map.

    Args:
        combined: (B, 3 K, H, W), channels heatmap, x, y of each joint.
    Returns:
        Keypoints (B, K, 2) in cells, and scores (B, K): the maxima of the blurred heatmaps.
    """
    maps = combined.unflatten(1, (-1, 3))
    peaks = find_peaks(blur(maps[:, :, 0], blur_heatmap, "reflect"))
    offset = blurred_at(maps[:, :, 1:], peaks.x, peaks.y, blur_offset, "reflect")
    return peaks.coordinates() + radius * offset, peaks.scores


CODEC = CodecRecord("udp_offset", UdpOffsetCodec, UdpOffsetSettings, UdpOffsetCodec.convention)
