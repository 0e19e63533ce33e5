"""One picture that shows what a shard's protocol does to people of all heights, or to whole images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from components.degrade.image_shards import eval_image
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View, protocol
from components.degrade.regions import box_center_and_size
from components.degrade.shard import Source, eval_input
from components.pose.crop import transform
from components.pose.draw import draw_joints
from components.pose.persons import Persons

PANEL_HEIGHT = 224  # px of one picture on the sheet, before rounding to a multiple of the crop's height
CARDS_PER_ROW = 3
GAP, CAPTION, HEADER = 12, 26, 64
PAPER, INK, FAINT = (250, 250, 250), (40, 40, 40), (120, 120, 120)
LEGEND = "with joints: left blue, right orange"


def contact_sheet(source: Source, spec: ShardSpec, params: DegradeParams) -> np.ndarray:
    """(H, W, 3) uint8 RGB page of validation crops or images, evenly spread: the input as it is evaluated, and with its joints.

    Persons are sorted by height, the tallest first. Each caption gives the height of the person's box, px of the image. The native
    crop comes first, then the degraded one. Whole images are fitted by the short side.

    Args:
        source: its images lie under `data_root`.
    """
    persons = source.persons.split("val").labelled()
    if spec.images:
        assert source.images is not None
        rows: Any = source.images[source.images["split"] == "val"]
        title = f"{len(rows)} validation images, {len(persons)} labelled persons"
    else:
        rows = persons.select(np.argsort(-persons.bbox_xywh[:, 3], kind="stable"))
        low, middle, high = np.percentile(persons.bbox_xywh[:, 3], [5, 50, 95])
        title = f"{len(rows)} validation persons, heights {low:.0f} / {middle:.0f} / {high:.0f} px (5 / 50 / 95 %)"
    picked = np.unique(np.linspace(0, len(rows) - 1, min(params.contact_sheet_persons, len(rows))).round().astype(int))
    if spec.images:
        cards = [_image_card(persons, rows.iloc[row], source.data_root, spec, params) for row in picked]
    else:
        cards = [_card(rows, row, source.data_root, spec, params) for row in picked]
    widest = max(card.shape[1] for card in cards)
    cards = [np.pad(card, ((0, 0), (0, widest - card.shape[1]), (0, 0)), constant_values=PAPER[0]) for card in cards]
    panels = "Input" if spec.images else "Native | degraded"
    return _page(cards, f"{spec.name}   {title}", f"{protocol(spec.protocol).caption}.  {panels} | {LEGEND}")


def _card(persons: Persons, row: int, data_root: Path, spec: ShardSpec, params: DegradeParams) -> np.ndarray:
    frame = persons.frame.iloc[row]
    image = read_image(data_root / frame["image_path"], persons.upright)[..., ::-1]
    center, size = box_center_and_size(persons.bbox_xywh[[row]], spec)
    height, width = spec.input_size
    zoom = max(round(PANEL_HEIGHT / height), 1)
    matrix = spec.geometry("classic").image_to_crop(center, size)[0]
    ids = int(frame["image_id"]), int(frame["annotation_id"])
    crop = eval_input(image[..., ::-1], View(matrix, spec.input_size), spec.protocol, params, ids).transpose(1, 2, 0)
    enlarged = cv2.resize(crop, (width * zoom, height * zoom), interpolation=cv2.INTER_NEAREST)
    to_panel = zoom * matrix + np.array([[0, 0, (zoom - 1) / 2]] * 2)  # centres of pixels onto centres of squares
    reduction = cv2.INTER_AREA if to_panel[0, 0] < 1 else cv2.INTER_CUBIC
    native = _native(image, to_panel, enlarged.shape[:2], reduction)
    joints = transform(to_panel[None], persons.keypoints[[row], :, :2])[0]
    drawn = enlarged.copy()
    draw_joints(drawn, joints, persons.keypoints[row, :, 2] > 0, persons.skeleton)
    gap = np.full((height * zoom, GAP // 3, 3), PAPER, np.uint8)
    return _captioned(np.hstack([native, gap, enlarged, gap, drawn]), f"{persons.bbox_xywh[row, 3]:.0f} px tall")


def _native(image: np.ndarray, to_panel: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """The person's part of the original image at the panel's size, reduced by area means where it has more pixels."""
    if interpolation != cv2.INTER_AREA:
        return cv2.warpAffine(image, to_panel, (size[1], size[0]), flags=interpolation)
    factor = int(np.ceil(1 / to_panel[0, 0]))
    dense = factor * to_panel + np.array([[0, 0, (factor - 1) / 2]] * 2)
    big = cv2.warpAffine(image, dense, (size[1] * factor, size[0] * factor), flags=cv2.INTER_LINEAR)
    return cv2.resize(big, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def _image_card(persons: Persons, frame: pd.Series, data_root: Path, spec: ShardSpec, params: DegradeParams) -> np.ndarray:
    image_id, width, height = (int(frame[name]) for name in ("image_id", "image_width", "image_height"))
    image = read_image(data_root / str(frame["image_path"]), persons.upright)
    pixels = eval_image(image, spec, "short_side", params, image_id).transpose(1, 2, 0)
    zoom = PANEL_HEIGHT / max(pixels.shape[0], pixels.shape[1] / 2)
    size = max(round(zoom * pixels.shape[1]), 1), max(round(zoom * pixels.shape[0]), 1)
    shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_NEAREST)
    drawn = shown.copy()
    for keypoints in persons.keypoints[(persons.frame["image_id"] == image_id).to_numpy()]:
        joints = spec.image_geometry("short_side").image_to_heatmap(keypoints[:, :2], pixels.shape[:2], width, height)
        draw_joints(drawn, zoom * joints + (zoom - 1) / 2, keypoints[:, 2] > 0, persons.skeleton)
    gap = np.full((size[1], GAP // 3, 3), PAPER, np.uint8)
    panels = np.hstack([shown, gap, drawn])
    panels = np.pad(panels, ((0, max(PANEL_HEIGHT - size[1], 0)), (0, 0), (0, 0)), constant_values=PAPER[0])
    return _captioned(panels, f"{width}x{height} px, input {pixels.shape[1]}x{pixels.shape[0]}")


def _captioned(panels: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((CAPTION, panels.shape[1], 3), PAPER, np.uint8)
    _write(strip, text, (0, 18), 0.5, INK)
    return np.vstack([strip, panels])


def _page(cards: list[np.ndarray], title: str, subtitle: str) -> np.ndarray:
    height, width = cards[0].shape[:2]
    columns = min(CARDS_PER_ROW, len(cards))
    rows = -(-len(cards) // columns)
    page = np.full((HEADER + rows * (height + GAP) + GAP, max(columns * (width + 2 * GAP) + 2 * GAP, 760), 3), PAPER, np.uint8)
    _write(page, title, (2 * GAP, 28), 0.65, INK)
    _write(page, subtitle, (2 * GAP, 52), 0.48, FAINT)
    for number, card in enumerate(cards):
        top, left = HEADER + number // columns * (height + GAP), 2 * GAP + number % columns * (width + 2 * GAP)
        page[top : top + height, left : left + width] = card
    return page


def _write(canvas: np.ndarray, text: str, place: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
