"""Protocol `direct`: bilinear samples of the original image at the target's pixels, aliased, as in published top-down systems."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from components.degrade.protocol import Protocol, View
from components.pose.crop import invert


class Direct(Protocol):
    """One bilinear sample per target px. Training crops keep the image's own px: any reduction would alias differently."""

    name = "direct"
    caption = "bilinear warp of the original image, aliased"

    def crop(self, image: np.ndarray, view: View, settings: Any, seed: tuple[int, int, int]) -> np.ndarray:
        """As published, the unbiased convention (UDP, CAL) passes OpenCV the inverse matrix in float32, the others the forward matrix."""
        flags, matrix = cv2.INTER_LINEAR, view.image_to_crop
        if view.convention == "unbiased":
            flags, matrix = flags | cv2.WARP_INVERSE_MAP, invert(matrix[None])[0].astype(np.float32)
        return cv2.warpAffine(image, matrix, (view.size[1], view.size[0]), flags=flags)


PROTOCOL = Direct()
