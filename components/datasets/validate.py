"""Stage validate: a Great Expectations suite over the persons table and its images."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from components.base.errors import FarposeError
from components.base.files import atomic_directory, write_json
from components.datasets.fetch import PERSONS_FILE
from components.datasets.params import TRAIN, DataParams
from components.datasets.reader import reader_of
from components.datasets.validate_columns import image_columns, person_columns
from components.datasets.validate_docs import write_docs
from components.datasets.validate_orientation import said_of_orientation, turned_images
from components.datasets.validate_suite import Check, run_suites
from components.pose.images import IMAGES_FILE, read_images
from components.pose.persons import SCALAR_COLUMNS, Persons


@dataclass(frozen=True)
class ValidationSummary:
    """The result for one persons table.

    Attributes:
        source, skeleton: names of the data set and of its joints.
        images_opened: whether image files were decoded.
        images_turned: images whose EXIF orientation is not 1.
        notes: what a person should look at, though no check fails.
    """

    source: str
    skeleton: str
    persons: int
    images: int
    images_opened: bool
    images_turned: int
    notes: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.success]

    def metrics(self) -> dict[str, Any]:
        """As JSON values, which depend on the table alone."""
        return {"success": not self.failed, **asdict(self)}

    def facts(self) -> dict[str, str]:
        """What was checked, in words."""
        opened = "every file opened" if self.images_opened else "files not opened (data.images is unchecked)"
        facts = {"Data set": f"{self.source} ({self.skeleton})", "Persons": str(self.persons), "Images": f"{self.images}, {opened}"}
        if self.images_opened:
            facts["Images with an EXIF orientation"] = str(self.images_turned)
        return facts | ({"Note": "; ".join(self.notes)} if self.notes else {})

    def table(self) -> str:
        """The summary for the terminal."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts().items() if name != "Note")
        notes = [f"  note: {note}" for note in self.notes]
        verdict = f"{len(self.failed)} of {len(self.checks)} checks failed" if self.failed else f"all {len(self.checks)} checks passed"
        tolerated = [f"  tolerated: {check.failure()}" for check in self.checks if check.success and check.unexpected]
        return "\n".join([facts, verdict, *(f"  failed: {check.failure()}" for check in self.failed), *tolerated, *notes])


def validate(persons_dir: Path, data_root: Path, params: DataParams, out: Path) -> ValidationSummary:
    """Check the tables of the fetch stage and the image files that they list.

    Writes into the directory `out`: `summary.json` (see `ValidationSummary.metrics`) and `docs/index.html` (Data Docs that need
    no network). If a check fails, both are written to `<out>_failed` instead, and `out` stays unchanged.

    Args:
        persons_dir: holds `persons.parquet` and `images.parquet`.
        data_root: the data set's root, data/<source>.
    Raises:
        FarposeError: the persons' joints differ from the data set's entry, or a check failed; lists the failed checks with
            their first offending rows and names the page.
    """
    reader, skeleton = reader_of(params.source, params.files), params.files.table_skeleton(params.source)
    persons = Persons.read(persons_dir / PERSONS_FILE)
    if persons.skeleton != skeleton:
        problem = f"the persons have the joints {persons.skeleton.name}, the data set's entry says otherwise ({skeleton.name})"
        raise FarposeError(problem, where=persons_dir / PERSONS_FILE, fix="run the fetch stage again")
    raw = pq.read_table(persons_dir / PERSONS_FILE, columns=list(SCALAR_COLUMNS)).to_pandas()
    images = read_images(persons_dir / IMAGES_FILE)
    opened = params.images != "unchecked"
    tables = {
        "persons": person_columns(persons, raw, images),
        "images": image_columns(images, data_root if opened else None, params.validation.threads, persons.upright),
    }
    checks, results = run_suites(tables, params.split_names, params.validation.of(params.files), persons.skeleton, reader)
    notes = said_of_orientation(tables["images"], params.source, persons.upright)
    turned = turned_images(tables["images"])
    summary = ValidationSummary(
        params.source, persons.skeleton.name, len(persons), len(images), opened, turned, tuple(notes), tuple(checks)
    )
    failed_out = out.with_name(f"{out.name}_failed")
    with atomic_directory(failed_out if summary.failed else out) as directory:
        write_json(directory / "summary.json", summary.metrics())
        write_docs(directory / "docs" / "index.html", checks, results, summary.facts())
    if summary.failed:
        raise FarposeError(
            f"{len(summary.failed)} of {len(checks)} checks failed: " + "; ".join(check.failure() for check in summary.failed),
            where=persons_dir,
            fix="; ".join(
                [*_one_file(params, images), f"read {failed_out / 'docs' / 'index.html'}, correct the data and fetch again", *notes]
            ),
        )
    shutil.rmtree(failed_out, ignore_errors=True)  # of an earlier table
    return summary


def _one_file(params: DataParams, images: pd.DataFrame) -> list[str]:
    """The way out where two splits name the same files, which some forms allow, and have the same images."""
    files = params.files.splits
    of_split = {name: set(images.loc[images["split"] == name, "image_path"]) for name in files}
    same = [name for name in files if name != TRAIN and files[name] == files.get(TRAIN) and of_split[name] & of_split[TRAIN]]
    key = f"data.sources.{params.source}.splits"
    share = "and set `data.splits.val` to a share of the training images, such as 0.1"
    return [f"{TRAIN} and {name} are the same files: remove `{name}` from {key} {share}" for name in same]
