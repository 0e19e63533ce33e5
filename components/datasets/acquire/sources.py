"""The data sets that can be acquired, and the note that lies beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.base.errors import FarposeError
from components.base.files import atomic_file


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        description, licence: for people.
        needs: glob patterns, relative to the data set's folder, of which each must match a file.
        rendered: drawn here instead of copied from somewhere.
    """

    description: str
    licence: str
    needs: tuple[str, ...]
    rendered: bool = False


SOURCES: dict[str, Source] = {
    "synthetic": Source(
        description="Rendered people: articulated, clothed figures, annotated as COCO keypoints.",
        licence="CC0 1.0",
        needs=("annotations/person_keypoints_train.json", "annotations/person_keypoints_val.json", "train/*.jpg", "val/*.jpg"),
        rendered=True,
    ),
    "coco": Source(
        description="COCO keypoints (Lin et al., 2014): photographs of people in everyday scenes.",
        licence="annotations CC BY 4.0; photographs as Flickr's users licensed them, see `licenses` of the annotation files",
        needs=("annotations/person_keypoints_*.json*",),
    ),
    "crowdpose": Source(
        description="CrowdPose (Li et al., 2019): photographs of crowds, 14 joints, drawn from COCO, MPII and AI Challenger.",
        licence="non-commercial research only, as its authors state; photographs as those data sets licensed them",
        needs=("annotations/*crowdpose*.json*",),
    ),
}


def require_parts(name: str, folder: Path, where: object) -> None:
    """Check that a collected data set has the files without which it is of no use.

    Raises:
        FarposeError: names the first pattern that matches nothing.
    """
    for pattern in SOURCES[name].needs:
        if not any(folder.glob(pattern)):
            expected = ", ".join(SOURCES[name].needs)
            raise FarposeError(f"no file {pattern} there", where=where, fix=f"give the folder or archive that holds {expected}")


def write_readme(root: Path) -> None:
    """Write `root`/README.md: which data sets are there. The text follows from the files alone."""
    lines = [
        "# Raw data",
        "",
        "Immutable input of the pipeline, owned by `data.dvc`. `farpose acquire SOURCE` fills it; nothing else writes here.",
        "SHA-256 of every file: `params/manifests/<source>.sha256`. Restore with `git checkout data.dvc && dvc checkout data.dvc`.",
    ]
    for name, source in sorted(SOURCES.items()):
        if (root / name).is_dir():
            lines += ["", f"## {name}", source.description, f"Licence: {source.licence}.", "", *_table(root / name)]
    with atomic_file(root / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _table(folder: Path) -> list[str]:
    rows = ["| folder | files | MB |", "|---|---|---|"]
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        sizes = [path.stat().st_size for path in part.rglob("*") if path.is_file()]
        rows.append(f"| {part.name} | {len(sizes)} | {sum(sizes) / 1e6:.1f} |")
    return rows
