"""CVAT for video 1.1: tracks become persons frame by frame, and frames that are missing or unclear are named or counted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.fetch import fetch
from components.datasets.params import SplitFiles
from components.datasets.reader import AnnotationFile, read_split
from components.datasets.validate import validate
from tests import tool_exports as tools

SPLITS = {"val": SplitFiles("annotations.xml", "images")}
SEEN = [[0], [0, 1], [0, 1], [1], [1]]  # persons of each frame
GRID = "<start_frame>0</start_frame><stop_frame>{}</stop_frame><frame_filter>{}</frame_filter>"


def read(root: Path, text: str, frames: Iterable[int] = range(5), ending: str = "PNG", folder: str = "images") -> AnnotationFile:
    (root / "annotations.xml").write_text(text)
    tools.write_frames(root / folder, frames, ending)
    return read_split("own", tools.entry("cvat", {"val": SplitFiles("annotations.xml", folder)}), root, "val")


def frames_of(found: AnnotationFile) -> list[int]:
    return [int(Path(path).stem.removeprefix("frame_")) for path in found.images["image_path"]]


def persons_of(found: AnnotationFile) -> dict[int, np.ndarray]:
    """Frame → (N, 4, 3) joints."""
    paths = found.persons.frame["image_path"]
    return {int(path[-10:-4]): found.persons.keypoints[(paths == path).to_numpy()] for path in found.images["image_path"]}


@pytest.mark.parametrize("ending", ["PNG", "jpg"])
def test_tracks_become_persons_frame_by_frame(tmp_path: Path, ending: str) -> None:
    """Interpolated shapes are taken; a shape outside is not there; a hidden joint is hidden; the box is that of the group."""
    found = read(tmp_path, tools.cvat_video_xml(), ending=ending)
    assert found.images["image_path"].tolist() == [f"images/frame_{frame:06d}.{ending}" for frame in range(5)]
    assert found.images[["image_width", "image_height"]].drop_duplicates().to_numpy().tolist() == [list(tools.VIDEO_SIZE)]
    got = persons_of(found)
    for frame, persons in enumerate(SEEN):
        np.testing.assert_allclose(got[frame], [tools.moved(person, frame) for person in persons], atol=0.006)
    wanted = [[left + 2 * frame, *rest] for frame, persons in enumerate(SEEN) for left, *rest in (tools.BOXES[p] for p in persons)]
    np.testing.assert_allclose(found.persons.bbox_xywh, wanted, atol=0.006)  # the second's is derived, 15 % around its joints
    assert not found.left_out and len(found.others) == 0


def test_a_video_passes_fetch_and_validation(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(tools.cvat_video_xml())
    tools.write_frames(tmp_path / "images")
    params = tools.params("cvat", SPLITS, orientation="upright")
    summary = fetch(params, tmp_path, tmp_path / "persons", None)
    assert summary.splits["val"].labelled == 7 and summary.splits["val"].images == 5
    assert not validate(tmp_path / "persons", tmp_path, params, tmp_path / "validation").failed


def test_frames_that_a_track_passes_over_are_left_out(tmp_path: Path) -> None:
    """Tools that write keyframes alone say nothing of the frames between them, nor after the last one."""
    keys = [{frame: flags for frame, flags in listed.items() if flags[1]} for listed in tools.LISTED]
    keys[1].pop(4)
    found = read(tmp_path, tools.cvat_video_xml(keys))
    assert frames_of(found) == [0]  # the first passes over 1, the second over 2 and what follows; frame 1 shows both
    assert found.left_out == {"frames between the ones that a track lists": 4}


def test_a_shape_of_one_frame_is_a_track_that_ends(tmp_path: Path) -> None:
    found = read(tmp_path, tools.cvat_video_xml([{1: (True, True), 2: (False, True)}, {3: (True, True), 4: (False, True)}]))
    assert {frame: len(persons) for frame, persons in persons_of(found).items()} == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}


@pytest.mark.parametrize(
    ("grid", "frames", "kept", "foreign"),
    [
        (GRID.format(4, ""), range(8), [0, 1, 2, 3, 4], 3),
        (GRID.format(8, "step=2"), range(10), [0, 2, 4, 6, 8], 5),
        (GRID.format(9, "step=2"), range(10), [0, 2, 4, 6, 8], 5),
        (GRID.format(2, ""), range(5), [0, 1, 2, 3, 4], 0),  # shapes lie outside, so the file does not mean these frames
        ("", range(5), [0, 1, 2, 3, 4], 0),
    ],
)
def test_the_tasks_frames_alone_are_images(tmp_path: Path, grid: str, frames: range, kept: list[int], foreign: int) -> None:
    """Of a video all of whose frames are there, those that nobody was shown are left out and counted."""
    step = 2 if "step" in grid else 1
    listed = [{step * frame: flags for frame, flags in of_frames.items()} for of_frames in tools.LISTED]
    found = read(tmp_path, tools.cvat_video_xml(listed, task=grid), frames)
    assert frames_of(found) == kept
    assert found.left_out == ({"frames that are not the task's": foreign} if foreign else {})


def test_a_size_that_the_file_does_not_state_is_the_frames(tmp_path: Path) -> None:
    found = read(tmp_path, tools.cvat_video_xml().replace("original_size", "other"))
    assert found.images[["image_width", "image_height"]].drop_duplicates().to_numpy().tolist() == [list(tools.VIDEO_SIZE)]


def test_other_tracked_shapes_are_counted(tmp_path: Path) -> None:
    polygon = '<track id="9" label="car"><polygon frame="1" outside="0" points="1,1;2,2;3,1"/><polygon frame="2" outside="1"/></track>'
    found = read(tmp_path, tools.cvat_video_xml().replace("</annotations>", f"{polygon}</annotations>"))
    assert found.left_out == {"shapes of the kind polygon": 1} and len(found.images) == 5


def test_of_a_project_the_folders_subset_is_read(tmp_path: Path) -> None:
    train, val = (tools.cvat_video_xml(track=f' task_id="{n}" subset="{subset}"') for n, subset in enumerate(("Train", "Validation")))
    both = train.replace("</annotations>", val[val.index("<track") :])
    found = read(tmp_path, both, folder="images/Train")
    assert found.images["image_path"].tolist() == [f"images/Train/frame_{frame:06d}.PNG" for frame in range(5)]
    assert len(found.persons) == 7
    with pytest.raises(FarposeError, match=r"it holds 2 videos, whose frames have the same names .export each task by itself, or export"):
        read(tmp_path, both)


def missing(text: str) -> str:
    return (
        rf"annotations\.xml: {text} .export with images, or put the frames there .`ffmpeg .*, or export the task as `CVAT for images 1\.1`"
    )


WRONG: dict[str, tuple[str, Iterable[int], str]] = {
    "no frames": (tools.cvat_video_xml(), [], missing("5 of 5 annotated frames of this video have no image in images: frame_000000, .*")),
    "one is missing": (
        tools.cvat_video_xml(),
        [0, 1, 2, 4],
        missing("1 of 5 annotated frames of this video have no image in images: frame_000003"),
    ),
    "counted from 1": (
        tools.cvat_video_xml([tools.LISTED[1]], task=GRID.format(4, "")),
        range(1, 6),
        r"annotations\.xml: images holds the frames 1 to 5, the task 0 to 4 .CVAT counts frames from 0",
    ),
    "no frame's number": (
        tools.cvat_video_xml().replace('frame="1"', 'frame="one"'),
        range(5),
        "'frame' of <box> is 'one', expected a number",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_videos_are_named(tmp_path: Path, case: str) -> None:
    text, frames, message = WRONG[case]
    with pytest.raises(FarposeError, match=message):
        read(tmp_path, text, frames)


def test_one_frame_twice_is_named(tmp_path: Path) -> None:
    tools.write_frames(tmp_path / "images", [3], "jpg")
    with pytest.raises(FarposeError, match=r"frame_000003\.PNG and frame_000003\.jpg are the same frame"):
        read(tmp_path, tools.cvat_video_xml())
