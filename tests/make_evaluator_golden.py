"""Writes tests/golden/evaluators: random scenes and pycocotools' numbers of them. Run: python -m tests.make_evaluator_golden

pckh.npz is the authors' `evaluate()` on random persons, from the folder of reference values (`FARPOSE_PARITY`), without joints that are not
labelled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from components.pose.skeleton import COCO_17, CROWDPOSE_14, WHOLEBODY_133
from tests import evaluation_cases as cases
from tests import evaluator_cases as scenes

GOLDEN = Path(__file__).parent / "golden" / "evaluators"
SCENES = {"oks": (COCO_17, 40, 5), "crowdpose": (CROWDPOSE_14, 40, 6), "wholebody": (WHOLEBODY_133, 8, 7)}


def write(name: str) -> None:
    skeleton, images, seed = SCENES[name]
    persons, predictions, scores = scenes.scene(seed, skeleton, images, levels=20)
    persons.keypoints[:] = persons.keypoints.round(2)
    found = predictions.keypoints_image.round(1).astype(np.float32)
    predictions = cases.predictions_of(predictions.image_id, found.astype(np.float64), scores)
    image_ids = np.arange(1, images + 1)
    if name == "oks":
        records = cases.records_of(predictions, scores)
        numbers = cases.oracle(scenes.as_coco(persons, image_ids), records, image_ids, skeleton.sigmas)
    else:
        numbers = getattr(scenes, f"{name}_by_pycocotools")(persons, predictions, scores, image_ids)
    frame = persons.frame
    columns = {key: frame[key].to_numpy() for key in ("area", "iscrowd", "num_keypoints", "crowd_index")}
    np.savez_compressed(
        GOLDEN / f"{name}.npz", skeleton=skeleton.name, numbers=json.dumps(numbers), image_ids=image_ids, image=frame["image_id"],
        bbox=persons.bbox_xywh, keypoints=persons.keypoints.reshape(len(persons), -1), found=found, found_image=predictions.image_id,
        scores=scores, **columns,
    )  # fmt: skip


def write_pckh() -> None:
    with np.load(Path(os.environ["FARPOSE_PARITY"]) / "codecs" / "mpii_pckh.npz") as file:
        values = dict(file)
    seen = values["jnt_missing"].T == 0
    places = {"preds0based": values["preds0based"][..., :2] * seen[..., None], "pos_gt_src": values["pos_gt_src"] * seen.T[:, None]}
    kept = {name: values[name] for name in ("meta_json", "headboxes_src")} | {"jnt_missing": values["jnt_missing"].astype(np.uint8)}
    np.savez_compressed(GOLDEN / "pckh.npz", **kept, **places)


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for each in SCENES:
        write(each)
    write_pckh()
