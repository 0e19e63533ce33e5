"""Models that come with a clone: what is in the folder, what is checked, what the registry makes of it.

A stand-in, the network filled by its start, takes the released model's place where its numbers do not matter.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.approaches import approach
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.degrade.params import ShardSpec
from components.degrade.shards import Boxes, crop_boxes
from components.models import export, starts, zoo
from components.models.weights import load_weights, save_weights
from components.registry import lineage, package, promotion, register, released, store, tracking
from pipelines import releases
from tests import stand_in as stand_ins
from tests.released_people import NAME, NAMES, draw_people, golden, joints
from tests.repositories import REPOSITORY, commit, git

VARIANT = "categorical_mobilenet_fpn_coco_64x48_x2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Weights as training would write them, in single precision."""
    variant = zoo.variant(VARIANT)
    torch.manual_seed(0)
    built = zoo.build(variant)
    starts.initialise(built.model, "movenet_lightning", variant.skeleton)
    with torch.no_grad():
        for values in built.model.parameters():
            values.mul_(1 + 1e-4)  # no longer numbers of half precision
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    save_weights(path, built.model, {"variant": VARIANT, "recipe": "{}"})
    return path


def release(root: Path, trained: Path, card: str = "# card") -> Path:
    return stand_ins.release(root / NAME, zoo.variant(VARIANT), trained, card)


@pytest.fixture(scope="module")
def stand_in(trained: Path, tmp_path_factory) -> Path:
    return release(tmp_path_factory.mktemp("stand_in"), trained)


@pytest.fixture
def copy(stand_in: Path, tmp_path: Path) -> Path:
    """A stand-in that a test may damage."""
    return Path(shutil.copytree(stand_in, tmp_path / NAME))


def test_the_rounded_weights_are_read_back_with_their_preparation(stand_in, trained):
    found = released.load(NAME, stand_in.parent)
    assert not found.built.model.training and found.package.spec == ShardSpec((64, 48)) and found.package.variant.name == VARIANT
    state = load_weights(trained, VARIANT)
    loaded = found.built.model.state_dict()
    assert all(torch.equal(loaded[name], value.half().to(value.dtype)) for name, value in state.items())
    assert any(not torch.equal(loaded[name], value) for name, value in state.items())  # so that the rounding is seen
    assert (stand_in / package.WEIGHTS).stat().st_size < trained.stat().st_size * 0.52


def test_equal_contents_give_equal_bytes(stand_in, trained, tmp_path):
    again = release(tmp_path, trained)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {path.name: path.read_bytes() for path in stand_in.iterdir()}
    checked = subprocess.run(["sha256sum", "--check", "--strict", released.SUMS], cwd=again, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count(": OK") == len(list(again.iterdir())) - 1


@pytest.mark.parametrize("file", [package.WEIGHTS, package.VARIANT, package.PREPARATION, released.ONNX, released.README, released.FACTS])
def test_a_damaged_file_is_named(copy, file):
    content = bytearray((copy / file).read_bytes())
    content[-1] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(FarposeError, match=f"{file}: damaged or changed.*git checkout"):
        released.load(NAME, copy.parent)
    (copy / file).unlink()
    with pytest.raises(FarposeError, match=f"{file}: file of a released model is missing"):
        released.load(NAME, copy.parent)


def test_files_without_a_digest_are_not_read(copy):
    sums = copy / released.SUMS
    sums.write_text("".join(line for line in sums.read_text().splitlines(keepends=True) if package.WEIGHTS not in line))
    with pytest.raises(FarposeError, match=f"{package.WEIGHTS} is not listed"):
        released.load(NAME, copy.parent)
    sums.unlink()
    with pytest.raises(FarposeError, match=f"{released.SUMS} is missing"):
        released.load(NAME, copy.parent)


def test_an_unknown_model_names_the_known_ones(stand_in):
    with pytest.raises(FarposeError, match=f"unknown released model 'pose_63x48'.*{NAME}"):
        released.load("pose_63x48", stand_in.parent)


def test_a_file_too_large_for_a_clone_leaves_the_earlier_release(copy, trained, monkeypatch):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(released, "LARGEST", 1_000_000)
    with pytest.raises(FarposeError, match=r"model\.safetensors has .* MB, more than the 1 MB"):
        release(copy.parent, trained)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


READ = """
import sys
unpickled = []
import torch, torchvision, cv2, pandas, scipy, timm
sys.addaudithook(lambda event, arguments: unpickled.append(arguments) if event == "pickle.find_class" else None)
from components.registry import released
from pathlib import Path
released.load(sys.argv[2], Path(sys.argv[1]))
print(unpickled, sorted({"mlflow", "dvc", "prefect", "onnx", "onnxruntime", "pycocotools"} & set(sys.modules)))
"""


def test_no_pickle_is_read_and_neither_mlflow_nor_dvc_is_imported(stand_in, copy):
    done = subprocess.run([sys.executable, "-c", READ, str(stand_in.parent), NAME], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[] []", done.stdout + done.stderr

    torch.save({"weight": torch.zeros(1)}, copy / package.WEIGHTS)  # a pickle that somebody listed
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in copy.iterdir() if path.name != released.SUMS]
    (copy / released.SUMS).write_text("".join(lines))
    with pytest.raises(FarposeError, match="a pickle, which may run code"):
        released.load(NAME, copy.parent)


@pytest.fixture
def repository(tmp_path: Path, empty_tables: Path, monkeypatch) -> Path:
    """A repository with an empty store."""
    for variable in ("MLFLOW_TRACKING_URI", tracking.PIPELINE_RUN, tracking.PREFECT_RUN):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_tables, tmp_path / "mlruns")
    return tmp_path


def test_an_empty_store_gets_one_champion_which_it_keeps(repository, trained):
    assert releases.register(repository) == []  # nothing is released yet
    folder = release(repository / "released", trained)
    assert releases.register(repository) == [f"{NAME}: version 1 of {VARIANT}"]
    assert releases.register(repository) == []
    client, _ = store.open_store(repository)
    held = client.get_model_version_by_alias(VARIANT, register.CHAMPION)
    assert str(held.version) == "1" and held.description == "# card" and register.CHALLENGER not in held.aliases
    digests = {"git.commit": "c" * 40, "data.md5": "d" * 32, "start.SHA-256": "s" * 64, "start.weights": "movenet_lightning"}
    own = {
        register.WEIGHTS_TAG: sha256_of(folder / package.WEIGHTS),
        "trained.sha256": "t" * 64,
        "released": NAME,
        "AP_gt_boxes_percent": "25.0",
    }
    assert {**digests, **own}.items() <= held.tags.items()

    version = promotion.champion(repository)
    assert version is not None
    found, expected = promotion.read(version, repository), released.read(NAME, folder.parent)
    assert found is not None and (found.variant, found.spec, found.evaluate) == (expected.variant, expected.spec, expected.evaluate)
    assert sha256_of(found.weights) == sha256_of(expected.weights)

    release(repository / "released", trained, card="# another card")
    assert releases.register(repository) == [f"{NAME}: version 2 of {VARIANT}"]
    assert str(client.get_model_version_by_alias(VARIANT, register.CHAMPION).version) == "1"
    assert releases.register(repository) == []


def test_a_store_with_a_champion_keeps_it(repository, trained):
    release(repository / "released", trained)
    with tracking.run("register", repository=repository) as run:
        made = replace(releases.candidate(NAME, repository / "released"), card="# a user's")
        version = register.register(made, run)
        run.client.set_registered_model_alias(VARIANT, register.CHAMPION, version.version)
    assert releases.register(repository) == [f"{NAME}: version 2 of {VARIANT}"]
    held = run.client.get_model_version_by_alias(VARIANT, register.CHAMPION)
    assert (str(held.version), held.description) == ("1", "# a user's")


def test_numbers_of_other_weights_are_refused(trained, tmp_path):
    (tmp_path / "predictions.json").write_text(json.dumps([{"provenance": {"weights_sha256": "f" * 64}}]))
    with pytest.raises(FarposeError, match=r"scores weights f+, not the rounded ones"):
        releases._require_same(tmp_path, trained)
    (tmp_path / "predictions.json").write_text(json.dumps([{"provenance": {"weights_sha256": sha256_of(trained)}}]))
    releases._require_same(tmp_path, trained)


@pytest.mark.parametrize(
    ("trained_at", "said"),
    [(None, "no run that trained these weights"), ("a" * 40 + "-dirty", "files that differ"), ("a" * 40, "not in this repository")],
)
def test_a_training_that_cannot_be_traced_is_not_released(trained, monkeypatch, trained_at, said):
    monkeypatch.setattr(register, "training_tags", lambda digest: {"git.commit": trained_at} if trained_at else {})
    with pytest.raises(FarposeError, match=f"{said}.*--commit"):
        releases._traced(releases.Making(NAME, VARIANT, trained.parent, "direct_64x48"))


def test_the_named_commit_stands_for_the_training_s(trained, tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    full = lineage.full_commit
    assert full(head[:10], tmp_path) == head and full("a" * 40, tmp_path) == ""
    monkeypatch.setattr(lineage, "full_commit", lambda name: full(name, tmp_path))
    monkeypatch.setattr(register, "training_tags", lambda digest: {"git.commit": "a" * 40, "data.md5": "7"})
    traced = releases._traced(releases.Making(NAME, VARIANT, trained.parent, "direct_64x48", commit=head[:10]))
    assert traced == {"git.commit": head, "data.md5": "7"}


@pytest.mark.parametrize("name", NAMES)
def test_the_released_files_are_those_that_were_made_and_say_from_what(name):
    folder = released.FOLDER / name
    released.check(folder)
    assert {path.name for path in folder.iterdir()} == {line.split()[1] for line in (folder / released.SUMS).open()} | {released.SUMS}
    assert max(path.stat().st_size for path in folder.iterdir()) <= released.LARGEST
    stated = released.facts(name)
    assert len(stated.commit) == 40 and stated.data_md5 and stated.start["SHA-256"] in (folder / released.README).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_released_model_and_its_onnx_file_find_the_golden_joints(name, tmp_path):
    written, model = json.loads(golden(name).read_text()), released.load(name)
    assert written["weights_sha256"] == sha256_of(model.package.weights), "`python -m tests.released_people` writes the golden joints"
    paths, boxes = draw_people(tmp_path)
    np.testing.assert_allclose(joints(model, paths, boxes), written["keypoints_image"], atol=0.05)

    found, variant = model.package, model.built.variant
    places = np.array([str(path) for path in paths.values()], dtype=object)
    given = Boxes("/", places, np.arange(len(paths)), np.concatenate(list(boxes.values())))
    crops = crop_boxes(given, variant.convention, found.spec, found.degrade, variant.skeleton)
    form = approach(variant.approach).form(variant)
    difference = export.compare(model.built.model, model.built.codec, found.folder / released.ONNX, list(crops.pixels), form)
    assert difference.within_limits and difference.joints == 6 * 17
