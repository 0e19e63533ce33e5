"""The person detector: its file, its decoding, tiles, and boxes merged over their seams."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.base import origins
from components.base.errors import FarposeError
from components.detect import boxes, nanodet
from components.detect.detector import FAR_PERSON, NAME, TILE, PersonDetector
from components.detect.tiles import OVERLAP, tiles
from components.models import half_precision
from pipelines import cli

RNG = np.random.default_rng(0)
CELLS = [(nanodet.SIDE // stride) ** 2 for stride in nanodet.STRIDES]


@pytest.fixture(scope="module")
def detector() -> PersonDetector:
    return PersonDetector.open(threads=1)


def outputs(scores: list[np.ndarray], sides: list[np.ndarray]) -> list[np.ndarray]:
    """Of a network that sees persons alone."""
    classes = [np.concatenate([one[:, None], np.zeros((len(one), 79))], 1)[None].astype(np.float32) for one in scores]
    return [*classes, *(one[None].astype(np.float32) for one in sides)]


def slowly(given: list[np.ndarray], threshold: float) -> list[tuple[float, ...]]:
    """Cell by cell, from the paper: a side's distance is the expectation of its distribution."""
    found = []
    for level, stride in enumerate(nanodet.STRIDES):
        across = nanodet.SIDE // stride
        for row in range(across):
            for column in range(across):
                cell = row * across + column
                score = float(given[level][0, cell, 0])
                if score < threshold:
                    continue
                distances = []
                for side in range(4):
                    logits = [float(given[3 + level][0, cell, 11 * side + k]) for k in range(11)]
                    total = sum(math.exp(value) for value in logits)
                    distances.append(sum(k * math.exp(value) / total for k, value in enumerate(logits)) * stride)
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                found.append((x - distances[0], y - distances[1], x + distances[2], y + distances[3], score))
    return found


def test_decoding_equals_a_loop_over_cells():
    given = outputs([RNG.random(count) for count in CELLS], [RNG.normal(size=(count, 44)) * 3 for count in CELLS])
    found, scores = nanodet.decode(given, 0.9)
    expected = np.array(slowly(given, 0.9))
    assert 200 < len(expected) < 600
    np.testing.assert_allclose(np.concatenate([found, scores[:, None]], 1), expected, atol=1e-4)


def test_nobody_is_no_box():
    found, scores = nanodet.decode(outputs([np.zeros(n) for n in CELLS], [np.zeros((n, 44)) for n in CELLS]), 0.05)
    assert found.shape == (0, 4) and scores.shape == (0,)


@pytest.mark.parametrize("size", [(416, 416), (300, 832), (90, 60), (1, 700)])
def test_an_input_keeps_the_aspect_ratio_and_fills_up_with_the_mean(size):
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels, factor = nanodet.as_input(image)
    height, width = (max(1, round(side * factor)) for side in size)
    assert pixels.shape == (1, 3, 416, 416) and max(height, width) == 416
    assert (pixels[0, :, height:] == 0).all() and (pixels[0, :, :, width:] == 0).all()
    if size == (416, 416):
        np.testing.assert_allclose(pixels[0].transpose(1, 2, 0) * nanodet.STD + nanodet.MEAN, image, atol=1e-3)


@pytest.mark.parametrize("size", [(1920, 1080), (700, 5000), (521, 520), (4000, 3000)])
def test_tiles_cover_the_image_and_a_far_person_is_whole_in_one(size):
    width, height = size
    parts = tiles(width, height, TILE)
    assert (parts[0].left, parts[0].top, parts[0].right, parts[0].bottom) == (0, 0, width, height)
    assert all(0 <= p.left < p.right <= width and 0 <= p.top < p.bottom <= height for p in parts)
    smallest = [p for p in parts if max(p.right - p.left, p.bottom - p.top) <= TILE]
    tall = int(OVERLAP * TILE) - 1
    assert tall > 2 * FAR_PERSON
    for x, y in RNG.integers(0, (width - tall, height - tall), (300, 2)):
        assert any(p.left <= x and x + tall <= p.right and p.top <= y and y + tall <= p.bottom for p in smallest)
    sides = sorted({max(p.right - p.left, p.bottom - p.top) for p in parts})
    assert all(b / a < 2.6 for a, b in itertools.pairwise(sides))


@pytest.mark.parametrize("side", [None, 600, 800])
def test_an_image_no_larger_than_a_tile_is_looked_at_once(side):
    assert len(tiles(600, 400, side)) == 1


def test_only_edges_inside_the_image_cut_persons_off():
    part = next(p for p in tiles(1000, 1000, 500) if p.left == 0 and p.top == 0 and p.right < 1000)
    ends = np.array([[0, 0, 50, 90], [part.right - 50, 100, part.right - 1, 200], [100, 100, 200, 300]], float)
    assert part.cut_off(ends, 1000, 1000, 4).tolist() == [False, True, False]


def test_suppression_is_opencv_s():
    corner, size = RNG.uniform(0, 100, (200, 2)), RNG.uniform(10, 60, (200, 2))
    found, scores = np.concatenate([corner, corner + size], 1), RNG.random(200)
    expected = cv2.dnn.NMSBoxes(np.concatenate([corner, size], 1).tolist(), scores.tolist(), 0.0, 0.5)
    np.testing.assert_array_equal(boxes.suppress(found, scores, 0.5), np.asarray(expected).ravel())


def test_overlaps_equal_counted_pixels():
    first, second = (np.sort(RNG.integers(0, 40, (6, 2, 2)), axis=1).reshape(6, 4).astype(float) for _ in range(2))
    grid = np.stack(np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5), -1)
    inside = lambda box: ((grid > box[:2]) & (grid < box[2:])).all(-1)  # noqa: E731
    for a, one in enumerate(first):
        for b, two in enumerate(second):
            union = (inside(one) | inside(two)).sum()
            expected = (inside(one) & inside(two)).sum() / union if union else 0
            assert boxes.overlaps(first, second)[a, b] == pytest.approx(expected)


class TestMerging:
    def merged(self, rows: list[tuple[list[float], float, int, bool]]) -> list[int]:
        found, scores, tile, cut = zip(*rows, strict=True)
        return boxes.merge(np.array(found, float), np.array(scores), np.array(tile), np.array(cut)).tolist()

    def test_one_person_in_two_tiles_is_one_box_the_surer_one(self):
        assert self.merged([([0, 0, 40, 100], 0.5, 1, False), ([3, 2, 41, 104], 0.8, 2, False)]) == [1]

    def test_a_whole_person_beats_a_surer_half(self):
        assert self.merged([([0, 50, 40, 100], 0.9, 1, True), ([0, 0, 40, 100], 0.4, 2, False)]) == [1]

    def test_a_person_who_is_whole_nowhere_keeps_one_part(self):
        assert self.merged([([0, 0, 40, 90], 0.7, 1, True), ([0, 30, 40, 95], 0.5, 2, True)]) == [0]

    def test_two_persons_of_one_tile_are_two_however_near(self):
        assert self.merged([([0, 0, 40, 100], 0.5, 1, False), ([12, 0, 52, 100], 0.8, 1, False)]) == [1, 0]

    def test_a_child_before_an_adult_stays(self):
        assert self.merged([([0, 0, 60, 160], 0.9, 0, False), ([10, 90, 40, 160], 0.5, 1, False)]) == [0, 1]


def people(places: list[tuple[int, int, int]], size: tuple[int, int], real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with a real person cut out and pasted at (left, top, height), and the boxes."""
    file = real_data / "coco" / "annotations" / "person_keypoints_val2017.json"
    if not file.is_file():
        pytest.skip("no COCO images here")
    annotations = json.loads(file.read_text())
    alone = [p for p in annotations["annotations"] if p["num_keypoints"] == 17 and not p["iscrowd"] and p["bbox"][3] > 200]
    names = {record["id"]: record["file_name"] for record in annotations["images"]}
    person = alone[0]
    picture = cv2.imread(str(real_data / "coco" / "val2017" / names[person["image_id"]]))
    x, y, w, h = (round(value) for value in person["bbox"])
    pad = h // 6
    cut = picture[max(y - pad, 0) : y + h + pad, max(x - pad, 0) : x + w + pad]
    canvas, found = np.full((*size, 3), 114, np.uint8), []
    for left, top, tall in places:
        factor = tall / h
        small = cv2.resize(cut, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        corner = np.array([left + (x - max(x - pad, 0)) * factor, top + (y - max(y - pad, 0)) * factor])
        found.append([*corner, *(corner + np.array([w, h]) * factor)])
    return canvas, np.array(found)


def test_far_persons_are_found_in_tiles_and_on_their_seams(detector, real_data):
    """Forty px tall in a full-HD frame: too small in the whole image."""
    places = [(left, top, 44) for left in (30, 420, 790, 1150, 1500, 1840) for top in (40, 330, 660, 980)]
    image, truth = people(places, (1080, 1920), real_data)
    found = detector.find(image, 0.25)
    corners = np.concatenate([found.bbox_xywh[:, :2], found.bbox_xywh[:, :2] + found.bbox_xywh[:, 2:]], 1)
    table = boxes.overlaps(truth, corners)
    assert (table.max(1) >= 0.5).mean() > 0.7 and ((table >= 0.4).sum(1) <= 1).all()  # nobody twice
    assert len(detector.find(image, 0.25, None).scores) < len(found.scores) / 2


def test_the_shipped_file_is_the_named_one_in_half_precision():
    shipped = origins.verified(NAME, "detector")  # its SHA-256 is the one of params/weights.yaml
    assert shipped.stat().st_size < 10e6
    model = onnx.load(str(shipped))
    floats = [one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT16]
    assert sum(numpy_helper.to_array(one).size for one in floats) > 3_700_000
    assert not any(one.data_type == TensorProto.FLOAT for one in model.graph.initializer)


def small_network(path: Path, weight: np.ndarray) -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["maps"])], "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))


def test_half_precision_changes_no_output_and_repeats(tmp_path):
    import onnxruntime

    weight = RNG.normal(size=(4, 3, 3, 3)).astype(np.float16).astype(np.float32)
    small_network(tmp_path / "full.onnx", weight)
    assert half_precision.store(tmp_path / "full.onnx", tmp_path / "half.onnx") == weight.size
    half_precision.store(tmp_path / "full.onnx", tmp_path / "again.onnx")
    assert (tmp_path / "half.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    image = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    full, half = (onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx")).run(None, {"image": image})[0] for name in ("full", "half"))
    np.testing.assert_array_equal(full, half)


def test_digits_are_never_lost_silently(tmp_path):
    small_network(tmp_path / "full.onnx", np.full((4, 3, 3, 3), 0.1, np.float32))
    with pytest.raises(FarposeError, match="'weight' loses digits in half precision"):
        half_precision.store(tmp_path / "full.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "no such file"), (b"", "damaged"), (b"\x80\x04text", "damaged"), ("other", "another network")]
)
def test_another_file_is_one_line(tmp_path, content, problem):
    path = tmp_path / "detector.onnx"
    if content == "other":
        small_network(path, np.zeros((4, 3, 3, 3), np.float32))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(FarposeError, match=problem):
        PersonDetector.open(path)


def test_the_import_makes_the_shipped_file_again_and_refuses_another(tmp_path, capsys):
    small_network(tmp_path / "other.onnx", np.zeros((4, 3, 3, 3), np.float32))
    assert cli.main(["import-weights", NAME, str(tmp_path / "other.onnx"), "--output", str(tmp_path / "made.onnx")]) == 1
    assert "not the file that params/weights.yaml names" in capsys.readouterr().err and not (tmp_path / "made.onnx").exists()
    source = Path(os.environ.get("FARPOSE_DATA", "data")).resolve().parent / "weights" / "nanodet.onnx"
    if not source.is_file():
        pytest.skip("the published file is not here")
    assert cli.main(["import-weights", NAME, str(source), "--output", str(tmp_path / "made.onnx")]) == 0
    assert (tmp_path / "made.onnx").read_bytes() == origins.verified(NAME, "detector").read_bytes()
