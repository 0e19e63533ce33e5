"""Where every stage reads and writes; dvc.yaml names the same places."""

from __future__ import annotations

from pathlib import Path

from components.base.config import PARAMS, REPOSITORY

DATA = REPOSITORY / "data"
ARTIFACTS = REPOSITORY / "artifacts"
RESULTS = REPOSITORY / "results" / "pipeline"
SCRATCH = REPOSITORY / "scratch"  # variants that are not in the pipeline
RELEASED = REPOSITORY / "released" / "pose_128x96"  # the model that works out of the box
MANIFESTS = PARAMS / "manifests"
EXAMPLES = PARAMS / "examples"

PLAN = ARTIFACTS / "plan"
PERSONS = ARTIFACTS / "persons"
VALIDATION = ARTIFACTS / "validation"
SHARDS = ARTIFACTS / "shards"
MODELS = ARTIFACTS / "models"
EVALUATIONS = ARTIFACTS / "evaluations"
COMPARISON = ARTIFACTS / "comparison"
REPORT = ARTIFACTS / "report"
REGISTRATION = ARTIFACTS / "registration"
CHECKPOINTS = ARTIFACTS / "checkpoints"
WEIGHTS = ARTIFACTS / "weights"  # made of authors' files; not DVC's


def shown(path: Path) -> str:
    """A path as a person would type it at the repository's root."""
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)
