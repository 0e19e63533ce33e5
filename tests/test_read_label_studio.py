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


def in_two(results: list[dict[str, Any]], points: bool = True) -> list[dict[str, Any]]:
    """The same regions by `Rectangle`, `KeyPoint` (or `KeyPointLabels`) and one `Labels`: shape and label are results of one id."""
    made = []
    for item in results:
        kind = item["type"].removesuffix("labels")
        if kind == item["type"] or (kind == "keypoint" and not points):
            made.append(item)
            continue
        value = {key: number for key, number in item["value"].items() if key != item["type"]}
        labels = {**item, "type": "labels", "from_name": "label", "value": {**value, "labels": item["value"][item["type"]]}}
        made += [labels, {**item, "type": kind, "value": value}]
    return made


def unlabelled(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`Rectangle` without `Labels` beside `KeyPointLabels`."""
    return [item for item in in_two(results, points=False) if item["type"] != "labels"]


def below_the_first() -> list[dict[str, Any]]:
    """Key points without rectangles, each person's below its head in the list of regions."""
    points = [item for item in without_parents() if item["type"] != "rectanglelabels"]
    return [item if item["id"].startswith("head") else {**item, "parentID": f"head{item['id'][-1]}"} for item in points]


def below_polygons() -> list[dict[str, Any]]:
    polygons = [{"id": f"box{n}", "type": "polygonlabels", "value": {"points": [[1, 1]], "polygonlabels": ["Person"]}} for n in range(2)]
    return [item for item in tools.label_studio_results() if item["type"] != "rectanglelabels"] + polygons


# 90 x 70 px around both persons, of another class
BALL = tools.result(
    "rectanglelabels", "ball", SIZE, {"x": 5, "y": 5, "width": 90, "height": 70, "rotation": 0, "rectanglelabels": ["ball"]}
)
LIMB = {"type": "relation", "from_id": "head1", "to_id": "belt1", "direction": "right"}  # says nothing of persons
NOTE = {"id": "head0", "type": "textarea", "value": {"x": 1, "y": 1, "text": ["?"]}}  # a note to a region is not its shape
AROUND = [12 - 0.15 * 14, 25 - 0.15 * 20, 1.3 * 14, 1.3 * 20]  # the first person's joints, from (12, 25) to (26, 45)
TURNED = tools.result(
    # 40 x 30 px, turned by a quarter about its left upper corner at (40, 20): from (10, 20), 30 x 40 px
    "rectanglelabels", "box0", SIZE, {"x": 40, "y": 20, "width": 40, "height": 30, "rotation": 90, "rectanglelabels": ["Person"]},
)  # fmt: skip
WAYS: dict[str, tuple[list[dict[str, Any]], list[int]]] = {  # results, which persons
    "parents": (tools.label_studio_results(), [0, 1]),
    "relations": (related(), [0, 1]),
    "the only rectangle": (without_parents(0), [0]),
    "no rectangle": ([item for item in without_parents(1) if item["type"] != "rectanglelabels"], [1]),
    "inside one rectangle": (without_parents(), [0, 1]),
    "Labels, Rectangle and KeyPoint": (in_two(tools.label_studio_results()), [0, 1]),
    "Labels, inside one rectangle": (in_two(without_parents()), [0, 1]),
    "Labels, relations": (in_two(related()), [0, 1]),
    "Labels, the only rectangle": (in_two(without_parents(0)), [0]),
    "Labels and Rectangle beside KeyPointLabels": (in_two(tools.label_studio_results(), points=False), [0, 1]),
    "Rectangle beside KeyPointLabels": (unlabelled(without_parents()), [0, 1]),
    "a result for the label alone": ([r for r in in_two(without_parents()) if r["type"] not in ("rectangle", "keypoint")], [0, 1]),
    "Labels without a rectangle": (in_two([item for item in without_parents(1) if item["type"] != "rectanglelabels"]), [1]),
    "related joints": ([*[item for item in without_parents(1) if item["type"] != "rectanglelabels"], LIMB], [1]),
    "a note": ([*tools.label_studio_results(), NOTE], [0, 1]),
    "a turned rectangle": ([TURNED, *[item for item in without_parents(0) if item["type"] != "rectanglelabels"]], [0]),
}


@pytest.mark.parametrize("way", WAYS)
def test_whose_a_key_point_is(tmp_path: Path, way: str) -> None:
    results, persons = WAYS[way]
    found = read(tmp_path, tools.label_studio(results=results)).persons
    np.testing.assert_allclose(found.keypoints, [tools.KEYPOINTS[n] for n in persons], atol=1e-9)
    np.testing.assert_allclose(found.bbox_xywh, [tools.BOXES[n] for n in persons], atol=1e-9)
    assert found.frame["image_id"].tolist() == [41] * len(persons)


@pytest.mark.parametrize("results", [below_the_first(), in_two(below_the_first()), below_polygons()], ids=["joint", "Labels", "polygon"])
def test_persons_without_rectangles_are_what_lies_below_one_region(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    found = read(tmp_path, tools.label_studio(results=results)).persons
    np.testing.assert_allclose(found.keypoints, tools.KEYPOINTS, atol=1e-9)
    np.testing.assert_allclose(found.bbox_xywh, [AROUND, tools.BOXES[1]], atol=1e-9)


@pytest.mark.parametrize("results", [without_parents(), in_two(without_parents())], ids=["one result", "two"])
def test_rectangles_of_other_classes_have_no_joints(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    """Where a class is plainly persons, its rectangles alone are looked at."""
    found = read(tmp_path, tools.label_studio(results=[BALL, *results]))
    np.testing.assert_allclose(found.persons.keypoints, tools.KEYPOINTS, atol=1e-9)
    np.testing.assert_allclose(found.persons.bbox_xywh, tools.BOXES, atol=1e-9)
    assert len(found.others) == 1


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


def widened(results: list[dict[str, Any]], **place: float) -> list[dict[str, Any]]:
    """The first rectangle elsewhere (percent)."""
    return [{**item, "value": {**item["value"], **place}} if item["id"] == "box0" else item for item in results]


BOTH = {"x": 5, "y": 5, "width": 90, "height": 90}  # around both persons
NOT_IT = {"x": 1, "y": 1, "width": 5, "height": 5}  # around none of its joints
TWICE_RELATED = [{"type": "relation", "from_id": "head0", "to_id": f"box{n}"} for n in range(2)]
LOOSE = [{key: value for key, value in item.items() if key != "parentID" or item["id"] != "belt1"} for item in below_the_first()]
WRONG: dict[str, tuple[Any, str]] = {
    "inside two": (
        tools.label_studio(results=widened(without_parents(), **BOTH)),
        "task 41: the key point 'Head' could belong to each of 2 rectangles .drag",
    ),
    "inside two, by Labels": (
        tools.label_studio(results=widened(in_two(without_parents()), **BOTH)),
        "task 41: the key point 'Head' could belong to each of 2 rectangles .drag the key point onto its person's rectangle",
    ),
    "inside none": (
        tools.label_studio(results=widened(without_parents(), **NOT_IT)),
        "task 41: the key point 'Head' could belong to each of 2 rectangles .drag",
    ),
    "related to two": (
        tools.label_studio(results=without_parents() + TWICE_RELATED),
        "task 41: the key point 'Head' could belong to each of 2 rectangles .drag",
    ),
    "loose": (
        tools.label_studio(results=LOOSE),
        "task 41: the key point 'Belt' could belong to each of several persons .drag the key point onto a rectangle around its person",
    ),
    "no joint's name": (
        tools.label_studio(results=[item for item in in_two(tools.label_studio_results()) if item["type"] != "labels"]),
        r"task 41: the result 'head0' has the labels \[\], expected one .label it once",
    ),
    "two labels": (
        tools.label_studio(
            results=[
                *tools.label_studio_results(),
                {**tools.label_studio_results()[1], "value": {**tools.label_studio_results()[1]["value"], "keypointlabels": ["Belt"]}},
            ]
        ),
        r"task 41: the result 'head0' has the labels \['Head', 'Belt'\], expected one",
    ),
    "two places": (
        tools.label_studio(results=[*tools.label_studio_results(), *changed(1, value={"y": 3.0})[0]["annotations"][0]["result"][1:2]]),
        "task 41: the results 'head0' of one region state 'y' as 31.25 and otherwise",
    ),
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
