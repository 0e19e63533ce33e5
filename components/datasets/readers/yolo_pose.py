"""YOLO-pose labels (Ultralytics' form): one text file per image, one person a line, and a YAML file that says what the numbers are.

`annotations` of a split names the YAML file, `images` the folder of its images. An image's labels lie at the same path with `labels` in
place of the last `images`, or beside it. A line is the class, the box's centre and size, and per joint x, y and, with `kpt_shape: [K, 3]`,
visibility; all but class and visibility are shares of the image's width and height, as viewers turn it (set the entry's `orientation:
upright`). An image without a label file shows nobody. The files state no areas, crowds and counts: `datasets.derived` gives them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.base.config import load_yaml
from components.base.errors import FarposeError
from components.datasets.acquire.listing import IMAGES
from components.datasets.drawn import PERSONS_PER_IMAGE, path_id
from components.datasets.image_size import annotated_size
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.readers import coco
from components.pose.persons import UPRIGHT
from components.pose.skeleton import Skeleton

LISTED = 3


def read(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the labels of one split.

    Raises:
        FarposeError: as `coco.read`; joints or flips of the YAML file that are not the skeleton's, a line of another length or with a
            value that is no number, labels without their image, or an image that cannot be read. Names file and line.
    """
    files, skeleton = source.splits[split], source.skeleton_named(name)
    path, folder = Path(root) / files.annotations, Path(root) / files.images
    about = load_yaml(path)
    width = _numbers_per_joint(about, skeleton, path)
    classes = _classes(about, path)
    places = sorted(place for place in folder.rglob("*") if place.suffix.lower() in IMAGES) if folder.is_dir() else []
    if not places:
        raise FarposeError(
            "there are no images", where=folder, fix=f"correct the split's `images` in params/data.yaml: data.sources.{name}"
        )
    _refuse_lonely(places, folder)
    images, annotations = [], []
    for place in places:
        number = path_id(place.relative_to(root).as_posix())
        size = annotated_size(place, source.orientation == UPRIGHT)
        if size is None:
            raise FarposeError("not an image", where=place, fix="acquire it again")
        images.append({"id": number, "file_name": place.relative_to(folder).as_posix(), "width": size[0], "height": size[1]})
        label = labels_of(place)
        lines = label.read_text().splitlines() if label.is_file() else []
        for row, line in enumerate(lines, start=1):
            if line.strip():
                person = _person(line, f"{label}:{row}", classes, len(skeleton), width, size)
                annotations.append({"id": number * PERSONS_PER_IMAGE + row, "image_id": number, **person})
    joints = list(source.file_joints or skeleton.keypoint_names)
    categories = [{"id": number, "name": title, "keypoints": joints} for number, title in classes.items()]
    return coco.of_value(name, source, path, {"images": images, "annotations": annotations, "categories": categories}, split)


READER = Reader("yolo_pose", read)


def labels_of(image: Path) -> Path:
    """The label file of an image: with `labels` in place of the last `images` of its path, or beside it."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _numbers_per_joint(about: Mapping[str, Any], skeleton: Skeleton, path: Path) -> int:
    """2 or 3; the YAML file's joints must be the skeleton's as far as it says."""
    shape = about.get("kpt_shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(number) is int for number in shape) and shape[1] in (2, 3)):
        raise FarposeError(f"'kpt_shape' is {shape!r}, expected [joints, 2 or 3]", where=path, fix="write it as the labels are")
    if shape[0] != len(skeleton):
        problem = f"'kpt_shape' says {shape[0]} joints, {skeleton.name} has {len(skeleton)}"
        raise FarposeError(problem, where=path, fix="correct the entry's `skeleton` in params/data.yaml")
    flips = about.get("flip_idx")
    if flips is not None and flips != list(skeleton.flip_permutation):
        problem = f"'flip_idx' is {flips}, that of {skeleton.name} is {list(skeleton.flip_permutation)}: these are other joints"
        raise FarposeError(problem, where=path, fix="correct the entry's `skeleton` in params/data.yaml, or the file")
    return int(shape[1])


def _classes(about: Mapping[str, Any], path: Path) -> dict[int, str]:
    names = about.get("names")
    pairs = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(pairs, dict) or not pairs or not all(type(number) is int for number in pairs):
        raise FarposeError(f"'names' is {names!r}, expected the classes' names by number", where=path, fix="write names: {0: person}")
    return {number: str(title) for number, title in pairs.items()}


def _refuse_lonely(images: list[Path], folder: Path) -> None:
    """Refuse label files whose image is not there."""
    expected = {labels_of(image) for image in images}
    folders = {label.parent for label in expected}
    lonely = sorted(
        label for place in folders if place != folder for label in place.glob("*.txt") if label not in expected and place.is_dir()
    )
    if lonely:
        some = ", ".join(label.name for label in lonely[:LISTED]) + ", ..." * (len(lonely) > LISTED)
        raise FarposeError(
            f"{len(lonely)} label files have no image: {some}", where=lonely[0].parent, fix="acquire the images, or remove them"
        )


def _person(line: str, where: str, classes: Mapping[int, str], joints: int, width: int, size: tuple[int, int]) -> dict[str, Any]:
    """One line as an annotation in px."""
    values = line.split()
    if len(values) not in (5, 5 + joints * width):
        problem = f"{len(values)} numbers, expected 5 and {width} for each of {joints} joints"
        raise FarposeError(problem, where=where, fix="correct the line, or 'kpt_shape' of the YAML file")
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        raise FarposeError(f"not a line of numbers: {line[:60]!r}", where=where, fix="correct the line") from None
    if not all(map(math.isfinite, numbers)):
        raise FarposeError("a number is not finite", where=where, fix="correct the line")
    if numbers[0] not in classes:
        raise FarposeError(f"class {values[0]} is not in 'names' of the YAML file", where=where, fix="add its name, or correct the line")
    x, y, box_width, box_height = (number * size[place % 2] for place, number in enumerate(numbers[1:5]))
    keypoints: list[float] = []
    for start in range(5, 5 + joints * width, width):
        joint = numbers[start : start + width] or [0.0] * width
        flag = joint[2] if width == 3 else 2.0 * (joint != [0.0, 0.0])
        keypoints += [joint[0] * size[0], joint[1] * size[1], flag] if flag else [0.0, 0.0, 0.0]
    box = [x - box_width / 2, y - box_height / 2, box_width, box_height]
    return {"category_id": int(numbers[0]), "bbox": box, "keypoints": keypoints}
