"""One person per crop, as training data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from components.codecs.codec import Codec, as_crop_codec
from components.degrade.augment import Augmenter, Batch
from components.degrade.shards import EvalCrops, TrainCrops
from components.degrade.streamed import Place
from components.evaluate import oks
from components.evaluate.feed import WHOLE, Drawn, FeedRecipe, FeedRecord, check_shard
from components.evaluate.headline import GT
from components.evaluate.predict import predict
from components.evaluate.ranks import ALONE, Ranks, together
from components.evaluate.rescoring import person_scores
from components.models.variant import Variant
from components.pose.crop import CropGeometry
from components.pose.persons import Persons
from components.pose.skeleton import Skeleton


class CropFeed:
    """One person per crop, as training data."""

    def __init__(self, variant: Variant, directory: str | Path, split: str) -> None:
        self.metric = f"{split}_AP_{GT}"
        self._crops = TrainCrops.open(directory)
        self._validation = EvalCrops.open(directory, variant.convention, split)
        self._input_size = variant.input_size
        check_shard(variant, self._crops.input_size, self._crops.skeleton)

    @property
    def skeleton(self) -> Skeleton:
        return self._crops.skeleton

    def __len__(self) -> int:
        return len(self._crops)

    def place(self, codec: Codec, recipe: FeedRecipe, device: torch.device) -> Place[TrainCrops]:
        self._codec = as_crop_codec(codec)
        self._augment = Augmenter(codec.geometry, recipe.augmentation, self.skeleton)
        self._pixels = Place(self._crops, device, "crops")
        self._views: dict[CropGeometry, Augmenter] = {}
        return self._pixels

    def draw(self, indices: Tensor, seed: int, part: slice = WHOLE) -> Drawn:
        batch = self._augmented(self._augment, indices, seed, part)
        targets = self._codec.targets(batch.keypoints_crop, batch.visible)
        return Drawn(batch.images, targets, joint_inside(batch.keypoints_crop, batch.visible, self._input_size))

    def view(self, indices: Tensor, seed: int, geometry: CropGeometry, part: slice = WHOLE) -> Tensor:
        if geometry not in self._views:
            self._views[geometry] = Augmenter(geometry, self._augment.params, self.skeleton)
        return self._augmented(self._views[geometry], indices, seed, part).images

    def _augmented(self, augment: Augmenter, indices: Tensor, seed: int, part: slice) -> Batch:
        """What is drawn depends on the whole batch, so that the parts of several processes are those of one."""
        crops, rows = self._pixels.rows(indices[part])
        crops = dataclasses.replace(crops, input_size=augment.geometry.input_size)  # boxes, and so views, do not depend on it
        return augment.apply(crops, rows, augment.draw(len(indices), seed)[part].to(crops.device, non_blocking=True))

    def name(self, indices: np.ndarray) -> str:
        return f"annotation ids {self._crops.annotation_id[indices].tolist()}"

    def validate(self, model: nn.Module, flip: bool, bf16: bool, device: torch.device, ranks: Ranks = ALONE) -> float:
        """AP with the annotated boxes, of the shard's labelled persons: with these boxes no prediction falls on the crowd regions and
        unlabelled persons that the full evaluation ignores."""
        crops = self._validation
        own = predict(model, self._codec, crops.rows(ranks.part(len(crops))), flip=flip, device=device, bf16=bf16)
        found = together(own, ranks, device)
        scores = person_scores(found.ranked_by, found.box_scores, self._codec.score_threshold)
        return oks.evaluate(persons_of(crops), found, scores)["AP"]


def joint_inside(keypoints_crop: Tensor, visible: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Whether any labelled joint (B, K, 2) lies inside its crop of (height, width) px; bool ()."""
    x, y = keypoints_crop.unbind(-1)
    inside = (x >= 0) & (x < input_size[1]) & (y >= 0) & (y < input_size[0])
    return (inside & visible).any()


def persons_of(crops: EvalCrops) -> Persons:
    """The persons of evaluation crops, row by row, with the columns that scoring uses."""
    labelled = (crops.keypoints_image[..., 2] > 0).sum(1)
    columns = {"annotation_id": crops.annotation_id, "image_id": crops.image_id, "area": crops.area, "num_keypoints": labelled}
    frame = pd.DataFrame({**columns, "iscrowd": np.zeros(len(crops), bool)})
    return Persons(frame, crops.bbox_xywh, crops.keypoints_image, crops.skeleton)


FEED = FeedRecord("crops", CropFeed)
