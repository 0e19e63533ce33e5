"""What an evaluation cannot be made of is refused before anything is written: one line with the file, the row and the way out."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.approaches import approach
from components.base.config import parse
from components.base.errors import FarposeError
from components.datasets.fetch import fetch
from components.datasets.params import DataParams
from components.datasets.synthetic import SyntheticParams, write_synthetic
from components.datasets.synthetic.forms import ANNOTATE
from components.evaluate import stage
from components.evaluate.approach import EvaluationContext, EvaluationData
from components.evaluate.params import EvaluateParams
from components.evaluate.peers import score_results
from components.evaluate.scoring import Truth
from components.models import zoo
from components.models.variant import Variant
from components.pose.images import IMAGES_FILE, read_images
from components.pose.persons import Persons
from tests.coco_files import COMMITTED

PEOPLE = SyntheticParams(train_images=2, val_images=3, min_height_px=80.0, max_persons=2, empty_fraction=0.0)
Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Data set → its raw files, which a test copies before it changes them."""
    folders: dict[str, Path] = {}

    def draw(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            write_synthetic(folders[name], PEOPLE, progress=False, workers=1, annotate=ANNOTATE[name])
        return folders[name]

    return draw


def params_of(name: str, **changes: Any) -> DataParams:
    return DataParams(source=name, sources={name: dataclasses.replace(COMMITTED[name], manifest=None, **changes)})


def changed_file(raw: Path, name: str, root: Path, change: Change) -> tuple[DataParams, Path]:
    """A data set whose validation annotations were changed; images are those of `raw`."""
    for split in ("train", "val"):
        (root / split).symlink_to(raw / split)
        source = raw / COMMITTED[name].splits[split].annotations
        value = json.loads(source.read_text())
        if split == "val":
            change(value)
        target = root / COMMITTED[name].splits[split].annotations
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(value))
    return params_of(name), target


ANNOTATIONS: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "too few joints": (
        "synthetic", lambda v: v["annotations"][1].update(keypoints=[1.0, 2.0, 2] * 16),
        ("annotation {annotations[1][id]}: 'keypoints' has 48 numbers, expected 51 (17 joints of coco_17",),
    ),
    "no multiple of three": (
        "synthetic_wholebody", lambda v: v["annotations"][1]["foot_kpts"].pop(),
        ("annotation {annotations[1][id]}: 'foot_kpts' has 17 numbers, expected 18",),
    ),
    "mpii joints": (
        "synthetic_mpii", lambda v: v[1]["joints"].pop(), ("person number 1", "'joints' has not the form of 16 joints, each x, y")
    ),
    "crowd index": (
        "synthetic_crowdpose", lambda v: v["images"][1].update(crowdIndex=-0.1), ("image {images[1][id]}: 'crowdIndex' is -0.1",)
    ),
    "no crowd index": ("synthetic_crowdpose", lambda v: v["images"][1].pop("crowdIndex"), ("image {images[1][id]}: the key 'crowdIndex'",)),
    "not a number": (
        "synthetic_crowdpose", lambda v: v["images"][1].update(crowdIndex=float("nan")), ("image {images[1][id]}: 'crowdIndex' holds nan",)
    ),
    "head size": ("synthetic_mpii", lambda v: v[1].update(headsize=0), ("person number 1", "'headsize' is 0 px, expected more than 0")),
}  # fmt: skip


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_annotations_that_cannot_be_scored_leave_no_table(case: str, drawn: Callable[[str], Path], tmp_path: Path) -> None:
    name, change, said = ANNOTATIONS[case]
    before: list[Any] = []
    root = tmp_path / "raw"
    root.mkdir()
    params, file = changed_file(drawn(name), name, root, lambda value: (before.append(copy.deepcopy(value)), change(value))[1])
    with pytest.raises(FarposeError) as caught:
        fetch(params, root, tmp_path / "persons", None)
    message = str(caught.value)
    ids = {} if isinstance(before[0], list) else before[0]
    assert message.startswith(str(file)) and all(part.format(**ids) in message for part in said)
    assert caught.value.fix and "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_skeleton_without_sigmas_is_refused_with_its_key() -> None:
    skeleton = {"keypoint_names": ["head", "left_hand", "right_hand"], "limbs": []}
    entry = {"format": "coco", "skeleton": skeleton, "evaluator": "oks", "splits": {"val": {"annotations": "a.json", "images": "i"}}}
    with pytest.raises(FarposeError, match=r"params/data.yaml: data.sources.farm.skeleton: the skeleton has no sigmas: .* \(give one per"):
        parse(DataParams, {"source": "farm", "sources": {"farm": entry}}, "params/data.yaml: data")


RESULTS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "another image": (lambda r: r | {"image_id": 999_999}, "image 999999 is not in the data set"),
    "too few joints": (lambda r: r | {"keypoints": r["keypoints"][:42]}, "keypoints needs 51 numbers"),
    "no score": (lambda r: {key: value for key, value in r.items() if key != "score"}, "score is missing"),
    "a name for an image": (lambda r: r | {"image_id": "000001.jpg"}, "image_id is no integer: '000001.jpg'"),
    "no number": (lambda r: r | {"keypoints": [float("nan")] * 51}, "keypoints holds nan"),
    "a word for a score": (lambda r: r | {"box_score": "high"}, "box_score holds 'high'"),
    "a short box": (lambda r: r | {"box_xywh": [1, 2, 3]}, "box_xywh needs 4 numbers"),
    "no record": (lambda r: [r], "expected a mapping"),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("case", RESULTS)
def test_results_that_cannot_be_scored_leave_nothing(case: str, drawn: Callable[[str], Path], tmp_path: Path) -> None:
    change, said = RESULTS[case]
    fetch(params_of("synthetic"), drawn("synthetic"), tmp_path / "persons", None)
    persons, images = Persons.read(tmp_path / "persons" / "persons.parquet").split("val"), read_images(tmp_path / "persons" / IMAGES_FILE)
    truth = Truth(persons, images.loc[images["split"] == "val", "image_id"].to_numpy())
    records = [
        {"image_id": int(row.image_id), "category_id": 1, "keypoints": joints.ravel().tolist(), "score": 0.5, "box_xywh": box.tolist()}
        for row, joints, box in zip(persons.frame.itertuples(), persons.keypoints, persons.bbox_xywh, strict=True)
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(records))
    params = EvaluateParams(bootstrap_resamples=5)
    assert score_results(file, truth, params, tmp_path / "whole", "whole")["AP_no_boxes"] > 0.99
    file.write_text(json.dumps([*records[:2], change(records[2]), *records[3:]]))
    with pytest.raises(FarposeError) as caught:
        score_results(file, truth, params, tmp_path / "out", "damaged")
    assert str(caught.value).startswith(f"{file}: record 2: {said}") and caught.value.fix and not (tmp_path / "out").exists()


TABLES = {
    "synthetic_crowdpose": ("crowd_index", -1.0, "the crowd index of image"),
    "synthetic_mpii": ("head_size", 0.0, "the head of annotation"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_judged_leaves_no_evaluation(name: str, drawn: Callable[[str], Path], tmp_path: Path) -> None:
    column, value, said = TABLES[name]
    fetch(params_of(name), drawn(name), tmp_path / "persons", None)
    persons, images = Persons.read(tmp_path / "persons" / "persons.parquet").split("val"), read_images(tmp_path / "persons" / IMAGES_FILE)
    persons.frame[column] = value
    data = EvaluationData(None, persons, images[images["split"] == "val"], tmp_path, evaluator=COMMITTED[name].evaluator)
    built = zoo.build(Variant(f"dark_hrnet_tiny_{name}_64x48", "dark", "hrnet_tiny", name, (64, 48), network={"branches": 3}))
    context = EvaluationContext(built.model, built.codec, data, EvaluateParams(), tmp_path / "out", {})
    with pytest.raises(FarposeError, match=said) as caught:
        stage.evaluate(approach("crops"), context)
    assert caught.value.fix and not (tmp_path / "out").exists()
