"""All persons of whole images, as training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.codecs.codec import Codec, as_image_codec
from components.degrade.augment_images import ImageAugmenter
from components.degrade.image_shards import EvalImages, TrainImages
from components.degrade.streamed import Place
from components.evaluate import oks
from components.evaluate.feed import WHOLE, Drawn, FeedRecipe, FeedRecord, check_shard
from components.evaluate.headline import NONE
from components.evaluate.params import EvaluateParams
from components.evaluate.predict_images import predict_images
from components.evaluate.ranks import ALONE, Ranks, together
from components.models.variant import Variant
from components.pose.crop import CropGeometry
from components.pose.skeleton import Skeleton


class ImageFeed:
    """All persons of whole images, as training data."""

    def __init__(self, variant: Variant, directory: str | Path, split: str) -> None:
        self.metric = f"{split}_AP_{NONE}"
        self._images = TrainImages.open(directory)
        self._validation = EvalImages.open(directory, "short_side", split)
        check_shard(variant, self._images.input_size, self._images.skeleton)

    @property
    def skeleton(self) -> Skeleton:
        return self._images.skeleton

    def __len__(self) -> int:
        return len(self._images)

    def place(self, codec: Codec, recipe: FeedRecipe, device: torch.device) -> Place[TrainImages]:
        self._codec = as_image_codec(codec)
        self._augment = ImageAugmenter(codec.geometry.input_size[0], self._codec.output_sizes, recipe.image_augmentation, self.skeleton)
        self._pixels = Place(self._images, device, "images")
        return self._pixels

    def draw(self, indices: Tensor, seed: int, part: slice = WHOLE) -> Drawn:
        images, rows = self._pixels.rows(indices[part])
        draws = self._augment.draw(len(indices), seed)[part]  # of the whole batch, so that the parts of several processes are those of one
        batch = self._augment.apply(images, rows, draws.to(images.device, non_blocking=True))
        # every pixel that is not masked is supervised, background included
        return Drawn(batch.images, self._codec.targets(batch.keypoints, batch.visible, batch.masks), batch.masks[0].any())

    def view(self, indices: Tensor, seed: int, geometry: CropGeometry, part: slice = WHOLE) -> Tensor:
        raise FarposeError("whole images have one size for student and teacher", fix="remove `teacher` from the variant's recipe")

    def name(self, indices: np.ndarray) -> str:
        return f"image ids {self._images.image_id[indices].tolist()}"

    def validate(self, model: nn.Module, flip: bool, bf16: bool, device: torch.device, ranks: Ranks = ALONE) -> float:
        images = self._validation
        own = images.rows(ranks.part(len(images)))
        found, scores = predict_images(model, self._codec, own, EvaluateParams(flip=flip), device, bf16)
        predictions, scores = together(found, ranks, device), ranks.rows(scores, device)
        return oks.evaluate(images.persons, predictions, scores, images.image_id)["AP"]


FEED = FeedRecord("images", ImageFeed)
