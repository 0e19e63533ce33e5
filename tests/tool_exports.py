"""One small scene as labelling tools export it: two persons on the first image, nobody on the second, and what a reader must find in it.

The skeleton has four joints. All numbers are px of the image. The scene is drawn in the shape of each tool's files, key by key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.datasets.params import DataParams, SourceParams, SplitFiles

JOINTS = ["head", "left_hand", "right_hand", "belt"]
SKELETON = {"keypoint_names": JOINTS, "sigmas": [0.03, 0.06, 0.06, 0.1], "limbs": [["head", "belt"]]}
SIZES = {"a": (100, 80), "b": (60, 50)}  # width, height of the images

# head, left hand (hidden), right hand (not labelled), belt; and everything visible
KEYPOINTS = [[[25, 25, 2], [12, 40, 1], [0, 0, 0], [26, 45, 2]], [[70, 30, 2], [60, 50, 2], [80, 50, 2], [70, 60, 2]]]
BOXES = [[10.0, 20.0, 30.0, 40.0], [57.0, 25.5, 26.0, 39.0]]  # the second is 15 % around the joints, whose extent is 20 x 30 px


def entry(form: str, splits: dict[str, SplitFiles], **changes: Any) -> SourceParams:
    return SourceParams(form, SKELETON, "oks", splits, **changes)


def params(form: str, splits: dict[str, SplitFiles], **changes: Any) -> DataParams:
    return DataParams("own", {"own": entry(form, splits, **changes)})


def write_images(folder: Path, prefix: str = "", seed: int = 0) -> None:
    """a.png and b.png, noise that another seed changes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name, (width, height) in SIZES.items():
        cv2.imwrite(str(folder / f"{prefix}{name}.png"), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- CVAT for images 1.1

CVAT_LABELS = """
      <labels>
        <label><name>person</name><color>#fa3253</color><type>skeleton</type><attributes></attributes><svg>&lt;line/&gt;</svg></label>
        <label><name>belt</name><color>#1</color><type>points</type><attributes></attributes><parent>person</parent></label>
        <label><name>head</name><color>#2</color><type>points</type><attributes></attributes><parent>person</parent></label>
        <label><name>Left Hand</name><color>#3</color><type>points</type><attributes></attributes><parent>person</parent></label>
        <label><name>right-hand</name><color>#4</color><type>points</type><attributes></attributes><parent>person</parent></label>
        <label><name>body</name><color>#5</color><type>rectangle</type><attributes></attributes></label>
      </labels>"""
CVAT_A = """
    <box label="body" source="manual" occluded="0" xtl="10.00" ytl="20.00" xbr="40.00" ybr="60.00" z_order="0" group_id="3">
    </box>
    <skeleton label="person" source="manual" z_order="0" group_id="3">
      <points label="belt" source="manual" outside="0" occluded="0" points="26.00,45.00" group_id="3">
      </points>
      <points label="head" source="manual" outside="0" occluded="0" points="25.00,25.00" group_id="3">
      </points>
      <points label="Left Hand" source="manual" outside="0" occluded="1" points="12.00,40.00" group_id="3">
      </points>
      <points label="right-hand" source="manual" outside="1" occluded="0" points="31.00,44.00" group_id="3">
      </points>
    </skeleton>
    <skeleton label="person" source="manual" z_order="0">
      <points label="belt" source="manual" outside="0" occluded="0" points="70.00,60.00">
      </points>
      <points label="head" source="manual" outside="0" occluded="0" points="70.00,30.00">
      </points>
      <points label="Left Hand" source="manual" outside="0" occluded="0" points="60.00,50.00">
      </points>
      <points label="right-hand" source="manual" outside="0" occluded="0" points="80.00,50.00">
      </points>
    </skeleton>"""


def cvat_xml(of_a: str = CVAT_A, labels: str = CVAT_LABELS, image: str = "", prefix: str = "") -> str:
    """`annotations.xml` of a task; `image`: more attributes of <image>."""
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <job>
      <id>7</id>
      <size>2</size>
      <mode>annotation</mode>
      <overlap>0</overlap>{labels}
    </job>
    <dumped>2026-01-05 09:14:02.145+00:00</dumped>
  </meta>
  <image id="0" name="{prefix}a.png" width="100" height="80"{image}>{of_a}
  </image>
  <image id="1" name="{prefix}b.png" width="60" height="50"{image}>
  </image>
</annotations>
"""


# --- CVAT for video 1.1

VIDEO_SIZE = (100, 80)  # px
# Of each person the frames in which its track is listed, whether it is seen there, and whether a person drew it there. The first is
# interpolated on frame 1 and ends with frame 2; the second comes in on frame 1 and lasts.
LISTED: list[dict[int, tuple[bool, bool]]] = [
    {0: (True, True), 1: (True, False), 2: (True, True), 3: (False, True)},
    {1: (True, True), 2: (True, False), 3: (True, False), 4: (True, True)},
]


def moved(person: int, frame: int) -> np.ndarray:
    """(4, 3) joints of a person, who walks by 2 px a frame along x; joints that are not labelled stay zero."""
    joints = np.array(KEYPOINTS[person], np.float64)
    joints[joints[:, 2] > 0, 0] += 2 * frame
    return joints


def cvat_video_xml(listed: list[dict[int, tuple[bool, bool]]] | None = None, task: str = "", track: str = "", frames: int = 5) -> str:
    """`annotations.xml` of a video of five frames; the first person has a box. `task`: more of its <task>; `track`: more attributes."""
    tracks = []
    for person, of_frames in enumerate(LISTED if listed is None else listed):
        boxes, skeletons = [], []
        for frame, (seen, drawn) in of_frames.items():
            left, top, width, height = BOXES[person]
            left, flags = left + 2 * frame, f'outside="{int(not seen)}" occluded="0" keyframe="{int(drawn)}"'
            sides = f'xtl="{left:.2f}" ytl="{top:.2f}" xbr="{left + width:.2f}" ybr="{top + height:.2f}"'
            boxes.append(f'<box frame="{frame}" {flags} {sides} z_order="0"></box>')
            points = []
            for name, (x, y, flag) in zip(JOINTS, moved(person, frame), strict=True):
                state = f'keyframe="{int(drawn)}" outside="{int(not seen or not flag)}" occluded="{int(flag == 1)}"'
                points.append(f'<points label="{name}" {state} points="{x:.2f},{y:.2f}"></points>')
            skeletons.append(f'<skeleton frame="{frame}" keyframe="{int(drawn)}" z_order="0">{"".join(points)}</skeleton>')
        group = f' source="manual" group_id="{person + 1}"{track}'
        if not person:
            tracks.append(f'<track id="7" label="body"{group}>{"".join(boxes)}</track>')
        tracks.append(f'<track id="{person}" label="person"{group}>{"".join(skeletons)}</track>')
    meta = f"<id>7</id><size>{frames}</size><mode>interpolation</mode>{task}{CVAT_LABELS}"
    size = f"<original_size><width>{VIDEO_SIZE[0]}</width><height>{VIDEO_SIZE[1]}</height></original_size>"
    head = f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task>{meta}{size}</task></meta>'
    return f"{head}{''.join(tracks)}</annotations>"


def write_frames(folder: Path, frames: Iterable[int] = range(5), ending: str = "PNG", seed: int = 0) -> None:
    """The frames as CVAT names them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for frame in frames:
        picture = rng.integers(0, 256, (VIDEO_SIZE[1], VIDEO_SIZE[0], 3), dtype=np.uint8)
        (folder / f"frame_{frame:06d}.{ending}").write_bytes(cv2.imencode(".png", picture)[1].tobytes())


# --- CVAT's COCO Keypoints 1.0


def cvat_coco(first: int = 1) -> dict[str, Any]:
    annotations = []
    for number, (joints, box) in enumerate(zip(KEYPOINTS, BOXES, strict=True), start=first):
        annotations.append(
            {
                "id": number, "image_id": 1, "category_id": 1, "segmentation": [], "area": box[2] * box[3], "bbox": box, "iscrowd": 0,
                "attributes": {"occluded": False, "keyframe": False}, "keypoints": [number for joint in joints for number in joint],
                "num_keypoints": sum(flag > 0 for _, _, flag in joints),
            }
        )  # fmt: skip
    about = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    images = [{"id": n, "width": w, "height": h, "file_name": f"{name}.png", **about} for n, (name, (w, h)) in enumerate(SIZES.items(), 1)]
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": 1, "name": "person", "supercategory": "", "keypoints": JOINTS, "skeleton": [[1, 4]]}],
        "images": images,
        "annotations": annotations,
    }


# --- Roboflow's COCO keypoints: ids from 0 in every folder, and the project as category 0


def roboflow() -> dict[str, Any]:
    annotations = []
    for number, (joints, box) in enumerate(zip(KEYPOINTS, BOXES, strict=True)):
        annotations.append(
            {
                "id": number, "image_id": 0, "category_id": 1, "bbox": box, "area": box[2] * box[3], "segmentation": [], "iscrowd": 0,
                "keypoints": [number for joint in joints for number in joint],
            }
        )  # fmt: skip
    images = [
        {
            "id": n, "license": 1, "file_name": f"{name}.png", "height": h, "width": w, "date_captured": "2026-01-05T09:14:02+00:00",
            "extra": {"name": f"{name}.png"},
        }
        for n, (name, (w, h)) in enumerate(SIZES.items())
    ]  # fmt: skip
    return {
        "info": {"year": "2026", "version": "2", "description": "Exported from roboflow.com", "contributor": "", "url": ""},
        "licenses": [{"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}],
        "categories": [
            {"id": 0, "name": "people-Qg7R", "supercategory": "none"},
            {"id": 1, "name": "person", "supercategory": "people-Qg7R", "keypoints": JOINTS, "skeleton": [[1, 4]]},
        ],
        "images": images,
        "annotations": annotations,
    }


# --- Label Studio


def result(kind: str, number: str, size: tuple[int, int], value: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One result as the tool writes it; `value` in px becomes percent."""
    percent = {key: 100 * n / size[key in ("y", "height")] for key, n in value.items() if key in ("x", "y", "width", "height")}
    return {
        "id": number, "type": kind, "value": {**value, **percent}, "origin": "manual", "to_name": "image",
        "from_name": {"rectanglelabels": "box", "keypointlabels": "joint"}.get(kind, "state"), "image_rotation": 0,
        "original_width": size[0], "original_height": size[1], **more,
    }  # fmt: skip


def label_studio_results() -> list[dict[str, Any]]:
    """Both persons of the first image; the hidden hand by a choice of its region."""
    size, results = SIZES["a"], []
    for number, (joints, box) in enumerate(zip(KEYPOINTS, BOXES, strict=True)):
        corners = dict(zip(("x", "y", "width", "height"), box, strict=True))
        results.append(result("rectanglelabels", f"box{number}", size, {**corners, "rotation": 0, "rectanglelabels": ["Person"]}))
        for name, (x, y, flag) in zip(JOINTS, joints, strict=True):
            region = {"x": x, "y": y, "width": 0.4}
            if flag:
                label = {"keypointlabels": [name.replace("_", " ").title()]}
                results.append(result("keypointlabels", f"{name}{number}", size, {**region, **label}, parentID=f"box{number}"))
            if flag == 1:
                results.append(result("choices", f"{name}{number}", size, {**region, "choices": ["Occluded"]}))
    return results


def label_studio(first: int = 41, name: str = "/data/upload/3/0a1b2c3d-{}.png", results: Any = None) -> list[dict[str, Any]]:
    """The list of two tasks; `results` replaces those of the first image."""
    about = {
        "completed_by": 1,
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 21.4,
        "unique_id": "4ecb",
        "parent_prediction": None,
    }
    of_image = {"a": label_studio_results() if results is None else results, "b": []}
    return [
        {
            "id": first + place,
            "annotations": [{"id": 900 + place, "result": of_image[image], **about}],
            "file_upload": f"0a1b2c3d-{image}.png", "drafts": [], "predictions": [], "data": {"image": name.format(image)}, "meta": {},
            "project": 3, "inner_id": place + 1, "total_annotations": 1, "cancelled_annotations": 0,
        }
        for place, image in enumerate(of_image)
    ]  # fmt: skip


def label_studio_coco() -> dict[str, Any]:
    """Its COCO export of an image with one person: the rectangle and the key points are annotations of two categories."""
    box = BOXES[0]
    return {
        "images": [{"width": 100, "height": 80, "id": 0, "file_name": "images/0a1b2c3d-a.png"}],
        "categories": [
            {"id": 0, "name": "Person"},
            {"id": 1, "name": "default", "supercategory": "default", "keypoints": JOINTS, "skeleton": []},
        ],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [], "bbox": box, "ignore": 0, "iscrowd": 0, "area": 1200.0},
            {
                "id": 1, "image_id": 0, "category_id": 1, "keypoints": [25, 25, 2, 12, 40, 2, 0, 0, 0, 26, 45, 2], "num_keypoints": 3,
                "bbox": [12, 25, 14, 20], "iscrowd": 0,
            },
        ],
        "info": {"year": 2026, "version": "1.0", "description": "", "contributor": "Label Studio", "url": "", "date_created": "2026-01-05"},
    }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
