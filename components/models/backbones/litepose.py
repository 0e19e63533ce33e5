"""LitePose's backbone (Wang et al. 2022, "Lite Pose: Efficient Architecture Design for 2D Human Pose Estimation")."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LitePoseShape:
    """How wide and how deep a LitePose is."""

    name: str
