"""Synthetic people: the same bytes everywhere, and annotations that say what the pixels show."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.base.config import PARAMS as PARAM_FILES
from components.datasets.manifest import read_manifest
from components.datasets.synthetic import Draw, Place, SyntheticParams, coco, render_scene, write_synthetic
from components.pose.skeleton import COCO_17

PARAMS = SyntheticParams()
SMALL = SyntheticParams(train_images=5, val_images=3, seed=4)
INDICES = range(40)

# SHA-256 of the stored image and of its annotations, of the default data set.
GOLDEN: dict[tuple[str, int], tuple[str, str]] = {
    ("train", 0): (
        "ea143cddbba7d2e6acf706fb13c1045314c0784f6da973e02c681f3ae5502e12",
        "1433053ad751ecbfda69fd8295f29ccf6fbcc983154e8aedeb678d247ec7d884",
    ),
    ("train", 1): (
        "0f8396f8220ab88ab47f0b839f684c21c920ff281ee804d09c6f078325c37beb",
        "bb420933c7ff3e1cb7fed1992ee1bfc988f25d36f79fffe834faaa515cb4ec74",
    ),
    ("train", 17): (
        "39f7c26d3851936ddf0b8770e8f73939195d520c8ded5a7239400e1bed21cb94",
        "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
    ),
    ("train", 599): (
        "c948545d9fefa5f2d14b0ed13b8bd6a1c8cce360eb6cdebb64eae90a8d795791",
        "036947a023fa9118ab5201f412f30741d7bf897a65f5efaac7b85f99269e58ec",
    ),
    ("val", 0): (
        "58b906c86e652d245749d3594233d118313364ea3cb87b9ef07f92d15c945427",
        "288f26437f1fc335e2be7d045361257aaa8cb58ae6d5dc5ea3cfc0e80d1e5194",
    ),
    ("val", 199): (
        "9fc769af28f953377dd677e6efcb6209538005962dd2ae87e25d5426c23ae7dc",
        "4c140d07b92867def385b13cc37d3a53d6b69f5d6414a78dbbb587235e4ed435",
    ),
}


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(Draw(PARAMS.seed, 0, index), PARAMS) for index in INDICES]


def digests(folder: Path, split: str, index: int) -> tuple[str, str]:
    (folder / split).mkdir(exist_ok=True)
    entry, annotations = coco.write_image((folder, PARAMS, split, index))
    image = (folder / split / entry["file_name"]).read_bytes()
    return hashlib.sha256(image).hexdigest(), hashlib.sha256(json.dumps(annotations).encode()).hexdigest()


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


# --- the same bytes everywhere


@pytest.mark.parametrize(("split", "index"), GOLDEN)
def test_images_and_annotations_are_the_committed_ones(tmp_path, split, index):
    assert digests(tmp_path, split, index) == GOLDEN[split, index]


def test_the_committed_manifest_lists_these_images():
    manifest = read_manifest(PARAM_FILES / "manifests" / "synthetic.sha256")
    assert len(manifest) == PARAMS.train_images + PARAMS.val_images + 2
    for (split, index), (image, _) in GOLDEN.items():
        assert manifest[f"{split}/{coco.SPLITS[split] * coco.IDS_PER_SPLIT + index + 1:012d}.jpg"] == image


def test_vector_units_do_not_matter(tmp_path):
    """numpy, OpenCV, libjpeg and libm without their vector code give the same bytes."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    dispatched = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    switches = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(dispatched),
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,FMA3,SSE4.2,SSE4.1,POPCNT,SSSE3",
        "JSIMD_FORCENONE": "1",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4",
    }
    code = f"""
import sys
from pathlib import Path
from numpy._core._multiarray_umath import __cpu_features__ as features
from tests import test_synthetic as tests
assert not any(features[name] for name in {dispatched!r})
for split, index in tests.GOLDEN:
    print(*tests.digests(Path(sys.argv[1]), split, index))
"""
    repository = Path(__file__).resolve().parents[1]
    environment = {**os.environ, **switches, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert [tuple(line.split()) for line in done.stdout.splitlines()] == list(GOLDEN.values())


def test_images_do_not_depend_on_order_or_number_of_processes(tmp_path):
    write_synthetic(tmp_path / "one", SMALL, progress=False, workers=1)
    write_synthetic(tmp_path / "two", SMALL, progress=False, workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(tree(tmp_path / "one")) == SMALL.train_images + SMALL.val_images + 2
    write_synthetic(tmp_path / "more", replace(SMALL, train_images=6, val_images=1), progress=False, workers=1)
    one, more = tree(tmp_path / "one"), tree(tmp_path / "more")
    images = [name for name in one if name in more and name.endswith(".jpg")]
    assert len(images) == 6
    assert all(one[name] == more[name] for name in images)


def test_seed_split_and_index_give_other_images():
    images = {render_scene(Draw(*key), PARAMS)[0].tobytes() for key in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))}
    assert len(images) == 4


# --- what is seen and what is annotated


def stand(height_px: float, x: float = 160.0, ground: float = 330.0) -> Place:
    return Place(x, ground, height_px, elevation=4.0)


@pytest.mark.parametrize("height_px", [20.0, 33.0, 64.0, 150.0, 300.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_figure_is_as_tall_as_asked(height_px, seed):
    for attempt in range(20):  # the first that nothing stands before
        _, persons = render_scene(Draw(seed, attempt), PARAMS, [stand(height_px)], (340, 340))
        if len(persons) == 1 and (persons[0].keypoints[:, 2] == 0).sum() <= 3:
            rows, columns = np.nonzero(persons[0].mask)
            longer = max(np.ptp(rows), np.ptp(columns)) + 1
            if longer > 0.9 * height_px:
                assert abs(longer - height_px) <= 2.5
                return
    pytest.fail("no unhidden figure in 20 scenes")


def test_a_person_behind_another_is_hidden_where_it_is_covered():
    far, near = stand(200.0, ground=300.0), stand(230.0, ground=330.0)
    hidden = covered = 0
    for seed in range(6):
        image, persons = render_scene(Draw(seed), PARAMS, [far, near], (320, 340))
        assert image.shape == (340, 320, 3)
        if len(persons) == 2:
            assert not (persons[0].mask & persons[1].mask).any()
            for x, y, v in persons[0].keypoints:
                if v > 0 and persons[1].mask[round(y), round(x)]:
                    covered, hidden = covered + 1, hidden + (v == 1)
    assert covered > 10
    assert hidden == covered


def test_faces_are_labelled_from_the_front_and_ears_also_from_behind(scenes):
    names = {name: k for k, name in enumerate(COCO_17.keypoint_names)}
    front = behind = 0
    for _, persons in scenes:
        for person in persons:
            v = person.keypoints[:, 2]
            left, right = (person.keypoints[names[f"{side}_ear"]] for side in ("left", "right"))
            if left[2] == 2 and right[2] == 2 and abs(left[0] - right[0]) > 4:
                if left[0] > right[0] and v[names["left_eye"]] and v[names["right_eye"]]:
                    front += 1
                elif left[0] < right[0]:
                    behind += 1
                    assert v[names["nose"]] == v[names["left_eye"]] == v[names["right_eye"]] == 0
    assert front >= 3
    assert behind >= 3


def test_keypoints_lie_inside_the_image_and_visible_ones_at_their_person(scenes):
    visibility = np.zeros(3, int)
    for image, persons in scenes:
        height, width = image.shape[:2]
        for person in persons:
            x, y, v = person.keypoints.T
            visibility += np.bincount(v.astype(int), minlength=3)
            assert (person.keypoints[v == 0] == 0).all()
            assert ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).all()
            distance = cv2.distanceTransform((~person.mask).astype(np.uint8), cv2.DIST_L2, 5)
            assert (distance[np.round(y).astype(int), np.round(x).astype(int)][v == 2] <= 2.5).all()
    assert (visibility > 0.1 * visibility.sum()).all()


def test_the_scenes_vary(scenes):
    counts = [len(persons) for _, persons in scenes]
    heights = [person.height_px for _, persons in scenes for person in persons]
    assert max(counts) <= 8
    assert len(set(counts)) >= 5
    assert PARAMS.min_height_px <= min(heights) < 24
    assert 200 < max(heights) <= PARAMS.max_height_px
    assert np.median(heights) < 100, "far persons are the more frequent"
    assert len({image.shape for image, _ in scenes}) >= 5


def test_count_of_persons_and_empty_images():
    assert {len(render_scene(Draw(1, k), replace(PARAMS, max_persons=2))[1]) for k in range(12)} <= {0, 1, 2}
    empty = replace(PARAMS, empty_fraction=0.999)
    assert all(render_scene(Draw(1, k), empty)[1] == [] for k in range(3))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, replace(PARAMS, train_images=16, val_images=4), progress=False, workers=2)
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_agree_with_their_masks(written, split):
    from pycocotools.coco import COCO

    data = COCO(str(written / "annotations" / f"person_keypoints_{split}.json"))
    assert data.cats[1]["keypoints"] == list(COCO_17.keypoint_names)
    limbs = {frozenset((a - 1, b - 1)) for a, b in data.cats[1]["skeleton"]}
    assert len(limbs) == len(data.cats[1]["skeleton"]) == 19
    assert len(data.anns) >= 8
    for annotation in data.anns.values():
        mask, image = data.annToMask(annotation), data.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        rows, columns = np.nonzero(mask)
        assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["area"] == mask.sum()
        flags = annotation["keypoints"][2::3]
        assert set(flags) <= {0, 1, 2}
        assert annotation["num_keypoints"] == sum(flag > 0 for flag in flags)
        assert len(annotation["keypoints"]) == 51


def test_files_on_disk_are_the_listed_ones(written):
    ids: list[int] = []
    for split in ("train", "val"):
        data = json.loads((written / "annotations" / f"person_keypoints_{split}.json").read_text())
        assert [entry["file_name"] for entry in data["images"]] == sorted(p.name for p in (written / split).iterdir())
        for entry in data["images"]:
            image = cv2.imread(str(written / split / entry["file_name"]))
            assert image.shape == (entry["height"], entry["width"], 3)
        assert {entry["license"] for entry in data["images"]} == {licence["id"] for licence in data["licenses"]}
        ids += [entry["id"] for entry in data["images"]] + [-annotation["id"] for annotation in data["annotations"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths_are_cocos(first):
    from pycocotools import mask as rle

    mask = np.random.default_rng(3).random((7, 5)) < 0.5
    mask[0, 0] = first
    encoded = rle.frPyObjects({"size": [7, 5], "counts": coco.run_lengths(mask)}, 7, 5)
    assert (rle.decode(encoded) == mask).all()


def test_a_failed_run_leaves_the_old_data_in_place(tmp_path, monkeypatch):
    root = tmp_path / "synthetic"
    root.mkdir()
    (root / "old.txt").write_text("old")
    monkeypatch.setattr(coco, "render_scene", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_synthetic(root, SMALL, progress=False, workers=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["synthetic", "old.txt"]


def test_a_killed_run_leaves_nothing_half_made_and_no_orphans(tmp_path):
    code = """
import sys
from pathlib import Path
from components.datasets.acquire import acquire
from components.datasets.synthetic import SyntheticParams
from tests.coco_files import COMMITTED
if __name__ == "__main__":
    here, params = Path(sys.argv[1]), SyntheticParams(train_images=int(sys.argv[2]), val_images=1)
    acquire("synthetic", None, here / "data", COMMITTED, manifests=here, synthetic=params)
"""
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    run = [sys.executable, str(script), str(tmp_path)]
    killed = subprocess.Popen([*run, "3000"], env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("data/.cache/.synthetic.*.tmp/train/*.jpg")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    assert killed.stderr is not None
    killed.stderr.read()  # ends when the last process that holds it has ended
    killed.wait()
    assert not (tmp_path / "data" / "synthetic").exists()
    subprocess.run([*run, "3"], env=environment, check=True, capture_output=True)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["README.md", "synthetic"]
    assert len(tree(tmp_path / "data" / "synthetic")) == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_images": 0}, {"val_images": 0}, {"seed": -1}, {"min_height_px": 4.0}, {"min_height_px": 301.0}, {"max_height_px": 900.0},
        {"max_persons": 0}, {"max_persons": 9}, {"empty_fraction": 1.0}, {"jpeg_quality": 0},
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SyntheticParams(**wrong)
