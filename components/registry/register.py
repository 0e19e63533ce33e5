"""Put models into MLflow's registry: trained ones under the alias `challenger`, and the one that comes with a clone.

`champion` is a person's decision; only a store in which no model has it gives it to the model that comes with a clone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np

from components.approaches import approach
from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import digest_of, sha256_of
from components.base.imports import code_digest
from components.models.variant import Variant
from components.registry import lineage, package, store, units
from components.registry.tracking import BATCH, Run, measured

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHALLENGER, CHAMPION = "challenger", "champion"
WEIGHTS_TAG = "weights.sha256"
PACKAGE_TAG = "package.sha256"  # a version's identity: everything that is packaged, see `Candidate.identity`
OF_THE_TRAINING = ("git.commit", "data.md5")  # tags that a version takes from the run that trained it
PACKAGED = {"variant": package.VARIANT, "card": package.CARD, "preparation": package.PREPARATION}  # MLflow's artifacts
SERVING = Path(__file__).with_name("serving.py")
SERVING_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "opencv-python-headless",
    "safetensors",
    "PyYAML",
)
EXAMPLES = 2  # crops or images in the input example
LONGEST_DESCRIPTION = 5000  # of a version, in MLflow's tables
PICTURE = "by_height.png"  # the file of a package's picture


@dataclass(frozen=True)
class Candidate:
    """A trained model with everything that its registration needs.

    Attributes:
        weights: model.safetensors.
        card: Markdown.
        metrics: evaluation's numbers, nested.
        examples: (N, 3, H, W) uint8 RGB, for the input example, as the approach takes them.
        tags: further lineage, kept by the version that is made of this candidate.
        preparation: how the evaluation made its inputs: the mappings `shards` (a `ShardSpec`), `degrade` and `evaluate`.
        sources: file of each module of this package that serving imports, by dotted name; they are packaged.
        picture: of the evaluation, packaged beside the card; no part of the identity, because libraries draw differently.
    """

    variant: Variant
    weights: Path
    card: str
    metrics: dict[str, Any]
    examples: np.ndarray
    tags: dict[str, str]
    preparation: dict[str, dict[str, Any]]
    sources: Mapping[str, Path]
    picture: Path | None = None

    @functools.cached_property
    def weights_sha256(self) -> str:
        return sha256_of(self.weights)

    @functools.cached_property
    def identity(self) -> str:
        """One digest of all that is packaged: weights, variant, preparation, metrics, examples, card, code and versions."""
        packaged = {
            "weights": self.weights_sha256,
            "variant": dataclasses.asdict(self.variant),
            "preparation": self.preparation,
            "metrics": self.metrics,
            "examples": hashlib.sha256(_shown(self).tobytes()).hexdigest(),
            "card": self.card,
            "code": {name: code_digest(path) for name, path in self.sources.items()},
            "versions": package_versions(),
        }
        return digest_of(packaged)


def register(candidate: Candidate, run: Run) -> ModelVersion:
    """The registered version of this package: an earlier one if there is one, else a new one.

    Description and the alias `challenger` are written in any case, so that repeating it changes nothing.

    Args:
        run: the register stage's run; owns the model unless a training run of the same weights is in the store.
    """
    version = _registered(candidate, run)
    run.client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    return version


def register_released(candidate: Candidate, run: Run, champion: bool) -> ModelVersion:
    """As `register`, of a model that comes with a clone; it is nobody's challenger.

    Args:
        champion: give it the alias `champion` if no model of the store has it.
    """
    version = _registered(candidate, run)
    if champion and not champions(run.client):
        run.client.set_registered_model_alias(version.name, CHAMPION, version.version)
    return version


def holds(candidate: Candidate, champion: bool, repository: Path = REPOSITORY) -> bool:
    """Whether `register_released` has nothing to do in this store."""
    client, _ = store.open_store(repository)
    there = find(client, candidate.variant.name, candidate.identity) is not None
    return there and (not champion or bool(champions(client)))


def training_tags(weights_sha256: str, repository: Path = REPOSITORY) -> dict[str, str]:
    """`git.commit` and `data.md5` of the run that trained these weights; empty if it is not in this store."""
    client, experiment_id = store.open_store(repository)
    training = _training_run(client, experiment_id, weights_sha256)
    return _origin(training)


def find(client: MlflowClient, name: str, identity: str) -> ModelVersion | None:
    """The newest registered version of a model that packages the same."""
    versions = client.search_model_versions(f"name = '{name}'")
    same = [version for version in versions if version.tags.get(PACKAGE_TAG) == identity]
    return max(same, key=lambda version: int(version.version), default=None)


def missing(names: dict[str, str], repository: Path = REPOSITORY) -> list[str]:
    """Those of the models (name → `Candidate.identity`) that this store does not hold under `challenger`.

    A fresh clone, or a change of MLFLOW_TRACKING_URI, has the stage's output but an empty registry.
    """
    from mlflow.exceptions import MlflowException

    client, _ = store.open_store(repository)
    absent = []
    for name, identity in names.items():
        try:
            held = client.get_model_version_by_alias(name, CHALLENGER).tags.get(PACKAGE_TAG)
        except MlflowException:
            held = None
        if held != identity:
            absent.append(name)
    return absent


def package_versions() -> dict[str, str]:
    """Package → version of what a registered model needs."""
    return lineage.installed(SERVING_PACKAGES)


def load(name: str, alias: str = CHALLENGER, repository: Path = REPOSITORY) -> Any:
    """A registered model as MLflow's pyfunc, see `components.registry.serving` for its input and output.

    Raises:
        FarposeError: no such model or alias in the store.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    store.open_store(repository)
    try:
        return mlflow.pyfunc.load_model(f"models:/{name}@{alias}")
    except MlflowException as error:
        raise FarposeError(f"no model {name!r} with alias {alias!r}", where=store.tracking_uri(repository), fix="run register") from error


def _registered(candidate: Candidate, run: Run) -> ModelVersion:
    """The version that packages the same, made if there is none, with its card."""
    client, name = run.client, candidate.variant.name
    _ensure_registered_model(client, candidate.variant)
    version = find(client, name, candidate.identity) or _new_version(candidate, run)
    client.update_model_version(name, version.version, description=_description(candidate.card, name, version.version))
    return version


def _description(card: str, name: str, version: str) -> str:
    """As many sections of the card as MLflow's tables hold; the picture is asked of MLflow's server, which has the version's files."""
    served = urlencode({"path": f"artifacts/{PICTURE}", "name": name, "version": version}, safe="/")
    card = card.replace(f"]({PICTURE})", f"](model-versions/get-artifact?{served})")
    if len(card) <= LONGEST_DESCRIPTION:
        return card
    more = "\n\nThe rest is in model_card.md among the files of the version's source."
    return card[: card.rfind("\n## ", 0, LONGEST_DESCRIPTION - len(more))] + more


def champions(client: MlflowClient) -> list[Any]:
    """The registered models of which a version has the alias `champion`."""
    return [model for model in client.search_registered_models() if CHAMPION in model.aliases]


def _ensure_registered_model(client: MlflowClient, variant: Variant) -> None:
    from mlflow.exceptions import MlflowException

    described = f"{variant.method} on {variant.backbone}, {variant.dataset}, {variant.input_size[0]}x{variant.input_size[1]} px"
    try:
        client.get_registered_model(variant.name)
    except MlflowException:
        client.create_registered_model(variant.name, description=described)
    for key in ("method", "backbone", "dataset"):
        client.set_registered_model_tag(variant.name, key, getattr(variant, key))


def _new_version(candidate: Candidate, run: Run) -> ModelVersion:
    client, variant = run.client, candidate.variant
    experiment_id = client.get_run(run.run_id).info.experiment_id
    training = _training_run(client, experiment_id, candidate.weights_sha256)
    owner = training.info.run_id if training else run.run_id
    digests = {WEIGHTS_TAG: candidate.weights_sha256, PACKAGE_TAG: candidate.identity}
    tags = {**candidate.tags, **_origin(training), **digests}  # what a person reads comes first
    params = lineage.flat(dataclasses.asdict(variant))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _save(candidate, folder, Path(scratch))
        model = client.create_logged_model(experiment_id, variant.name, source_run_id=owner, tags=tags, params=params, model_type="pose")
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    numbers = measured(units.named(candidate.metrics), model_id=model.model_id)
    for start in range(0, len(numbers), BATCH):
        client.log_batch(_evaluation(client, experiment_id, candidate) or run.run_id, metrics=numbers[start : start + BATCH])
    source = f"models:/{model.model_id}"
    return client.create_model_version(variant.name, source, run_id=owner, tags=tags, model_id=model.model_id)


def _training_run(client: MlflowClient, experiment_id: str, digest: str) -> MlflowRun | None:
    runs = client.search_runs([experiment_id], f"tags.`{WEIGHTS_TAG}` = '{digest}' and tags.kind = 'train'", max_results=1)
    return runs[0] if runs else None


def _evaluation(client: MlflowClient, experiment_id: str, candidate: Candidate) -> str:
    """The id of the newest run that scored these weights; a training's run has no such numbers. Empty if there is none."""
    scored = f"tags.`{WEIGHTS_TAG}` = '{candidate.weights_sha256}' and tags.kind = 'evaluate' and tags.variant = '{candidate.variant.name}'"
    runs = client.search_runs([experiment_id], scored, order_by=["attributes.start_time DESC"], max_results=1)
    return str(runs[0].info.run_id) if runs else ""


def _origin(training: MlflowRun | None) -> dict[str, str]:
    return {key: training.data.tags[key] for key in OF_THE_TRAINING if key in training.data.tags} if training else {}


def _save(candidate: Candidate, folder: Path, scratch: Path) -> None:
    """Write the MLflow model: the serving file, the code that it imports, the weights and the variant's entry."""
    import mlflow.pyfunc

    artifacts = {"weights": candidate.weights.absolute(), **{name: scratch / file for name, file in PACKAGED.items()}}
    for name, text in package.texts(candidate.variant, candidate.preparation, candidate.card).items():
        (scratch / name).write_text(text)
    if candidate.picture is not None:
        artifacts["picture"] = scratch / PICTURE
        shutil.copyfile(candidate.picture, artifacts["picture"])
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(SERVING),
        artifacts={name: path.as_uri() for name, path in artifacts.items()},  # MLflow would decode a `%20` of a path
        code_paths=[str(_packaged(candidate.sources, scratch))],
        signature=_signature(candidate.variant),
        input_example=_shown(candidate),
        pip_requirements=[f"{package}=={version}" for package, version in package_versions().items()],
        metadata={"variant": candidate.variant.name},
    )


def _shown(candidate: Candidate) -> np.ndarray:
    """(n, H, W, 3) uint8: the input example."""
    return np.ascontiguousarray(candidate.examples[:EXAMPLES].transpose(0, 2, 3, 1))


def _packaged(sources: Mapping[str, Path], scratch: Path) -> Path:
    """A folder `components` with these modules alone."""
    for name, path in sources.items():
        place = scratch.joinpath(*name.split("."))
        copy = place / path.name if path.name == "__init__.py" else place.with_suffix(".py")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return scratch / "components"


def _signature(variant: Variant) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    served = approach(variant.approach).served(variant)
    input_type, input_shape = served.input
    outputs: list[Any] = [TensorSpec(np.dtype(kind), shape, name) for name, (kind, shape) in served.outputs.items()]
    return ModelSignature(Schema([TensorSpec(np.dtype(input_type), input_shape)]), Schema(outputs))
