"""CVAT for images 1.1: each way to draw a person, and what is wrong named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.params import SplitFiles
from components.datasets.reader import AnnotationFile, read_split
from tests import tool_exports as tools

SPLITS = {"val": SplitFiles("annotations.xml", "images")}


def read(root: Path, text: str, splits: dict[str, SplitFiles] | None = None, **changes: Any) -> AnnotationFile:
    (root / "annotations.xml").write_text(text)
    return read_split("own", tools.entry("cvat", splits or SPLITS, **changes), root, "val")


def point(label: str, place: str, group: int | None, occluded: int = 0) -> str:
    of = "" if group is None else f' group_id="{group}"'
    return f'<points label="{label}" source="manual" occluded="{occluded}" points="{place}" z_order="0"{of}></points>'


def box(label: str, group: int | None = None, more: str = "") -> str:
    of = "" if group is None else f' group_id="{group}"'
    return f'<box label="{label}" source="manual" occluded="0" xtl="10.00" ytl="20.00" xbr="40.00" ybr="60.00" z_order="0"{of}{more}></box>'


FIRST, SECOND = tools.KEYPOINTS
LABELS = "<labels><label><name>person</name></label><label><name>head</name></label></labels>"
GROUPED = "".join(
    [point("head", "25,25", 1), point("LHand", "12.00,40.00", 1, occluded=1), point("belt", "26,45", 1)]
    + [point(name, f"{x},{y}", 2) for name, (x, y, _) in zip(tools.JOINTS, SECOND, strict=True)]
)
ALL_AT_ONCE = point("person", ";".join(f"{x}.00,{y}.00" for x, y, _ in SECOND), None)
DRAWN: dict[str, tuple[str, str, list[Any], list[list[float]]]] = {  # labels, shapes, keypoints and boxes of the persons
    "grouped points": (LABELS, GROUPED, [FIRST, SECOND], [[11.3 - 1.4, 25 - 3, 18.2, 26], tools.BOXES[1]]),
    "grouped points with a box": (LABELS, GROUPED + box("person", 1), [FIRST, SECOND], tools.BOXES),
    "one shape of all points": (LABELS, ALL_AT_ONCE, [SECOND], [tools.BOXES[1]]),
    "a box alone": (LABELS, box("person") + ALL_AT_ONCE, [SECOND, np.zeros((4, 3)).tolist()], [tools.BOXES[1], tools.BOXES[0]]),
    "a turned box": (
        LABELS,
        # 30 x 40 px around (25, 40), turned by a quarter: 40 x 30 px
        GROUPED.split(point("head", "70,30", 2))[0] + box("person", 1, ' rotation="90.00"'),
        [FIRST],
        [[5.0, 25.0, 40.0, 30.0]],
    ),
}
DRAWN["grouped points"][3][0] = [12 - 0.15 * 14, 25 - 0.15 * 20, 1.3 * 14, 1.3 * 20]  # joints from (12, 25) to (26, 45)


@pytest.mark.parametrize("way", DRAWN)
def test_ways_to_draw_a_person(tmp_path: Path, way: str) -> None:
    labels, shapes, keypoints, boxes = DRAWN[way]
    found = read(tmp_path, tools.cvat_xml(shapes, labels)).persons
    np.testing.assert_allclose(found.keypoints, keypoints)
    np.testing.assert_allclose(found.bbox_xywh, boxes, atol=1e-9)


def test_other_shapes_are_counted(tmp_path: Path) -> None:
    more = (
        '<polygon label="car" occluded="0" points="1,1;2,2;3,1" z_order="0"></polygon><tag label="night" source="manual"></tag>'
        '<mask label="car" rle="3, 4" left="1" top="1" width="7" height="1"></mask><polygon label="car" points="1,1;2,2;3,1"></polygon>'
        '<skeleton label="person"><points label="head" outside="1" occluded="0" points="1,1"></points></skeleton>'
        '<points label="wheel" points="1,1;2,2;3,3" occluded="0"></points>'
    )
    found = read(tmp_path, tools.cvat_xml(tools.CVAT_A + more))
    shapes = {f"shapes of the kind {kind}": count for kind, count in (("polygon", 2), ("tag", 1), ("mask", 1))}
    assert found.left_out == {**shapes, "skeletons without a point inside the image": 1}
    assert len(found.persons) == 2 and len(found.others) == 1  # the wheels


def test_the_classes_joints_decide_which_class_is_persons(tmp_path: Path) -> None:
    """A dog's skeleton shares a joint with persons, so its class has other joints."""
    dog = '<skeleton label="dog"><points label="head" outside="0" occluded="0" points="1,1"></points></skeleton>'
    labels = tools.CVAT_LABELS.replace("<labels>", "<labels><label><name>head</name><parent>dog</parent></label>")
    found = read(tmp_path, tools.cvat_xml(tools.CVAT_A + dog, labels))
    assert len(found.persons) == 2 and len(found.others) == 1 and found.persons.category_id == 3  # after body and dog
    with pytest.raises(FarposeError, match=r"the category's keypoints are \['head'\], expected those of own_4"):
        read(tmp_path, tools.cvat_xml(tools.CVAT_A + dog, labels), person_category="dog")


def test_numbered_joints_are_taken_once_the_entry_says_so(tmp_path: Path) -> None:
    """CVAT's own names of new joints are 1, 2, 3, …"""
    numbered = tools.CVAT_A, tools.CVAT_LABELS
    for number, name in enumerate(("belt", "head", "Left Hand", "right-hand"), start=1):
        numbered = tuple(text.replace(f">{name}<", f">{number}<").replace(f'label="{name}"', f'label="{number}"') for text in numbered)
    with pytest.raises(FarposeError, match=r"file_joints: \['1', '2', '3', '4'\]"):
        read(tmp_path, tools.cvat_xml(*numbered))
    found = read(tmp_path, tools.cvat_xml(*numbered), file_joints=("2", "3", "4", "1")).persons
    np.testing.assert_allclose(found.keypoints, tools.KEYPOINTS)


@pytest.mark.parametrize(("folder", "images"), [("images/Train", ["a", "b"]), ("images", ["a", "b", "a", "b"])])
def test_a_projects_subset_is_chosen_by_the_folder(tmp_path: Path, folder: str, images: list[str]) -> None:
    one, other = (tools.cvat_xml(image=f' subset="{subset}" task_id="{n}"') for n, subset in enumerate(("Train", "Validation")))
    both = one.replace("</annotations>", other[other.index("<image") :])
    found = read(tmp_path, both, {"val": SplitFiles("annotations.xml", folder)})
    assert found.images["image_path"].tolist() == [f"{folder}/{name}.png" for name in images]
    assert found.images["image_id"].is_unique and len(found.persons) == len(images)


LONELY = point("head", "25,25", None)
WRONG: dict[str, tuple[str, str]] = {
    "no group": (
        tools.cvat_xml(LONELY, LABELS),
        r"image 'a\.png': the point 'head' belongs to no group, so to no person .group the",
    ),
    "twice": (tools.cvat_xml(point("head", "1,1", 1) * 2, LABELS), r"image 'a\.png': the joint 'head' is there twice in group 1"),
    "two spellings": (
        tools.cvat_xml(point("left hand", "1,1", 1) + point("LHand", "2,2", 1), LABELS),
        r"image 'a\.png': the joint 'LHand' is there twice",
    ),
    "two boxes": (tools.cvat_xml(GROUPED + box("person", 1) * 2, LABELS), r"image 'a\.png': group 1 has 2 boxes, expected one"),
    "no numbers": (tools.cvat_xml(point("head", "25;25", 1), LABELS), r"image 'a\.png': the points 'head' are '25;25', expected pairs"),
    "not finite": (tools.cvat_xml(point("head", "nan,25", 1), LABELS), r"image 'a\.png': the points 'head' are 'nan,25'"),
    "two points of a joint": (
        tools.cvat_xml(tools.CVAT_A.replace("26.00,45.00", "26.00,45.00;1,1")),
        r"the points 'belt' are '26\.00,45\.00;1,1', expected 1 of x,y",
    ),
    "box": (tools.cvat_xml(box("person").replace('ybr="60.00"', "")), r"image 'a\.png': 'ybr' of <box> is '', expected a number"),
    "width": (tools.cvat_xml().replace('width="60"', 'width="wide"'), r"image 'b\.png': 'width' of <image> is 'wide'"),
    "video": (
        '<annotations><version>1.1</version><track id="0" label="person"></track></annotations>',
        "frames of this video have no image in images: none is there .*export the task as `CVAT for images 1.1`",
    ),
    "other XML": ("<html></html>", "the root is <html>, expected <annotations>"),
    "not XML": (tools.cvat_xml()[:-20], "not valid XML"),
    "document type": ('<!DOCTYPE a [<!ENTITY b "c">]><annotations></annotations>', "declares a document type"),
    "one image twice": (tools.cvat_xml().replace('name="b.png"', 'name="a.png"'), "listed twice with different 'height'"),
    "outside": (tools.cvat_xml(prefix="../"), "expected a path inside images"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named(tmp_path: Path, case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(FarposeError, match=rf"annotations\.xml.*{message}"):
        read(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match=r"annotations\.xml: annotation file not found"):
        read_split("own", tools.entry("cvat", SPLITS), tmp_path, "val")
