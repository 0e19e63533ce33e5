"""`predict`: a trained variant on images of your own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import read_json, write_json
from pipelines import paths, settings, stages

Boxes = dict[int, np.ndarray]  # image number -> (N, 4) left, top, width, height, px of the image


@dataclass(frozen=True)
class Photograph:
    """A user's image file, upright.

    Attributes:
        path: the file.
        width, height: px of the upright image.
        turned: the file's EXIF orientation turns or mirrors the stored pixels.
    """

    path: Path
    width: int
    height: int
    turned: bool

    @classmethod
    def of(cls, path: Path) -> Photograph:
        """Open a file.

        Raises:
            FarposeError: it is damaged or not an image.
        """
        from components.degrade.images import read_image

        try:
            upright, stored = read_image(path, upright=True), read_image(path)
        except FarposeError as error:  # its advice is about data sets
            raise FarposeError(error.problem, where=path, fix="give another file, or this one in another format") from error
        return cls(path, upright.shape[1], upright.shape[0], not np.array_equal(upright, stored))

    @property
    def record(self) -> dict[str, Any]:
        return {"file": str(self.path), "width": self.width, "height": self.height, "turned": self.turned}


def predict(options: argparse.Namespace) -> None:
    """Write predictions.json (COCO results), images.json (which number is which file) and one drawing per image.

    All coordinates are px of the upright image, as viewers show it. Every image is read before anything is written.
    """
    from components.approaches import approach
    from components.degrade.images import read_image
    from components.evaluate.approach import Files
    from components.evaluate.predictions import write_coco_results
    from components.models import zoo
    from components.models.weights import read_metadata
    from components.pose.draw import write_png

    files = _unique(options.images)
    variant = zoo.variant(options.variant)
    shown = approach(variant.approach)
    if options.boxes and not shown.takes_boxes:
        raise FarposeError("the variant finds the persons of whole images and takes no boxes", where=variant.name, fix="remove --boxes")
    weights = options.weights or weights_of(variant.name)
    drawings = _drawings(options.output, files.values())
    photographs = {number: Photograph.of(path) for number, path in files.items()}
    built, params = stages.trained(variant, weights), settings.evaluation()
    boxes = _boxes(options.boxes, photographs) if shown.takes_boxes else None
    if boxes is not None and not any(map(len, boxes.values())):
        raise FarposeError("no box belongs to one of these images", where=options.boxes, fix="boxes are matched by file name")
    given = Files(files, boxes, _spec(shown, variant), settings.degrade())
    found, scores = shown.find(built, given, params, stages.device_name())
    of = str(options.boxes or "whole image") if shown.takes_boxes else "none"
    provenance = {"variant": variant.name, "weights": read_metadata(weights), "boxes": of}
    write_coco_results(options.output / "predictions.json", found, scores, provenance)
    write_json(options.output / "images.json", {number: photograph.record for number, photograph in photographs.items()})
    drawn = (shown.draw_above if options.draw_above is None else options.draw_above) < scores
    for number, path in files.items():
        rows = found.image_id == number
        strong = rows & drawn
        picture = shown.picture(read_image(path, upright=True)[..., ::-1], found.select(strong), scores[strong], built, params)
        write_png(drawings[path], picture)
    hidden = f", {len(found) - int(drawn.sum())} of them too weak to be drawn" if not drawn.all() else ""
    print(f"{len(found)} persons in {len(files)} images{hidden}: {options.output}/predictions.json and one .png per image")


def _unique(images: list[Path]) -> dict[int, Path]:
    """Images by the number that COCO's file names carry, or counted from 1 if they do not all carry one of their own."""
    for path in images:
        if not path.is_file():
            raise FarposeError("image not found", where=path, fix="give the path of an image file")
    stems = [path.stem for path in images]
    if len(set(stems)) != len(stems):
        raise FarposeError("two images have the same name, and their drawings would overwrite each other", where="IMAGE", fix="rename one")
    numbers = [int(stem) for stem in stems] if all(stem.isdecimal() for stem in stems) else []
    if len(set(numbers)) != len(stems):
        numbers = list(range(1, len(images) + 1))
    return dict(zip(numbers, images, strict=True))


def _drawings(output: Path, images: Iterable[Path]) -> dict[Path, Path]:
    """Where each image's drawing goes.

    Raises:
        FarposeError: the output is not a folder, or a drawing would replace an image.
    """
    if output.exists() and not output.is_dir():
        raise FarposeError("not a folder", where=output, fix="give another one as --output")
    places = {path: output / f"{path.stem}.png" for path in images}
    kept = {path.resolve() for path in places}
    for place in places.values():
        if place.resolve() in kept:
            raise FarposeError("the drawing would replace the image", where=place, fix="give another folder as --output")
    return places


def weights_of(name: str) -> Path:
    """The variant's weights: the pipeline's, or those of `farpose train` in scratch/."""
    for folder in (paths.MODELS / name, paths.SCRATCH / name / "model"):
        if (folder / "model.safetensors").is_file():
            return folder / "model.safetensors"
    trained = sorted(path.parent.name for path in paths.MODELS.glob("*/model.safetensors"))
    raise FarposeError(f"variant {name!r} is not trained", fix=f"`farpose train {name}`; trained: {', '.join(trained) or 'none'}")


def _spec(shown: Any, variant: Any) -> Any:
    """How inputs of the variant are made: as the shards it was trained on, or directly."""
    pipeline = settings.load()
    plan = pipeline.variants.get(variant.name)
    return pipeline.shards[plan.shards] if plan else shown.spec(variant)


def _boxes(path: Path | None, photographs: dict[int, Photograph]) -> Boxes:
    """Boxes by image number, from a COCO annotation file (matched by file name) or a list of COCO detections (by image id)."""
    from components.evaluate.predictions import read_detections

    if path is None:
        print("no --boxes given: each whole image is taken as one person's box")
        return {number: np.array([[0.0, 0.0, shown.width, shown.height]]) for number, shown in photographs.items()}
    value = read_json(path)
    if isinstance(value, list):
        found = read_detections(path)
        return {number: found.bbox_xywh[found.image_id == number] for number in photographs}
    try:
        names = {record["id"]: Path(record["file_name"]).name for record in value["images"]}
        rows = [(names[record["image_id"]], record["bbox"]) for record in value["annotations"] if not record.get("iscrowd")]
        names_of = {number: photograph.path.name for number, photograph in photographs.items()}
        return {number: np.array([box for name, box in rows if name == own], float).reshape(-1, 4) for number, own in names_of.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise FarposeError(
            f"neither COCO annotations nor COCO detections: {error!r}", where=path, fix="see docs of COCO's format"
        ) from error
