"""The bottom-up model that MLflow serves: stored with the weights and run when the model is loaded; no pickle is involved.

Input: (N, H, W, 3) uint8 RGB images of one size, any height and width; they are fitted as in the variant's evaluation, at scale 1.
Output, with M the most persons found in one of the images; rows behind an image's own persons are zeros:
    `persons` (N,) int64: how many were found in each image
    `keypoints` (N, M, K, 2) float32: x and y in px of the image
    `keypoint_scores` (N, M, K) float32; a joint that was not found scores 0
    `scores` (N, M) float32: of the persons
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from components.base.config import load_yaml, parse
from components.base.errors import FarposeError
from components.degrade.image_shards import fitted
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.bottom_up import predict_images
from components.evaluate.params import EvaluateParams
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights


class PosePredictor(PythonModel):
    """A trained bottom-up variant with its codec, and how its evaluation made inputs of images."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the variant, load its weights and read its evaluation's settings from the stored artifacts."""
        path = context.artifacts["variant"]
        self.built = zoo.build(parse(Variant, load_yaml(path), path))
        self.built.model.load_state_dict(load_weights(context.artifacts["weights"], self.built.variant))
        settings = load_yaml(context.artifacts["preparation"])
        self.spec = parse(ShardSpec, settings["shards"], "shards")
        self.degrade = parse(DegradeParams, settings["degrade"], "degrade")
        evaluation = parse(EvaluateParams, settings["evaluate"], "evaluate")
        self.evaluation = replace(evaluation, bottom_up=replace(evaluation.bottom_up, scales=(1.0,)))

    def predict(self, context: PythonModelContext | None, model_input: np.ndarray, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Persons of each image; see the head of this file."""
        if model_input.ndim != 4 or model_input.shape[3] != 3 or 0 in model_input.shape:
            raise FarposeError(f"images must be (N, H, W, 3) and none of it 0, got {model_input.shape}", where="input")
        names = [f"image {number}" for number in range(len(model_input))]
        bgr = [np.ascontiguousarray(image[..., ::-1]) for image in model_input]
        images = fitted(bgr, names, self.spec, self.built.variant.skeleton, self.evaluation.bottom_up.fit, self.degrade)
        found, scores = predict_images(self.built.model, self.built.codec, images, self.evaluation)
        counts = np.bincount(found.image_id, minlength=len(model_input))
        return {
            "persons": counts,
            "keypoints": padded(found.keypoints_image, counts),
            "keypoint_scores": padded(found.keypoint_scores, counts),
            "scores": padded(scores, counts),
        }


def padded(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N, M, ...) float32: the rows of each of N images, `counts` (N,) of them, and zeros behind up to the largest count."""
    table = np.zeros((len(counts), counts.max(initial=0), *rows.shape[1:]), np.float32)
    table[np.arange(table.shape[1]) < counts[:, None]] = rows
    return table


mlflow.models.set_model(PosePredictor())
