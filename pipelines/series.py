"""Images that `predict` works through in batches: photographs, and frames of a video or stream."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from pipelines import photographs, videos
from pipelines.photographs import Photograph
from pipelines.written import Written

AT_ONCE, BYTES_AT_ONCE = 8, 1 << 26  # images of a batch, and of their pixels; a batch holds at least one image
ON_SHEET = 200  # images on the contact sheet, at most

Record = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """An image: its number, (H, W, 3) uint8 BGR upright, and what images.json says of it."""

    number: int
    pixels: np.ndarray
    record: Record


class Stop:
    """While it is entered, Ctrl-C and SIGTERM ask for an end, in which nothing found is lost; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.signal != 0

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """A few images at a time, so that memory does not depend on their number."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) >= AT_ONCE or (len(batch) + 1) * item.pixels.nbytes > BYTES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass
class Photographs:
    """Image files.

    Attributes:
        shots: by number.
        places: names of their drawings, by number.
    """

    shots: dict[int, Photograph]
    places: dict[int, str]
    unit: str = field(default="image", init=False)
    _sheet: Any = field(default=None, init=False)

    @property
    def total(self) -> int | None:
        return len(self.shots)

    @property
    def sheet(self) -> str | None:
        """Name of the page that shows all of them."""
        return photographs.SHEET if len(self.shots) >= photographs.SHEET_FROM else None

    def items(self, stopped: Callable[[], bool]) -> Iterator[Item]:
        from components.degrade.images import read_image

        for number, shot in self.shots.items():
            if stopped():
                return
            yield Item(number, read_image(shot.path, upright=True), shot.record)

    def draw(self, item: Item, picture: np.ndarray, caption: str, written: Written) -> None:
        from components.pose.draw import write_png
        from components.pose.sheet import Sheet

        write_png(written.place(self.places[item.number]), picture)
        self._sheet = self._sheet or Sheet()
        if self.sheet and len(self._sheet.cells) < ON_SHEET:
            self._sheet.add(picture, f"{self.shots[item.number].path.name}: {caption}")

    def close(self, written: Written) -> None:
        from components.pose.draw import write_png

        if self.sheet and self._sheet:
            write_png(written.place(self.sheet), self._sheet.page())


class Clip:
    """A video or stream; its frames are numbered on from `first`.

    Attributes:
        notes: what to say of it at the end.
    """

    unit, sheet = "frame", None

    def __init__(self, video: videos.Video, first: int, every: int, most: int | None, codec: str) -> None:
        self.video, self.given, self._first, self._every, self._most, self._codec = video, video.given, first, every, most, codec
        self.place = self.given.stem + videos.suffix_of(codec)
        self.taken, self.notes = 0, []  # type: int, list[str]
        self._writer: videos.Writer | None = None

    @property
    def total(self) -> int | None:
        """Frames that are to come, where that is known."""
        count = None if self.video.count is None else -(-self.video.count // self._every)
        known = [one for one in (count, self._most) if one is not None]
        return min(known) if known else None

    def items(self, stopped: Callable[[], bool]) -> Iterator[Item]:
        for frame in self.video.frames(self._every, stopped):
            height, width = frame.pixels.shape[:2]
            record = {"file": self.given.name, "frame": frame.index, "time_s": frame.time, "width": width, "height": height}
            self.taken += 1
            yield Item(self._first + self.taken - 1, frame.pixels, record)
            if self.taken == self._most:
                return
        if not stopped() and self.video.missing:
            self.notes.append(f"{self.given.name}: {self.video.missing}")

    def draw(self, item: Item, picture: np.ndarray, caption: str, written: Written) -> None:
        if self._writer is None:
            size = self.video.width, self.video.height
            self._writer = videos.Writer(written.place(self.place), self._codec, self.video.fps / self._every, size)
        self._writer.write(picture)

    def close(self, written: Written) -> None:
        if self._writer is not None:
            self._writer.close()


Series = Photographs | Clip


def check_places(output: Path, clips: list[videos.Given], codec: str) -> None:
    """
    Raises:
        FarposeError: a drawn video would replace one that is read.
    """
    from components.base.errors import FarposeError

    read = {clip.path.resolve() for clip in clips if clip.path is not None}
    for clip in clips:
        place = output / (clip.stem + videos.suffix_of(codec))
        if place.resolve() in read:
            raise FarposeError("the drawn video would replace the one that is read", where=place, fix="give another folder as --output")
