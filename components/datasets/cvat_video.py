"""CVAT's "CVAT for video 1.1": tracks over the frames of a video → the same shapes image by image.

A `track` lists its shape frame by frame, interpolated ones (`keyframe="0"`) too. A shape with `outside="1"`, or a skeleton all of whose
points have it, ends the track until it is listed again. The file does not name images: those are the frames that the tool exports beside
it, `frame_000000.png` and so on, counted from 0. A frame that a track passes over without listing it shows a person whose place is not
known, so it is left out and counted.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from components.base.errors import FarposeError
from components.datasets.acquire.listing import IMAGES
from components.datasets.image_size import annotated_size
from components.datasets.records import DAMAGED

FRAME = re.compile(r"frame_(\d+)", re.IGNORECASE)
TRACKED = ("box", "points", "skeleton")  # shapes that a person may be
AS_IMAGES = "export the task as `CVAT for images 1.1`, which holds the same shapes"
UNLISTED = "frames between the ones that a track lists"
FOREIGN = "frames that are not the task's"
NAMED = 5  # frames named in an error


@dataclass(frozen=True)
class Task:
    """What a file says of one video.

    Attributes:
        number: the task's id.
        frames: its frames; None: not stated.
        size: width and height in px; None: not stated.
    """

    number: str
    frames: range | None
    size: tuple[int, int] | None


def with_frames(elements: Iterable[Element], path: Path, folder: Path, upright: bool, left_out: Counter[str]) -> Iterator[Element]:
    """The elements of an export, of which tracks become one `image` element per frame of the video, after all others.

    Args:
        path: the file, named in errors.
        folder: of the frames. Of a project's tracks those of the subset of its name are taken, or all if there is none of that name.
        upright: the entry's orientation, for frames whose size is not stated.
        left_out: counts frames that are not read.
    Raises:
        FarposeError: frames of several videos in one folder, a shape without its frame, or annotated frames without an image.
    """
    tracks: list[Element] = []
    tasks: list[Task] = []
    for element in elements:
        if element.tag == "meta":
            tasks = [_task(task) for task in [*element.iter("task"), *element.iter("job")]]
        elif element.tag == "track":
            tracks.append(element)
        else:
            yield element
    if any(track.get("subset") == folder.name for track in tracks):
        tracks = [track for track in tracks if track.get("subset") == folder.name]
    if not tracks:
        return
    numbers = {track.get("task_id", "") for track in tracks}
    if len(numbers) > 1:
        problem = f"it holds {len(numbers)} videos, whose frames have the same names"
        raise FarposeError(problem, where=path, fix=f"export each task by itself, or {AS_IMAGES}")
    known = {task.number: task for task in tasks}
    task = tasks[0] if len(tasks) == 1 else known.get(numbers.pop(), Task("", None, None))
    yield from _frames(tracks, task, path, folder, upright, left_out)


def _frames(tracks: list[Element], task: Task, path: Path, folder: Path, upright: bool, left_out: Counter[str]) -> Iterator[Element]:
    there = _files(folder, path)
    ordered = sorted(there)
    shapes: dict[int, list[Element]] = defaultdict(list)
    unlisted: set[int] = set()
    for track in tracks:
        last: int | None = None  # the frame from which the track goes on
        for frame, shape in sorted(((_frame(shape, path), shape) for shape in track), key=lambda item: item[0]):
            if last is not None and shape.tag in TRACKED:
                unlisted |= set(ordered[bisect_right(ordered, last) : bisect_left(ordered, frame)])
            present = _present(shape)
            last = frame if present else None
            if present:
                shape.attrib |= {key: value for key, value in track.attrib.items() if key in ("label", "group_id")}
                shapes[frame].append(shape)
        if last is not None and len(track) and track[0].tag in TRACKED:
            unlisted |= set(ordered[bisect_right(ordered, last) :])
    _require(sorted(shapes), there, path, folder)
    of_task = task.frames if task.frames is not None and all(frame in task.frames for frame in shapes) else None
    if of_task and of_task.start not in there and of_task.stop in there:
        problem = f"{folder.name} holds the frames {min(there)} to {max(there)}, the task {of_task.start} to {of_task[-1]}"
        raise FarposeError(problem, where=path, fix=f"CVAT counts frames from 0: name them so, or {AS_IMAGES}")
    for number in ordered:
        if of_task is not None and number not in of_task:
            left_out[FOREIGN] += 1
        elif number in unlisted:
            left_out[UNLISTED] += 1
        else:
            size = task.size or annotated_size(folder / there[number], upright)
            if size is None:
                raise FarposeError(
                    f"nothing states the size of the frame {there[number]}", where=path, fix="it is no image: export it again"
                )
            image = Element("image", {"name": there[number], "width": str(size[0]), "height": str(size[1])})
            image.extend(shapes.get(number, []))
            yield image


def _task(element: Element) -> Task:
    start, stop = (element.findtext(key, "") for key in ("start_frame", "stop_frame"))
    step = re.search(r"step=(\d+)", element.findtext("frame_filter", "") or "")
    frames = None
    if start.isdecimal() and stop.isdecimal():
        by = int(step[1]) if step and int(step[1]) else 1
        frames = range(int(start), int(start) + (int(stop) - int(start)) // by * by + by, by)
    width, height = (element.findtext(f"original_size/{key}", "") for key in ("width", "height"))
    size = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None
    return Task(element.findtext("id", ""), frames, size)


def _frame(shape: Element, path: Path) -> int:
    text = shape.get("frame", "")
    if not text.isdecimal():
        raise FarposeError(f"'frame' of <{shape.tag}> is {text!r}, expected a number", where=path, fix=DAMAGED)
    return int(text)


def _present(shape: Element) -> bool:
    points = shape.findall("points")
    return shape.get("outside") != "1" and (shape.tag != "skeleton" or any(point.get("outside") != "1" for point in points))


def _files(folder: Path, path: Path) -> dict[int, str]:
    """Frame → file name."""
    found: dict[int, str] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        named = FRAME.fullmatch(file.stem)
        if named and file.suffix.lower() in IMAGES:
            other = found.setdefault(int(named[1]), file.name)
            if other != file.name:
                raise FarposeError(f"{other} and {file.name} are the same frame", where=path, fix="remove one")
    return found


def _require(annotated: Sequence[int], there: dict[int, str], path: Path, folder: Path) -> None:
    """Refuse annotated frames without an image, and a folder without frames."""
    missing = [frame for frame in annotated if frame not in there]
    if missing or not there:
        some = ", ".join(f"frame_{frame:06d}" for frame in missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
        problem = (
            f"{len(missing)} of {len(annotated)} annotated frames of this video have no image in {folder.name}: {some or 'none is there'}"
        )
        frames = f"put the frames there (`ffmpeg -i VIDEO -fps_mode passthrough -start_number 0 {folder.name}/frame_%06d.png`)"
        raise FarposeError(problem, where=path, fix=f"export with images, or {frames}, or {AS_IMAGES}")
