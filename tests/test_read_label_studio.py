"""Label Studio's JSON export: whose a key point is, what is left out, and what is wrong named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.params import SplitFiles
from components.datasets.reader import AnnotationFile, read_split
from tests import tool_exports as tools
from tests.test_everyday_images import turn_files

SPLITS = {"val": SplitFiles("export.json", "images")}
SIZE = tools.SIZES["a"]


def read(root: Path, tasks: Any, **changes: Any) -> AnnotationFile:
    (root / "export.json").write_text(json.dumps(tasks))
    if not (root / "images").exists():
        tools.write_images(root / "images")
    return read_split("own", tools.entry("label_studio", SPLITS, **changes), root, "val")


def without_parents(keep: int | None = None) -> list[dict[str, Any]]:
    """Results of person `keep` alone, or of both, that say nothing of whose a key point is."""
    results = [item for item in tools.label_studio_results() if keep is None or item["id"].endswith(str(keep))]
    return [{key: value for key, value in item.items() if key != "parentID"} for item in results]


def related() -> list[dict[str, Any]]:
    points = [item["id"] for item in tools.label_studio_results() if item["type"] == "keypointlabels"]
    links = [{"type": "relation", "from_id": name, "to_id": f"box{name[-1]}", "direction": "right"} for name in points[::2]]
    links += [{"type": "relation", "from_id": f"box{name[-1]}", "to_id": name, "direction": "right"} for name in points[1::2]]
    return without_parents() + links


TURNED = tools.result(
    # 40 x 30 px, turned by a quarter about its left upper corner at (40, 20): from (10, 20), 30 x 40 px
    "rectanglelabels", "box0", SIZE, {"x": 40, "y": 20, "width": 40, "height": 30, "rotation": 90, "rectanglelabels": ["Person"]},
)  # fmt: skip
WAYS: dict[str, tuple[list[dict[str, Any]], list[int]]] = {  # results, which persons
    "parents": (tools.label_studio_results(), [0, 1]),
    "relations": (related(), [0, 1]),
    "the only rectangle": (without_parents(0), [0]),
    "no rectangle": ([item for item in without_parents(1) if item["type"] != "rectanglelabels"], [1]),
    "a turned rectangle": ([TURNED, *[item for item in without_parents(0) if item["type"] != "rectanglelabels"]], [0]),
}


@pytest.mark.parametrize("way", WAYS)
def test_whose_a_key_point_is(tmp_path: Path, way: str) -> None:
    results, persons = WAYS[way]
    found = read(tmp_path, tools.label_studio(results=results)).persons
    np.testing.assert_allclose(found.keypoints, [tools.KEYPOINTS[n] for n in persons], atol=1e-9)
    np.testing.assert_allclose(found.bbox_xywh, [tools.BOXES[n] for n in persons], atol=1e-9)
    assert found.frame["image_id"].tolist() == [41] * len(persons)


NAMES = {
    "uploaded": ("/data/upload/3/0a1b2c3d-{}.png", "images/data/upload/3/{}.png"),
    "served locally": ("/data/local-files/?d=set/{}.png", "images/set/{}.png"),
    "S3": ("s3://bucket/set/{}.png", "images/set/{}.png"),
    "web": ("https://example.org/set/{}.png?token=1", "images/set/{}.png"),
}


@pytest.mark.parametrize("way", NAMES)
def test_names_of_images(tmp_path: Path, way: str) -> None:
    """The eight characters in front are taken off where the folder has the file without them."""
    given, path = NAMES[way]
    found = read(tmp_path, tools.label_studio(name=given))
    assert found.images["image_path"].tolist() == [path.format("a"), path.format("b")]
    kept = tmp_path / "kept"
    tools.write_images(kept / "images", prefix="0a1b2c3d-")
    if way == "uploaded":
        found = read(kept, tools.label_studio(name=given))
        assert found.images["image_path"].tolist() == [f"images/data/upload/3/0a1b2c3d-{name}.png" for name in "ab"]


def test_the_size_of_an_image_without_results_is_the_files(tmp_path: Path) -> None:
    """As viewers turn it, where the entry says so."""
    tools.write_images(tmp_path / "images")
    turn_files(tmp_path, 6)
    sizes = {}
    for orientation in ("stored", "upright"):
        found = read(tmp_path, tools.label_studio(), orientation=orientation)
        sizes[orientation] = found.images[["image_width", "image_height"]].iloc[1].tolist()
    assert sizes == {"stored": [50, 60], "upright": [60, 50]}  # the upright image is the one that was drawn


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    tasks = tools.label_studio()
    skipped, unlabelled = copy.deepcopy(tasks[1]), copy.deepcopy(tasks[1])
    skipped["id"], skipped["annotations"][0]["was_cancelled"] = 50, True
    unlabelled["id"], unlabelled["annotations"] = 51, []
    tasks[0]["annotations"][0]["result"] += [{"id": "p", "type": "polygonlabels", "value": {}}, {"id": "q", "type": "polygonlabels"}]
    found = read(tmp_path, [*tasks, skipped, unlabelled])
    assert found.left_out == {"tasks that nobody finished": 2, "results of the kind polygonlabels": 2}
    assert found.images["image_id"].tolist() == [41, 42] and len(found.persons) == 2


def test_the_ground_truth_counts_among_annotations(tmp_path: Path) -> None:
    tasks = tools.label_studio()
    other = copy.deepcopy(tasks[0]["annotations"][0])
    other["result"] = other["result"][:1]
    tasks[0]["annotations"] = [other, tasks[0]["annotations"][0]]
    with pytest.raises(FarposeError, match=r"export\.json: task 41: it has 2 annotations, expected one .*ground truth"):
        read(tmp_path, tasks)
    tasks[0]["annotations"][1]["ground_truth"] = True
    np.testing.assert_allclose(read(tmp_path, tasks).persons.keypoints, tools.KEYPOINTS, atol=1e-9)


def changed(place: int, **keys: Any) -> list[dict[str, Any]]:
    """The results, of which one is changed; `value` is merged."""
    results = tools.label_studio_results()
    value = {**results[place]["value"], **keys.pop("value", {})}
    results[place] = {**results[place], **keys, "value": value}
    return tools.label_studio(results=results)


def of_task(**keys: Any) -> list[dict[str, Any]]:
    tasks = tools.label_studio()
    tasks[0] = {key: value for key, value in {**tasks[0], **keys}.items() if value is not None}
    return tasks


WRONG: dict[str, tuple[Any, str]] = {
    "whose": (tools.label_studio(results=without_parents()), "task 41: the key point 'Head' could belong to each of 2 rectangles .drag"),
    "twice": (changed(2, value={"keypointlabels": ["head"]}, parentID="box0"), "task 41: the joint 'head' is there twice"),
    "twice, spelled alike": (changed(2, value={"keypointlabels": ["Head"]}), "task 41: the key point 'Head' is there twice on one person"),
    "unknown joint": (changed(1, value={"keypointlabels": ["tail"]}), r"the category's keypoints are \['tail', .*expected those of own_4"),
    "no label": (changed(1, value={"keypointlabels": []}), r"task 41: the result 'head0' has the labels \[\], expected one"),
    "no number": (changed(1, value={"x": None}), "task 41: 'x' of the result 'head0' is None, expected a number"),
    "turned": (changed(0, image_rotation=90), "task 41: its image was turned in Label Studio"),
    "sizes": (changed(1, original_width=99), "task 41: its results state the size 99 x 80 px of the image, the first one 100 x 80 px"),
    "no size": (changed(0, original_width="100"), "task 41: its results state the size "),
    "several images": (of_task(data={"left": "a.png", "right": "b.png"}), "task 41: 'data' names 2 images, expected one"),
    "no data": (of_task(data=None), "task 41: 'data' names 0 images"),
    "no id": (of_task(id="x"), "task x: 'id' is \"x\", expected an integer"),
    "no result": (of_task(annotations=[{"result": None}]), "task 41: 'result' is not a list of objects"),
    "JSON-MIN": (of_task(annotations=None), "a task has no key 'annotations' .export the project as JSON, not as JSON-MIN"),
    "COCO": (tools.label_studio_coco(), "this is a COCO file .set `format: coco`"),
    "text": ("tasks", "expected a list of tasks"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_exports_are_named(tmp_path: Path, case: str) -> None:
    tasks, message = WRONG[case]
    with pytest.raises(FarposeError, match=rf"export\.json: {message}"):
        read(tmp_path, tasks)


def test_an_image_of_unknown_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FarposeError, match=r"export\.json: task 42: nothing states the size of its image 'data/upload/3/0a1b2c3d-b\.png'"):
        read(tmp_path, tools.label_studio())
