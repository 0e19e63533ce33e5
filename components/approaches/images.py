"""All persons of a whole image: no box is given, the network groups joints into persons itself (bottom-up)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.approaches import image_checks, image_pictures
from components.base.config import parse
from components.base.errors import FarposeError
from components.codecs.codec import Codec, as_image_codec
from components.degrade.held import images_held
from components.degrade.image_shards import EvalImages, fitted
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.approach import Approach, Check, EvaluationContext, EvaluationData, Files, Found, Look, Served, Tiles
from components.evaluate.assignment import assign
from components.evaluate.bound import image_bound
from components.evaluate.headline import SUFFIX_OF_FIT
from components.evaluate.matching import rows_of
from components.evaluate.params import EvaluateParams
from components.evaluate.predict_images import predict_images
from components.evaluate.predictions import Predictions
from components.evaluate.targets import perfect_persons
from components.models.export import Form, Joints, spread
from components.models.variant import IMAGE_STRIDE, Variant
from components.models.zoo import Built
from components.pose.draw import UNSURE, frame_of_sides, picture_of_persons
from components.pose.persons import Persons

COMPARED = 4  # images on which an ONNX file is compared
EXPORT_BATCH = 4  # images of one size run together,
EXPORT_BATCH_FIXED = 1  # but not by networks of one size: ONNX Runtime holds all of their attention's weights, gigabytes at 512 px
DRAW_ABOVE = 0.1  # score below which a person is not drawn: a few weak joints that fit no other person


class Images:
    """See `evaluate.approach.Approach`."""

    name, needs = "images", "whole images"
    takes_boxes, draw_above = False, DRAW_ABOVE

    # --- shards

    def spec(self, variant: Variant) -> ShardSpec:
        return ShardSpec(variant.input_size, images=True)

    def takes(self, spec: ShardSpec) -> bool:
        return spec.images

    def inputs(self, directory: Path, variant: Variant, params: EvaluateParams | None = None, split: str = "val") -> EvalImages:
        return EvalImages.open(directory, params.bottom_up.fit if params else "short_side", split)

    def label(self, shards: str, variant: Variant) -> str:
        return shards

    # --- evaluation

    def predict(self, context: EvaluationContext) -> Iterator[Found]:
        data, params, how = context.data, context.params, context.params.bottom_up
        images = data.inputs
        if images.geometry.fit != how.fit:
            problem = f"images are fitted by {images.geometry.fit}, the parameters say {how.fit}"
            raise FarposeError(problem, where="evaluate.bottom_up.fit", fix="open the images with the same fit")
        model, codec, device = context.model, as_image_codec(context.codec), context.device
        found, scores = predict_images(model, codec, images, params, device, params.bf16, data.data_root, data.degrade)
        persons, boxes = data.persons.labelled(), SUFFIX_OF_FIT[how.fit]
        similarity, own = assign(persons, found)
        seen = {"boxes": boxes, "input_size": images.geometry.size, "protocol": images.protocol, "fit": how.fit}
        seen |= {"scales": list(how.scales), "flip": params.flip, "oks_nms_threshold": how.oks_nms_threshold}
        yield Found(boxes, found, scores, found, persons, own, similarity, seen, {"found_persons": len(found)})

    def perfect(self, codec: Codec, data: EvaluationData, device: str | torch.device = "cpu") -> tuple[Predictions, np.ndarray]:
        return perfect_persons(as_image_codec(codec), data.inputs, device)

    def bound(self, codec: Codec, data: EvaluationData) -> tuple[Predictions, np.ndarray]:
        return image_bound(as_image_codec(codec), data.inputs)

    def reductions(self, context: EvaluationContext, found: Found) -> tuple[np.ndarray, np.ndarray]:
        images = context.data.inputs
        of_images, ids = reductions(images), (context.data.persons.frame["image_id"], found.predictions.image_id)
        of_persons, of_predictions = (of_images[rows_of(images.image_id, np.asarray(table, np.int64))] for table in ids)
        return of_persons, of_predictions

    def tiles(self, context: EvaluationContext, found: Found) -> Tiles:
        return image_pictures.tiles(context.data.inputs, found, as_image_codec(context.codec).detection_threshold, context.data.data_root)

    def look(self, context: EvaluationContext, found: Found, person: int) -> Look:
        threshold = as_image_codec(context.codec).detection_threshold
        return image_pictures.look(context.data.inputs, found, person, threshold, context.data.data_root)

    # --- checks that cost no training

    def checks(self, variant: Variant, persons: Persons) -> Iterator[Check]:
        return image_checks.checks(variant, persons)

    def follows(self, name: str, inputs: EvalImages, persons: Persons) -> Check:
        return image_checks.images_follow_the_table(name, inputs, persons)

    # --- users' images, registered models, ONNX files

    def find(self, built: Built, files: Files, params: EvaluateParams, device: str) -> tuple[Predictions, np.ndarray]:
        images = images_held(files.image, files.numbers, files.spec, built.variant.skeleton, params.bottom_up.fit, files.degrade)
        return predict_images(built.model, as_image_codec(built.codec), images, params, device, params.bf16, Path(), files.degrade)

    def picture(
        self, image: np.ndarray, found: Predictions, scores: np.ndarray, built: Built, params: EvaluateParams, frame: bool = False
    ) -> np.ndarray:
        # joints below the detector's threshold were filled in, and are often far off
        threshold, joints = as_image_codec(built.codec).detection_threshold, found.keypoint_scores
        drawn, sure = joints > threshold, joints > UNSURE * threshold
        if frame:
            return frame_of_sides(image, found.keypoints_image, drawn, built.variant.skeleton, sure)
        return picture_of_persons(image, found.keypoints_image, drawn, scores, built.variant.skeleton, sure)

    def served(self, variant: Variant) -> Served:
        joints = variant.num_keypoints
        return Served(
            input=(np.uint8, (-1, -1, -1, 3)),
            outputs={
                "persons": (np.int64, (-1,)),
                "keypoints": (np.float32, (-1, -1, joints, 2)),
                "keypoint_scores": (np.float32, (-1, -1, joints)),
                "scores": (np.float32, (-1, -1)),
            },
            task=f"every person in a whole image whose short side is brought to {variant.input_size[0]} px",
            needs="It needs no boxes and finds persons itself; small or hidden ones are missed, and joints may go to the wrong person.",
            usage=f"""# images: (N, H, W, 3) uint8 RGB of any one size; "persons" (N,) says how many were found in each, at most M:
# "keypoints" (N, M, {joints}, 2), px of the image, "keypoint_scores" (N, M, {joints}) and "scores" (N, M)
found = model.predict(images)""",
        )

    def examples(self, inputs: EvalImages) -> np.ndarray:
        return inputs.pixels(0)[None]

    def serve(self, built: Built, preparation: Mapping[str, Any]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Images (N, H, W, 3) uint8 RGB of one size, any height and width, fitted as in the evaluation, at scale 1 → with M the
        largest number of persons in an image; rows after an image's own persons are zeros:
            `persons` (N,) int64: how many were found in each image
            `keypoints` (N, M, K, 2) float32: x and y in px of the image
            `keypoint_scores` (N, M, K) float32; a joint that was not found scores 0
            `scores` (N, M) float32: of the persons
        """
        spec = parse(ShardSpec, preparation["shards"], "shards")
        degrade = parse(DegradeParams, preparation["degrade"], "degrade")
        params = parse(EvaluateParams, preparation["evaluate"], "evaluate")
        params = replace(params, bottom_up=replace(params.bottom_up, scales=(1.0,)))

        def run(images: np.ndarray) -> dict[str, np.ndarray]:
            if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
                raise FarposeError(f"images must be (N, H, W, 3) and none of it 0, got {images.shape}", where="input")
            names = [f"image {number}" for number in range(len(images))]
            bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
            inputs = fitted(bgr, names, spec, built.variant.skeleton, params.bottom_up.fit, degrade)
            found, scores = predict_images(built.model, as_image_codec(built.codec), inputs, params)
            counts = np.bincount(found.image_id, minlength=len(images))
            rows = {"keypoints": found.keypoints_image, "keypoint_scores": found.keypoint_scores, "scores": scores}
            return {"persons": counts, **{name: padded(values, counts) for name, values in rows.items()}}

        return run

    def form(self, variant: Variant) -> Form:
        """Convolutional networks are exported for images of any size. Networks with a table of positions are exported for their
        square only, and are compared on the top left square of images."""
        side, any_size = variant.input_size[0], variant.record.any_size(variant)
        sizes = f"any, multiples of {IMAGE_STRIDE} px" if any_size else f"{side}x{side} px"
        fit = (lambda image: image) if any_size else (lambda image: square(image, side))
        about = {"input_size": sizes, "short_side": str(side)}
        return Form(read_persons, fit, about, any_size, EXPORT_BATCH if any_size else EXPORT_BATCH_FIXED)

    def compared(self, inputs: EvalImages) -> list[np.ndarray]:
        return [np.array(inputs.pixels(row)) for row in spread(len(inputs), COMPARED)]


def reductions(images: EvalImages) -> np.ndarray:
    """(I,) image px per px of the network's input: above 1 the image was reduced."""
    sizes = zip(images.width.tolist(), images.height.tolist(), strict=True)
    return 1 / np.array([images.geometry.image_to_input(width, height)[0, 0] for width, height in sizes], np.float64)


def padded(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N, M, ...) float32: the rows of each of N images, `counts` (N,) of them, then zeros up to the largest count."""
    table = np.zeros((len(counts), counts.max(initial=0), *rows.shape[1:]), np.float32)
    table[np.arange(table.shape[1]) < counts[:, None]] = rows
    return table


def read_persons(codec: Codec, outputs: tuple[Tensor, ...], images: Tensor) -> list[Joints]:
    """The persons that are grouped in each image, without the mirrored image; a joint that scores 0 was not found."""
    height, width = images.shape[2:]
    found = as_image_codec(codec).find([outputs], None, (1.0,), (height, width))
    return [Joints(np.asarray(persons.keypoints), np.asarray(persons.keypoint_scores) != 0) for persons in found]


def square(image: np.ndarray, side: int) -> np.ndarray:
    """The top left square of (3, H, W), black where the image ends before."""
    result = np.zeros((3, side, side), np.uint8)
    height, width = min(image.shape[1], side), min(image.shape[2], side)
    result[:, :height, :width] = image[:, :height, :width]
    return result


APPROACH: Approach = Images()
