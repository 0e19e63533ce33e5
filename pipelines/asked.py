"""What a user names to ask about: a variant, a group of seeds, a peer, an evaluation's folder or a results file, with its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from components.base.errors import FarposeError, unknown_name
from components.base.files import read_json
from components.evaluate.conditions import HEIGHT
from components.evaluate.headline import GT, NONE
from components.evaluate.peers import read_results
from components.evaluate.predictions import Predictions, read_coco_results
from components.evaluate.scoring import Truth
from components.models import zoo
from components.pose.images import IMAGES_FILE, read_images
from pipelines import comparing, paths, settings

PREDICTIONS = "predictions{}.json"  # in an evaluation's folder
RESULTS = (".json", ".json.gz")  # ends of a results file's name


@dataclass(frozen=True)
class Asked:
    """One set of predictions.

    Attributes:
        file: of the main predictions.
        conditions: further files by the condition's name, such as h32.
        peer: whether the file is another network's, which names every person or none.
        split: that was predicted; None where the file does not say.
        input_size: height and width of the network's input, px, where it is known.
        folder: of the evaluation; None for a results file.
    """

    name: str
    file: Path
    conditions: Mapping[str, Path] = field(default_factory=dict)
    peer: bool = False
    split: str | None = None
    input_size: tuple[int, int] | None = None
    folder: Path | None = None

    @property
    def heights(self) -> dict[int, Path]:
        """The files of limited person height, by px, ascending."""
        found = {int(of[1]): path for name, path in self.conditions.items() if (of := HEIGHT.fullmatch(name))}
        return dict(sorted(found.items()))

    def under(self, condition: str) -> Path:
        """The file of a condition.

        Raises:
            FarposeError: there is none; lists those that there are.
        """
        if condition not in self.conditions:
            raise unknown_name("condition", condition, self.conditions, where=self.name)
        return self.conditions[condition]

    def read(self, file: Path, truth: Truth) -> tuple[Predictions, np.ndarray, str]:
        """A file's predictions, their (N,) scores, and which boxes were given.

        Raises:
            FarposeError: what `peers.read_results` and `predictions.read_coco_results` raise.
        """
        if self.peer:
            return read_results(file, truth)
        predictions, scores = read_coco_results(file, truth.persons.skeleton, truth.image_ids.tolist())
        return predictions, scores, GT if len(predictions) and (predictions.annotation_id >= 0).all() else NONE


def find(name: str) -> list[Asked]:
    """What a user names; of a group of seeds every member that is evaluated.

    Raises:
        FarposeError: nothing has this name, or it has no predictions yet.
    """
    path, pipeline = Path(name), settings.load()
    if name in pipeline.peers:
        peer = pipeline.peers[name]
        files = {condition: paths.DATA / file for condition, file in peer.conditions.items()}
        return [Asked(name, paths.DATA / peer.file, files, peer=True, split=settings.evaluation().split)]
    if name.endswith(RESULTS):
        if not path.is_file():
            raise FarposeError("no such results file", where=name, fix="give the path of a COCO results list")
        return [Asked(path.name.removesuffix(".gz").removesuffix(".json"), path, peer=True)]
    if path.is_dir() and (path / "metrics.json").is_file():
        whole = path.resolve()
        return [_evaluated(whole.parent.name if whole.name == "evaluation" else whole.name, path)]  # scratch/NAME/evaluation
    members = [other for other in pipeline.variants if name in (other, comparing.group_of(other))]
    folders = {other: paths.EVALUATIONS / other for other in members} or {name: paths.SCRATCH / name / "evaluation"}
    made = {other: folder for other, folder in folders.items() if (folder / "metrics.json").is_file()}
    if not made and not members and name not in zoo.load_variants():
        raise unknown_name("variant or peer", name, [*pipeline.variants, *pipeline.peers], where="params/pipeline.yaml")
    if not made:
        fix = f"`farpose run evaluate@{members[0]}`" if members else f"`farpose evaluate {name} --shards SHARDS`"
        raise FarposeError("not evaluated yet", where=name, fix=fix)
    return [_evaluated(other, folder) for other, folder in made.items()]


def _evaluated(name: str, folder: Path) -> Asked:
    """An evaluation's folder.

    Raises:
        FarposeError: it holds no predictions.
    """
    file = folder / PREDICTIONS.format("")
    if not file.is_file():
        fix = "evaluations of a results file keep none: name the file itself"
        raise FarposeError("the evaluation's folder holds no predictions.json", where=folder, fix=fix)
    start = PREDICTIONS.format("_")[: -len(".json")]
    further = {path.stem.removeprefix(start).removeprefix(f"{GT}_"): path for path in sorted(folder.glob(f"{start}*.json"))}
    known = zoo.load_variants()
    size = known[name].input_size if name in known else None
    return Asked(name, file, further, split=read_json(folder / "metrics.json").get("split"), input_size=size, folder=folder)


def truth_of(folder: Path | None, split: str) -> Truth:
    """What is scored against: the pipeline's tables, or those of another folder; see `comparing.truth_of`."""
    return comparing.truth_of(folder or paths.PERSONS, split)


def image_paths(folder: Path | None) -> dict[int, str]:
    """By image id, the image's path in the data set's folder."""
    images: pd.DataFrame = read_images((folder or paths.PERSONS) / IMAGES_FILE)
    return dict(zip(images["image_id"].tolist(), images["image_path"].tolist(), strict=True))
