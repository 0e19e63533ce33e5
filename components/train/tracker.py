"""Where training's numbers go while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Receives one mapping of numbers per epoch."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record `values`; `step` counts finished epochs from 1. A resumed run repeats the earlier epochs first."""


class NullTracker:
    """Records nothing."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        pass


class JsonLinesTracker:
    """One JSON object per epoch, appended to a file that can be watched while training runs."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def metrics(self, values: dict[str, float], step: int) -> None:
        with open(self.path, "a") as stream:
            stream.write(json.dumps({"epoch": step, **values}) + "\n")
