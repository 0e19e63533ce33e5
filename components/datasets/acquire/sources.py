"""Required files of an acquired data set, and the README next to the data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.datasets.params import SourceParams


def require_parts(source: SourceParams, folder: Path, where: object) -> None:
    """Check that a collected data set has the annotation files of its entry.

    Raises:
        FarposeError: names the first missing file.
    """
    expected = [files.annotations for files in source.splits.values()]
    for path in expected:
        if not (folder / path).is_file():
            fix = f"give the folder or archive that holds {', '.join(expected)}, or correct the entry's splits in params/data.yaml"
            raise FarposeError(f"no file {path} there", where=where, fix=fix)


def write_readme(root: Path, sources: Mapping[str, SourceParams]) -> None:
    """Write `root`/README.md, which lists the data sets. The text depends on the files and the entries alone."""
    lines = [
        "# Raw data",
        "",
        "Immutable input of the pipeline, owned by `data.dvc`. `farpose acquire SOURCE` fills it; nothing else writes here.",
        "SHA-256 of every file: `params/manifests/<source>.sha256`. Restore with `git checkout data.dvc && dvc checkout data.dvc`.",
    ]
    for name, source in sorted(sources.items()):
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
