"""Stage fetch: check the raw files, read them into the persons table, and filter and count unusable persons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.base.errors import FarposeError
from components.base.files import atomic_directory
from components.datasets.derived import RULES
from components.datasets.found_images import with_found
from components.datasets.ignored import CROWD, UNLABELLED, ignored_regions
from components.datasets.numbering import raises
from components.datasets.params import DEV, TRAIN, VAL, DataParams, FilterParams
from components.datasets.reader import AnnotationFile, read_split, reader_of, require_evaluator
from components.pose.ignored import IGNORED_FILE, IgnoredRegions
from components.pose.images import IMAGES_FILE, write_images
from components.pose.persons import Persons

PERSONS_FILE = "persons.parquet"


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split's annotations.

    Attributes:
        persons_read: annotations of persons in the file, of the split's images.
        removed: persons that each filter removed, in the order of the filters; each person counts for the first filter only.
        persons: rows of the table. Of these, `labelled` can be trained on or scored; the others (crowd regions, persons
            without labelled joints) are kept because COCO ignores detections matched to them.
        ignored: people in the images who are not labelled rows; bottom-up losses leave out their regions.
        boxes_cut: boxes that extended beyond their image and were cut to it.
        images: rows of the images table; `images_dropped` had no file, `images_repeated` were listed twice.
        other_categories: annotations of categories other than persons.
        images_matched: images whose file has nearly the annotated name, see `datasets.file_names`.
        derived: persons by the key that their annotations lack, see `datasets.derived`; empty where nothing is missing.
        left_out: what else of the file is not read: in words → how many.
        ids_raised: what was added to the file's ids of images and of annotations, see `datasets.numbering`.
    """

    persons_read: int
    removed: dict[str, int]
    persons: int
    labelled: int
    ignored: int
    boxes_cut: int
    images: int
    images_dropped: int
    images_repeated: int
    other_categories: int
    images_matched: int = 0
    derived: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    ids_raised: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class FetchSummary:
    """Counts of the fetch stage, per split."""

    source: str
    splits: dict[str, SplitSummary]

    def metrics(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def table(self) -> str:
        """The summary for the terminal: one column per split."""
        splits = list(self.splits.values())
        rows: list[tuple[str, list[int]]] = [("annotated persons read", [s.persons_read for s in splits])]
        rows += [(f"  removed: {reason}", [-s.removed[reason] for s in splits]) for reason in splits[0].removed]
        rows += [
            ("persons kept", [s.persons for s in splits]),
            ("  labelled (trained on or scored)", [s.labelled for s in splits]),
            ("  ignored by the evaluation", [s.persons - s.labelled for s in splits]),
            ("ignore regions of the images", [s.ignored for s in splits]),
            ("boxes cut to their image", [s.boxes_cut for s in splits]),
            ("images", [s.images for s in splits]),
            ("  dropped: file missing", [s.images_dropped for s in splits]),
            ("  repeated entries merged", [s.images_repeated for s in splits]),
            ("annotations of other categories", [s.other_categories for s in splits]),
        ]
        if any(s.images_matched for s in splits):
            rows.append(("  matched: file named alike", [s.images_matched for s in splits]))
        for key, rule in RULES.items():
            if any(key in s.derived for s in splits):
                rows.append((f"{key} missing: {rule}", [s.derived.get(key, 0) for s in splits]))
        for reason in sorted({reason for s in splits for reason in s.left_out}):
            rows.append((f"left out: {reason}", [s.left_out.get(reason, 0) for s in splits]))
        for place, kind in enumerate(("images", "annotations")):
            if any(s.ids_raised[place] for s in splits):
                rows.append((f"ids of {kind} raised, to be unique", [s.ids_raised[place] for s in splits]))
        width = max(34, *(len(label) + 1 for label, _ in rows))
        lines = [f"{self.source:{width}}" + "".join(f"{name:>10}" for name in self.splits)]
        return "\n".join(lines + [f"{label:{width}}" + "".join(f"{count:10d}" for count in counts) for label, counts in rows])


def fetch(params: DataParams, data_root: Path, out: Path, manifest: Path | None) -> FetchSummary:
    """Read the source's raw files and write `persons.parquet`, `images.parquet` and `ignored.parquet` into the directory `out`.

    Args:
        data_root: the data set's root, data/<source>.
        out: replaced as a whole on success, untouched on any error.
        manifest: committed digests that the raw files must match; None: unchecked.
    Raises:
        FarposeError: the annotations lack what the evaluator needs, raw files differ from the manifest, an annotation file cannot be read
            (see `read_split`), an image file is missing, or no labelled person is left in a split.
    """
    require_evaluator(params.source, params.files)
    if manifest is not None:
        from components.datasets.manifest import check_manifest

        check_manifest(data_root, manifest)
    persons, images, ignored, summaries = [], [], [], {}
    for split, read in _splits(params, data_root):
        kept, kept_images, regions, summaries[split] = _filtered(read, params, data_root, split)
        if not summaries[split].labelled:
            raise _empty(split, summaries[split], params, data_root)
        persons.append(kept)
        images.append(kept_images)
        ignored.append(regions.frame)
    summaries = _renumbered(persons, images, ignored, summaries, params)
    with atomic_directory(out) as directory:
        _concatenated(persons).write(directory / PERSONS_FILE)
        write_images(directory / IMAGES_FILE, pd.concat(images, ignore_index=True))
        IgnoredRegions(pd.concat(ignored, ignore_index=True)).write(directory / IGNORED_FILE)
    return FetchSummary(params.source, summaries)


def _empty(split: str, summary: SplitSummary, params: DataParams, data_root: Path) -> FarposeError:
    """No labelled person is left in a split."""
    removed = ", ".join(f"{count} {reason}" for reason, count in summary.removed.items() if count) or "none removed"
    problem = f"no labelled person is left in split {split!r} of {summary.persons_read} read ({removed})"
    ways = ["loosen data.filters in params/data.yaml"] if any(summary.removed.values()) else []
    for name, share in params.splits.made.items() if params.file_of(split) == TRAIN else ():
        if split in (name, TRAIN):
            ways.append(f"change data.splits.{name} (now {share:g} of the training images; 0: no such split)")
    where = data_root / params.files.splits[params.file_of(split)].annotations
    return FarposeError(problem, where=where, fix=" or ".join([*ways, "acquire other data"]))


def _renumbered(
    persons: list[Persons], images: list[pd.DataFrame], ignored: list[pd.DataFrame], summaries: dict[str, SplitSummary], params: DataParams
) -> dict[str, SplitSummary]:
    """Make ids unique over the splits, in place; the summaries that say so."""
    made_of = [params.file_of(split) for split in summaries]
    of_file: list[dict[str, list[pd.Series]]] = [{}, {}]
    for file, some, entries in zip(made_of, persons, images, strict=True):
        of_file[0].setdefault(file, []).append(entries.set_index("image_id")["image_path"])
        of_file[1].setdefault(file, []).append(some.frame.set_index("annotation_id")["image_path"])
    raised = [raises({file: pd.concat(parts) for file, parts in paths.items()}) for paths in of_file]
    for place, (file, split) in enumerate(zip(made_of, summaries, strict=True)):
        more = (raised[0][file], raised[1][file])
        if any(more):
            persons[place] = replace(persons[place], frame=_more(persons[place].frame, more))
            images[place], ignored[place] = _more(images[place], more), _more(ignored[place], more)
            summaries[split] = replace(summaries[split], ids_raised=more)
    return summaries


def _more(frame: pd.DataFrame, more: tuple[int, int]) -> pd.DataFrame:
    ids = dict(zip(("image_id", "annotation_id"), more, strict=True))
    return frame.assign(**{name: frame[name] + number for name, number in ids.items() if name in frame})


def _splits(params: DataParams, data_root: Path) -> Iterator[tuple[str, AnnotationFile]]:
    """The contents of every split; those that are made of the training images follow it."""
    for split in params.files.splits:
        read = read_split(params.source, params.files, data_root, split)
        if split != TRAIN or not params.splits.made:
            yield split, read
            continue
        image_ids = read.images["image_id"].to_numpy()
        choose = {DEV: in_dev, VAL: in_val}
        chosen = {name: image_ids[choose[name](params.source, image_ids, share)] for name, share in params.splits.made.items()}
        yield TRAIN, read.part(np.concatenate([*chosen.values()]), TRAIN, inverse=True)
        for name, ids in chosen.items():
            yield name, read.part(ids, name)


def in_dev(source: str, image_ids: np.ndarray, share: float) -> np.ndarray:
    """(M,) bool: which training images become development images.

    SHA-256 of "source/image id", as a fraction of its range, must be below the share. So the choice does not depend on the order,
    the other images or the machine, and a larger share contains the images of a smaller one.

    Args:
        source: the data set's name.
        image_ids: (M,) integers.
    """
    return np.array([number < share * 2**64 for number in _numbers(source, image_ids)], dtype=bool)


def in_val(source: str, image_ids: np.ndarray, share: float) -> np.ndarray:
    """(M,) bool: which training images become images of "val": as `in_dev`, from the other end of the range, so no image is in both."""
    return np.array([number >= (1 - share) * 2**64 for number in _numbers(source, image_ids)], dtype=bool)


def _numbers(source: str, image_ids: np.ndarray) -> list[int]:
    """From 0 to 2^64."""
    digests = (hashlib.sha256(f"{source}/{image_id}".encode()).digest() for image_id in image_ids.tolist())
    return [int.from_bytes(digest[:8], "big") for digest in digests]


def _filtered(
    read: AnnotationFile, params: DataParams, root: Path, split: str
) -> tuple[Persons, pd.DataFrame, IgnoredRegions, SplitSummary]:
    read, matched, hint = _matched(read, params, root, split)
    present = _present(read.images, params, root, hint)
    present_ids = read.images["image_id"].to_numpy()[present]
    persons, boxes_cut = _cut_to_image(read.persons)
    cut = persons
    if reader_of(params.source, params.files).boxes == "derived":
        persons, boxes_cut = read.persons, np.zeros(len(persons), dtype=bool)
    keep = np.ones(len(persons), dtype=bool)
    removed, fate = {}, np.full(len(persons), "", dtype=object)
    for reason, unfit in _unfit(read.persons, cut, params.filters, present_ids, split == TRAIN).items():
        removed[reason] = int((keep & unfit).sum())
        fate[keep & unfit] = reason
        keep &= ~unfit
    kept, images = persons.select(keep), read.images[present]
    ignored = ignored_regions(read.persons, read.records, _ignored(read.persons, fate, present_ids))
    return kept, images, ignored, SplitSummary(
        persons_read=len(persons),
        removed=removed,
        persons=len(kept),
        labelled=len(kept.labelled()),
        ignored=len(ignored),
        boxes_cut=int((boxes_cut & keep).sum()),
        images=len(images),
        images_dropped=int((~present).sum()),
        images_repeated=len(read.repeated),
        other_categories=len(read.others),
        images_matched=matched,
        derived={key: int(mask.sum()) for key, mask in read.derived.items()},
        left_out=read.left_out,
    )  # fmt: skip


def _matched(read: AnnotationFile, params: DataParams, root: Path, split: str) -> tuple[AnnotationFile, int, str]:
    """The same with the paths of files that are named nearly as annotated, their number, and in words what names are ambiguous."""
    if params.images == "unchecked":
        return read, 0, ""
    folder = params.files.splits[params.file_of(split)].images
    found, count, said = with_found(read, root, folder)
    return found, count, f"; {said}" if said else ""


def _present(images: pd.DataFrame, params: DataParams, root: Path, hint: str = "") -> np.ndarray:
    """(M,) bool: which image files exist or are not required."""
    if params.images == "unchecked":
        return np.ones(len(images), dtype=bool)
    present = np.array([(root / path).is_file() for path in images["image_path"]], dtype=bool)
    if params.images == "required" and not present.all():
        missing = images[~present]
        raise FarposeError(
            f"image file not found (image {missing['image_id'].iloc[0]}; {len(missing)} of {len(images)} in split "
            f"{missing['split'].iloc[0]!r} are missing){hint}",
            where=root / missing["image_path"].iloc[0],
            fix="acquire the images, or set data.images in params/data.yaml to drop_missing",
        )
    return present


def _cut_to_image(persons: Persons) -> tuple[Persons, np.ndarray]:
    """Boxes cut to their images; (N,) bool: which extended beyond. Boxes inside keep their exact numbers."""
    size = persons.frame[["image_width", "image_height"]].to_numpy(np.float64)
    near, far = persons.bbox_xywh[:, :2], persons.bbox_xywh[:, :2] + persons.bbox_xywh[:, 2:]
    beyond = ((near < 0) | (far > size)).any(axis=1)
    cut_near, cut_far = np.clip(near, 0, size), np.clip(far, 0, size)
    bbox_xywh = np.where(beyond[:, None], np.hstack([cut_near, cut_far - cut_near]), persons.bbox_xywh)
    return replace(persons, bbox_xywh=bbox_xywh), beyond


def _unfit(read: Persons, cut: Persons, filters: FilterParams, present_ids: np.ndarray, training: bool) -> dict[str, np.ndarray]:
    """Per filter, in order: (N,) bool, which persons it removes. Evaluation splits keep all persons that COCO's protocol needs."""
    # Persons whose stated count contradicts the flags are kept, so that the validate stage can report them.
    joints = np.maximum(read.frame["num_keypoints"].to_numpy(), (read.keypoints[:, read.skeleton.counted_mask, 2] > 0).sum(axis=1))
    shorter_side = cut.bbox_xywh[:, 2:].min(axis=1)
    return {
        "image file missing": ~np.isin(read.frame["image_id"], present_ids),
        "box without area": read.bbox_xywh[:, 2:].min(axis=1) == 0,
        "box outside its image": shorter_side == 0,
        "too few labelled joints": training & (joints < filters.min_keypoints),
        "box too small": training & (shorter_side < filters.min_box_side_px),
    }


def _ignored(read: Persons, fate: np.ndarray, present_ids: np.ndarray) -> np.ndarray:
    """(N,) text: why the person's region is ignored; empty for labelled rows and for missing images.

    As published for COCO (Cheng et al. 2020): crowd regions and persons without labelled joints. Persons that a
    filter removed are our addition: they are in the image but not trained on. CrowdPose's published masks are all ones: its crowd
    regions and unlabelled persons count as background, and persons with only head and neck labelled are trained on although the
    evaluation ignores them. We ignore all of these, as for COCO.
    """
    reasons = fate.copy()
    reasons[read.frame["num_keypoints"].to_numpy() == 0] = UNLABELLED
    reasons[read.frame["iscrowd"].to_numpy()] = CROWD
    reasons[~np.isin(read.frame["image_id"], present_ids)] = ""
    return reasons


def _concatenated(persons: list[Persons]) -> Persons:
    return replace(
        persons[0],
        frame=pd.concat([some.frame for some in persons], ignore_index=True),
        bbox_xywh=np.concatenate([some.bbox_xywh for some in persons]),
        keypoints=np.concatenate([some.keypoints for some in persons]),
    )
