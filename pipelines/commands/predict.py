"""`predict`: a trained variant on images of your own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import read_json, write_json
from pipelines import paths, settings, stages
from pipelines.commands import drawing

Boxes = dict[int, np.ndarray]  # image number -> (N, 4) left, top, width, height, px of the image
DRAW_ABOVE = 0.1  # score below which a bottom-up person is not drawn: a few weak joints that fit nobody else


@dataclass(frozen=True)
class Photograph:
    """An image file as it is meant to be looked at.

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
        """Look at a file.

        Raises:
            FarposeError: it is damaged or no image.
        """
        from components.degrade.images import read_image

        try:
            upright, stored = read_image(path, upright=True), read_image(path)
        except FarposeError as error:  # whose advice is about data sets
            raise FarposeError(error.problem, where=path, fix="give another file, or this one in another format") from error
        return cls(path, upright.shape[1], upright.shape[0], not np.array_equal(upright, stored))

    @property
    def record(self) -> dict[str, Any]:
        return {"file": str(self.path), "width": self.width, "height": self.height, "turned": self.turned}


def predict(options: argparse.Namespace) -> None:
    """Write predictions.json (COCO results), images.json (which number is which file) and one drawing per image.

    All coordinates are px of the upright image, as viewers show it. Every image is read before anything is written.
    """
    from components.evaluate.predictions import write_coco_results
    from components.models import zoo
    from components.models.weights import read_metadata

    files = _unique(options.images)
    variant = zoo.variant(options.variant)
    if variant.bottom_up and options.boxes:
        raise FarposeError("bottom-up variants find the persons themselves and take no boxes", where=variant.name, fix="remove --boxes")
    weights = options.weights or weights_of(variant.name)
    drawings = _drawings(options.output, files.values())
    photographs = {number: Photograph.of(path) for number, path in files.items()}
    built, params = stages.trained(variant, weights), settings.evaluation()
    found, scores = _without_boxes(built, files, params) if variant.bottom_up else _in_boxes(built, photographs, options.boxes, params)
    boxes = "none" if variant.bottom_up else str(options.boxes or "whole image")
    provenance = {"variant": variant.name, "weights": read_metadata(weights), "boxes": boxes}
    write_coco_results(options.output / "predictions.json", found, scores, provenance)
    write_json(options.output / "images.json", {number: photograph.record for number, photograph in photographs.items()})
    drawn = _draw_above(options.draw_above, variant) < scores
    for number, path in files.items():
        rows = found.image_id == number
        shown = rows & drawn
        _draw(path, drawings[path], found.select(shown), scores[shown], built, params)
    hidden = f", {len(found) - int(drawn.sum())} of them too weak to be drawn" if not drawn.all() else ""
    print(f"{len(found)} persons in {len(files)} images{hidden}: {options.output}/predictions.json and one .png per image")


def _draw_above(chosen: float | None, variant: Any) -> float:
    """Score above which persons are drawn; of boxes that the user gave, all persons are."""
    if chosen is not None:
        return chosen
    return DRAW_ABOVE if variant.bottom_up else -np.inf


def _without_boxes(built: Any, files: dict[int, Path], params: Any) -> tuple[Any, np.ndarray]:
    """All persons of whole images and their scores."""
    from components.degrade.image_shards import images_of
    from components.evaluate.bottom_up import predict_images

    fit, degrade = params.bottom_up.fit, settings.degrade()
    images = images_of([path.resolve() for path in files.values()], _spec(built.variant), built.variant.skeleton, fit, degrade)
    images = replace(images, image_id=np.array(list(files), np.int64))
    return predict_images(built.model, built.codec, images, params, stages.device_name(), params.bf16, Path("/"), degrade)


def _in_boxes(built: Any, photographs: dict[int, Photograph], chosen: Path | None, params: Any) -> tuple[Any, np.ndarray]:
    """One person in each box, and their scores.

    Raises:
        FarposeError: there is no box.
    """
    from components.degrade.shards import crop_boxes
    from components.evaluate.predict import predict as find_joints
    from components.evaluate.rescoring import person_scores

    variant, boxes = built.variant, _boxes(chosen, photographs)
    numbers = np.array([number for number, rows in boxes.items() for _ in rows], np.int64)
    if not len(numbers):
        raise FarposeError("no box belongs to one of these images", where=chosen, fix="boxes are matched by file name")
    places = np.array([str(photographs[number].path.resolve()) for number in numbers], dtype=object)
    every = np.concatenate([boxes[number] for number in boxes])
    spec = replace(_spec(variant), input_size=variant.input_size)
    crops = crop_boxes("/", places, numbers, every, variant.convention, spec, settings.degrade(), variant.skeleton, upright=True)
    found = find_joints(built.model, built.codec, crops, params.flip, params.batch_size, stages.device_name())
    scores = person_scores(found.keypoint_scores, found.box_scores, params.visible_above(built.codec))
    return replace(found, annotation_id=np.full(len(found), -1)), scores


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
        FarposeError: the output is no folder, or a drawing would replace an image.
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


def _spec(variant: Any) -> Any:
    """How crops of the variant are made: as the shards it learned from, or directly."""
    from components.degrade.params import ShardSpec

    pipeline = settings.load()
    plan = pipeline.variants.get(variant.name)
    return pipeline.shards[plan.shards] if plan else ShardSpec(variant.input_size, images=variant.bottom_up)


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


def _draw(path: Path, target: Path, found: Any, scores: np.ndarray, built: Any, params: Any) -> None:
    """An image with its persons: bottom-up each in a colour of its own, with boxes each with its left and right."""
    from components.degrade.images import read_image

    image, skeleton = read_image(path, upright=True)[..., ::-1], built.variant.skeleton
    if built.variant.bottom_up:  # joints below the detector's threshold were filled in, and are often far off
        certain = found.keypoint_scores > built.codec.detection_threshold
        picture = drawing.draw_persons(image, found.keypoints_image, certain, scores, skeleton)
    else:
        certain = found.keypoint_scores > params.visible_above(built.codec)
        picture = drawing.draw_sides(image, found.keypoints_image, certain, skeleton)
    drawing.write_png(target, picture)
