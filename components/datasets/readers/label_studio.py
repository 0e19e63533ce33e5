"""Label Studio's JSON export: one list of tasks, each with its image and annotations. (Not JSON-MIN, which loses whose a joint is.)

A person is a rectangle with the key points that belong to it (`label_studio_regions.Owners`): by their `parentID` or a relation, because
there is no other rectangle, or because they lie inside exactly one. Labels are those of `RectangleLabels` and `KeyPointLabels`, or of a
`Labels` beside `Rectangle` and `KeyPoint`; a rectangle without any is a person. Key points of an image without rectangles are one person,
or one for each region that they lie below in the list; the box is derived (`datasets.derived`). Coordinates are percent of the image as
the tool shows it, which is upright (set the entry's `orientation: upright`). A key point is hidden if a choice of its region says so
(`HIDDEN_CHOICES`). A turned rectangle becomes the upright one around it.

Tasks that nobody finished are left out and counted, as are results of other kinds. Of several annotations of a task the one marked as
ground truth counts. Images are identified by their task. Uploaded files may be named as they were before the upload, without the eight
characters that the tool puts in front.

Its COCO export holds all key points of an image as one person, in a category of their own: read it by `format: coco` only if each image
shows one person.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from components.base.errors import FarposeError
from components.datasets.acquire.listing import IMAGES
from components.datasets.categories import PERSON
from components.datasets.drawn import HIDDEN, VISIBLE, Drawn, Joint, coco_of
from components.datasets.file_names import match, relative
from components.datasets.image_size import annotated_size
from components.datasets.label_studio_regions import CHOICES, PLACED, POINT, RECTANGLE, RELATION, Owners, Region, box_of, px, regions_of
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.readers import coco
from components.datasets.records import DAMAGED, Records, load_annotations
from components.pose.people import compact
from components.pose.persons import UPRIGHT

UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # in front of the names of uploaded files
UNFINISHED = "tasks that nobody finished"


def read(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the JSON export of one split.

    Raises:
        FarposeError: as `coco.read`; another export, a task without its image, several annotations of equal rank, a key point that could be
            several persons', an image that was turned in the tool, or a number that is none. Names file and task.
    """
    files = source.splits[split]
    path, folder = Path(root) / files.annotations, Path(root) / files.images
    tasks = Records(path, "task", _tasks(path))
    tasks.column("id", int)
    there = {place.name for place in folder.rglob("*")} if folder.is_dir() else set()
    images: list[dict[str, Any]] = []
    objects: list[Drawn] = []
    left_out: Counter[str] = Counter()
    for row in range(len(tasks)):
        task = _Task(tasks, row)
        results = task.results()
        if results is None:
            left_out[UNFINISHED] += 1
            continue
        size = task.size(results) or (0, 0)
        images.append({"id": task.number, "file_name": task.file_name(there), "width": size[0], "height": size[1]})
        objects += task.objects(results, size, left_out)
    _measure([image for image in images if not image["width"]], path, Path(root), files.images, source.orientation == UPRIGHT)
    value = coco_of(images, objects, source.skeleton_named(name), source.file_joints)
    return replace(coco.of_value(name, source, path, value, split, coco.DRAWN), left_out=dict(left_out))


READER = Reader("label_studio", read)


def _tasks(path: Path) -> list[dict[str, Any]]:
    value = load_annotations(path)
    if isinstance(value, dict) and "annotations" in value:
        raise FarposeError("this is a COCO file", where=path, fix="set `format: coco`, or export the project as JSON")
    if not isinstance(value, list) or not all(isinstance(task, dict) for task in value):
        raise FarposeError("expected a list of tasks", where=path, fix=DAMAGED)
    if any("annotations" not in task for task in value):
        fix = "export the project as JSON, not as JSON-MIN"
        raise FarposeError("a task has no key 'annotations'", where=path, fix=fix)
    return value


def _measure(images: list[dict[str, Any]], file: Path, root: Path, folder: str, upright: bool) -> None:
    """Fill in the sizes of images on which nothing is drawn, from their files."""
    names = {image["id"]: str(PurePosixPath(folder) / image["file_name"]) for image in images}
    found = match(root, folder, [name for name in names.values() if not (root / name).is_file()]).paths if images else {}
    for image in images:
        name = names[image["id"]]
        size = annotated_size(root / found.get(name, name), upright)
        if size is None:
            problem = f"nothing states the size of its image {image['file_name']!r}"
            raise FarposeError(problem, where=f"{file}: task {image['id']}", fix="acquire the images")
        image["width"], image["height"] = size


class _Task:
    """One task of the list."""

    def __init__(self, tasks: Records, row: int) -> None:
        self.tasks, self.row, self.task = tasks, row, tasks.items[row]
        self.number: int = self.task["id"]

    def error(self, problem: str, fix: str | None = None) -> FarposeError:
        return self.tasks.error(self.row, problem, fix)

    def results(self) -> list[dict[str, Any]] | None:
        """What was drawn; None if nobody finished the task."""
        finished = [item for item in self._dicts(self.task["annotations"], "annotations") if not item.get("was_cancelled")]
        if len(finished) > 1:
            finished = [item for item in finished if item.get("ground_truth")] or finished
        if len(finished) > 1:
            fix = "mark one of them as ground truth in Label Studio, or delete the others"
            raise self.error(f"it has {len(finished)} annotations, expected one", fix)
        return self._dicts(finished[0].get("result"), "result") if finished else None

    def file_name(self, there: set[str]) -> str:
        """The image's path relative to the split's folder; `there` are names of the folder's files."""
        data = self.task.get("data")
        texts = {key: relative(text) for key, text in data.items() if isinstance(text, str)} if isinstance(data, dict) else {}
        named = [text for text in texts.values() if text.lower().endswith(IMAGES)]
        if len(named) != 1 and "image" not in texts:
            raise self.error(f"'data' names {len(named)} images, expected one", "export tasks with one image each, named by `image`")
        name = texts["image"] if "image" in texts else named[0]
        base = PurePosixPath(name).name
        before = UPLOADED.sub("", base, count=1) if UPLOADED.match(base) else base
        return str(PurePosixPath(name).with_name(before)) if base not in there and before in there else name

    def size(self, results: list[dict[str, Any]]) -> tuple[int, int] | None:
        """Width and height of the image as the tool shows it, None if no result states them."""
        if any(item.get("image_rotation") for item in results):
            raise self.error("its image was turned in Label Studio", "turn the file itself, and label it again")
        stated = [(item.get("original_width"), item.get("original_height")) for item in results if item.get("type") in PLACED]
        if not stated:
            return None
        width, height = stated[0]
        if type(width) is not int or type(height) is not int or min(width, height) < 1 or any(size != stated[0] for size in stated):
            other = next((size for size in stated if size != stated[0]), stated[0])
            problem = f"its results state the size {other[0]!r} x {other[1]!r} px of the image, the first one {width!r} x {height!r} px"
            raise self.error(problem, DAMAGED)
        return width, height

    def objects(self, results: list[dict[str, Any]], size: tuple[int, int], left_out: Counter[str]) -> Iterator[Drawn]:
        """Persons and other objects; results of other kinds are counted."""
        regions = regions_of(results, self.error)
        boxes = {region.number: box_of(region, size, self.error) for region in regions.values() if region.kind == RECTANGLE}
        owners = Owners(results, regions, boxes)
        joints: dict[str, dict[str, Joint]] = {number: {} for number in boxes}
        for region in regions.values():
            if region.kind == POINT:
                x, y = px(region, ("x", "y"), size, self.error)
                label, owner = self._label(region), owners.of(region, (x, y))
                if owner is None:
                    could = f"each of {len(owners.persons)} rectangles" if boxes else "each of several persons"
                    raise self.error(f"the key point {label!r} could belong to {could}", self._grouping(len(boxes)))
                if label in joints.setdefault(owner, {}):
                    raise self.error(f"the key point {label!r} is there twice on one person", self._grouping(len(boxes)))
                joints[owner][label] = (x, y, HIDDEN if region.hidden else VISIBLE)
        for item in results:
            if item.get("type") not in (*PLACED, CHOICES, RELATION):
                left_out[f"results of the kind {compact(str(item.get('type')))}"] += 1
        for number, of_person in joints.items():
            name = self._label(regions[number], PERSON) if number in boxes else PERSON
            yield Drawn(self.number, name, self._where, of_person, boxes.get(number))

    @staticmethod
    def _grouping(rectangles: int) -> str:
        what = "its person's rectangle" if rectangles else "a rectangle around its person"
        return f"drag the key point onto {what} in Label Studio's list of regions, and export again"

    def _label(self, region: Region, unlabelled: str | None = None) -> str:
        names = region.names or ([unlabelled] if unlabelled else [])
        if len(names) != 1:
            raise self.error(f"the result {region.number!r} has the labels {names!r}, expected one", "label it once in Label Studio")
        return names[0]

    @property
    def _where(self) -> str:
        return f"{self.tasks.file}: task {self.number}"

    def _dicts(self, items: Any, key: str) -> list[dict[str, Any]]:
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self.error(f"{key!r} is not a list of objects", DAMAGED)
        return items
