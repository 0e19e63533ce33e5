"""One page of the best, the median and the worst predictions, drawn on the original image and on the network's input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.base.files import atomic_file
from components.degrade.images import read_image
from components.evaluate.predictions import Predictions
from components.pose.crop import CropGeometry, compose, invert, transform
from components.pose.skeleton import Skeleton

if TYPE_CHECKING:
    from components.degrade.shards import EvalCrops

TILE_HEIGHT = 384  # px of one picture
TRUTH, DARK = (255, 255, 255), (20, 20, 20)
LEFT, RIGHT, MIDDLE = (30, 140, 240), (250, 110, 40), (60, 180, 60)  # RGB of the person's left, right and middle
GROUPS = ("best", "median", "worst")
SUBPIXEL = 4  # bits of sub-pixel drawing


def gallery(path: str | Path, title: str, crops: EvalCrops, predictions: Predictions, oks: np.ndarray, data_root: Path, size: int) -> None:
    """Draw `size` persons of each group as PNG: per person the original image, then the crop that the network saw.

    White is the annotation, colours are the prediction (blue the person's left, orange its right). Only labelled joints are
    drawn, because no other is scored.

    Args:
        crops: the crops predicted on, row by row.
        oks: (N,) OKS of each prediction with its person; NaN rows are not shown.
    """
    from matplotlib.figure import Figure

    groups = choose(oks, (crops.keypoints_image[..., 2] > 0).sum(1), size)
    width = max(map(len, groups.values()))
    height, tile_width = _tile_size(crops)
    figure = Figure(figsize=(width * (2 * tile_width / height * 2.3 + 0.25), 3 * 2.65 + 0.7), dpi=120, facecolor="white")
    figure.suptitle(f"{title}\nwhite: annotation · blue: predicted left · orange: predicted right", fontsize=10)
    axes = figure.subplots(3, width, squeeze=False)
    for row, (name, chosen) in enumerate(groups.items()):
        for column in range(width):
            axes[row][column].set_axis_off()
        for column, person in enumerate(chosen):
            axes[row][column].imshow(_pair(crops, predictions, person, data_root))
            caption = f"OKS {oks[person]:.2f} · {crops.bbox_xywh[person, 3]:.0f} px high"
            axes[row][column].set_title(caption, fontsize=8, pad=3, color="0.15")
        axes[row][0].text(-0.03, 0.5, name, transform=axes[row][0].transAxes, rotation=90, va="center", ha="right", fontsize=11)
    figure.subplots_adjust(left=0.25 / width, right=0.995, top=0.9, bottom=0.01, wspace=0.04, hspace=0.12)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def choose(oks: np.ndarray, labelled: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Rows of the best, the median and the worst predictions, `size` each or fewer, without repeats.

    Persons with less than half of their joints labelled are left out unless there are too few others: one joint alone
    makes the extremes.
    """
    rows = np.flatnonzero(np.isfinite(oks))
    rich = rows[labelled[rows] * 2 >= labelled.max(initial=0)]
    rows = rich if len(rich) >= 3 * size else rows
    rows = rows[np.argsort(-oks[rows], kind="stable")]
    size = min(size, -(-len(rows) // 3))
    middle = max(size, (len(rows) - size) // 2)
    chosen = (rows[:size], rows[middle : middle + size], rows[max(middle + size, len(rows) - size) :][::-1])
    return dict(zip(GROUPS, chosen, strict=True))


def _tile_size(crops: EvalCrops) -> tuple[int, int]:
    height, width = crops.geometry.input_size
    return TILE_HEIGHT, round(TILE_HEIGHT * width / height)


def _pair(crops: EvalCrops, predictions: Predictions, person: int, data_root: Path) -> np.ndarray:
    """(H, 2 W, 3) uint8 RGB: the image around the person, and the crop enlarged without smoothing, both drawn on."""
    import cv2

    height, width = _tile_size(crops)
    image = np.ascontiguousarray(read_image(data_root / str(crops.image_path[person]))[..., ::-1])
    around = cv2.warpAffine(image, _image_to_tile(crops, person)[0], (width, height), flags=cv2.INTER_LINEAR)
    pictures = [_drawn(around, crops, predictions, person), draw_prediction(crops, predictions, person)]
    return np.concatenate([pictures[0], np.full((height, 4, 3), 255, np.uint8), pictures[1]], 1)


def draw_prediction(crops: EvalCrops, predictions: Predictions, person: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a person's crop enlarged without smoothing, annotation and prediction drawn on it."""
    import cv2

    one = slice(person, person + 1)
    image_to_crop = crops.geometry.image_to_crop(crops.center[one], crops.size[one])
    crop_to_tile = compose(_image_to_tile(crops, person), invert(image_to_crop))
    height, width = _tile_size(crops)
    crop = np.ascontiguousarray(crops.pixels[person].transpose(1, 2, 0))
    enlarged = cv2.warpAffine(crop, crop_to_tile[0], (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return _drawn(enlarged, crops, predictions, person)


def _image_to_tile(crops: EvalCrops, person: int) -> np.ndarray:
    tile, one = _tile_size(crops), slice(person, person + 1)
    return CropGeometry(tile, tile, crops.geometry.convention).image_to_crop(crops.center[one], crops.size[one])


def _drawn(picture: np.ndarray, crops: EvalCrops, predictions: Predictions, person: int) -> np.ndarray:
    """`picture`, a tile, with annotation and prediction drawn on it in place."""
    image_to_tile, truth = _image_to_tile(crops, person), crops.keypoints_image[person]
    for points, is_truth in ((truth[:, :2], True), (predictions.keypoints_image[person], False)):
        draw_joints(picture, transform(image_to_tile, points[None])[0], truth[:, 2] > 0, crops.skeleton, truth=is_truth)
    return picture


def draw_joints(
    picture: np.ndarray,
    points: np.ndarray,
    visible: np.ndarray,
    skeleton: Skeleton,
    truth: bool = False,
    colour: tuple[int, int, int] | None = None,
    thickness: int = 2,
    rim: bool = True,
) -> None:
    """Draw one person onto (H, W, 3) uint8 RGB: `points` (K, 2) px of the picture, those of `visible` (K,); `truth` in white.

    Args:
        colour: RGB of all limbs; None tells the person's left from its right.
        thickness: of the limbs, px.
        rim: a dark line around them, so that they stand out on any picture.
    """
    import cv2

    fixed = np.round(np.clip(points, -1e4, 1e4) * (1 << SUBPIXEL)).astype(int)
    options: dict[str, Any] = {"lineType": cv2.LINE_AA, "shift": SUBPIXEL}
    paint = lambda a, b: TRUTH if truth else colour or _colour(skeleton, a, b)  # noqa: E731
    for dark in (True, False) if rim else (False,):
        for a, b in skeleton.limb_indices:
            if visible[a] and visible[b]:
                cv2.line(picture, fixed[a].tolist(), fixed[b].tolist(), DARK if dark else paint(a, b), thickness + 2 * dark, **options)
        for k in np.flatnonzero(visible).tolist():
            cv2.circle(picture, fixed[k].tolist(), (thickness + 1 + dark) << SUBPIXEL, DARK if dark else paint(k, k), -1, **options)


def _colour(skeleton: Skeleton, a: int, b: int) -> tuple[int, int, int]:
    sides = {skeleton.keypoint_names[k].split("_")[0] for k in (a, b)}
    if "left" in sides and "right" not in sides:
        return LEFT
    return RIGHT if "right" in sides and "left" not in sides else MIDDLE
