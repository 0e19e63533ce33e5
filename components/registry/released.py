"""Models that come with a clone: folders of `released/`, made whole by `farpose release` and checked whenever they are read.

model.safetensors, variant.yaml, preparation.yaml   a package, see `registry.package`; weights in half precision
model.onnx          the same network for ONNX Runtime: constants of half precision, arithmetic in float32
facts.json          origin, recipe and numbers, see `Facts`
README.md, NOTICE   the model card; whose licences the weights carry
SHA256SUMS          of every other file, in the form of `sha256sum`

Neither MLflow nor DVC is needed, and no pickle is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.base.config import REPOSITORY, parse
from components.base.errors import FarposeError, unknown_name
from components.base.files import atomic_directory, read_json, sha256_of, write_json
from components.models.variant import Variant
from components.models.zoo import Built
from components.registry import model_card, package
from components.registry.package import Package

FOLDER = REPOSITORY / "released"
ONNX, FACTS, README, NOTICE, SUMS = "model.onnx", "facts.json", "README.md", "NOTICE", "SHA256SUMS"
LARGEST = 10_000_000  # bytes of a file that a clone carries


@dataclass(frozen=True)
class Facts(model_card.Facts):
    """What is known of a released model: what its card states, with the metrics of the rounded weights, and its lineage.

    Attributes:
        commit: of this repository, whose code trained it; `data_md5`: DVC's digest of `data/` then.
        trained_sha256: of the weights as training wrote them, before they were rounded to half precision.
    """

    commit: str
    data_md5: str
    trained_sha256: str

    @property
    def origins(self) -> dict[str, Any]:
        trained = "trained weights, before rounding (SHA-256)"
        return {"commit": self.commit, "data (DVC's digest)": self.data_md5, trained: self.trained_sha256, **self.origin}

    @property
    def record(self) -> dict[str, Any]:
        """As facts.json has it: what names the training first."""
        return {"commit": self.commit, "data_md5": self.data_md5, "trained_sha256": self.trained_sha256, **asdict(self)}

    @property
    def lineage(self) -> dict[str, str]:
        """What a registered version says of its origin, as tags."""
        digests = {"git.commit": self.commit, "data.md5": self.data_md5, "trained.sha256": self.trained_sha256}
        started = {f"start.{key}": str(self.start[key]) for key in ("weights", "SHA-256") if key in self.start}
        return {key: value for key, value in {**digests, **started}.items() if value}


@dataclass(frozen=True)
class Loaded:
    """A released model, ready to predict: `built` in eval mode, and how its inputs are made (`package`: spec, degrade, evaluate)."""

    built: Built
    package: Package


def load(name: str, root: Path = FOLDER) -> Loaded:
    """The released model `name`, such as "pose_64x48".

    Raises:
        FarposeError: as `read`.
    """
    found = read(name, root)
    built = found.build()
    built.model.eval()
    return Loaded(built, found)


def read(name: str, root: Path = FOLDER) -> Package:
    """The package of a released model, once every file is seen to be the one that was released.

    Raises:
        FarposeError: there is no such model, or a file is missing, changed or unknown (names it).
    """
    folder = root / name
    if not folder.is_dir():
        raise unknown_name("released model", name, names(root), where=root)
    check(folder)
    return package.read(folder)


def names(root: Path = FOLDER) -> list[str]:
    """The released models that are there."""
    return sorted(path.parent.name for path in root.glob(f"*/{SUMS}"))


def facts(name: str, root: Path = FOLDER) -> Facts:
    """What is known of a released model; its files are not checked."""
    path = root / name / FACTS
    return parse(Facts, read_json(path), str(path))


def check(folder: Path) -> None:
    """Whether every file of a released model has the SHA-256 that SHA256SUMS names.

    Raises:
        FarposeError: a file is missing, damaged or not listed (names it).
    """
    fix = f"`git checkout {_shown(folder)}` brings the files back"
    sums = folder / SUMS
    if not sums.is_file():
        raise FarposeError(f"{SUMS} is missing", where=folder, fix=fix)
    lines = [line.partition("  ") for line in sums.read_text().splitlines()]
    listed = {file: digest for digest, _, file in lines}
    for needed in (package.WEIGHTS, package.VARIANT, package.PREPARATION):
        if needed not in listed:
            raise FarposeError(f"{needed} is not listed", where=sums, fix=fix)
    for file, digest in listed.items():
        path = folder / file
        if not path.is_file():
            raise FarposeError("file of a released model is missing", where=path, fix=fix)
        if sha256_of(path) != digest:
            raise FarposeError("damaged or changed: its SHA-256 is not the released one", where=path, fix=fix)


def write(
    folder: Path, variant: Variant, files: Mapping[str, Path], preparation: Mapping[str, Any], stated: Facts, card: str, notice: str
) -> None:
    """Write a released model, whole or not at all; equal contents give equal bytes.

    Args:
        files: model.safetensors (see `package.halve`) and model.onnx, by name.
        preparation: the mappings `shards`, `degrade` and `evaluate`.
        card, notice: texts.
    Raises:
        FarposeError: a file is larger than a clone should carry.
    """
    texts = package.texts(variant, preparation, card)
    texts = {(README if name == package.CARD else name): text for name, text in texts.items()} | {NOTICE: notice}
    with atomic_directory(folder) as temporary:
        for name, path in files.items():
            shutil.copyfile(path, temporary / name)
        for name, text in texts.items():
            (temporary / name).write_text(text)
        write_json(temporary / FACTS, stated.record)
        for path in sorted(temporary.iterdir()):
            if path.stat().st_size > LARGEST:
                problem = f"{path.name} has {path.stat().st_size / 1e6:.1f} MB, more than the {LARGEST / 1e6:.0f} MB of a released file"
                raise FarposeError(problem, where=folder, fix="release a smaller network")
        lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
        (temporary / SUMS).write_text("".join(lines))


def _shown(folder: Path) -> str:
    return str(folder.relative_to(REPOSITORY)) if folder.is_relative_to(REPOSITORY) else str(folder)
