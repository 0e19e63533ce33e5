"""The `data:` section of params/data.yaml."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from components.base.errors import FarposeError, unknown_name
from components.base.records import modules
from components.pose.skeleton import Skeleton
from components.pose.sources import SECTION, SOURCES_FILE, entries, mapped, spelled_out

READERS = "components.datasets.readers"  # one module per `format`
TRAIN, DEV, VAL = "train", "dev", "val"
MANIFESTS = PurePosixPath("params/manifests")


def formats() -> list[str]:
    """Names of the supported forms of annotation files."""
    return [module.rpartition(".")[2] for module in modules(READERS)]


def require_reader(dataset: str, where: object = None) -> None:
    """Refuse a data set of params/data.yaml whose form of annotations has no reader yet.

    Raises:
        FarposeError: there is no reader (names the supported data sets), or no such data set.
    """
    known = entries()
    if dataset not in known:
        raise unknown_name("data set", dataset, known, where=where or f"{SOURCES_FILE}: {SECTION}")
    require_format(dataset, str(known[dataset].get("format")), where)


def require_format(dataset: str, form: str, where: object = None) -> None:
    """Refuse a data set whose `format` has no reader.

    Raises:
        FarposeError: there is no reader; names the supported data sets.
    """
    if form not in formats():
        readable = [name for name, entry in entries().items() if entry.get("format") in formats()]
        known = " or ".join(filter(None, (", ".join(readable[:-1]), readable[-1] if readable else "")))
        problem = f"there is no reader for the data set {dataset!r} yet (format {form!r}, known: {', '.join(formats())})"
        fix = f"use {known}; variants of {dataset} can be listed, counted and filled with authors' weights"
        raise FarposeError(problem, where=where, fix=fix)


@dataclass(frozen=True)
class SplitFiles:
    """Files of one split, relative to the data set's root data/<source>.

    Attributes:
        annotations: file in the form that the entry's `format` says, such as a COCO keypoint file, `.json` or `.json.gz`.
        images: folder of the images.
    """

    annotations: str
    images: str


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of one data set, which replace those of `ValidationParams`; None: not replaced."""

    rounding_px: float | None = None
    keypoint_margin: float | None = None
    outlying_share: float | None = None


@dataclass(frozen=True)
class SourceParams:
    """One data set, an entry of `data.sources`.

    Attributes:
        format: the module of `components.datasets.readers` that reads its annotation files.
        skeleton: a known skeleton's name, or the fields of a `Skeleton`.
        evaluator: the benchmark's numbers, see `evaluate.evaluators`.
        splits: files of each split ("train", "val").
        mapping: name of a `pose.mapping` from `skeleton`, which the files have, to the joints that the persons table gets; None: the same.
        manifest: committed list of SHA-256 digests of the raw files, relative to the repository; null: unchecked.
        orientation: "stored": annotations refer to the stored pixels, as COCO's do; "upright": to the images as viewers turn them by EXIF.
        person_category: name, id or ids of the persons' category.
        file_joints: the files' names of the joints, in the order of the skeleton; None: the skeleton's own, however they are written;
            empty: the files name none, and their joints are the skeleton's in its order.
        tolerances: take precedence over `validation`.
        origin: folder, archive, address or s3:// prefix from which new data come (`farpose ingest`, the nightly flow); None: nowhere.
        description, licence: for readers.
    """

    format: str
    skeleton: Any
    evaluator: Literal["oks", "crowdpose", "wholebody", "pckh"]
    splits: dict[str, SplitFiles] = field(default_factory=dict)
    manifest: str | None = None
    orientation: Literal["stored", "upright"] = "stored"
    mapping: str | None = None
    person_category: str | int | tuple[int, ...] = "person"
    file_joints: tuple[str, ...] | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)
    origin: str | None = None
    description: str = "A data set of one's own."
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.manifest is not None and PurePosixPath(self.manifest).parent != MANIFESTS:
            raise ValueError(f"manifest is {self.manifest!r}, expected a file in {MANIFESTS}, or null")
        if self.person_category == ():
            raise ValueError("person_category is an empty list, expected a name, an id or ids")

    def skeleton_named(self, name: str) -> Skeleton:
        """The data set's joints.

        Args:
            name: of the data set.
        Raises:
            FarposeError: an unknown name, or a skeleton spelled out wrongly.
        """
        return spelled_out(name, self.skeleton, f"params/data.yaml: {SECTION}.{name}.skeleton")

    def table_skeleton(self, name: str) -> Skeleton:
        """The joints of the persons table: those of the files, or those that they are mapped to.

        Raises:
            FarposeError: as `skeleton_named`; an unknown mapping, or one from other joints.
        """
        return mapped(name, self.skeleton_named(name), self.mapping, f"params/data.yaml: {SECTION}.{name}.mapping")


@dataclass(frozen=True)
class SplitShares:
    """Splits made from other splits.

    Attributes:
        dev: share of the training images that become the split "dev", from 0 (no such split) up to, not including, 1.
        val: the same for "val", of a data set all of whose images are in one file. Together they are less than 1.
    """

    dev: float = 0.0
    val: float = 0.0

    def __post_init__(self) -> None:
        for name, share in self.made.items():
            if not 0 < share < 1:
                raise ValueError(f"{name} is {share:g}, expected a share from 0 up to, not including, 1")
        if self.dev + self.val >= 1:
            raise ValueError(f"dev and val are {self.dev:g} and {self.val:g}, which leaves no training images")

    @property
    def made(self) -> dict[str, float]:
        """Split that is made of the training images → its share."""
        return {name: share for name, share in ((DEV, self.dev), (VAL, self.val)) if share}


@dataclass(frozen=True)
class FilterParams:
    """Filters of the fetch stage. Persons whose box has no area inside its image are removed from every split.

    Attributes:
        min_keypoints: training persons with fewer labelled joints are removed (from 1 on, this includes crowd regions).
        min_box_side_px: training persons are removed if their box, cut to the image, has a shorter side below this.
    """

    min_keypoints: int = 1
    min_box_side_px: float = 0.0


@dataclass(frozen=True)
class ValidationParams:
    """Tolerances of the validate stage.

    Attributes:
        rounding_px: px by which a box or a joint may lie outside its image.
        keypoint_margin: distance by which a labelled joint may lie outside its box, as a share of the box's longer side.
        outlying_share: share of the persons that may have a joint further out than `rounding_px` or `keypoint_margin`.
        threads: threads that decode the images.
    """

    rounding_px: float = 0.5
    keypoint_margin: float = 0.5
    outlying_share: float = 0.001
    threads: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.outlying_share < 1:
            raise ValueError(f"outlying_share is {self.outlying_share:g}, expected a share from 0 up to, not including, 1")
        if min(self.rounding_px, self.keypoint_margin) < 0:
            raise ValueError("rounding_px and keypoint_margin must not be negative")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}, expected at least 1")

    def of(self, source: SourceParams) -> ValidationParams:
        """The tolerances for one data set."""
        own = {name: value for name, value in dataclasses.asdict(source.tolerances).items() if value is not None}
        return dataclasses.replace(self, **own)


@dataclass(frozen=True)
class DataParams:
    """The pipeline's data set and its requirements.

    Attributes:
        source: the data set in use, one of `sources`.
        splits: share of the training images that becomes the split "dev".
        images: "required": a missing image file is an error; "drop_missing": images without a file are left out with
            their persons, and counted; "unchecked": no image file is opened (annotation-only tables).
    """

    source: str
    sources: dict[str, SourceParams]
    images: Literal["required", "drop_missing", "unchecked"] = "required"
    splits: SplitShares = field(default_factory=SplitShares)
    filters: FilterParams = field(default_factory=FilterParams)
    validation: ValidationParams = field(default_factory=ValidationParams)

    def __post_init__(self) -> None:
        if self.source not in self.sources:
            raise ValueError(str(unknown_name("source", self.source, self.sources)))
        for name, source in self.sources.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"the source {name!r} needs a name of letters, digits, _ and -")
            source.table_skeleton(name)
            try:
                self.validation.of(source)
            except ValueError as error:
                raise ValueError(f"sources.{name}.tolerances: {error}") from None
        self._check_source_in_use()

    def _check_source_in_use(self) -> None:
        source = self.sources[self.source]
        require_format(self.source, source.format, f"source {self.source}")
        if not source.splits:
            raise ValueError(f"sources.{self.source}.splits is empty, expected at least one split")
        for made in self.splits.made:
            if made in source.splits:
                raise ValueError(f"sources.{self.source} has files of a split {made!r}: set splits.{made} to 0")

    @property
    def files(self) -> SourceParams:
        """The source in use."""
        return self.sources[self.source]

    @property
    def split_names(self) -> list[str]:
        """Splits of the tables: those of the source's files and, after "train", those made from it."""
        return [name for split in self.files.splits for name in ([TRAIN, *self.splits.made] if split == TRAIN else [split])]

    def file_of(self, split: str) -> str:
        """The split whose file holds a split of the tables."""
        return TRAIN if split in self.splits.made else split
