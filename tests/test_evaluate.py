"""Prediction, its files, curves, the comparison and the evaluate stage as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from components import codecs
from components.approaches import approach, crop_pictures
from components.approaches.crop_feed import persons_of
from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError
from components.codecs.codec import Codec
from components.degrade.augment import normalise
from components.evaluate import curves, oks, stage
from components.evaluate.approach import EvaluationContext, EvaluationData
from components.evaluate.boxes import boxes_of_images
from components.evaluate.gallery import choose
from components.evaluate.overview import far_persons, overview
from components.evaluate.params import EvaluateParams
from components.evaluate.predict import predict
from components.evaluate.predictions import Predictions, read_coco_results, write_coco_results
from components.evaluate.rescoring import finish
from components.evaluate.targets import perfect_predictions
from components.pose.crop import CropGeometry, transform
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from tests import evaluation_cases as cases

PROVENANCE = {"variant": "cal", "data": "abc"}
QUICK = EvaluateParams(bootstrap_resamples=20, gallery_size=2)


class Oracle(nn.Module):
    """Outputs a perfect network's maps for the crops of `cases.crops_of`, upright or mirrored, after moving the joints by `noise` px."""

    def __init__(self, codec: Codec, persons: Persons, noise: float = 0.0) -> None:
        super().__init__()
        geometry = codec.geometry
        matrix = geometry.image_to_crop(*geometry.box_to_center_size(persons.bbox_xywh))
        joints = (
            transform(matrix, persons.keypoints[..., :2]) + np.random.default_rng(0).normal(0, 1, persons.keypoints[..., :2].shape) * noise
        )
        visible = torch.from_numpy(persons.keypoints[..., 2] > 0)
        upright = torch.from_numpy(joints.astype(np.float32))
        mirrored = torch.stack([geometry.input_size[1] - 1 - upright[..., 0], upright[..., 1]], -1)
        order = list(persons.skeleton.flip_permutation)
        self.upright = codec.perfect(codec.targets(upright, visible))
        self.mirrored = codec.perfect(codec.targets(mirrored[:, order], visible[:, order]))
        self.black = normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
        self.unit = normalise(torch.ones(1, 3, 1, 1, dtype=torch.uint8)) - self.black

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = ((images - self.black) / self.unit).round().long()
        rows, flipped = (pixels[:, 0, 0, column] + 256 * pixels[:, 1, 0, column] - 1 for column in (0, -1))
        maps = self.upright if (rows >= 0).all() else self.mirrored
        return tuple(m[rows if (rows >= 0).all() else flipped] for m in maps)


def evaluate(model: nn.Module, codec: Codec, data: EvaluationData, params: EvaluateParams, out: Path) -> dict[str, Any]:
    return stage.evaluate(approach("crops"), EvaluationContext(model, codec, data, params, out, PROVENANCE, title="t"))


def codec_of(name: str, size: tuple[int, int] = (64, 48)) -> Codec:
    geometry = CropGeometry(size, (size[0] // 4, size[1] // 4), codecs.convention_of(name))
    return codecs.build(name, geometry, COCO_17)


def scene(folder: Path, seed: int = 0, images: int = 12, centred: bool = False) -> tuple[dict[str, Any], EvaluationData]:
    """Random persons, or ones with all joints in the middle, on noise images, and their crops in the unbiased convention."""
    coco = cases.random_coco(seed, images=images, sizes=(25, 250))
    for annotation in coco["annotations"] if centred else []:
        left, top, width, height = annotation["bbox"]
        annotation |= {"keypoints": [left + width / 2, top + height / 2, 2] * 17, "num_keypoints": 17}
    persons = cases.persons_of(coco)
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"image_id": cases.image_ids_of(coco)})
    table["image_path"] = [f"{i:012d}.jpg" for i in table["image_id"]]
    for path in table["image_path"]:
        cv2.imwrite(str(folder / path), rng.integers(0, 255, (120, 160, 3), np.uint8))
    crops = cases.crops_of(persons.labelled(), codec_of("cal").geometry)
    return coco, EvaluationData(crops, persons, table, folder)


@pytest.mark.parametrize("name", ["dark", "udp_gaussian", "udp_offset", "cal"])
@pytest.mark.parametrize("flip", [False, True])
def test_predict_returns_what_a_perfect_network_sees(name: str, flip: bool) -> None:
    codec, persons = codec_of(name), cases.persons_of(cases.random_coco(1)).labelled()
    crops = cases.crops_of(persons, codec.geometry)
    model = Oracle(codec, persons).train()
    found = predict(model, codec, crops, flip=flip, batch_size=17)
    expected = perfect_predictions(codec, crops)
    assert model.training
    cell = codec.geometry.feature_stride[0] * crops.size[:, 1, None, None] / codec.geometry.input_size[0]
    seen = crops.keypoints_image[..., 2] > 0
    error = (np.abs(found.keypoints_image - expected.keypoints_image) / cell)[seen]
    # Neighbouring cells may tie once two mirrored maps are averaged
    assert np.percentile(error, 98) < (0.05 if flip else 1e-5)
    np.testing.assert_array_equal(found.annotation_id, persons.frame["annotation_id"])
    np.testing.assert_allclose(found.areas, crops.size.prod(1))
    assert (found.box_scores == 1).all()


def test_predict_does_not_depend_on_the_batch_size() -> None:
    codec, persons = codec_of("dark"), cases.persons_of(cases.random_coco(1)).labelled()
    crops, model = cases.crops_of(persons, codec.geometry), Oracle(codec, persons, noise=0.5)
    first, second = (predict(model, codec, crops, batch_size=size) for size in (1, 64))
    np.testing.assert_allclose(first.keypoints_image, second.keypoints_image, atol=1e-3)


def test_a_diverged_network_is_named() -> None:
    codec, persons = codec_of("dark"), cases.persons_of(cases.random_coco(1)).labelled()
    model = Oracle(codec, persons)
    model.upright[0][3] = np.nan
    with pytest.raises(FarposeError, match=f"annotation {persons.frame['annotation_id'][3]} is not finite"):
        predict(model, codec, cases.crops_of(persons, codec.geometry))


def test_joints_that_a_published_decoder_cannot_place_score_zero() -> None:
    geometry = codec_of("udp_gaussian").geometry
    codec = codecs.build("udp_gaussian", geometry, COCO_17, preset="published")
    persons = cases.persons_of(cases.random_coco(1)).labelled()
    model = Oracle(codec, persons)
    model.upright[0][:, 4] = 0.0
    found = predict(model, codec, cases.crops_of(persons, geometry), flip=False)
    assert np.isfinite(found.keypoints_image).all() and (found.keypoint_scores[:, 4] == 0).all()


def test_results_file_round_trip(tmp_path: Path) -> None:
    predictions, scores = cases.noisy_predictions(cases.random_coco(1), 2)
    ids = np.where(np.arange(len(scores)) % 2, np.arange(len(scores)), -1)
    predictions = replace(predictions, annotation_id=ids)
    write_coco_results(tmp_path / "p.json", predictions, scores, PROVENANCE)
    again, again_scores = read_coco_results(tmp_path / "p.json", COCO_17, range(1, 31))
    for field, value in vars(predictions).items():
        np.testing.assert_array_equal(getattr(again, field), value, err_msg=field)
    np.testing.assert_array_equal(again_scores, scores)
    records = json.loads((tmp_path / "p.json").read_text())
    assert all(record["provenance"] == PROVENANCE for record in records)


def test_empty_results_file(tmp_path: Path) -> None:
    empty = cases.predictions_of(np.zeros(0), np.zeros((0, 17, 2)), np.zeros(0))
    write_coco_results(tmp_path / "p.json", empty, np.zeros(0), {})
    predictions, scores = read_coco_results(tmp_path / "p.json", COCO_17)
    assert predictions.keypoints_image.shape == (0, 17, 2) and len(scores) == 0


def test_results_of_other_tools_are_read(tmp_path: Path) -> None:
    predictions, scores = cases.noisy_predictions(cases.random_coco(1), 2)
    (tmp_path / "p.json").write_text(json.dumps(cases.records_of(predictions, scores)))
    again, _ = read_coco_results(tmp_path / "p.json", COCO_17)
    np.testing.assert_array_equal(again.keypoints_image, predictions.keypoints_image)
    np.testing.assert_allclose(again.areas, predictions.areas)
    np.testing.assert_array_equal(again.box_scores, scores)


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4.5], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{", "not valid JSON"),
        ('{"annotations": []}', "expected a list"),
        (json.dumps([GOOD, 3]), "record 1: expected a mapping"),
        (json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4]}]), "record 0: score is missing"),
        (json.dumps([GOOD | {"image_id": "1"}]), "image_id is no integer"),
        (json.dumps([GOOD | {"image_id": 77}]), "no box is on one of these images: its 1 boxes"),
        (json.dumps([GOOD | {"bbox": [1, 2, 3]}]), "bbox needs 4 numbers"),
        (json.dumps([GOOD, GOOD | {"bbox": [1, 2, float("nan"), 4]}]), "record 1: bbox holds nan"),
        (json.dumps([GOOD | {"bbox": [1, 2, "3", 4]}]), "bbox holds '3'"),
        (json.dumps([GOOD | {"score": float("inf")}]), "score holds inf"),
        (json.dumps([GOOD | {"score": True}]), "score holds True"),
    ],
)
def test_malformed_detections_are_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(FarposeError, match=problem) as caught:
        boxes_of_images(path, {1: None, 2: None})
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_malformed_keypoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(FarposeError, match="file not found"):
        read_coco_results(path, COCO_17)
    path.write_text(json.dumps([{"image_id": 1, "keypoints": [0.0] * 42, "score": 1.0}]))
    with pytest.raises(FarposeError, match="keypoints needs 51 numbers"):
        read_coco_results(path, COCO_17)
    predictions, scores = cases.noisy_predictions(cases.random_coco(1), 2)
    predictions.keypoints_image[5, 2, 0] = np.nan
    path.unlink()
    with pytest.raises(FarposeError, match=r"prediction 5 .* not finite"):
        write_coco_results(path, predictions, scores, {})
    assert not path.exists()


def test_detections_of_persons_only(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps([GOOD, GOOD | {"category_id": 3}, GOOD | {"image_id": 2, "score": 0.1}]))
    found = boxes_of_images(tmp_path / "boxes.json", {1: None, 2: None})
    assert found.image_id.tolist() == [1, 2] and found.bbox_xywh.tolist() == [[1, 2, 3, 4.5]] * 2 and found.scores.tolist() == [0.5, 0.1]


@pytest.mark.parametrize("soft", [False, True])
def test_stage_numbers_equal_pycocotools_on_its_own_file(tmp_path: Path, soft: bool) -> None:
    coco, data = scene(tmp_path)
    codec, out = codec_of("cal"), tmp_path / "out"
    model = Oracle(codec, data.persons.labelled(), noise=1.5)
    metrics = evaluate(model, codec, data, replace(QUICK, soft_nms=soft), out)
    theirs = cases.oracle(coco, str(out / "predictions.json"))
    assert 0.2 < theirs["AP"] < 0.95
    assert {name: metrics[f"{name}_gt_boxes"] for name in oks.NAMES} == pytest.approx(theirs, abs=1e-9)
    assert metrics["AP_gt_boxes_low"] < metrics["AP_gt_boxes"] < metrics["AP_gt_boxes_high"] < metrics["target_AP"]
    assert metrics == json.loads((out / "metrics.json").read_text()) and metrics["split"] == "val"
    assert metrics["AP_gt_boxes"] < metrics["bound_AP"] <= 1 and 0 < metrics["PCK_torso_gt_boxes"] <= 1
    assert (metrics["persons"], metrics["images"]) == (len(data.inputs), 12)
    written = {path.name for path in out.iterdir()}
    curve_files = {f"{name}.{kind}" for name in ("by_height", "by_reduction") for kind in ("json", "csv", "png")}
    assert written == {"metrics.json", "predictions.json", "matches.npz", "gallery.png", "overview.png"} | curve_files
    assert min(cv2.imread(str(path)).std() for path in out.glob("*.png")) > 5


def test_the_split_stands_in_the_numbers_and_on_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = scene(tmp_path)
    titles: list[str] = []
    for name in ("gallery", "overview"):
        monkeypatch.setattr(stage, name, lambda path, title, *_: titles.append(title))
    monkeypatch.setattr(curves, "plot", lambda *_: None)
    for split, words in (("val", "validation split"), ("dev", "development split")):
        metrics = evaluate(Constant(codec_of("cal")), codec_of("cal"), replace(data, split=split), QUICK, tmp_path / split)
        assert metrics["split"] == split and len(titles) == 2 and all(words in titles.pop() for _ in range(2))


def test_stage_scores_detector_boxes_beside_annotated_ones(tmp_path: Path) -> None:
    coco, data = scene(tmp_path, centred=True)
    boxes = [
        {"image_id": int(i), "category_id": 1, "bbox": box.tolist(), "score": 0.9}
        for i, box in zip(data.inputs.image_id, data.inputs.bbox_xywh, strict=True)
    ]
    boxes += [GOOD | {"score": 0.01}, GOOD | {"bbox": [5, 5, 0, 9]}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    params = replace(QUICK, boxes="detector", detections="boxes.json", detector_score_threshold=0.05)
    codec = codec_of("cal")
    model = Constant(codec)
    metrics = evaluate(model, codec, data, params, tmp_path / "out")
    assert metrics["detections"] == len(data.inputs)
    assert metrics["AP_detector_boxes"] == pytest.approx(metrics["AP_gt_boxes"]) and metrics["AP_gt_boxes"] > 0.2
    theirs = cases.oracle(coco, str(tmp_path / "out" / "predictions_detector_boxes.json"))
    assert {name: metrics[f"{name}_detector_boxes"] for name in oks.NAMES} == pytest.approx(theirs, abs=1e-9)
    records = json.loads((tmp_path / "out" / "predictions_detector_boxes.json").read_text())
    assert all(r["provenance"]["boxes"] == "detector_boxes" and "annotation_id" not in r for r in records)
    with pytest.raises(FarposeError, match=r"none of .* boxes"):
        evaluate(model, codec, data, replace(params, detector_score_threshold=0.95), tmp_path / "out")


def test_a_second_decoding_of_the_same_outputs_is_scored_beside_the_first(tmp_path: Path) -> None:
    """As an evaluation by the codec without the shift gives it; the main numbers stay as they are without it."""
    _, data = scene(tmp_path)
    codec = codec_of("heatmap", (128, 96))
    data = replace(data, inputs=cases.crops_of(data.persons.labelled(), codec.geometry))
    unshifted = codecs.build("heatmap", codec.geometry, COCO_17, quarter_shift=False)
    model = Oracle(codec, data.persons.labelled())
    model.upright = tuple(maps + 1e-3 * torch.rand_like(maps) for maps in model.upright)  # targets are symmetric: nothing to shift to
    params = replace(QUICK, flip=False)
    both = evaluate(model, codec, data, replace(params, decodings=("without_shift",)), tmp_path / "both")
    first, second = (evaluate(model, each, data, params, tmp_path / name) for each, name in ((codec, "first"), (unshifted, "second")))
    for name in oks.NAMES:
        assert both[f"{name}_gt_boxes"] == first[f"{name}_gt_boxes"]
        assert both[f"{name}_gt_boxes_without_shift"] == second[f"{name}_gt_boxes"]
    assert both["AP_gt_boxes"] != both["AP_gt_boxes_without_shift"]
    records = json.loads((tmp_path / "both" / "predictions_gt_boxes_without_shift.json").read_text())
    assert {record["provenance"]["boxes"] for record in records} == {"gt_boxes_without_shift"}


class Constant(nn.Module):
    """Sees a person in the middle of every crop."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        height, width = codec.geometry.heatmap_size
        self.maps = [torch.zeros(1, *shape) for shape in codec.output_shapes]
        self.maps[0][:, :, height // 2, width // 2] = 1.0

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(m.expand(len(images), -1, -1, -1) for m in self.maps)


def test_repeats_are_dropped_before_scoring() -> None:
    predictions, _ = cases.truth_as_predictions(cases.persons_of(cases.random_coco(1)))
    twice = predictions.select(np.tile(np.arange(len(predictions)), 2))
    twice.box_scores[len(predictions) :] = 0.5
    codec = codecs.build("heatmap", CropGeometry((64, 48), (16, 12)), COCO_17)
    kept, scores = finish(twice, QUICK, COCO_17.sigmas, codec)
    assert len(kept) == len(predictions) and (scores == 1).all()


def test_curves_follow_the_area_rule() -> None:
    """Bins by annotated area, cut at COCO's limits, give COCO's own AP(M) and AP(L)."""
    coco = cases.random_coco(5, images=40)
    persons, images = cases.persons_of(coco), cases.image_ids_of(coco)
    predictions, scores = cases.noisy_predictions(coco, 6)
    sizes = persons.frame["area"].to_numpy(), np.ptp(predictions.keypoints_image, axis=1).prod(1)
    points = curves.by_size(persons, predictions, scores, sizes, (32.0**2, 96.0**2), images, resamples=10)
    expected = oks.evaluate(persons, predictions, scores, images)
    found = [point.AP for point in points[1:]]
    assert found == pytest.approx([expected["AP_M"], expected["AP_L"]])
    counted = (persons.frame["num_keypoints"] > 0) & ~persons.frame["iscrowd"]
    assert sum(point.persons for point in points) == counted.sum()


def test_bins_are_half_open_and_may_be_empty() -> None:
    persons = cases.persons_of(cases.random_coco(5, images=6)).labelled()
    persons.bbox_xywh[:, 3] = 64.0
    predictions, scores = cases.truth_as_predictions(persons)
    predictions.bbox_xywh[:, 3] = 64.0
    points = curves.by_size(persons, predictions, scores, curves.heights(persons, predictions), (32.0, 64.0, 128.0), resamples=5)
    assert [point.persons for point in points] == [0, 0, len(persons), 0]
    assert [point.AP for point in points] == [None, None, pytest.approx(1.0), None]
    assert points[2].mean_OKS == pytest.approx(1.0) and (points[2].low, points[2].high, points[2].middle) == (64.0, 128.0, 64.0)


def test_reductions_compare_the_padded_box_with_the_input() -> None:
    persons = cases.persons_of(cases.random_coco(5, images=6)).labelled()
    persons.bbox_xywh[:, 2:] = [30.0, 128.0]
    predictions, _ = cases.truth_as_predictions(persons)
    of_persons, _ = curves.reductions(persons, predictions, CropGeometry((64, 48), (16, 12)))
    np.testing.assert_allclose(of_persons, 1.25 * 128 / 64)


def test_gallery_shows_distinct_persons_of_every_group() -> None:
    values = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4])
    chosen = choose(values, np.full(10, 17), 2)
    assert {name: values[rows].tolist() for name, rows in chosen.items()} == {"best": [0.9, 0.8], "median": [0.6, 0.5], "worst": [0.1, 0.2]}
    few = choose(np.array([0.2, 0.9]), np.array([17, 1]), 4)
    assert sorted(np.concatenate(list(few.values())).tolist()) == [0, 1]
    poor = choose(np.linspace(0, 1, 20), np.repeat([1, 17], 10), 2)
    assert min(np.concatenate(list(poor.values()))) >= 10


def test_committed_params_are_the_defaults() -> None:
    assert parse(EvaluateParams, load_yaml(PARAMS / "evaluate.yaml")["evaluate"], "evaluate") == EvaluateParams()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"boxes": "detector"}, "needs detections"),
        ({"batch_size": 0}, "at least 1"),
        ({"oks_nms_threshold": 0.0}, "oks_nms_threshold"),
        ({"height_bins_px": [64, 32]}, "ascending"),
        ({"fliped": True}, "did you mean 'flip'"),
    ],
)
def test_wrong_params_are_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(FarposeError, match=problem):
        parse(EvaluateParams, change, "params/evaluate.yaml: evaluate")


def test_predictions_select_keeps_rows_together() -> None:
    predictions, _ = cases.noisy_predictions(cases.random_coco(1), 2)
    part = predictions.select(np.arange(len(predictions)) % 3 == 0)
    assert isinstance(part, Predictions) and len(part) == len(part.areas) == -(-len(predictions) // 3)


def test_overview_needs_a_far_person(tmp_path: Path) -> None:
    _, data = scene(tmp_path)
    crops = replace(data.inputs, bbox_xywh=data.inputs.bbox_xywh * 0 + 400.0)
    predictions = predict(Oracle(codec_of("dark"), data.persons.labelled()), codec_of("dark"), data.inputs)
    look = lambda person: crop_pictures.look(crops, predictions, person, data.data_root)  # noqa: E731
    assert not overview(tmp_path / "overview.png", "t", persons_of(crops), np.ones(len(crops)), look, [])
    assert not (tmp_path / "overview.png").exists()


def test_overview_shows_the_median_far_person(tmp_path: Path) -> None:
    _, data = scene(tmp_path)
    crops = replace(data.inputs, bbox_xywh=np.tile([0.0, 0.0, 20.0, 40.0], (len(data.inputs), 1)))
    predictions = predict(Oracle(codec_of("dark"), data.persons.labelled()), codec_of("dark"), data.inputs)
    persons, shown = persons_of(crops), []
    far = far_persons(persons, np.ones(len(crops)))
    oks = np.full(len(crops), np.nan)
    oks[far] = np.random.default_rng(0).permutation(len(far)) / len(far)

    def look(person: int) -> Any:
        shown.append(person)
        return crop_pictures.look(crops, predictions, person, data.data_root)

    assert overview(tmp_path / "overview.png", "t", persons, oks, look, [])
    assert len(far) > 2 and [oks[person] for person in shown] == [pytest.approx(np.sort(oks[far])[len(far) // 2])]
