"""Crops of persons as training data, for top-down methods."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from components.codecs import Codec
from components.degrade.augment import Augmenter
from components.degrade.shards import EvalCrops, TrainCrops
from components.models.variant import Variant
from components.pose.skeleton import Skeleton
from components.train.feed import Drawn, check_shard
from components.train.guard import joint_inside
from components.train.recipe import Recipe
from components.train.validation import validation_ap


class CropFeed:
    """One person per crop."""

    unit: ClassVar[str] = "crops"
    metric: ClassVar[str] = "val_AP_gt_boxes"

    def __init__(self, variant: Variant, directory: str | Path) -> None:
        self._crops = TrainCrops.open(directory)
        self._validation = EvalCrops.open(directory, variant.convention)
        self._input_size = variant.input_size
        check_shard(variant, self._crops.input_size, self._crops.skeleton)

    @property
    def skeleton(self) -> Skeleton:
        return self._crops.skeleton

    def __len__(self) -> int:
        return len(self._crops)

    def place(self, codec: Codec, recipe: Recipe, device: torch.device) -> None:
        self._codec = codec
        self._augment = Augmenter(codec.geometry, recipe.augmentation, self.skeleton)
        self._on_device = self._crops.to(device)

    def draw(self, indices: Tensor, seed: int) -> Drawn:
        batch = self._augment(self._on_device, indices, seed)
        targets = self._codec.targets(batch.keypoints_crop, batch.visible)
        return Drawn(batch.images, targets, joint_inside(batch.keypoints_crop, batch.visible, self._input_size))

    def name(self, indices: np.ndarray) -> str:
        return f"annotation ids {self._crops.annotation_id[indices].tolist()}"

    def validate(self, model: nn.Module, flip: bool, bf16: bool, device: torch.device) -> float:
        return validation_ap(model, self._codec, self._validation, flip, bf16, device)
