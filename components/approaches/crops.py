"""One person in a crop: boxes are given, by the annotation, by a detector or by the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.approaches import crop_checks, crop_pictures
from components.approaches.crop_feed import persons_of
from components.base.errors import FarposeError
from components.codecs.codec import Codec, as_crop_codec
from components.degrade.augment import normalise
from components.degrade.held import crops_of
from components.degrade.params import ShardSpec
from components.degrade.shards import EvalCrops
from components.evaluate import curves
from components.evaluate.approach import Approach, Check, EvaluationContext, EvaluationData, Files, Found, Look, Served, Tiles
from components.evaluate.bound import crop_bound
from components.evaluate.conditions import Condition, condition_crops
from components.evaluate.decodings import second_codecs
from components.evaluate.detector import detector_crops
from components.evaluate.headline import GT
from components.evaluate.params import EvaluateParams
from components.evaluate.predict import outputs_of, predict
from components.evaluate.predictions import Predictions
from components.evaluate.reduced_detector import origin_of, reduced_detector_crops
from components.evaluate.rescoring import finish, person_scores
from components.evaluate.targets import perfect_predictions
from components.models.export import Form, Joints, spread
from components.models.variant import Variant
from components.models.zoo import Built
from components.pose.draw import DRAWN, UNSURE, frame_of_sides, picture_of_sides
from components.pose.persons import Persons

DETECTOR = "detector_boxes"
COMPARED = 128  # crops on which an ONNX file is compared
EXPORT_BATCH = 64
CPU_BATCH = 16  # users' crops per forward pass, at most: as fast on a CPU as 64, in a fifth of the memory


class Crops:
    """See `evaluate.approach.Approach`."""

    name, needs = "crops", "crops of persons"
    takes_boxes, draw_above = True, -np.inf  # every person whose box the user gave is drawn

    # --- shards

    def spec(self, variant: Variant) -> ShardSpec:
        return ShardSpec(variant.input_size)

    def takes(self, spec: ShardSpec) -> bool:
        return not spec.images

    def inputs(self, directory: Path, variant: Variant, params: EvaluateParams | None = None, split: str = "val") -> EvalCrops:
        return EvalCrops.open(directory, variant.convention, split)

    def label(self, shards: str, variant: Variant) -> str:
        return f"{shards}, {variant.convention}"

    # --- evaluation

    def predict(self, context: EvaluationContext) -> Iterator[Found]:
        crops, params = context.data.inputs, context.params
        found = self._joints(context, crops)
        own = curves.similarity_to_own_person(context.data.persons, found)
        yield self._found(context, found, GT, persons_of(crops), own)
        for name, codec in second_codecs(context.codec, params.decodings).items():
            other = replace(context, codec=codec)
            yield self._found(other, self._joints(other, crops), f"{GT}_{name}", persons_of(crops), own)
        for condition in map(Condition.of, params.conditions):
            seen = condition_crops(condition, context.data)
            joints = self._joints(context, seen)
            own = curves.similarity_to_own_person(context.data.persons, joints)
            at = self._found(context, joints, f"{GT}_{condition.name}", persons_of(seen), own)
            yield replace(at, seen={**at.seen, **condition.seen()})
        if params.boxes == "detector":
            crops, scores, given = detector_crops(context)
            found = replace(self._joints(context, crops, scores), annotation_id=np.full(len(crops), -1))
            at = self._found(context, found, DETECTOR, persons_of(crops).select(np.zeros(0, np.int64)), np.zeros(0))
            counts = {f"boxes_{reason.replace(' ', '_')}": count for reason, count in given.left_out.items()}
            yield replace(at, seen={**at.seen, "notes": list(given.notes)} if given.notes else at.seen, counts={**at.counts, **counts})

        for reduction in params.detector_reductions:
            crops, scores = reduced_detector_crops(context, reduction)
            found = replace(self._joints(context, crops, scores), annotation_id=np.full(len(crops), -1))
            nobody = persons_of(crops).select(np.zeros(0, np.int64))
            at = self._found(context, found, f"{DETECTOR}_x{reduction}", nobody, np.zeros(0))
            yield replace(at, seen={**at.seen, **origin_of(reduction)}, counts={f"detections_x{reduction}": len(found)})

    def _joints(self, context: EvaluationContext, crops: EvalCrops, box_scores: np.ndarray | None = None) -> Predictions:
        codec, params = as_crop_codec(context.codec), context.params
        return predict(context.model, codec, crops, params.flip, params.batch_size, context.device, params.bf16, box_scores)

    def _found(self, context: EvaluationContext, before: Predictions, boxes: str, persons: Persons, similarity: np.ndarray) -> Found:
        kept, scores = finish(before, context.params, persons.skeleton.sigmas, context.codec)
        counts = {"detections": len(before)} if boxes == DETECTOR else {}
        return Found(boxes, kept, scores, before, persons, np.arange(len(persons)), similarity, {"boxes": boxes}, counts)

    def perfect(self, codec: Codec, data: EvaluationData, device: str | torch.device = "cpu") -> tuple[Predictions, np.ndarray]:
        found = perfect_predictions(as_crop_codec(codec), data.inputs)
        return found, np.ones(len(found))

    def bound(self, codec: Codec, data: EvaluationData) -> tuple[Predictions, np.ndarray]:
        return crop_bound(as_crop_codec(codec), data.persons, data.inputs)

    def reductions(self, context: EvaluationContext, found: Found) -> tuple[np.ndarray, np.ndarray]:
        return curves.reductions(context.data.persons, found.predictions, context.codec.geometry)

    def tiles(self, context: EvaluationContext, found: Found) -> Tiles:
        return crop_pictures.tiles(context.data.inputs, found.before, found.oks, context.data.data_root)

    def look(self, context: EvaluationContext, found: Found, person: int) -> Look:
        return crop_pictures.look(context.data.inputs, found.before, person, context.data.data_root)

    # --- checks that cost no training

    def checks(self, variant: Variant, persons: Persons) -> Iterator[Check]:
        return crop_checks.checks(variant, persons)

    def follows(self, name: str, inputs: EvalCrops, persons: Persons) -> Check:
        return crop_checks.crops_follow_the_table(name, inputs, persons)

    # --- users' images, registered models, ONNX files

    def find(self, built: Built, files: Files, params: EvaluateParams, device: str) -> tuple[Predictions, np.ndarray]:
        variant, boxes = built.variant, files.boxes or {}
        box_scores = None if files.scores is None else np.concatenate([files.scores[number] for number in boxes])
        spec = replace(files.spec, input_size=variant.input_size)
        crops = crops_of(files.image, boxes, variant.convention, spec, files.degrade, variant.skeleton)
        size = min(params.batch_size, CPU_BATCH) if device == "cpu" else params.batch_size
        found = predict(built.model, as_crop_codec(built.codec), crops, params.flip, size, device, box_scores=box_scores)
        found = replace(found, annotation_id=np.full(len(found), -1))
        if box_scores is not None:  # a detector may box one person twice
            return finish(found, params, variant.skeleton.sigmas, built.codec)
        return found, person_scores(found.ranked_by, found.box_scores, params.visible_above(built.codec))

    def picture(
        self, image: np.ndarray, found: Predictions, scores: np.ndarray, built: Built, params: EvaluateParams, frame: bool = False
    ) -> np.ndarray:
        threshold, joints = params.visible_above(built.codec) or DRAWN, found.keypoint_scores
        drawn, sure = joints > threshold, joints > UNSURE * threshold
        if frame:
            return frame_of_sides(image, found.keypoints_image, drawn, built.variant.skeleton, sure)
        return picture_of_sides(image, found.keypoints_image, drawn, built.variant.skeleton, scores, sure)

    def served(self, variant: Variant) -> Served:
        (height, width), joints = variant.input_size, variant.num_keypoints
        return Served(
            input=(np.uint8, (-1, height, width, 3)),
            outputs={"keypoints": (np.float32, (-1, joints, 2)), "scores": (np.float32, (-1, joints))},
            task=f"one person in a crop of {height}x{width} px (height x width)",
            needs="It needs a person's box; it says nothing about where persons are.",
            usage=f"""# crops: (N, {height}, {width}, 3) uint8 RGB; joints: "keypoints" (N, {joints}, 2), px of the crop, and "scores"
joints = model.predict(crops)""",
        )

    def examples(self, inputs: EvalCrops) -> np.ndarray:
        return inputs.pixels

    def serve(self, built: Built, preparation: Mapping[str, Any]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Crops (N, H, W, 3) uint8 RGB of the variant's input size, cut as its convention says (`components.pose.crop`) →
        `keypoints` (N, K, 2) float32, px of the crop, and `scores` (N, K) float32; the mirrored crop is averaged in."""
        model, codec = built.model.eval(), as_crop_codec(built.codec)

        def run(crops: np.ndarray) -> dict[str, np.ndarray]:
            images = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                cells, scores = codec.decode(outputs_of(model, codec, normalise(images)))
            keypoints = codec.geometry.heatmap_to_crop(cells)
            return {"keypoints": keypoints.numpy().astype(np.float32), "scores": scores.numpy().astype(np.float32)}

        return run

    def form(self, variant: Variant) -> Form:
        def fit(crop: np.ndarray) -> np.ndarray:
            if crop.shape[1:] != variant.input_size:
                made, wanted = ("{}x{}".format(*size) for size in (crop.shape[1:], variant.input_size))
                problem = f"the crops are {made} px, the variant needs {wanted}"
                raise FarposeError(problem, where=f"variant {variant.name}", fix="name other crops")
            return crop

        return Form(read_crops, fit, {"convention": variant.convention}, batch_size=EXPORT_BATCH)

    def compared(self, inputs: EvalCrops) -> list[np.ndarray]:
        return [np.array(inputs.pixels[row]) for row in spread(len(inputs), COMPARED)]


def read_crops(codec: Codec, outputs: tuple[Tensor, ...], crops: Tensor) -> list[Joints]:
    """The joints of one person in each crop; one that cannot be placed (NaN) is not found."""
    keypoints = codec.geometry.heatmap_to_crop(as_crop_codec(codec).decode(outputs)[0].double()).numpy()
    return [Joints(person[None], np.isfinite(person).all(-1)[None]) for person in keypoints]


APPROACH: Approach = Crops()
