"""The bound of a decoder: the highest AP that any maps can have through it, whatever network outputs them.

Each joint is put at the nearest point that the decoder could give for any map (`codec.nearest`), every person is found and
nothing else, and persons are ranked by their OKS. The rest up to 1 is lost to the decoder's resolution and to the border of the
crop or input. The AP of the method's own targets is another number: they are one map among many, they may decode to less, and
they do not rank persons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from components.codecs.codec import CropCodec, ImageCodec
from components.evaluate.matching import PAIRS_PER_CHUNK, object_keypoint_similarity, pair_rows
from components.evaluate.predict import CropTable
from components.evaluate.predictions import Predictions
from components.pose.crop import BOX_PADDING, transform
from components.pose.persons import Persons
from components.pose.whole_image import ImageGeometry

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages


def crop_bound(codec: CropCodec, persons: Persons, crops: CropTable) -> tuple[Predictions, np.ndarray]:
    """The best predictions that maps of these crops could decode to, one per person, and their scores; for `oks.evaluate`.

    Each person takes the crop of its image that places it best, because a network may find a neighbour in a crop. So no
    prediction is nearer to another person than that person's own, and ranking by OKS is optimal for every threshold.

    Args:
        persons: all rows of the split; the labelled ones on the crops' images are found.
        crops: image, centre and size of each crop.
    """
    crop_image = np.asarray(crops.image_id, np.int64)
    images = np.unique(crop_image)
    labelled, owner = _on(images, persons)
    rows = np.argsort(crop_image, kind="stable")
    pair_crop, pair_person = pair_rows(np.searchsorted(images, crop_image[rows]), owner, len(images))
    oks, found = np.full(len(labelled), -1.0), np.zeros((*labelled.keypoints.shape[:2], 2))
    for start in range(0, len(pair_crop), PAIRS_PER_CHUNK):
        part = slice(start, start + PAIRS_PER_CHUNK)
        crop, person = rows[pair_crop[part]], pair_person[part]
        points = crop_positions(codec, labelled.keypoints[person, :, :2], crops.center[crop], crops.size[crop])
        similarity = _similarity(points, labelled, person)
        best = np.lexsort((similarity, person))
        best = best[np.append(person[best][1:] != person[best][:-1], True)]  # each person's highest of the chunk
        best = best[similarity[best] > oks[person[best]]]
        oks[person[best]], found[person[best]] = similarity[best], points[best]
    return _predictions(labelled, found), oks


def image_bound(codec: ImageCodec, images: EvalImages) -> tuple[Predictions, np.ndarray]:
    """The best predictions that maps of whole images could decode to and their scores, as in `crop_bound`; grouping is given."""
    labelled, owner = _on(np.unique(images.image_id), images.persons)
    rows = np.argsort(images.image_id, kind="stable")
    found = np.zeros((*labelled.keypoints.shape[:2], 2))
    for place in np.unique(owner):
        own, row = owner == place, int(rows[place])
        joints = labelled.keypoints[own, :, :2]
        found[own] = image_positions(codec, joints, images.geometry, int(images.width[row]), int(images.height[row]))
    return _predictions(labelled, found), _similarity(found, labelled, np.arange(len(labelled)))


def crop_positions(codec: CropCodec, keypoints_image: np.ndarray, center: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(N, K, 2) the nearest points, image px, that decoding the crops could give for (N, K, 2) joints in image px.

    Args:
        center, size: (N, 2) of the crops, image px.
    """
    center, size = np.asarray(center, np.float64), np.asarray(size, np.float64)
    crop = transform(codec.geometry.image_to_crop(center, size), np.asarray(keypoints_image, np.float64))
    cells = codec.nearest(torch.from_numpy(codec.geometry.crop_to_heatmap(crop)))
    return codec.geometry.heatmap_to_image(cells.numpy(), center, size)


def image_positions(codec: ImageCodec, keypoints_image: np.ndarray, geometry: ImageGeometry, width: int, height: int) -> np.ndarray:
    """(N, K, 2) the nearest points, image px, that decoding at the input's size could give for (N, K, 2) joints of one image."""
    size = geometry.input_size(width, height)
    cells = np.ascontiguousarray(geometry.image_to_heatmap(np.asarray(keypoints_image, np.float64), size, width, height))
    return geometry.heatmap_to_image(codec.nearest(torch.from_numpy(cells), size).numpy(), size, width, height)


def _on(images: np.ndarray, persons: Persons) -> tuple[Persons, np.ndarray]:
    """The labelled persons on `images` (ascending), by image, and (P,) index of each one's image."""
    labelled = persons.labelled()
    image = labelled.frame["image_id"].to_numpy(np.int64)
    rows = np.flatnonzero(np.isin(image, images))
    rows = rows[np.argsort(image[rows], kind="stable")]
    return labelled.select(rows), np.searchsorted(images, image[rows])


def _similarity(keypoints_image: np.ndarray, persons: Persons, rows: np.ndarray) -> np.ndarray:
    areas, sigmas = persons.frame["area"].to_numpy(np.float64)[rows], np.asarray(persons.skeleton.sigmas)
    return object_keypoint_similarity(keypoints_image, persons.keypoints[rows], areas, persons.bbox_xywh[rows], sigmas)


def _predictions(persons: Persons, keypoints_image: np.ndarray) -> Predictions:
    image_id, annotation_id = (persons.frame[name].to_numpy(np.int64) for name in ("image_id", "annotation_id"))
    areas = BOX_PADDING**2 * persons.bbox_xywh[:, 2:].prod(1)
    ones = np.ones(keypoints_image.shape[:2])
    return Predictions(image_id, annotation_id, keypoints_image, ones, np.ones(len(persons)), persons.bbox_xywh, areas)
