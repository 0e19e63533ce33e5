"""Run a model over evaluation crops and bring its joints back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.codecs.codec import CropCodec
from components.degrade.augment import normalise
from components.evaluate.predictions import Predictions

if TYPE_CHECKING:
    from components.degrade.shards import EvalCrops


class CropTable(Protocol):
    """Columns of N crops that decoding needs; see `degrade.shards.EvalCrops`."""

    @property
    def image_id(self) -> np.ndarray: ...
    @property
    def annotation_id(self) -> np.ndarray: ...
    @property
    def center(self) -> np.ndarray: ...
    @property
    def size(self) -> np.ndarray: ...
    @property
    def bbox_xywh(self) -> np.ndarray: ...
    @property
    def keypoints_image(self) -> np.ndarray: ...


def predict(
    model: nn.Module,
    codec: CropCodec,
    crops: EvalCrops,
    flip: bool = True,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    bf16: bool = False,
    box_scores: np.ndarray | None = None,
) -> Predictions:
    """Joints of every crop, in image px.

    Args:
        codec: decodes the model's outputs, see docs/architecture.md.
        crops: N evaluation crops of the convention of `codec.geometry`.
        flip: average the outputs with those of the mirrored input (flip test).
        batch_size: crops per forward pass.
        bf16: run the network in bfloat16 (CUDA only); decoding stays in float32.
        box_scores: (N,) detector scores; None scores annotated boxes 1.
    Raises:
        FarposeError: the network's output is not finite.
    """
    was_training = model.training
    model.eval().to(device).to(memory_format=torch.channels_last)  # as in training: depthwise layers are faster so
    keypoints, scores, ranking = [], [], []
    rank = getattr(codec, "ranking", None)
    with torch.inference_mode():
        for start in range(0, len(crops.pixels), batch_size):
            pixels = torch.from_numpy(np.array(crops.pixels[start : start + batch_size])).to(device)
            outputs = outputs_of(model, codec, normalise(pixels), flip, bf16)
            check_finite(outputs, [f"annotation {one}" for one in crops.annotation_id[start : start + batch_size]])
            decoded = codec.decode(outputs)
            keypoints.append(decoded[0].double().cpu().numpy())
            scores.append(decoded[1].double().cpu().numpy())
            if rank is not None:
                ranking.append(rank(outputs, decoded[0]).double().cpu().numpy())
    model.train(was_training)
    found = to_predictions(codec, crops, _stacked(keypoints, codec, 2), _stacked(scores, codec), box_scores)
    return found if rank is None else replace(found, ranking=_stacked(ranking, codec))


def to_predictions(
    codec: CropCodec, crops: CropTable, keypoints_heatmap: np.ndarray, keypoint_scores: np.ndarray, box_scores: np.ndarray | None = None
) -> Predictions:
    """Predictions from joints decoded in heatmap cells (N, K, 2) and their scores (N, K).

    A joint that the codec could not place (NaN, which some published decoders give on flat maps) is put at the map's first
    cell with score 0.
    """
    center, size = np.asarray(crops.center, np.float64), np.asarray(crops.size, np.float64)
    placed = np.isfinite(keypoints_heatmap).all(-1) & np.isfinite(keypoint_scores)
    keypoints_heatmap, keypoint_scores = np.where(placed[..., None], keypoints_heatmap, 0.0), np.where(placed, keypoint_scores, 0.0)
    return Predictions(
        image_id=np.asarray(crops.image_id, np.int64),
        annotation_id=np.asarray(crops.annotation_id, np.int64),
        keypoints_image=codec.geometry.heatmap_to_image(np.asarray(keypoints_heatmap, np.float64), center, size),
        keypoint_scores=np.asarray(keypoint_scores, np.float64),
        box_scores=np.ones(len(center)) if box_scores is None else np.asarray(box_scores, np.float64),
        bbox_xywh=np.asarray(crops.bbox_xywh, np.float64),
        areas=size.prod(-1),
    )


def outputs_of(model: nn.Module, codec: CropCodec, images: Tensor, flip: bool = True, bf16: bool = False) -> tuple[Tensor, ...]:
    """The network's outputs for normalised images (B, 3, H, W), as float32; with `flip` fused with the mirrored ones' aligned."""
    outputs = forward(model, images, bf16)
    if not flip:
        return outputs
    return codec.fuse(outputs, codec.flip(forward(model, mirrored(images, codec.geometry.flip_move()), bf16)))


def mirrored(images: Tensor, move: int) -> Tensor:
    """Images (B, 3, H, W) with left and right exchanged, then moved to the right by `move` px; the first columns are repeated."""
    flipped = images.flip(3)
    return torch.cat([flipped[..., :move], flipped[..., :-move]], 3) if move else flipped


def forward(model: nn.Module, images: Tensor, bf16: bool) -> tuple[Tensor, ...]:
    """The network's outputs as float32; `bf16` runs it in bfloat16 (CUDA only)."""
    with torch.autocast("cuda", torch.bfloat16) if bf16 and images.is_cuda else nullcontext():
        outputs = model(images)
    return tuple(output.float() for output in outputs)


def check_finite(outputs: tuple[Tensor, ...], names: Sequence[str]) -> None:
    """
    Args:
        outputs: (B, ...) each.
        names: (B,) of the inputs.
    Raises:
        FarposeError: an output is not finite; names its input.
    """
    for output in outputs:
        bad = ~output.flatten(1).isfinite().all(1)
        if bad.any():
            culprit = names[int(bad.nonzero()[0, 0])]
            raise FarposeError(f"the network's output for {culprit} is not finite", fix="its weights are damaged or diverged")


def _stacked(parts: list[np.ndarray], codec: CropCodec, *last: int) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, codec.num_keypoints, *last))
