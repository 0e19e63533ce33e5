"""Bottom-up evaluation: whole images in, all persons out, scored as pycocotools would; on real shards through the real codec."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from components.approaches import approach
from components.approaches.image_pictures import TILE, view_of
from components.approaches.images import reductions
from components.base.config import parse
from components.base.errors import FarposeError
from components.degrade.held import images_held
from components.degrade.image_shards import EvalImages
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate import curves, oks, stage
from components.evaluate.approach import EvaluationContext
from components.evaluate.assignment import assign, mean_by_image
from components.evaluate.params import BottomUpParams, EvaluateParams
from components.evaluate.predict_images import extents, predict_images
from components.evaluate.predictions import read_coco_results, write_coco_results
from components.evaluate.targets import perfect_persons
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, CROWDPOSE_14
from components.pose.whole_image import ImageGeometry
from tests import evaluation_cases as cases
from tests.bottom_up_cases import LARGE_ID, SCENES, SIZE, Perfect, coco_of, codec_of, data_of, data_of_images, with_skeleton
from tests.tiny_image_shard import write_tiny_image_shard

PROVENANCE = {"variant": "higherhrnet", "data": "abc"}
QUICK = EvaluateParams(bootstrap_resamples=20, gallery_size=2)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_image_shard(tmp_path_factory.mktemp("images"), scenes=SCENES, size=SIZE)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the stage's time; for tests of numbers."""
    for name in ("gallery", "overview"):
        monkeypatch.setattr(stage, name, lambda *_: None)
    monkeypatch.setattr(curves, "plot", lambda *_: None)


def evaluate(model: nn.Module, codec: Any, data: Any, params: EvaluateParams, out: Path, title: str = "") -> dict[str, Any]:
    return stage.evaluate(approach("images"), EvaluationContext(model, codec, data, params, out, PROVENANCE, title=title))


def contrast(picture: Path) -> float:
    pixels = cv2.imread(str(picture))
    return 0.0 if pixels is None else float(pixels.std())


def test_the_stage_on_a_perfect_network(shard: Path, tmp_path: Path) -> None:
    data, codec = data_of(shard), codec_of()
    metrics = evaluate(Perfect(codec, data.inputs), codec, data, QUICK, tmp_path, title="perfect")
    theirs = cases.oracle(coco_of(data.inputs), str(tmp_path / "predictions.json"), data.inputs.image_id)
    assert theirs["AP"] == pytest.approx(1.0, abs=0.01)
    found = {name: metrics.get(f"{name}_no_boxes", -1.0) for name in oks.NAMES}
    assert found == pytest.approx(theirs, abs=1e-9)
    assert metrics["target_AP"] == pytest.approx(metrics["AP_no_boxes"], abs=0.01)
    assert (metrics["persons"], metrics["images"]) == (9, 6) and metrics["found_persons"] >= 9
    assert metrics["mean_OKS_no_boxes"] > 0.95 and metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert not [name for name in metrics if "gt_boxes" in name or "letterbox" in name]
    written = {path.name for path in tmp_path.iterdir()}
    curve_files = {f"{name}.{kind}" for name in ("by_height", "by_reduction") for kind in ("json", "csv", "png")}
    assert written == {"metrics.json", "predictions.json", "matches.npz", "gallery.png", "overview.png"} | curve_files
    assert min(map(contrast, tmp_path.glob("*.png"))) > 5
    record = json.loads((tmp_path / "predictions.json").read_text())[0]
    seen = {"boxes": "no_boxes", "fit": "short_side", "scales": [1.0], "flip": True, "input_size": SIZE, "protocol": "direct"}
    assert record["provenance"] == PROVENANCE | seen | {"oks_nms_threshold": None}
    assert record["image_id"] > LARGE_ID and "annotation_id" not in record


@pytest.mark.parametrize(("stride", "flip"), [(4, False), (1, True), (1, False)])
def test_a_perfect_network_finds_everybody(shard: Path, tmp_path: Path, stride: int, flip: bool) -> None:
    images, codec = data_of(shard).inputs, codec_of(stride)
    found = predict_images(Perfect(codec, images), codec, images, replace(QUICK, flip=flip))
    write_coco_results(tmp_path / "predictions.json", *found, PROVENANCE)
    theirs = cases.oracle(coco_of(images), str(tmp_path / "predictions.json"), images.image_id)
    assert theirs["AP"] == pytest.approx(1.0, abs=0.01) and theirs["AR"] == pytest.approx(1.0, abs=0.01)


def test_crowdpose_persons_are_found_with_their_own_joints(shard: Path) -> None:
    images = with_skeleton(data_of(shard).inputs, CROWDPOSE_14)
    codec = codec_of(skeleton=CROWDPOSE_14)
    found, scores = predict_images(Perfect(codec, images), codec, images, QUICK)
    assert found.keypoints_image.shape[1] == 14
    assert oks.evaluate(images.persons, found, scores, images.image_id)["AP"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("scales", [(1.0, 2.0), (0.5, 1.0)])
def test_a_perfect_network_is_perfect_at_several_scales(shard: Path, scales: tuple[float, ...]) -> None:
    """What the scales put together lies in one frame, although inputs are rounded differently at each."""
    data, codec = data_of(shard), codec_of()
    images = _first(data.inputs, 4)
    persons = images.persons.select(np.isin(images.persons.frame["image_id"], images.image_id))
    images = replace(images, persons=persons)
    model = Perfect(codec, images, scales=scales, data_root=data.data_root)
    params = replace(QUICK, bottom_up=BottomUpParams(scales=scales))
    found, scores = predict_images(model, codec, images, params, data_root=data.data_root, degrade=data.degrade)
    theirs = oks.evaluate(persons, found, scores, images.image_id)
    assert (theirs["AP"], theirs["AR"]) == pytest.approx((1.0, 1.0), abs=0.01)


class Convolution(nn.Module):
    """A small network of random weights; it never says that nobody is there."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 34, 5, stride=stride, padding=2)
        self.second = nn.ConvTranspose2d(34, 17, 2, stride=2)
        self.single = stride == 1

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first = self.first(images)
        return (first,) if self.single else (first, self.second(first.relu()))


class Constant(nn.Module):
    """The same value everywhere: 0 finds nobody, NaN is what a diverged network gives."""

    def __init__(self, value: float = 0.0, only: int | None = None) -> None:
        super().__init__()
        self.value, self.only, self.seen = value, only, 0

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.seen += 1
        value = self.value if self.only in (None, self.seen) else 0.0
        height, width = images.shape[2] // 4, images.shape[3] // 4
        return torch.full((len(images), 34, height, width), value), torch.full((len(images), 17, 2 * height, 2 * width), value)


def same(first: Any, second: Any, tolerance: float = 0.0) -> None:
    """Two results of `predict_images` hold the same persons."""
    for name in ("image_id", "keypoints_image", "keypoint_scores", "bbox_xywh", "areas"):
        np.testing.assert_allclose(getattr(first[0], name), getattr(second[0], name), atol=tolerance, err_msg=name)
    np.testing.assert_allclose(first[1], second[1], atol=tolerance)


@pytest.mark.parametrize("make", [lambda codec, images: Perfect(codec, images), lambda codec, images: Convolution()])
def test_results_do_not_depend_on_batches(shard: Path, make: Callable[[Any, EvalImages], nn.Module]) -> None:
    images, codec = _first(data_of(shard).inputs, 4), codec_of(grouping={"max_persons": 3})
    model = make(codec, images).train()
    results = [predict_images(model, codec, images, replace(QUICK, bottom_up=BottomUpParams(batch_size=size))) for size in (1, 2, 16)]
    assert model.training, "a model is given back as it came"
    assert len(results[0][0]) >= 3
    for other in results[1:]:
        same(results[0], other, tolerance=1e-4)
    order = [images.image_id.tolist().index(i) for i in results[0][0].image_id.tolist()]
    assert order == sorted(order), "persons come in the images' order"


def test_images_of_one_size_share_a_batch(shard: Path) -> None:
    images, codec = data_of(shard).inputs, codec_of()
    model = Perfect(codec, images)
    predict_images(model, codec, images, replace(QUICK, flip=False))
    assert sum(batch[0] for batch in model.batches) == len(images) and len(model.batches) == len(np.unique(images.input_sizes, axis=0))
    assert {batch[2:] for batch in model.batches} == {tuple(size) for size in images.input_sizes.tolist()}


def test_an_empty_image_leaves_the_others_alone(shard: Path, tmp_path: Path) -> None:
    """Phantoms on an image without persons cost nothing while they score lower than the persons that are there."""
    data, codec = data_of(shard), codec_of()
    images = data.inputs
    empty = images.image_id[~np.isin(images.image_id, images.persons.frame["image_id"])]
    assert len(empty) == 1
    model = Perfect(codec, images)
    predictions, scores = predict_images(model, codec, images, QUICK)
    assert not np.isin(predictions.image_id, empty).any()
    others = images.image_id[images.image_id != empty[0]]
    whole = oks.evaluate(images.persons, predictions, scores, images.image_id)
    assert whole == oks.evaluate(images.persons, predictions, scores, others)
    phantom = replace(predictions.select(np.arange(3)), image_id=np.repeat(empty, 3))
    every = [np.concatenate([getattr(part, name) for part in (predictions, phantom)]) for name in ("image_id", "keypoints_image")]
    more = cases.predictions_of(every[0], every[1], np.concatenate([scores, np.full(3, scores.min() / 2)]))
    assert oks.evaluate(images.persons, more, more.box_scores, images.image_id)["AP"] == pytest.approx(whole["AP"])


def test_nobody_found_is_a_result(shard: Path, tmp_path: Path) -> None:
    data = data_of(shard)
    metrics = evaluate(Constant(), codec_of(), data, QUICK, tmp_path)
    assert metrics["found_persons"] == metrics["AP_no_boxes"] == metrics["AR_no_boxes"] == metrics["mean_OKS_no_boxes"] == 0
    assert metrics["target_AP"] > 0.95 and all(np.isfinite(value) for name, value in metrics.items() if name != "split")
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    assert contrast(tmp_path / "gallery.png") > 5


def test_nobody_annotated_is_a_result(shard: Path, tmp_path: Path) -> None:
    data = data_of(shard)
    data = data_of_images(_first(data.inputs, 2), data.data_root)
    bare = data_of_images(replace(data.inputs, persons=data.inputs.persons.select(np.zeros(0, np.int64))), data.data_root)
    metrics = evaluate(Convolution(), codec_of(grouping={"max_persons": 3}), bare, QUICK, tmp_path)
    assert not [name for name in metrics if name.startswith(("AP", "AR", "mean", "PCK", "target", "bound"))]
    assert metrics["persons"] == 0 and metrics["found_persons"] > 0 and (tmp_path / "gallery.png").is_file()


@pytest.mark.usefixtures("without_pictures")
def test_the_published_letterboxing_is_labelled_and_cuts_portrait_images(shard: Path, tmp_path: Path) -> None:
    data, codec = data_of(shard, "letterbox"), codec_of()
    params, whole = replace(QUICK, bottom_up=BottomUpParams(fit="letterbox")), data_of(shard).inputs
    metrics = evaluate(Perfect(codec, data.inputs), codec, data, params, tmp_path)
    assert {name for name in metrics if name.startswith(("AP", "AR", "mean"))} >= {
        "AP_no_boxes_letterbox", "AP_no_boxes_letterbox_low", "AP_no_boxes_letterbox_high", "AR_no_boxes_letterbox",
        "mean_OKS_no_boxes_letterbox",
    }  # fmt: skip
    assert not [name for name in metrics if name.startswith(("AP", "AR", "mean")) and "no_boxes_letterbox" not in name]
    assert metrics["target_AP"] < oks.evaluate(whole.persons, *perfect_persons(codec, whole), whole.image_id)["AP"] - 0.05
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["provenance"]["fit"] == "letterbox"
    with pytest.raises(FarposeError, match="fitted by letterbox, the parameters say short_side"):
        evaluate(Perfect(codec, data.inputs), codec, data, QUICK, tmp_path)


@pytest.mark.usefixtures("without_pictures")
def test_more_than_thirty_persons_and_an_image_of_one_pixel(tmp_path: Path) -> None:
    scenes = [((60, 60), 1, "train", ""), ((1, 1), 0, "val", ""), ((300, 400), 35, "val", "crowd"), ((1, 9), 0, "val", "")]
    folder = write_tiny_image_shard(tmp_path / "images", scenes=scenes, size=128)
    data, codec = data_of(folder), codec_of(size=128)
    rng = np.random.default_rng(0)
    persons, small = data.inputs.persons, 25.0
    cells = np.stack(np.meshgrid(np.arange(10) * 38 + 10, np.arange(4) * 70 + 10), -1).reshape(-1, 2)[:35]
    places = cells[:, None] + rng.uniform(0, 1, (35, 17, 2)) * [small, 2 * small]
    keypoints, boxes = persons.keypoints.copy(), persons.bbox_xywh.copy()
    rows = np.flatnonzero(~persons.frame["iscrowd"].to_numpy())
    keypoints[rows, :, :2], boxes[rows] = places, np.concatenate([cells, np.full((35, 2), 2 * small)], 1)
    data = data_of_images(replace(data.inputs, persons=replace(persons, keypoints=keypoints, bbox_xywh=boxes)), data.data_root)
    metrics = evaluate(Perfect(codec, data.inputs), codec, data, QUICK, tmp_path / "out")
    theirs = cases.oracle(coco_of(data.inputs), str(tmp_path / "out" / "predictions.json"), data.inputs.image_id)
    assert {name: metrics.get(f"{name}_no_boxes", -1.0) for name in oks.NAMES} == pytest.approx(theirs, abs=1e-9)
    assert metrics["found_persons"] >= 28 and metrics["persons"] == 35
    assert metrics["AR_no_boxes"] <= 20 / 35 + 1e-9, "COCO counts the twenty best of an image"
    convolved, _ = predict_images(Convolution(), codec_of(size=128, grouping={"max_persons": 3}), data.inputs, QUICK)
    assert set(convolved.image_id.tolist()) == set(data.inputs.image_id.tolist())
    assert np.isfinite(convolved.keypoints_image).all()


def test_a_damaged_network_is_named_by_the_image(shard: Path) -> None:
    images = data_of(shard).inputs
    one = replace(QUICK, flip=False, bottom_up=BottomUpParams(batch_size=1))
    with pytest.raises(FarposeError, match=rf"output for image {images.image_id[0]} \(images/1.png\) is not finite"):
        predict_images(Constant(float("nan"), only=1), codec_of(), images, one)
    with pytest.raises(FarposeError, match="not finite"):
        predict_images(Constant(float("inf")), codec_of(), images, QUICK)


def test_test_scales_see_larger_and_smaller_inputs(shard: Path) -> None:
    data, codec = data_of(shard), codec_of(grouping={"max_persons": 3})
    data = data_of_images(_first(data.inputs, 2), data.data_root)
    params = replace(QUICK, flip=False, bottom_up=BottomUpParams(scales=(0.5, 1.0, 2.0)))
    model = Convolution()
    seen: list[int] = []
    model.first.register_forward_hook(lambda _, inputs, __: seen.append(min(inputs[0].shape[2:])))
    found, scores = predict_images(model, codec, data.inputs, params, data_root=data.data_root, degrade=data.degrade)
    assert sorted(set(seen)) == [128, 256, 512] and seen[:3] == [512, 256, 128]
    assert len(found) and np.isfinite(found.keypoints_image).all() and np.isfinite(scores).all()
    with pytest.raises(FarposeError, match="need the original images"):
        predict_images(model, codec, data.inputs, params)
    odd = replace(params, bottom_up=BottomUpParams(scales=(1.0, 1.1)))
    with pytest.raises(FarposeError, match=r"test scale 1.1 makes an input of .* no multiple of 64"):
        predict_images(model, codec, data.inputs, odd, data_root=data.data_root)


def _first(images: EvalImages, count: int) -> EvalImages:
    fields = ("image_id", "image_path", "width", "height", "input_sizes", "offset")
    return replace(images, **{name: getattr(images, name)[:count] for name in fields})


def test_repeats_are_dropped_only_where_asked(shard: Path, tmp_path: Path) -> None:
    """Every person twice, a little apart: all are kept as published, half of them with OKS-NMS."""

    def twice(persons: Persons) -> Persons:
        double = persons.select(np.tile(np.arange(len(persons)), 2))
        double.keypoints[len(persons) :, :, 0] += 6.0
        return double

    images, codec = data_of(shard).inputs, codec_of()
    counts = {}
    for threshold in (None, 0.3):
        params = replace(QUICK, bottom_up=BottomUpParams(oks_nms_threshold=threshold))
        found, scores = predict_images(Perfect(codec, images, twice), codec, images, params)
        counts[threshold] = len(found)
        assert len(scores) == len(found)
    assert counts[None] >= 18 and 8 <= counts[0.3] <= 0.7 * counts[None]


def test_boxes_span_the_joints_that_were_found() -> None:
    keypoints = np.array([[[0.0, 0.0], [10.0, 20.0], [14.0, 50.0]]] * 2)
    boxes = extents(keypoints, np.array([[False, True, True], [False] * 3]))
    assert boxes.tolist() == [[10, 20, 4, 30], [0, 0, 14, 50]]


def test_a_picture_shows_all_persons_in_the_tiles_shape() -> None:
    boxes = np.array([[300.0, 100, 20, 40], [330, 90, 20, 40], [-30, 95, 40, 20]])
    for part in (boxes[:1], boxes[:2], boxes):
        left, top, width, height = view_of(part, 640, 480)
        assert (part[:, 0].clip(0) >= left).all() and (part[:, :2] + part[:, 2:] <= [left + width, top + height]).all()
        assert (part[:, 1] >= top).all() and width / height == pytest.approx(TILE[1] / TILE[0], rel=0.02)
        assert left >= 0 and top >= 0 and left + width <= 640 and top + height <= 480
    assert view_of(boxes[:0], 640, 480) == (0, 0, 640, 480)
    assert view_of(np.array([[-9.0, -9, 99, 99]]), 1, 1) == (0, 0, 1, 1)


def test_persons_are_given_one_prediction_each() -> None:
    """Against a search over all ways to give predictions to persons."""
    from itertools import permutations

    coco = cases.random_coco(3, images=8)
    persons = cases.persons_of(coco).labelled()
    predictions, _ = cases.noisy_predictions(coco, 4, per_person=0.8, false_alarms=1)
    predictions = predictions.select(np.flatnonzero(predictions.image_id > 1))
    values, rows = assign(persons, predictions)
    image = persons.frame["image_id"].to_numpy()
    for i in range(2, 9):
        own, found = np.flatnonzero(image == i), np.flatnonzero(predictions.image_id == i)
        if len(own) > 4 or len(found) > 5:
            continue
        table = np.array([[_oks(persons, p, predictions.keypoints_image[d]) for d in found] for p in own]).reshape(len(own), len(found))
        padded = np.pad(table, ((0, 0), (0, len(own))))
        best = max((sum(padded[a, b] for a, b in enumerate(way)) for way in permutations(range(padded.shape[1]), len(own))), default=0.0)
        assert values[own].sum() == pytest.approx(best)
        assert set(rows[own][rows[own] >= 0]) <= set(found.tolist())
    assert len(set(rows[rows >= 0].tolist())) == (rows >= 0).sum() and (values[image == 1] == 0).all() and (rows[image == 1] == -1).all()
    last = image.max()
    means = mean_by_image(np.array([last, 99, image.min()]), image, values)
    np.testing.assert_allclose(means, [values[image == last].mean(), np.nan, values[image == image.min()].mean()])


def _oks(persons: Persons, row: Any, joints: np.ndarray) -> float:
    seen, area = persons.keypoints[row, :, 2] > 0, persons.frame["area"][row]
    square = ((joints - persons.keypoints[row, :, :2]) ** 2).sum(1)
    return float(np.exp(-square / (2 * area * (2 * np.array(COCO_17.sigmas)) ** 2))[seen].mean())


def test_reductions_are_of_the_whole_image(shard: Path) -> None:
    images = data_of(shard).inputs
    np.testing.assert_allclose(reductions(images), np.minimum(images.width, images.height) / SIZE)


def test_predictions_are_read_again_as_written(shard: Path, tmp_path: Path) -> None:
    images, codec = data_of(shard).inputs, codec_of()
    found = predict_images(Perfect(codec, images), codec, images, QUICK)
    write_coco_results(tmp_path / "predictions.json", *found, PROVENANCE)
    same(found, read_coco_results(tmp_path / "predictions.json", COCO_17, images.image_id.tolist()))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scales": []}, "positive and different"),
        ({"scales": [1, 1]}, "positive and different"),
        ({"scales": [0.5, 2]}, "must contain 1"),
        ({"oks_nms_threshold": 0}, "oks_nms_threshold"),
        ({"batch_size": 0}, "at least 1"),
        ({"fit": "crop"}, "fit"),
        ({"scale": [1]}, "did you mean 'scales'"),
    ],
)
def test_wrong_params_are_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(FarposeError, match=problem):
        parse(EvaluateParams, {"bottom_up": change}, "params/evaluate.yaml: evaluate")


class Bright(nn.Module):
    """Sees white discs: its heatmaps are the input's brightness, all joints at the same place, all of one person."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        white = images.mean(1, keepdim=True) > 1.0
        smooth = [avg_pool2d(white.float(), 3 * stride, stride, stride).expand(-1, 17, -1, -1) for stride in (4, 2)]
        return torch.cat([smooth[0], torch.zeros_like(smooth[0])], 1), smooth[1]


@pytest.mark.parametrize("fit", ["short_side", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (300, 300), (90, 333), (40, 1000)])
def test_what_is_seen_lies_where_it_is_in_the_image(tmp_path: Path, height: int, width: int, fit: Any) -> None:
    """The only test that goes through the pixels: a disc in the file is found at its place, at any size, fit and scale."""
    place = np.array([round(0.3 * width), round(0.45 * height)])
    picture = np.zeros((height, width, 3), np.uint8)
    radius = max(2, round(4 / ImageGeometry(SIZE, fit).image_to_input(width, height)[0, 0]))  # 4 px of the input
    cv2.circle(picture, place.tolist(), radius, (255, 255, 255), -1)
    images = images_held(lambda _: picture, [0], ShardSpec((SIZE, SIZE), "direct", images=True), COCO_17, fit, DegradeParams())
    for flip, scales in ((True, (1.0,)), (False, (1.0,)), (True, (1.0, 2.0))):
        params = replace(QUICK, flip=flip, bottom_up=BottomUpParams(fit=fit, scales=scales))
        found, scores = predict_images(Bright(), codec_of(), images, params, data_root=tmp_path)
        best = found.keypoints_image[int(scores.argmax())]
        np.testing.assert_allclose(best, np.broadcast_to(place, best.shape), atol=0.5 + reductions(images)[0])
