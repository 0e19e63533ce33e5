"""Checks of variants that find all persons of whole images: geometry, flips and grouping on the persons table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from components import codecs
from components.codecs.codec import as_image_codec
from components.degrade.image_shards import EvalImages
from components.degrade.params import ShardSpec
from components.evaluate.approach import Check
from components.evaluate.assignment import assign
from components.evaluate.bound import image_bound
from components.evaluate.targets import perfect_persons
from components.evaluate.verify import flip_twice, targets_reach
from components.models.variant import Variant
from components.pose.persons import Persons
from components.pose.whole_image import ImageGeometry

MAX_IMAGES = 100  # images on which codecs are tried: perfect maps of whole images cost a tenth of a second each
SAME_PERSON = 0.5  # OKS from which on a person counts as found again
FOUND_SHARE = 0.5  # of the persons; fewer mean that the maps are too coarse for these people


def checks(variant: Variant, persons: Persons) -> Iterator[Check]:
    """All of one variant, on some images."""
    codec = as_image_codec(codecs.build(variant.codec_name, variant.geometry(), persons.skeleton, **variant.codec))
    images = _without_pixels(persons, ImageGeometry(variant.input_size[0]))
    yield _geometry_round_trip(variant.name, images)
    yield flip_twice(variant.name, codec)
    perfect = perfect_persons(codec, images)
    oks, _ = assign(images.persons.labelled(), perfect[0])
    found = float((oks > SAME_PERSON).mean()) if len(oks) else 1.0
    yield Check(f"{variant.name}: targets group into the persons", found >= FOUND_SHARE, f"{found:.1%} of {len(oks)} persons found again")
    yield targets_reach(variant, images.persons, perfect, image_bound(codec, images), images.image_id)


def images_follow_the_table(name: str, images: EvalImages, persons: Persons) -> Check:
    """A shard of images holds the persons of the table, and every image that they are in."""
    title, theirs = f"{name}: images follow the persons table", images.persons
    missing = np.setdiff1d(persons.frame["image_id"].unique(), images.image_id)
    same = len(theirs) == len(persons) and np.array_equal(theirs.keypoints, persons.keypoints)
    same = same and np.array_equal(theirs.bbox_xywh, persons.bbox_xywh) and not len(missing)
    return Check(title, bool(same), f"{len(images)} images" if same else "persons differ: run the degrade stage again")


def _geometry_round_trip(name: str, images: EvalImages) -> Check:
    worst = 0.0
    for row, size in enumerate(images.input_sizes.tolist()):
        width, height = int(images.width[row]), int(images.height[row])
        corners = np.array([[0.0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
        cells = images.geometry.image_to_heatmap(corners, tuple(size), width, height)
        back = images.geometry.heatmap_to_image(cells, tuple(size), width, height)
        inside = (cells > -1).all() and (cells <= [size[1], size[0]]).all()
        worst = max(worst, float(np.abs(back - corners).max()), 0.0 if inside else np.inf)
    return Check(f"{name}: image → heatmap and back, nothing cut off", worst < 1e-6, f"largest error {worst:.1e} px")


def _without_pixels(persons: Persons, geometry: ImageGeometry) -> EvalImages:
    """Up to `MAX_IMAGES` images with labelled persons, evenly spread over the table; only their sizes are known."""
    frame = persons.labelled().frame.drop_duplicates("image_id")
    frame = frame.iloc[:: max(-(-len(frame) // MAX_IMAGES), 1)]
    ids, paths = frame["image_id"].to_numpy(np.int64), frame["image_path"].to_numpy(dtype=object)
    width, height = frame["image_width"].to_numpy(np.int64), frame["image_height"].to_numpy(np.int64)
    sizes = np.array([geometry.input_size(int(w), int(h)) for w, h in zip(width, height, strict=True)]).reshape(-1, 2)
    kept = persons.select(persons.frame["image_id"].isin(ids).to_numpy())
    nothing, offsets = np.zeros(0, np.uint8), np.zeros(len(ids), np.int64)
    return EvalImages(ids, paths, width, height, sizes, kept, persons.skeleton, geometry, ShardSpec.protocol, nothing, offsets)
