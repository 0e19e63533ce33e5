"""Pictures of one person: the image around it, and the crop that the network saw, annotation and prediction drawn on both."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from components.degrade.images import read_image
from components.degrade.shards import EvalCrops
from components.evaluate.approach import Look, Tiles
from components.evaluate.predictions import Predictions
from components.pose.crop import CropGeometry, compose, invert, transform
from components.pose.draw import TRUTH, draw_joints

TILE_HEIGHT, GAP = 384, 4  # px of one picture, and between the two of a tile
FIELD = 6.0  # width of the overview's part of the image around the person, in padded boxes
LEGEND = "white: annotation · blue: predicted left · orange: predicted right"


def tiles(crops: EvalCrops, predictions: Predictions, oks: np.ndarray, data_root: Path) -> Tiles:
    """Per person the original image, then the crop that the network saw. Only labelled joints are drawn: no other is scored.

    Args:
        predictions, oks: of the crops, row by row.
    """
    height, width = _tile_size(crops)

    def draw(person: int) -> np.ndarray:
        image = np.ascontiguousarray(read_image(data_root / str(crops.image_path[person]), crops.upright)[..., ::-1])
        around = cv2.warpAffine(image, _image_to_tile(crops, person)[0], (width, height), flags=cv2.INTER_LINEAR)
        pair = _drawn(around, crops, predictions, person), draw_prediction(crops, predictions, person)
        return np.concatenate([pair[0], np.full((height, GAP, 3), 255, np.uint8), pair[1]], 1)

    return Tiles(
        quality=oks,
        labelled=(crops.keypoints_image[..., 2] > 0).sum(1),
        shape=(height, 2 * width + GAP),
        draw=draw,
        caption=lambda person: f"OKS {oks[person]:.2f} · {crops.bbox_xywh[person, 3]:.0f} px high",
        legend=LEGEND,
    )


def look(crops: EvalCrops, predictions: Predictions, person: int, data_root: Path) -> Look:
    """At one person: the image around it (all of it, if it is small), with its box, and its crop."""
    image = read_image(data_root / str(crops.image_path[person]), crops.upright)[..., ::-1]
    half, center = FIELD * crops.size[person].max() / 2, crops.center[person]
    (left, top), (right, bottom) = np.maximum(center - half, 0), np.minimum(center + half, image.shape[1::-1])
    height, width = crops.geometry.input_size
    return Look(
        image=image,
        part=(left, top, right, bottom),
        frame_xywh=crops.bbox_xywh[person].tolist(),
        seen=draw_prediction(crops, predictions, person),
        caption=f"what the network sees ({width}×{height} px) and finds",
        legend=LEGEND,
    )


def draw_prediction(crops: EvalCrops, predictions: Predictions, person: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a person's crop enlarged without smoothing, annotation and prediction drawn on it."""
    one = slice(person, person + 1)
    image_to_crop = crops.geometry.image_to_crop(crops.center[one], crops.size[one])
    crop_to_tile = compose(_image_to_tile(crops, person), invert(image_to_crop))
    height, width = _tile_size(crops)
    crop = np.ascontiguousarray(crops.pixels[person].transpose(1, 2, 0))
    enlarged = cv2.warpAffine(crop, crop_to_tile[0], (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return _drawn(enlarged, crops, predictions, person)


def _tile_size(crops: EvalCrops) -> tuple[int, int]:
    height, width = crops.geometry.input_size
    return TILE_HEIGHT, round(TILE_HEIGHT * width / height)


def _image_to_tile(crops: EvalCrops, person: int) -> np.ndarray:
    tile, one = _tile_size(crops), slice(person, person + 1)
    return CropGeometry(tile, tile, crops.geometry.convention).image_to_crop(crops.center[one], crops.size[one])


def _drawn(picture: np.ndarray, crops: EvalCrops, predictions: Predictions, person: int) -> np.ndarray:
    """`picture`, a tile, with annotation and prediction drawn on it in place."""
    image_to_tile, truth = _image_to_tile(crops, person), crops.keypoints_image[person]
    for points, colour in ((truth[:, :2], TRUTH), (predictions.keypoints_image[person], None)):
        draw_joints(picture, transform(image_to_tile, points[None])[0], truth[:, 2] > 0, crops.skeleton, colour=colour)
    return picture
