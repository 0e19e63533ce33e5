"""Half-body crops: a box around the upper or the lower joints only (HRNet's published augmentation)."""

from __future__ import annotations

import torch
from torch import Tensor

HALF_BODY_PADDING = 1.5  # published factor; whole persons are padded by 1.25
SMALLEST_SIZE = 2.0  # px; keeps every convention's scale finite for joints that coincide


def choose_half(visible: Tensor, upper_body: Tensor, prefers_upper: Tensor) -> Tensor:
    """(B, K) bool: the joints that a half-body crop is drawn around.

    The preferred half if more than two of its joints are labelled, else the other one, in the published order.

    Args:
        visible: (B, K) bool, labelled joints.
        upper_body: (K,) bool.
        prefers_upper: (B,) bool.
    """
    upper, lower = visible & upper_body, visible & ~upper_body
    enough_upper, enough_lower = upper.sum(1) > 2, lower.sum(1) > 2
    takes_upper = (prefers_upper & enough_upper) | ~enough_lower
    return torch.where(takes_upper[:, None], upper, lower)


def half_body_box(keypoints: Tensor, chosen: Tensor, aspect: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (B, 2), size (B, 2), px of the keypoints' frame, and whether the box exists (B,), which takes two joints.

    As published, the centre is the mean of the joints, not the middle of their box.

    Args:
        keypoints: (B, K, 2).
        chosen: (B, K) bool.
        aspect: width over height of the crop.
    """
    count = chosen.sum(1)
    member = chosen[..., None]
    center = torch.where(member, keypoints, 0).sum(1) / count.clamp(min=1)[:, None]
    low = torch.where(member, keypoints, torch.inf).amin(1)
    high = torch.where(member, keypoints, -torch.inf).amax(1)
    exists = count >= 2
    width, height = torch.where(exists[:, None], high - low, 1.0).unbind(1)
    size = torch.stack([torch.maximum(width, height * aspect), torch.maximum(height, width / aspect)], 1)
    return center, (size * HALF_BODY_PADDING).clamp(min=SMALLEST_SIZE), exists
