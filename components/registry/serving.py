"""The model that MLflow serves: this file is stored with the weights and run when the model is loaded; no pickle is involved.

Input: (N, H, W, 3) uint8 RGB crops of the variant's input size, cut as its convention says (`components.pose.crop`).
Output: `keypoints` (N, K, 2) float32, x and y in px of the crop, and `scores` (N, K) float32.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from components.base.config import load_yaml, parse
from components.degrade.augment import normalise
from components.evaluate.predict import outputs_of
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights


class PosePredictor(PythonModel):
    """A trained variant with its codec; the mirrored crop is averaged in (flip test), as in its evaluation."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the variant and load its weights from the stored artifacts."""
        path = context.artifacts["variant"]
        built = zoo.build(parse(Variant, load_yaml(path), path))
        built.model.load_state_dict(load_weights(context.artifacts["weights"], built.variant))
        self.model, self.codec = built.model.eval(), built.codec

    def predict(self, context: PythonModelContext | None, model_input: np.ndarray, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Joints of a batch of crops; see the head of this file."""
        images = torch.from_numpy(np.ascontiguousarray(model_input)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            keypoints_heatmap, scores = self.codec.decode(outputs_of(self.model, self.codec, normalise(images)))
        keypoints_crop = self.codec.geometry.heatmap_to_crop(keypoints_heatmap)
        return {"keypoints": keypoints_crop.numpy().astype(np.float32), "scores": scores.numpy().astype(np.float32)}


mlflow.models.set_model(PosePredictor())
