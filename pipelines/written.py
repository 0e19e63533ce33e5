"""Files of one run of `predict`: under temporary names until it ends, and never held in memory as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from components.base import processes
from components.base.errors import FarposeError
from components.base.files import full_disk_named

PREDICTIONS, IMAGES = "predictions.json", "images.json"
PARTIAL = ".unfinished-"  # … and the process that writes


class Written:
    """The folder that a run writes: everything is whole in it when the run ends well, and as it was before if it does not.

    A killed run leaves a hidden folder, which the next run into the same folder removes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._temporary = folder, folder / f"{PARTIAL}{processes.this_process()}"
        self._streams: dict[str, TextIO] = {}
        self._some = dict.fromkeys((PREDICTIONS, IMAGES), False)

    def __enter__(self) -> Written:
        for left in self.folder.glob(f"{PARTIAL}*"):
            if processes.living(left.name.removeprefix(PARTIAL)) is None:
                shutil.rmtree(left, ignore_errors=True)
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FarposeError(f"cannot be written: {error.strerror}", where=self.folder, fix="give another folder as --output") from error
        with full_disk_named(self.folder):
            for name, start in ((PREDICTIONS, "["), (IMAGES, "{\n")):
                self._streams[name] = (self._temporary / name).open("w")
                self._streams[name].write(start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with full_disk_named(self.folder):
                    self._finish()
        finally:
            for stream in self._streams.values():
                stream.close()
            shutil.rmtree(self._temporary, ignore_errors=True)

    def place(self, name: str) -> Path:
        """Where a further file is written meanwhile."""
        return self._temporary / name

    def add(
        self,
        found: Any,
        scores: np.ndarray,
        provenance: Mapping[str, Any],
        records: Mapping[int, Mapping[str, Any]],
        category_id: int,
    ) -> None:
        """Append the persons of some images, and what is known of these.

        Args:
            found, scores: `Predictions`, and their (N,) scores.
            records: by image number; their `file` names the image.
        Raises:
            FarposeError: a number is not finite, or the disk is full.
        """
        from components.evaluate.predictions import write_coco_results

        part = self.place("part.json")
        names = {number: Path(str(record["file"])).name for number, record in records.items()}
        write_coco_results(part, found, scores, provenance, names, category_id)
        with full_disk_named(self.folder):
            self._append(PREDICTIONS, part.read_text().strip()[1:-1])
            part.unlink()
            for number, record in records.items():
                self._append(IMAGES, f'"{number}": {json.dumps(record, allow_nan=False)}')

    def _append(self, name: str, text: str) -> None:
        if text:
            self._streams[name].write(",\n" * self._some[name] + text)
            self._some[name] = True

    def _finish(self) -> None:
        for name, end in ((PREDICTIONS, "]\n"), (IMAGES, "\n}\n")):
            self._streams[name].write(end)
            self._streams[name].close()
        last = {PREDICTIONS, IMAGES}
        for path in sorted(self._temporary.iterdir(), key=lambda path: path.name in last):  # drawings first
            os.replace(path, self.folder / path.name)
