"""The bound of a decoder: no maps, whatever network outputs them, have a higher AP through it.

Each joint is put at the nearest point that the decoder could give for any map (`codec.nearest`), every person is found, nothing else
is, and persons are ranked by their OKS. What is below 1 is lost to the decoder's resolution and to the crop's or input's border. The
AP of the method's own targets is another number: they are one map among many, they may decode to less, and they do not rank persons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from components.codecs.codec import CropCodec, ImageCodec
from components.evaluate.matching import PAIRS_PER_CHUNK, Matches, object_keypoint_similarity, pair_rows
from components.evaluate.oks import AREA_RANGES, MAX_DETECTIONS, THRESHOLDS, ranges_of, summarise
from components.evaluate.predict import CropTable
from components.pose.crop import transform
from components.pose.persons import Persons
from components.pose.whole_image import ImageGeometry

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages

ROUNDING = 1e-6  # of an OKS: decoders compute in single precision


def crop_bound(codec: CropCodec, persons: Persons, crops: CropTable, image_ids: np.ndarray | None = None) -> dict[str, float]:
    """The ten COCO numbers that no maps can exceed on these crops; -1 where there is no person to be found.

    A person's best OKS is taken over all crops of its image, because a network may see a neighbour in a crop.

    Args:
        persons: all rows of the split, as in `oks.evaluate`.
        crops: centre, size and image of each crop.
        image_ids: images to score; None takes those of `persons`.
    """
    images, labelled, owner = _scored(persons, image_ids)
    crop_image = np.asarray(crops.image_id, np.int64)
    rows = np.flatnonzero(np.isin(crop_image, images))
    place = np.searchsorted(images, crop_image[rows])
    rows, place = rows[np.argsort(place, kind="stable")], np.sort(place)
    pair_crop, pair_person = pair_rows(place, owner, len(images))
    best = np.zeros(len(labelled))
    for start in range(0, len(pair_crop), PAIRS_PER_CHUNK):
        part = slice(start, start + PAIRS_PER_CHUNK)
        crop, person = rows[pair_crop[part]], pair_person[part]
        found = crop_positions(codec, labelled.keypoints[person, :, :2], crops.center[crop], crops.size[crop])
        np.maximum.at(best, person, _similarity(found, labelled, person))
    return _summary(best, images, labelled, owner)


def crop_positions(codec: CropCodec, keypoints_image: np.ndarray, center: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(N, K, 2) the nearest points, image px, that decoding the crops could give for (N, K, 2) joints in image px.

    Args:
        center, size: (N, 2) of the crops, image px.
    """
    center, size = np.asarray(center, np.float64), np.asarray(size, np.float64)
    crop = transform(codec.geometry.image_to_crop(center, size), np.asarray(keypoints_image, np.float64))
    cells = codec.nearest(torch.from_numpy(codec.geometry.crop_to_heatmap(crop)))
    return codec.geometry.heatmap_to_image(cells.numpy(), center, size)


def image_bound(codec: ImageCodec, images: EvalImages) -> dict[str, float]:
    """The ten COCO numbers that no maps can exceed on whole images, grouping given: every joint belongs to its person."""
    scored, labelled, owner = _scored(images.persons, images.image_id)
    rows = np.searchsorted(images.image_id, scored, sorter=np.argsort(images.image_id, kind="stable"))
    rows = np.argsort(images.image_id, kind="stable")[rows]
    found = np.zeros((*labelled.keypoints.shape[:2], 2))
    for place in np.unique(owner):
        own, row = owner == place, int(rows[place])
        found[own] = image_positions(
            codec, labelled.keypoints[own, :, :2], images.geometry, int(images.width[row]), int(images.height[row])
        )
    return _summary(_similarity(found, labelled, np.arange(len(labelled))), scored, labelled, owner)


def image_positions(codec: ImageCodec, keypoints_image: np.ndarray, geometry: ImageGeometry, width: int, height: int) -> np.ndarray:
    """(N, K, 2) the nearest points, image px, that decoding at the input's size could give for (N, K, 2) joints of one image."""
    size = geometry.input_size(width, height)
    cells = np.ascontiguousarray(geometry.image_to_heatmap(np.asarray(keypoints_image, np.float64), size, width, height))
    return geometry.heatmap_to_image(codec.nearest(torch.from_numpy(cells), size).numpy(), size, width, height)


def _scored(persons: Persons, image_ids: np.ndarray | None) -> tuple[np.ndarray, Persons, np.ndarray]:
    """Images, ascending; their labelled persons by image, and (P,) index of each one's image."""
    images = np.unique(persons.frame["image_id"].to_numpy() if image_ids is None else np.asarray(image_ids, np.int64))
    labelled = persons.labelled()
    image = labelled.frame["image_id"].to_numpy(np.int64)
    rows = np.flatnonzero(np.isin(image, images))
    rows = rows[np.argsort(image[rows], kind="stable")]
    return images, labelled.select(rows), np.searchsorted(images, image[rows])


def _similarity(keypoints_image: np.ndarray, persons: Persons, rows: np.ndarray) -> np.ndarray:
    areas, sigmas = persons.frame["area"].to_numpy(np.float64)[rows], np.asarray(persons.skeleton.sigmas)
    return object_keypoint_similarity(keypoints_image, persons.keypoints[rows], areas, persons.bbox_xywh[rows], sigmas)


def _summary(oks: np.ndarray, images: np.ndarray, persons: Persons, owner: np.ndarray) -> dict[str, float]:
    """The ten numbers if each person is found with its OKS (P,), the best ranked first and nothing else is detected."""
    order = np.lexsort((-oks, owner))
    first = np.searchsorted(owner, np.arange(len(images)))
    kept = order[np.arange(len(order)) - first[owner[order]] < MAX_DETECTIONS] if len(order) else order
    kept = kept[np.argsort(-oks[kept], kind="stable")]
    frame = persons.frame
    sizes = frame["area_range_px2" if "area_range_px2" in frame else "area"].to_numpy(np.float64)
    outside = ranges_of(sizes, sizes[kept], tuple(AREA_RANGES.values()))
    matched = np.broadcast_to(oks[kept] + ROUNDING >= THRESHOLDS[:, None], (len(AREA_RANGES), len(THRESHOLDS), len(kept)))
    ignored = outside.predictions_outside[:, None] | ~matched
    positives = np.stack([np.bincount(owner[~mask], minlength=len(images)) for mask in outside.persons_outside])
    return summarise(Matches(images, owner[kept], oks[kept], matched, ignored, positives))
