"""The model that MLflow serves: this file is stored with the weights and run when the model is loaded; no pickle is involved.

Its inputs and outputs are the approach's, see `serve` in `components.approaches`.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from components.approaches import approach
from components.base.config import load_yaml, parse
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights


class PosePredictor(PythonModel):
    """A trained variant with its codec, and how its evaluation made inputs."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the variant, load its weights and read its evaluation's settings from the stored artifacts."""
        path = context.artifacts["variant"]
        preparation = load_yaml(context.artifacts["preparation"])
        built = zoo.build(parse(Variant, load_yaml(path), path))  # its joints are written out: a registered model has no params folder
        built.model.load_state_dict(load_weights(context.artifacts["weights"], built.variant))
        self.run = approach(built.variant.approach).serve(built, preparation)

    def predict(self, context: PythonModelContext | None, model_input: np.ndarray, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """See the head of this file."""
        return self.run(model_input)


mlflow.models.set_model(PosePredictor())
