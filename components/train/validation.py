"""Validation AP during training: boxes of the ground truth, the shard's own persons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn

from components.codecs import Codec
from components.degrade.shards import EvalCrops
from components.evaluate import oks
from components.evaluate.predict import predict
from components.evaluate.rescoring import person_scores
from components.pose.persons import Persons


def validation_ap(model: nn.Module, codec: Codec, crops: EvalCrops, flip: bool, bf16: bool, device: torch.device) -> float:
    """AP of the model on a shard's validation crops.

    The shard holds labelled persons only; with boxes of the ground truth, the crowd regions and the unlabelled persons that
    the full evaluation ignores meet no prediction.
    """
    predictions = predict(model, codec, crops, flip=flip, device=device, bf16=bf16)
    scores = person_scores(predictions.keypoint_scores, predictions.box_scores, codec.score_threshold)
    return oks.evaluate(_persons(crops), predictions, scores)["AP"]


def _persons(crops: EvalCrops) -> Persons:
    labelled = (crops.keypoints_image[..., 2] > 0).sum(1)
    frame = pd.DataFrame({"image_id": crops.image_id, "area": crops.area, "num_keypoints": labelled, "iscrowd": np.zeros(len(crops), bool)})
    return Persons(frame, crops.bbox_xywh, crops.keypoints_image, crops.skeleton)
