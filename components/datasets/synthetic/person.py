"""One person in an image: drawn, placed and labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from components.datasets.synthetic.body import Body, Build, pose_body
from components.datasets.synthetic.exact import Draw, Vector, about_x, about_y, about_z, chain, turn
from components.datasets.synthetic.figure import Camera, Outfit, clothed
from components.datasets.synthetic.layout import Place
from components.datasets.synthetic.poses import draw_angles
from components.datasets.synthetic.raster import Layer, Solid, bounds
from components.pose.skeleton import COCO_17

# Positions on the head, in statures from its centre.
FACE: dict[str, Vector] = {
    "nose": (0.0, -0.024, 0.069),
    "left_eye": (0.020, -0.003, 0.055),
    "right_eye": (-0.020, -0.003, 0.055),
    "left_ear": (0.066, -0.010, -0.006),
    "right_ear": (-0.066, -0.010, -0.006),
}
# Statures by which a surface may be nearer than a joint and still belong to it: flesh and cloth around it.
OWN_DEPTH = {
    "nose": 0.02, "eye": 0.02, "ear": 0.02, "shoulder": 0.075, "elbow": 0.055, "wrist": 0.045, "hip": 0.095, "knee": 0.075,
    "ankle": 0.06,
}  # fmt: skip
# Further joints by their name here → the body's joint; the crown is the top of the hair.
FURTHER = {
    "neck": "neck", "head_top": "crown", "pelvis": "pelvis", "thorax": "chest", "left_toe": "left_toe", "right_toe": "right_toe",
    "left_heel": "left_heel", "right_heel": "right_heel",
}  # fmt: skip
CROWN: Vector = (0.0, 0.068, -0.012)
FURTHER_DEPTH = 0.08  # statures, as `OWN_DEPTH`
MEASURING_PX = 1024.0  # stature at which a figure's extent is measured; large, so that rounding to 1/256 px is negligible


@dataclass(frozen=True)
class Posed:
    """A person ready to be drawn.

    Attributes:
        body: the 3-D pose.
        camera: how it is seen.
        solids: px of the image.
        x, ground: px of the image, see `layout.Place`.
        stature: px, what the person would measure standing upright.
        height_px: longer side of the whole figure, px.
    """

    body: Body
    camera: Camera
    solids: list[Solid]
    x: float
    ground: float
    stature: float
    height_px: float


def pose_person(draw: Draw, place: Place) -> Posed:
    """Draw a person at its place, scaled to the place's height."""
    body, outfit = pose_body(Build.draw(draw), draw_angles(draw)), Outfit.draw(draw)
    rotation = chain(about_z(draw.between(-7, 7)), about_x(place.elevation), about_y(draw.between(0, 360)))
    measured = Camera(rotation, MEASURING_PX, 0.0, 0.0, draw.between(3.5, 14.0))
    left, top, right, bottom = bounds(clothed(body, outfit, measured))
    share = place.height_px / max(right - left, bottom - top)
    scale, x, y = MEASURING_PX * share, place.x - share * (left + right) / 2, place.ground - share * bottom
    camera = replace(measured, scale=round(scale, 3), x=round(x, 3), y=round(y, 3))
    return Posed(body, camera, clothed(body, outfit, camera), place.x, place.ground, camera.scale, place.height_px)


def label(posed: Posed, layer: Layer, owner: np.ndarray, order: int) -> np.ndarray:
    """COCO keypoints as an annotator would label them.

    Args:
        layer: the person drawn alone.
        owner: (height, width) order in which the topmost object of each pixel was painted.
        order: of this person.
    Returns:
        (17, 3): x, y, visibility. 2: visible; 1: hidden by the person or by another object; 0 (with x = y = 0): outside
        the image, or on the far side of the head.
    """
    keypoints = np.zeros((len(COCO_17), 3))
    for k, name in enumerate(COCO_17.keypoint_names):
        point = posed.body.on_head(*FACE[name]) if name in FACE else posed.body.joints[name]
        if not (name in FACE and turned_away(posed, name)):
            keypoints[k] = _labelled(posed, point, OWN_DEPTH[name.split("_")[-1]], layer, owner, order)
    return keypoints


def label_further(posed: Posed, layer: Layer, owner: np.ndarray, order: int) -> np.ndarray:
    """(len(FURTHER), 3) joints that other benchmarks label and the figure has; arguments and flags as in `label`."""
    body = posed.body
    points = [body.on_head(*CROWN) if joint == "crown" else body.joints[joint] for joint in FURTHER.values()]
    return np.array([_labelled(posed, point, FURTHER_DEPTH, layer, owner, order) for point in points])


def _labelled(posed: Posed, point: Vector, depth: float, layer: Layer, owner: np.ndarray, order: int) -> tuple[float, float, int]:
    """x, y and visibility of a point of the body.

    Args:
        depth: of the person's own surface before it, in statures.
    """
    height, width = owner.shape
    (x, y, z), size = posed.camera.project(point)
    x, y = round(x, 2), round(y, 2)
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        return 0.0, 0.0, 0
    seen = layer.front(x, y) <= z + depth * size and owner[round(y), round(x)] <= order
    return x, y, 2 if seen else 1


def head_length(posed: Posed) -> float:
    """From the neck to the top of the head in the image, px."""
    (x0, y0, _), _ = posed.camera.project(posed.body.joints["neck"])
    (x1, y1, _), _ = posed.camera.project(posed.body.on_head(*CROWN))
    return round(math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2), 2)


def turned_away(posed: Posed, name: str) -> bool:
    """Whether a point of the head is on its far side, seen from the camera."""
    outward = turn(posed.camera.rotation, turn(posed.body.frames["head"], FACE[name]))
    return outward[2] < (-0.036 if name.endswith("ear") else -0.012)  # ears stick out and are visible past the cheek up to about 30°
