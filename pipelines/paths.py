"""Where every stage reads and writes; dvc.yaml names the same places."""

from __future__ import annotations

from components.base.config import PARAMS, REPOSITORY

DATA = REPOSITORY / "data"
ARTIFACTS = REPOSITORY / "artifacts"
RESULTS = REPOSITORY / "results" / "pipeline"
SCRATCH = REPOSITORY / "scratch"  # variants that are not in the pipeline
MANIFESTS = PARAMS / "manifests"
EXAMPLES = PARAMS / "examples"

PERSONS = ARTIFACTS / "persons"
VALIDATION = ARTIFACTS / "validation"
SHARDS = ARTIFACTS / "shards"
MODELS = ARTIFACTS / "models"
EVALUATIONS = ARTIFACTS / "evaluations"
COMPARISON = ARTIFACTS / "comparison"
REGISTRATION = ARTIFACTS / "registration"
CHECKPOINTS = ARTIFACTS / "checkpoints"
