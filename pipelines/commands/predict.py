"""`predict`: a trained variant on images of your own."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file, read_json, write_json
from pipelines import paths, settings, stages

Boxes = dict[int, np.ndarray]  # image number -> (N, 4) left, top, width, height, px of the image
SHOWN_SIDE = 900  # px; smaller images are enlarged by a whole factor, so that joints of far persons can be told apart


def predict(options: argparse.Namespace) -> None:
    """Write predictions.json (COCO results), images.json (which number is which file) and one drawing per image."""
    from components.degrade.shards import crop_boxes
    from components.evaluate.predict import predict as find_joints
    from components.evaluate.predictions import write_coco_results
    from components.evaluate.rescoring import person_scores
    from components.models import zoo
    from components.models.weights import read_metadata

    files = _unique(options.images)
    variant, weights = zoo.variant(options.variant), options.weights or weights_of(options.variant)
    built, params = stages.trained(variant, weights), settings.evaluation()
    boxes = _boxes(options.boxes, files)
    numbers = np.array([number for number, rows in boxes.items() for _ in rows], np.int64)
    if not len(numbers):
        raise FarposeError("no box belongs to one of these images", where=options.boxes, fix="boxes are matched by file name")
    places = np.array([str(files[number].resolve()) for number in numbers], dtype=object)
    every = np.concatenate([boxes[number] for number in boxes])
    spec = replace(_spec(variant), input_size=variant.input_size)
    crops = crop_boxes("/", places, numbers, every, variant.convention, spec, settings.degrade(), variant.skeleton)
    found = find_joints(built.model, built.codec, crops, params.flip, params.batch_size, stages.device_name())
    found = replace(found, annotation_id=np.full(len(found), -1))
    lowest = params.visible_above(built.codec)
    scores = person_scores(found.keypoint_scores, found.box_scores, lowest)
    options.output.mkdir(parents=True, exist_ok=True)
    provenance = {"variant": variant.name, "weights": read_metadata(weights), "boxes": str(options.boxes or "whole image")}
    write_coco_results(options.output / "predictions.json", found, scores, provenance)
    write_json(options.output / "images.json", {number: str(path) for number, path in files.items()})
    for number, path in files.items():
        rows = found.image_id == number
        certain = found.keypoint_scores[rows] > lowest
        _draw(path, options.output / f"{path.stem}.png", found.keypoints_image[rows], certain, variant.skeleton)
    print(f"{len(found)} persons in {len(files)} images: {options.output}/predictions.json and one .png per image")


def _unique(images: list[Path]) -> dict[int, Path]:
    """Images by the number that COCO's file names carry, or counted from 1 if one of them carries none."""
    for path in images:
        if not path.is_file():
            raise FarposeError("image not found", where=path, fix="give the path of an image file")
    stems = [path.stem for path in images]
    if len(set(stems)) != len(stems):
        raise FarposeError("two images have the same name, and their drawings would overwrite each other", where="IMAGE", fix="rename one")
    numbers = [int(stem) for stem in stems] if all(stem.isdecimal() for stem in stems) else list(range(1, len(images) + 1))
    return dict(zip(numbers, images, strict=True))


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
    return pipeline.shards[plan.shards] if plan else ShardSpec(variant.input_size)


def _boxes(path: Path | None, files: dict[int, Path]) -> Boxes:
    """Boxes by image number, from a COCO annotation file (matched by file name) or a list of COCO detections (by image id)."""
    from components.degrade.images import read_image
    from components.evaluate.predictions import read_detections

    if path is None:
        print("no --boxes given: each whole image is taken as one person's box")
        sizes = {number: read_image(file).shape for number, file in files.items()}
        return {number: np.array([[0.0, 0.0, shape[1], shape[0]]]) for number, shape in sizes.items()}
    value = read_json(path)
    if isinstance(value, list):
        found = read_detections(path)
        return {number: found.bbox_xywh[found.image_id == number] for number in files}
    try:
        names = {record["id"]: Path(record["file_name"]).name for record in value["images"]}
        rows = [(names[record["image_id"]], record["bbox"]) for record in value["annotations"] if not record.get("iscrowd")]
        return {number: np.array([box for name, box in rows if name == file.name], float).reshape(-1, 4) for number, file in files.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise FarposeError(
            f"neither COCO annotations nor COCO detections: {error!r}", where=path, fix="see docs of COCO's format"
        ) from error


def _draw(path: Path, target: Path, keypoints: np.ndarray, certain: np.ndarray, skeleton: Any) -> None:
    import cv2

    from components.degrade.images import read_image
    from components.evaluate.gallery import draw_joints

    image = read_image(path)[..., ::-1]
    factor = max(1, SHOWN_SIDE // max(image.shape[:2]))
    picture = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))
    for joints, drawn in zip(keypoints, certain, strict=True):
        draw_joints(picture, (joints + 0.5) * factor - 0.5, drawn, skeleton)
    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise FarposeError("the drawing cannot be encoded", where=target)
    with atomic_file(target) as temporary:
        temporary.write_bytes(content.tobytes())
