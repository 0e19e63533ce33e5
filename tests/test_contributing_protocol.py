"""A degradation protocol is added by one file: no other file changes, and shards, training crops and evaluation know it."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.records import records
from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import PACKAGE, protocols
from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD
from components.degrade.shard import Source
from components.degrade.shards import EvalCrops, TrainCrops
from components.degrade.stage import degrade
from tests.tiny_people import tiny_people

SIZE = (32, 24)
POSTER = '''
"""Protocol `poster`: few grey levels, with a threshold that moves in every step of training."""

from dataclasses import dataclass

import numpy as np

from components.degrade.area import area_mean, upright_grid
from components.degrade.protocol import Protocol
from components.degrade.render import normal_noise


@dataclass(frozen=True)
class Poster:
    levels: int = 4


class Posterised(Protocol):
    name = "poster"
    caption = "few grey levels"
    density = 4.0
    taps = 4
    redraws = True
    settings = Poster

    def crop(self, image, view, settings, seed):
        step, start = upright_grid(view.image_to_crop)
        width = 256 / settings.levels
        return np.clip(np.floor(area_mean(image, start, step, view.size) / width) * width, 0, 255).astype(np.uint8)

    def degrade(self, rendered, settings):
        width = 256 / settings.levels
        moved = rendered.grey_levels + 2 * normal_noise(rendered.keys, rendered.grey_levels.shape[1:])
        return ((moved / width).floor() * width).clamp(0, 255)


PROTOCOL = Posterised()
'''


def files_of(folder: Path) -> dict[str, str]:
    """Digest of every file of the code and the parameters."""
    paths = [path for part in ("components", "pipelines", "params") for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.suffix != ".pyc"}


@pytest.fixture
def poster(tmp_path, monkeypatch):
    """The one file, in a folder that the package of protocols searches as well."""
    before = files_of(REPOSITORY)
    folder = tmp_path / "added"
    folder.mkdir()
    (folder / "poster.py").write_text(POSTER)
    package = importlib.import_module(PACKAGE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    records.cache_clear()
    yield folder
    monkeypatch.undo()
    sys.modules.pop(f"{PACKAGE}.poster", None)
    records.cache_clear()
    assert files_of(REPOSITORY) == before and [path.name for path in folder.glob("*.py")] == ["poster.py"], "one file is touched"


def test_a_protocol_is_one_file(poster, tmp_path):
    people = tiny_people(tmp_path / "people")
    spec, params = ShardSpec(SIZE, "poster"), DegradeParams(protocols={"poster": {"levels": 8}})
    assert spec.name == "poster_32x24"
    degrade(Source(people, tmp_path / "people"), spec, params, tmp_path / "shard", progress=False)
    assert (tmp_path / "shard" / "contact_sheet.png").is_file()
    evaluated = EvalCrops.open(tmp_path / "shard", "classic")
    assert evaluated.protocol == "poster" and not (evaluated.pixels % 32).any() and len(np.unique(evaluated.pixels)) > 3
    crops = TrainCrops.open(tmp_path / "shard")
    subject, indices = Augmenter(spec.geometry("classic"), AugmentParams(), crops.skeleton), torch.arange(len(crops))
    images = subject(crops, indices, 1).images * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    torch.testing.assert_close(images * 8, (images * 8).round() * 255 / 256 * 256 / 255, atol=0.05, rtol=0)
    assert not torch.equal(subject(crops, indices, 1).images, subject(crops, indices, 2).images)


def test_the_protocol_is_gone_with_its_file():
    with pytest.raises(FarposeError, match="unknown protocol 'poster'"):
        ShardSpec(SIZE, "poster")


def test_nothing_but_its_file_and_defaults_name_a_protocol():
    names = "|".join(protocols())
    named = re.compile(rf"""["']({names})["']""")
    found = {
        (str(path.relative_to(REPOSITORY)), line.strip())
        for path in (REPOSITORY / "components").rglob("*.py")
        for line in path.read_text().splitlines()
        if named.search(line)
    }
    defaults = {line for path, line in found if path == "components/degrade/params.py"}
    assert defaults == {'protocol: str = "direct"'}
    others = {path for path, _ in found} - {"components/degrade/params.py"}
    assert others <= {f"components/degrade/protocols/{name}.py" for name in protocols()}, found
