"""CVAT's "CVAT for images 1.1" and "CVAT for video 1.1": one XML file per task or project.

(Its "COCO Keypoints 1.0" is read by `format: coco`.) The tracks of a video become the same shapes frame by frame (`datasets.cvat_video`).

What a person is:

- A `skeleton`, whose `points` are named by their labels. A point with `outside="1"` is not labelled, with `occluded="1"` it is hidden.
- A `points` shape with as many points as the skeleton has joints, in its order.
- `points` of one point each, labelled with the names of joints and grouped (`group_id`).
- A `box` of a class of persons, without joints.

The box of a person is the `box` of the same group, if there is one; or else the joints' (`datasets.derived`). CVAT shows photographs
upright (set the entry's `orientation: upright`). A project's images may belong to subsets: the split's are those of the subset named like
the last part of its `images`, or all if there is none of that name. Other shapes are left out and counted. Images are identified by path.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from components.base.errors import FarposeError
from components.datasets import cvat_video
from components.datasets.categories import PERSON
from components.datasets.drawn import HIDDEN, VISIBLE, Drawn, Joint, coco_of, path_id, upright_box
from components.datasets.file_names import relative
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.readers import coco
from components.datasets.records import DAMAGED
from components.pose.people import compact
from components.pose.persons import UPRIGHT

HEADER = 4096  # bytes in which a document type would be declared


def read(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the XML file of one split.

    Raises:
        FarposeError: as `coco.read`; not XML, a video without its frames, a shape without its numbers, or points of joints without a
            group. Names file and image.
    """
    files, skeleton = source.splits[split], source.skeleton_named(name)
    path = Path(root) / files.annotations
    joints = list(source.file_joints or skeleton.keypoint_names)
    labels: dict[str, list[str]] = {}  # class → the joints of its skeleton
    images: list[dict[str, Any]] = []
    objects: list[Drawn] = []
    subsets: list[str | None] = []
    left_out: Counter[str] = Counter()
    folder, upright = Path(root) / files.images, source.orientation == UPRIGHT
    for element in cvat_video.with_frames(_elements(path), path, folder, upright, left_out):
        if element.tag == "label":
            parent, label = element.findtext("parent"), element.findtext("name", "")
            if parent is None:
                labels.setdefault(label, [])
            else:
                labels.setdefault(parent, []).append(label)
            continue
        found = _Image(element, path, joints)
        images.append(found.entry(files.images))
        subsets.append(element.get("subset"))
        objects += found.objects(images[-1]["id"], left_out)
    wanted = PurePosixPath(files.images).name
    if wanted in subsets:
        chosen = {image["id"] for image, subset in zip(images, subsets, strict=True) if subset == wanted}
        images = [image for image in images if image["id"] in chosen]
        objects = [item for item in objects if item.image_id in chosen]
    value = coco_of(images, objects, skeleton, source.file_joints, labels)
    return replace(coco.of_value(name, source, path, value, split, coco.DRAWN), left_out=dict(left_out))


READER = Reader("cvat", read)


def _elements(path: Path) -> Iterator[Element]:
    """The `label`, `meta`, `image` and `track` elements of an export, one after another; images do not fill the memory."""
    try:
        with path.open("rb") as stream:
            if b"<!DOCTYPE" in stream.read(HEADER):
                raise FarposeError("the file declares a document type, which CVAT's do not", where=path, fix=DAMAGED)
            stream.seek(0)
            opened: Any = None
            for event, element in ElementTree.iterparse(stream, events=("start", "end")):
                if opened is None:
                    opened = element
                    if element.tag != "annotations":
                        raise FarposeError(f"the root is <{element.tag}>, expected <annotations>", where=path, fix=DAMAGED)
                if event == "end" and element.tag in ("label", "meta", "image", "track"):
                    yield element
                    if element.tag in ("label", "image"):
                        element.clear()
    except FileNotFoundError:
        raise FarposeError("annotation file not found", where=path, fix="acquire the data, or name the file in params/data.yaml") from None
    except ElementTree.ParseError as error:
        raise FarposeError(f"not valid XML: {error}", where=path, fix=DAMAGED) from error


class _Image:
    """One <image> of the file.

    Attributes:
        where: names it in errors.
        joints: names of the skeleton's joints in the file, in its order.
    """

    def __init__(self, element: Element, path: Path, joints: Sequence[str]) -> None:
        self.element, self.joints = element, joints
        self.name = element.get("name", "")
        self.where = f"{path}: image {self.name!r}"

    def entry(self, folder: str) -> dict[str, Any]:
        """COCO's entry; a file name is relative to `folder`."""
        name = relative(self.name)
        sides = {key: int(self._number(self.element, key)) for key in ("width", "height")}
        return {"id": path_id(f"{folder}/{self.element.get('subset', '')}/{name}"), "file_name": name, **sides}

    def objects(self, image_id: int, left_out: Counter[str]) -> Iterator[Drawn]:
        """Its persons and other objects; shapes of other kinds are counted."""
        boxes: dict[str | None, list[Drawn]] = defaultdict(list)
        skeletons: dict[str | None, list[Drawn]] = defaultdict(list)
        single: dict[str, dict[str, Joint]] = defaultdict(dict)
        for shape in self.element:
            label, group = shape.get("label", ""), shape.get("group_id")
            if shape.tag == "box":
                boxes[group].append(Drawn(image_id, label, self.where, bbox_xywh=self._box(shape)))
            elif shape.tag == "skeleton":
                joints = self._skeleton(shape)
                if joints:
                    skeletons[group].append(Drawn(image_id, label, self.where, joints))
                else:
                    left_out["skeletons without a point inside the image"] += 1
            elif shape.tag == "points":
                places = self._points(shape)
                if len(places) != 1 or len(self.joints) == 1:
                    # other numbers of points are another class's, which the category's names then show
                    names = self.joints if len(places) == len(self.joints) else [str(k + 1) for k in range(len(places))]
                    skeletons[None].append(Drawn(image_id, label, self.where, dict(zip(names, places, strict=True))))
                    continue
                if group is None:
                    fix = "group the points of each person in CVAT, or draw skeletons"
                    raise FarposeError(f"the point {label!r} belongs to no group, so to no person", where=self.where, fix=fix)
                if label in single[group]:
                    raise FarposeError(f"the joint {label!r} is there twice in group {group}", where=self.where, fix="remove one")
                single[group][label] = places[0]
            else:
                left_out[f"shapes of the kind {compact(shape.tag)}"] += 1
        yield from self._grouped(image_id, boxes, skeletons, single)

    def _grouped(
        self,
        image_id: int,
        boxes: dict[str | None, list[Drawn]],
        skeletons: dict[str | None, list[Drawn]],
        single: dict[str, dict[str, Joint]],
    ) -> Iterator[Drawn]:
        """Persons with the box of their group, and boxes that are nobody's."""
        for persons_group, joints in single.items():
            around = boxes.pop(persons_group, [])
            if len(around) > 1:
                problem = f"group {persons_group} has {len(around)} boxes, expected one"
                raise FarposeError(problem, where=self.where, fix="group each person alone in CVAT")
            if around:
                yield replace(around[0], joints=joints)
            else:
                yield Drawn(image_id, PERSON, self.where, joints)
        for group, persons in skeletons.items():
            if group is not None and len(persons) == 1 and len(boxes[group]) == 1:
                persons = [replace(persons[0], bbox_xywh=boxes.pop(group)[0].bbox_xywh)]
            yield from persons
        for rest in boxes.values():
            yield from rest

    def _skeleton(self, shape: Element) -> dict[str, Joint]:
        joints: dict[str, Joint] = {}
        for point in shape.iterfind("points"):
            label = point.get("label", "")
            if point.get("outside") != "1":
                if label in joints:
                    raise FarposeError(f"the joint {label!r} is there twice in a skeleton", where=self.where, fix="remove one")
                (joints[label],) = self._points(point, only=1)
        return joints

    def _points(self, shape: Element, only: int | None = None) -> list[Joint]:
        text = shape.get("points", "")
        flag = HIDDEN if shape.get("occluded") == "1" else VISIBLE
        try:
            pairs = [tuple(map(float, pair.split(","))) for pair in text.split(";")]
            places = [(x, y, flag) for x, y in pairs]
        except ValueError:
            places = []
        if not places or (only and len(places) != only) or not all(math.isfinite(x) and math.isfinite(y) for x, y, _ in places):
            problem = f"the points {shape.get('label')!r} are {text[:60]!r}, expected {only or 'pairs'} of x,y"
            raise FarposeError(problem, where=self.where, fix=DAMAGED)
        return places

    def _box(self, shape: Element) -> tuple[float, float, float, float]:
        left, top, right, bottom = (self._number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        degrees = self._number(shape, "rotation") if "rotation" in shape.attrib else 0.0
        return upright_box(left, top, right - left, bottom - top, degrees, about_center=True)

    def _number(self, element: Element, key: str) -> float:
        text = element.get(key, "")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise FarposeError(f"{key!r} of <{element.tag}> is {text!r}, expected a number", where=self.where, fix=DAMAGED)
        return value
