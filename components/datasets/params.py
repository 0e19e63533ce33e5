"""The `data:` section of params/data.yaml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from components.base.errors import FarposeError, unknown_name
from components.pose.skeleton import DATASET_SKELETONS

READABLE = ("synthetic", "coco", "crowdpose")  # data sets whose annotations the fetch stage can read


def require_reader(dataset: str, where: object = None) -> None:
    """Refuse a data set that we know but cannot read yet.

    Raises:
        FarposeError: says so, and which can be read.
    """
    if dataset not in READABLE:
        known = f"{', '.join(READABLE[:-1])} or {READABLE[-1]}"
        fix = f"use {known}; variants of {dataset} can be listed, counted and filled with authors' weights"
        raise FarposeError(f"there is no reader for the data set {dataset!r} yet", where=where, fix=fix)


@dataclass(frozen=True)
class SplitFiles:
    """Where one split lies, relative to the data set's root data/<source>.

    Attributes:
        annotations: COCO keypoint file, `.json` or `.json.gz`.
        images: folder of the images.
    """

    annotations: str
    images: str


@dataclass(frozen=True)
class SourceFiles:
    """One data set.

    Attributes:
        splits: files of each split ("train", "val").
        manifest: committed list of SHA-256 digests of the raw files, relative to the repository; null: unchecked.
    """

    splits: dict[str, SplitFiles]
    manifest: str | None = None

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError("splits is empty, expected at least one split")


@dataclass(frozen=True)
class FilterParams:
    """Which persons the fetch stage leaves out. Boxes without an area inside their image are left out of every split.

    Attributes:
        min_keypoints: training persons with fewer labelled joints are left out (so crowd regions are, from 1 upwards).
        min_box_side_px: training persons whose box, cut to the image, has a shorter side below this are left out.
    """

    min_keypoints: int = 1
    min_box_side_px: float = 0.0


@dataclass(frozen=True)
class ValidationParams:
    """What the validate stage tolerates.

    Attributes:
        rounding_px: px by which a box or a joint may leave its image.
        keypoint_margin: distance by which a labelled joint may leave its box, as a share of the box's longer side.
        outlying_share: share of the persons that may have a joint further out than `rounding_px` or `keypoint_margin`.
        outlying_share_of: the same for data sets whose labels lie further out, by their name.
        threads: threads that decode the images.
    """

    rounding_px: float = 0.5
    keypoint_margin: float = 0.5
    outlying_share: float = 0.001
    outlying_share_of: dict[str, float] = field(default_factory=lambda: {"crowdpose": 0.01})
    threads: int = 4

    def __post_init__(self) -> None:
        for share in (self.outlying_share, *self.outlying_share_of.values()):
            if not 0 <= share < 1:
                raise ValueError(f"outlying_share is {share:g}, expected a share from 0 up to, not including, 1")
        if min(self.rounding_px, self.keypoint_margin) < 0:
            raise ValueError("rounding_px and keypoint_margin must not be negative")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}, expected at least 1")

    def of(self, source: str) -> ValidationParams:
        """What is tolerated in one data set."""
        return dataclasses.replace(self, outlying_share=self.outlying_share_of.get(source, self.outlying_share))


@dataclass(frozen=True)
class DataParams:
    """Which data set the pipeline runs on, and what is required of it.

    Attributes:
        source: the data set in use, one of `sources`.
        images: "required": a missing image file is an error; "drop_missing": images without a file are left out with
            their persons, and counted; "unchecked": no image file is opened (annotation-only tables).
    """

    source: str
    sources: dict[str, SourceFiles]
    images: Literal["required", "drop_missing", "unchecked"] = "required"
    filters: FilterParams = field(default_factory=FilterParams)
    validation: ValidationParams = field(default_factory=ValidationParams)

    def __post_init__(self) -> None:
        if self.source in DATASET_SKELETONS:
            require_reader(self.source, "source")
        if self.source not in self.sources:
            raise ValueError(str(unknown_name("source", self.source, self.sources)))
        known = {*self.sources, *DATASET_SKELETONS}
        for name in self.validation.outlying_share_of.keys() - known:
            raise ValueError(str(unknown_name("source", name, known, where="validation.outlying_share_of")))

    @property
    def files(self) -> SourceFiles:
        """Files of the source in use."""
        return self.sources[self.source]
