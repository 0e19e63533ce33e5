"""`data.splits.val`: the scored split of a data set whose images are all in one file, as labelling tools export them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.fetch import fetch, in_dev, in_val
from components.datasets.params import DataParams, SplitFiles, SplitShares
from components.datasets.validate import validate
from components.pose.images import read_images
from components.pose.persons import Persons
from pipelines import settings, stages
from tests import tool_exports as tools
from tests.test_fetch import by_hand

ONE_FILE = {"train": SplitFiles("annotations.xml", "images")}
SHARES = SplitShares(dev=0.2, val=0.3)


def written(root: Path, images: int = 24) -> DataParams:
    """A task of CVAT's: every image shows the two persons of `tool_exports`."""
    one = tools.cvat_xml()
    start, end = one.index("  <image"), one.index('  <image id="1"')
    entries = [one[start:end].replace("a.png", f"{number}.png") for number in range(images)]
    root.mkdir()
    (root / "annotations.xml").write_text(one[:start] + "".join(entries) + "</annotations>")
    for number in range(images):
        tools.write_images(root / "made", seed=number)
        (root / "images").mkdir(exist_ok=True)
        (root / "made" / "a.png").rename(root / "images" / f"{number}.png")
    return replace(tools.params("cvat", ONE_FILE, orientation="upright"), splits=SHARES)


def test_a_share_of_the_training_images_is_scored(tmp_path: Path) -> None:
    """Which images those are is worked out in another way; no image is in two splits, and validation finds nothing."""
    params = written(tmp_path / "raw")
    summary = fetch(params, tmp_path / "raw", tmp_path / "persons", None)
    images, persons = read_images(tmp_path / "persons" / "images.parquet"), Persons.read(tmp_path / "persons" / "persons.parquet")
    places = {image: by_hand("own", image) for image in images["image_id"]}
    expected = {image: "dev" if place < 0.2 else "val" if place >= 0.7 else "train" for image, place in places.items()}
    assert images.set_index("image_id")["split"].to_dict() == expected and set(expected.values()) == {"train", "dev", "val"}
    assert [expected[image] for image in persons.frame["image_id"]] == persons.frame["split"].tolist() and len(persons) == 48
    assert list(summary.splits) == params.split_names == ["train", "dev", "val"]
    assert sum(split.images for split in summary.splits.values()) == len(images) == 24
    assert not any(any(split.ids_raised) for split in summary.splits.values())
    assert not validate(tmp_path / "persons", tmp_path / "raw", params, tmp_path / "validation").failed


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_val_is_chosen_apart_from_dev_and_keeps_its_images(share: float) -> None:
    image_ids = np.arange(1, 10_001)
    chosen = in_val("own", image_ids, share)
    assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / len(image_ids)) ** 0.5, "four standard errors"
    assert not (chosen & in_dev("own", image_ids, 1 - share)).any() and (chosen | in_dev("own", image_ids, 1 - share)).all()
    assert not (in_val("own", image_ids, share / 2) & ~chosen).any(), "a larger share keeps the images of a smaller one"


@pytest.mark.parametrize(
    ("shares", "splits", "problem"),
    [
        ({"val": 1.0}, ONE_FILE, "val is 1, expected a share from 0 up to, not including, 1"),
        ({"val": -0.1}, ONE_FILE, "val is -0.1, expected a share"),
        ({"dev": 0.5, "val": 0.5}, ONE_FILE, "dev and val are 0.5 and 0.5, which leaves no training images"),
        ({"val": 0.1}, {**ONE_FILE, "val": SplitFiles("b.xml", "images")}, r"has files of a split 'val': set splits\.val to 0"),
    ],
)
def test_wrong_shares_are_named(shares: dict[str, float], splits: dict[str, SplitFiles], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(tools.params("cvat", splits), splits=SplitShares(**shares))


def test_an_empty_share_is_named_with_its_own_key(tmp_path: Path) -> None:
    """Of two images none may be chosen; filters that removed nobody are not blamed."""
    params = replace(written(tmp_path / "raw", 2), splits=SplitShares(val=1e-6))
    named = r"no labelled person is left in split 'val' of 0 read \(none removed\) \(change data\.splits\.val \(now 1e-06 of the training"
    with pytest.raises(FarposeError, match=rf"annotations\.xml: {named}") as caught:
        fetch(params, tmp_path / "raw", tmp_path / "persons", None)
    assert "filters" not in str(caught.value) and "splits.dev" not in str(caught.value)


def test_a_data_set_without_val_is_refused_before_crops_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params: Any = replace(written(tmp_path / "raw", 4), splits=SplitShares())
    fetch(params, tmp_path / "raw", tmp_path / "persons", None)
    monkeypatch.setattr(settings, "data", lambda *_: params)
    with pytest.raises(FarposeError, match=r"data\.sources\.own: the data set has no split 'val', on which .*`data\.splits\.val`"):
        stages._require_scored(Persons.read(tmp_path / "persons" / "persons.parquet"))
