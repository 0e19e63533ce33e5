"""`farpose predict`: persons on users' own images, with boxes and without, whatever the files are like."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.degrade.augment import normalise
from components.detect import detector
from components.detect.detector import Found
from components.evaluate.params import BottomUpParams, EvaluateParams
from components.models import zoo
from components.models.weights import read_metadata, save_weights
from components.pose import draw
from components.pose.whole_image import ImageGeometry
from components.registry import package, promotion, store
from pipelines import cli, paths, settings, stages
from tests.stand_in import release
from tests.tiny_people import texture
from tests.tiny_shard import STANDING

VARIANTS = functools.cache(zoo.load_variants)
DEMO = next(v for v in VARIANTS(zoo.VARIANTS).values() if (v.method, v.backbone, v.tag) == ("higherhrnet", "hrnet_tiny", None))
BOTTOM_UP, TOP_DOWN, OTHER = DEMO.name, "dark_hrnet_tiny_synthetic_64x48", "hrnet_tiny_synthetic_64x48"
SIDE = DEMO.input_size[0]
SIZES = {"wide": (150, 240), "tall": (260, 120), "empty": (100, 256), "square": (200, 200)}  # (height, width)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A folder of models with random weights that find some joints anywhere."""
    folder = tmp_path_factory.mktemp("models")
    for name in (BOTTOM_UP, TOP_DOWN, OTHER):
        torch.manual_seed(0)
        model = zoo.network(zoo.variant(name)).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
        if name == BOTTOM_UP:
            _scale(model)
        save_weights(folder / name / "model.safetensors", model, {"variant": name})
    return folder


def _scale(model: nn.Module) -> None:
    """A few peaks above the small forms' threshold of 0.2, and tags that are all equal, so that there are few persons."""
    image = torch.from_numpy(texture(SIDE, SIDE, np.random.default_rng(0)).transpose(2, 0, 1).copy())[None]
    wanted = torch.cat([torch.full((17,), 0.12), torch.zeros(17)])
    with torch.no_grad():
        for number, (layer, deviations) in enumerate(((model.head.coarse, wanted), (model.head.fine, wanted[:17]))):
            layer.weight *= (deviations / model(normalise(image))[number].std((0, 2, 3)))[:, None, None, None]
            layer.bias.copy_(-model(normalise(image))[number].mean((0, 2, 3)) + layer.bias)


@pytest.fixture(autouse=True)
def trained(weights, monkeypatch):
    monkeypatch.setattr(paths, "MODELS", weights)
    monkeypatch.setattr(zoo, "load_variants", VARIANTS)  # reading every table takes half a second
    monkeypatch.setattr(store, "exists", lambda: False)  # a clone in which nothing ran
    monkeypatch.setenv("FARPOSE_DEVICE", "cpu")


@pytest.fixture
def images(tmp_path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    found = {name: tmp_path / "in" / f"{name}.png" for name in SIZES}
    (tmp_path / "in").mkdir()
    for name, path in found.items():
        cv2.imwrite(str(path), texture(*SIZES[name], rng))
    return found


def predict(out: Path, *images: Path, variant: str = BOTTOM_UP, options: tuple[str, ...] = ()) -> int:
    """A top-down variant takes each image as one person, unless the options say where persons are."""
    options = options or (("--whole-image",) if variant == TOP_DOWN else ())
    return cli.main(["predict", *map(str, images), "--variant", variant, "--output", str(out), *options])


def records(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text())


def joints(out: Path) -> np.ndarray:
    return np.array([record["keypoints"] for record in records(out)]).reshape(-1, 17, 3)


def error_of(capsys) -> str:
    """The one line on stderr."""
    error = capsys.readouterr().err
    assert error.startswith("farpose: error: ") and error.count("\n") == 1 and "not foreseen" not in error, error
    return error


def with_orientation(path: Path, image: np.ndarray, orientation: int) -> None:
    """Write a JPEG whose EXIF says that it must be turned."""
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    entry = struct.pack("<HHI4s", 0x0112, 3, 1, struct.pack("<HH", orientation, 0))  # the tag Orientation, one SHORT
    body = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:])


class Perfect(nn.Module):
    """A network without error: what it outputs follows from the size of the image alone, which decides who is in it."""

    def __init__(self, codec, geometry: ImageGeometry, persons: dict[tuple[int, int], np.ndarray]) -> None:
        super().__init__()
        self.codec = codec
        self.scenes = {geometry.input_size(*size): (size, joints) for size, joints in persons.items()}
        self.geometry = geometry

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        (width, height), joints = self.scenes[batch.shape[2], batch.shape[3]]
        sizes = [(batch.shape[2] // stride, batch.shape[3] // stride) for stride in (4, 2)]
        cells = [torch.from_numpy(self.geometry.image_to_heatmap(joints, size, width, height)).float()[None] for size in sizes]
        return self.codec.perfect(cells, torch.from_numpy(joints[None, ..., 0] > 0), sizes)


def standing(count: int, size: tuple[int, int], tall: float) -> np.ndarray:
    """(count, 17, 2) persons in rows, px of an image of (height, width)."""
    height, width = size
    columns = max(int(width / (0.5 * tall)) - 1, 1)
    places = [((n % columns + 1) * 0.5 * tall, (n // columns) * 1.05 * tall) for n in range(count)]
    assert places[-1][1] + tall < height
    return np.array([STANDING * tall + place for place in places])


def plain(stored: np.ndarray) -> np.ndarray:
    """The picture of an image (H, W, 3) in which nobody is drawn."""
    return draw.enlarged(stored, np.zeros((0, 17, 2)), np.zeros((0, 17), bool))[0]


def see(monkeypatch, persons: dict[str, np.ndarray], sizes: dict[str, tuple[int, int]]) -> None:
    """Let `predict` run a perfect network."""
    built = zoo.build(zoo.variant(BOTTOM_UP))
    scenes = {sizes[name][::-1]: joints for name, joints in persons.items()}
    perfect = zoo.Built(built.variant, Perfect(built.codec, ImageGeometry(SIDE), scenes), built.codec)
    monkeypatch.setattr(stages, "trained", lambda variant, weights: perfect)
    monkeypatch.setattr(settings, "evaluation", lambda: EvaluateParams(flip=False))


def test_all_persons_of_every_image_are_found_in_their_own_image(images, tmp_path, monkeypatch, capsys):
    persons = {"wide": standing(3, SIZES["wide"], 100), "tall": standing(2, SIZES["tall"], 110),
               "empty": np.zeros((1, 17, 2)), "square": standing(1, SIZES["square"], 150)}  # fmt: skip
    see(monkeypatch, persons, SIZES)
    assert predict(tmp_path / "out", *images.values()) == 0
    assert "6 persons in 4 images" in capsys.readouterr().out
    for number, (name, expected) in enumerate(persons.items(), start=1):
        found = np.array([r["keypoints"] for r in records(tmp_path / "out") if r["image_id"] == number]).reshape(-1, 17, 3)
        expected = expected[expected.any((1, 2))]
        assert len(found) == len(expected)
        for person in expected:
            assert min(np.abs(one[:, :2] - person).max() for one in found) < 2.5  # half a cell at a quarter of the input
        picture, stored = cv2.imread(str(tmp_path / "out" / f"{name}.png")), cv2.imread(str(images[name]))
        unchanged = np.array_equal(picture, plain(stored))
        assert max(picture.shape) >= 900 and unchanged == (len(expected) == 0)
    listed = json.loads((tmp_path / "out" / "images.json").read_text())
    assert listed["2"] == {"file": str(images["tall"]), "width": 120, "height": 260, "turned": False}
    record = records(tmp_path / "out")[0]
    assert record["provenance"]["variant"] == BOTTOM_UP and record["provenance"]["boxes"] == "none" and "annotation_id" not in record


def test_a_crowd_larger_than_the_decoder_s_limit_is_no_error(tmp_path, monkeypatch):
    size = (640, 640)
    cv2.imwrite(str(tmp_path / "crowd.png"), texture(*size, np.random.default_rng(0)))
    see(monkeypatch, {"crowd": standing(36, size, 90)}, {"crowd": size})
    assert predict(tmp_path / "out", tmp_path / "crowd.png") == 0
    assert len(records(tmp_path / "out")) >= 30 and (tmp_path / "out" / "crowd.png").is_file()


@pytest.mark.parametrize(
    "how", [BottomUpParams(scales=(1.0, 0.5)), BottomUpParams(fit="letterbox", oks_nms_threshold=0.7)], ids=["scales", "fit"]
)
def test_the_evaluation_s_settings_hold_here_too(images, tmp_path, monkeypatch, how):
    """Persons lie in the image that a photograph shows upright, however it is fitted and at whatever scales."""
    with_orientation(tmp_path / "photo.jpg", cv2.imread(str(images["wide"])), 6)
    monkeypatch.setattr(settings, "evaluation", lambda: EvaluateParams(bottom_up=how))
    assert predict(tmp_path / "out", tmp_path / "photo.jpg", images["tall"]) == 0
    placed = joints(tmp_path / "out")
    places = placed[placed[..., 2] > 0][:, :2]
    assert len(places) and (places > -60).all() and (places < 320).all()


@pytest.mark.parametrize(("variant", "orientation"), [(BOTTOM_UP, 1), (BOTTOM_UP, 3), (BOTTOM_UP, 6), (TOP_DOWN, 8)])
def test_a_photograph_is_seen_as_viewers_show_it(tmp_path, variant, orientation):
    """The turned file gives what its upright pixels give, and so does the draw."""
    stored = texture(90, 140, np.random.default_rng(1))
    with_orientation(tmp_path / "photo.jpg", stored, orientation)
    decoded = cv2.imread(str(tmp_path / "photo.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    upright = np.rot90(decoded, {1: 0, 3: 2, 6: 3, 8: 1}[orientation])
    (tmp_path / "same").mkdir()
    cv2.imwrite(str(tmp_path / "same" / "photo.png"), upright)
    for name, file in (("a", tmp_path / "photo.jpg"), ("b", tmp_path / "same" / "photo.png")):
        assert predict(tmp_path / name, file, variant=variant) == 0
    np.testing.assert_array_equal(joints(tmp_path / "a"), joints(tmp_path / "b"))
    assert len(joints(tmp_path / "a"))
    assert (tmp_path / "a" / "photo.png").read_bytes() == (tmp_path / "b" / "photo.png").read_bytes()
    listed = json.loads((tmp_path / "a" / "images.json").read_text())["1"]
    assert (listed["width"], listed["height"], listed["turned"]) == (*upright.shape[1::-1], orientation != 1)


@pytest.mark.parametrize("variant", [BOTTOM_UP, TOP_DOWN])
def test_grey_and_16_bit_files_give_what_their_8_bit_colours_give(tmp_path, variant):
    colour = texture(100, 80, np.random.default_rng(2))
    grey = colour[..., 0]
    colour_16, grey_16 = (form.astype(np.uint16) * 257 for form in (colour, grey))
    same = {"colour": [colour, colour_16], "grey": [grey, np.repeat(grey[..., None], 3, 2), grey_16]}
    for kind, forms in same.items():
        for number, form in enumerate(forms):
            cv2.imwrite(str(tmp_path / f"{kind}{number}.png"), form)
            assert predict(tmp_path / f"out{number}", tmp_path / f"{kind}{number}.png", variant=variant) == 0
            np.testing.assert_array_equal(joints(tmp_path / f"out{number}"), joints(tmp_path / "out0"))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 2), (3, 5)])
def test_images_of_any_size_are_taken(tmp_path, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "odd.png"), image)
    assert predict(tmp_path / "out", tmp_path / "odd.png") == 0
    assert np.isfinite(joints(tmp_path / "out")).all()
    picture = cv2.imread(str(tmp_path / "out" / "odd.png"))
    assert picture.shape[0] % size[0] == picture.shape[1] % size[1] == 0


@pytest.mark.parametrize("variant", [BOTTOM_UP, TOP_DOWN])
@pytest.mark.parametrize(
    ("content", "problem"), [(None, "image not found"), (b"", "is empty"), (b"text", "cannot decode"), ("half", "cut short")], ids=str
)
def test_a_missing_or_damaged_file_is_one_line_and_leaves_earlier_outputs(images, tmp_path, capsys, variant, content, problem):
    out = tmp_path / "out"
    assert predict(out, images["wide"], variant=variant) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(images["tall"].read_bytes()[:2000] if content == "half" else content)
    capsys.readouterr()
    assert predict(out, images["wide"], bad, variant=variant) == 1
    error = error_of(capsys)
    assert "bad.png" in error and problem in error and "fetch" not in error and "acquire" not in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_boxes_are_refused_without_reading_anything(images, tmp_path, capsys):
    assert predict(tmp_path / "out", images["wide"], options=("--boxes", "none.json")) == 1
    assert "takes no boxes (remove --boxes)" in error_of(capsys) and not (tmp_path / "out").exists()


def test_weak_persons_are_kept_in_the_file_but_not_drawn(images, tmp_path, capsys):
    assert predict(tmp_path / "all", images["wide"], options=("--draw-above", "-1")) == 0
    scores = [record["score"] for record in records(tmp_path / "all")]
    assert scores and "too weak" not in capsys.readouterr().out
    assert predict(tmp_path / "none", images["wide"], options=("--draw-above", str(max(scores)))) == 0
    said = capsys.readouterr().out
    assert f"{len(scores)} of them too weak to be drawn or listed" in said
    assert f"wide.png, 240x150 px: 0 persons and {len(scores)} too weak to draw" in said and "  1: score" not in said
    assert (tmp_path / "all" / "predictions.json").read_bytes() == (tmp_path / "none" / "predictions.json").read_bytes()
    stored = cv2.imread(str(images["wide"]))
    drawn, empty = (cv2.imread(str(tmp_path / name / "wide.png")) for name in ("all", "none"))
    np.testing.assert_array_equal(empty, plain(stored))
    assert drawn.shape != empty.shape or (drawn != empty).any()


def test_outputs_never_replace_an_image(images, tmp_path, capsys):
    before = images["wide"].read_bytes()
    assert predict(tmp_path / "in", images["wide"]) == 1
    assert "would replace the image" in error_of(capsys) and images["wide"].read_bytes() == before
    (tmp_path / "file").write_text("mine")
    assert predict(tmp_path / "file", images["wide"]) == 1
    assert "not a folder" in error_of(capsys) and (tmp_path / "file").read_text() == "mine"


def test_a_second_run_replaces_the_first_and_leaves_other_files(images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert predict(out, images["wide"]) == predict(out, images["tall"]) == 0
    assert {path.name for path in out.iterdir()} == {"notes.txt", "wide.png", "tall.png", "predictions.json", "images.json"}
    assert json.loads((out / "images.json").read_text())["1"]["file"] == str(images["tall"])


# --- the released model and the detector


class Finder:
    """A detector that finds the same boxes in every image, and remembers how it was asked."""

    def __init__(self, boxes: list[list[float]], scores: list[float]) -> None:
        self.found = Found(np.array(boxes, float).reshape(-1, 4), np.array(scores), 1)
        self.asked: list[tuple[float, int | None]] = []

    def find(self, image: np.ndarray, score: float, tile: int | None) -> Found:
        self.asked.append((score, tile))
        return self.found


def detect(monkeypatch, boxes: list[list[float]], scores: list[float]) -> Finder:
    finder = Finder(boxes, scores)
    monkeypatch.setattr(detector.PersonDetector, "open", classmethod(lambda cls: finder))
    return finder


@pytest.fixture
def released(weights, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "released"
    release(folder, zoo.variant(TOP_DOWN), weights / TOP_DOWN / "model.safetensors")
    monkeypatch.setattr(paths, "RELEASED", folder)
    return folder


def test_without_a_name_the_released_model_predicts_in_half_precision(released, images, tmp_path, monkeypatch):
    detect(monkeypatch, [[20, 10, 60, 130], [150, 5, 40, 90]], [0.9, 0.5])
    assert cli.main(["predict", str(images["wide"]), "--output", str(tmp_path / "out")]) == 0
    found = records(tmp_path / "out")
    assert found[0]["provenance"]["variant"] == TOP_DOWN and len(found) == 2
    for record, box, score in zip(
        sorted(found, key=lambda one: -one["box_score"]), ([20, 10, 60, 130], [150, 5, 40, 90]), (0.9, 0.5), strict=True
    ):
        assert record["bbox"] == record["box_xywh"] == box and record["file_name"] == "wide.png"
        joint_scores = np.array(record["keypoints"][2::3])
        strong = joint_scores[joint_scores > 0.2]
        assert record["score"] == pytest.approx(score * strong.mean() if len(strong) else 0)
    assert read_metadata(released / "model.safetensors")["variant"] == TOP_DOWN
    assert (released / "model.safetensors").stat().st_size < 0.6 * (paths.MODELS / TOP_DOWN / "model.safetensors").stat().st_size


def test_a_package_repeats_and_a_damaged_one_is_one_line(released, images, weights, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in released.iterdir()}
    release(released, zoo.variant(TOP_DOWN), weights / TOP_DOWN / "model.safetensors")
    assert {path.name: path.read_bytes() for path in released.iterdir()} == before
    (released / "preparation.yaml").unlink()
    assert cli.main(["predict", str(images["wide"]), "--output", str(tmp_path / "out")]) == 1
    assert "preparation.yaml: file of a released model is missing" in error_of(capsys)


def test_the_champion_predicts_and_without_any_model_the_way_out_is_named(released, images, tmp_path, monkeypatch, capsys):
    detect(monkeypatch, [[20, 10, 60, 130]], [0.9])
    monkeypatch.setattr(paths, "RELEASED", tmp_path / "none")
    monkeypatch.setattr(store, "exists", lambda: True)
    monkeypatch.setattr(promotion, "champion", lambda: released)
    monkeypatch.setattr(promotion, "read", package.read)
    asked = ["predict", str(images["wide"]), "--output", str(tmp_path / "out")]
    assert cli.main(asked) == 0 and records(tmp_path / "out")[0]["provenance"]["variant"] == TOP_DOWN
    for there, champion in ((True, lambda: None), (False, pytest.fail)):  # a store that is not there is not asked, which would make it
        monkeypatch.setattr(store, "exists", lambda there=there: there)
        monkeypatch.setattr(promotion, "champion", champion)
        assert cli.main(asked) == 1 and f"(name a trained variant by --variant; trained: {TOP_DOWN}" in error_of(capsys)


@pytest.mark.parametrize(
    ("options", "asked"),
    [((), (detector.SCORE, detector.TILE)), (("--score", "0.6"), (0.6, detector.TILE)), (("--tile", "0"), (detector.SCORE, None))],
)
def test_the_detector_is_asked_as_the_options_say(images, tmp_path, monkeypatch, options, asked):
    finder = detect(monkeypatch, [[20, 10, 60, 130]], [0.9])
    assert predict(tmp_path / "out", images["wide"], images["tall"], variant=TOP_DOWN, options=("--draw-above", "0", *options)) == 0
    assert finder.asked == [asked, asked] and len(records(tmp_path / "out")) == 2


def test_a_person_who_is_boxed_twice_is_one_person(images, tmp_path, monkeypatch):
    detect(monkeypatch, [[20, 10, 60, 130], [20, 10, 60, 130]], [0.9, 0.6])
    assert predict(tmp_path / "out", images["wide"], variant=TOP_DOWN, options=("--no-draw",)) == 0
    assert [record["box_score"] for record in records(tmp_path / "out")] == [0.9]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json", "images.json"}


def test_nobody_is_no_error_and_says_what_to_do(images, tmp_path, monkeypatch, capsys):
    detect(monkeypatch, [], [])
    assert predict(tmp_path / "out", *images.values(), variant=TOP_DOWN, options=("--score", "0.5")) == 0
    assert records(tmp_path / "out") == []
    assert "nobody was found: try a lower --score, a smaller --tile, or --boxes FILE" in capsys.readouterr().out
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))
    assert sheet.shape == (2 * 400 + 12, 2 * 492 + 12, 3)


@pytest.mark.parametrize(
    ("variant", "options", "problem"),
    [
        (BOTTOM_UP, ("--tile", "400"), "takes no --tile (remove --tile)"),
        (BOTTOM_UP, ("--whole-image",), "takes no --whole-image"),
        (TOP_DOWN, ("--score", "3"), "--score must lie between 0 and 1, got 3"),
        (TOP_DOWN, ("--tile", "20"), "--tile must be at least 64 px"),
        (TOP_DOWN, ("--boxes", "b.json", "--whole-image"), "exclude each other"),
    ],
)
def test_options_that_mean_nothing_are_refused(images, tmp_path, capsys, variant, options, problem):
    assert predict(tmp_path / "out", images["wide"], variant=variant, options=options) == 1
    assert problem in error_of(capsys) and not (tmp_path / "out").exists()


def test_a_folder_gives_what_its_images_give(images, tmp_path):
    assert predict(tmp_path / "a", tmp_path / "in") == predict(tmp_path / "b", *sorted(images.values())) == 0
    written = ("predictions.json", "images.json", "contact_sheet.png")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in written)
