"""Videos and streams of frames: read upright, one frame at a time, and drawn ones written (OpenCV with FFmpeg)."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import full_disk_named

CODEC = "mp4v"
SUFFIXES = {
    "mp4v": ".mp4",
    "avc1": ".mp4",
    "hvc1": ".mp4",
    "VP80": ".webm",
    "VP90": ".webm",
    "MJPG": ".avi",
    "XVID": ".avi",
    "FFV1": ".mkv",
}
OTHER_SUFFIX = ".mkv"  # takes any codec
USUAL_FPS, MOST_FPS = 25.0, 1000.0  # of streams that state none, or nonsense
ANSWER_MS = 15_000  # for a stream's next frame
AHEAD = 4  # frames that are read before they are asked for
MISSING_S, MISSING = 1.0, 0.05  # a video that ends so much earlier than it says, in seconds and as a share of it, was cut short
LITTLE = "probesize;200000|analyzeduration;500000"  # bytes and µs of a stream that FFmpeg waits for before the first frame
CONVERT = "convert it, such as by `ffmpeg -i IN -c:v libx264 OUT.mp4`, or give another file"


@dataclass(frozen=True)
class Given:
    """A video or stream as the user named it.

    Attributes:
        opened: what OpenCV opens: a path or address, or a camera's number.
        name: for people and records; without a password.
        stem: of its drawn video.
        path: of a file, whose end is known; None for streams.
    """

    opened: str | int
    name: str
    stem: str
    path: Path | None = None


@dataclass(frozen=True)
class Frame:
    """Number `index` of a video, from 0, at `time` s: (H, W, 3) uint8 BGR, upright."""

    index: int
    time: float
    pixels: np.ndarray


class Video:
    """An open video or stream.

    Attributes:
        width, height: px of the upright frames.
        fps: frames per second.
        count: frames that the file says it has; None where it does not say.
    """

    def __init__(self, given: Given) -> None:
        """
        Raises:
            FarposeError: it does not open, or no frame can be decoded.
        """
        import cv2

        self.given, self._started = given, time.monotonic()
        with _silent():
            if isinstance(given.opened, int):
                self._capture = cv2.VideoCapture(given.opened)
            else:
                limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, ANSWER_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, ANSWER_MS]
                limits = limits if "://" in given.opened else []
                if given.path is None:
                    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", LITTLE)
                self._capture = cv2.VideoCapture(given.opened, cv2.CAP_FFMPEG, limits)
        if not self._capture.isOpened():
            raise self._closed()
        fps, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= MOST_FPS else USUAL_FPS
        self.count = int(count) if given.path is not None and count > 0 else None
        first = self._read(0)
        if first is None:
            self._capture.release()
            raise FarposeError("no frame of the video can be decoded", where=given.name, fix=CONVERT)
        self._first: Frame | None = first
        self.height, self.width = first.pixels.shape[:2]
        self.end = first.time  # of the last frame that was read, s

    def _closed(self) -> FarposeError:
        if isinstance(self.given.opened, int):
            return FarposeError("no such camera, or another program uses it", where=self.given.name, fix="`ls /dev/video*` lists cameras")
        if self.given.path is None:
            fix = "check the address, and that something sends; `-` takes MJPEG, MKV or MPEG-TS on standard input"
            return FarposeError("no video stream opens", where=self.given.name, fix=fix)
        if not self.given.path.stat().st_size:
            return FarposeError("the video file is empty", where=self.given.name, fix="give another file")
        problem = "the video does not open: it is damaged, lacks its end or is of a codec that OpenCV does not read"
        return FarposeError(problem, where=self.given.name, fix=CONVERT)

    def _read(self, index: int) -> Frame | None:
        import cv2

        there, pixels = self._capture.read()
        if not there or pixels is None or not pixels.size:
            return None
        at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not np.isfinite(at) or at < 0 or (at == 0 and index):
            at = time.monotonic() - self._started if isinstance(self.given.opened, int) else index / self.fps
        return Frame(index, round(at, 4), pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2))

    def close(self) -> None:
        """For a video whose frames are not asked for."""
        self._capture.release()

    def frames(self, every: int, stopped: Callable[[], bool]) -> Iterator[Frame]:
        """Each `every`-th frame from the first on, until the end or until `stopped` says so, even while a stream sends nothing."""
        ahead: queue.Queue[Frame | None] = queue.Queue(AHEAD)
        over = threading.Event()

        def read() -> None:
            index, frame = 0, self._first
            self._first = None
            while frame is not None and not over.is_set():
                self.end = frame.time
                _put(ahead, frame, over)
                frame = None
                for _ in range(every - 1):
                    index += 1
                    if over.is_set() or not self._capture.grab():
                        break
                else:
                    index += 1
                    frame = self._read(index)
            _put(ahead, None, over)

        reader = threading.Thread(target=read, daemon=True, name="frames")
        reader.start()
        try:
            while not stopped():
                with contextlib.suppress(queue.Empty):
                    frame = ahead.get(timeout=0.1)
                    if frame is None:
                        return
                    yield frame
        finally:
            over.set()
            reader.join(timeout=1.0)
            if not reader.is_alive():  # a read that hangs still uses it
                self._capture.release()

    @property
    def missing(self) -> str | None:
        """In words, by how much the video ended before the end that its file states."""
        if self.count is None:
            return None
        stated = self.count / self.fps
        short = stated - self.end - 1 / self.fps
        if short <= max(MISSING_S, MISSING * stated) and short * self.fps <= 0.5 * self.count:
            return None
        return f"it ends after {self.end:.1f} of {stated:.1f} s, cut short or damaged; what was read until there is kept"


def _put(ahead: queue.Queue[Frame | None], frame: Frame | None, over: threading.Event) -> None:
    while not over.is_set():
        try:
            ahead.put(frame, timeout=0.1)
        except queue.Full:
            continue
        return


def suffix_of(codec: str) -> str:
    """Of a file with this codec.

    Raises:
        FarposeError: no four letters.
    """
    if len(codec) != 4 or not codec.isascii():
        raise FarposeError(f"a codec has four letters, got {codec!r}", where="--codec", fix=f"such as {', '.join(SUFFIXES)}")
    return SUFFIXES.get(codec, OTHER_SUFFIX)


class Writer:
    """A video being written."""

    def __init__(self, path: Path, codec: str, fps: float, size: tuple[int, int]) -> None:
        """
        Args:
            path: ends as `suffix_of` the codec.
            size: width and height, px; the last column or row of an odd one is left out, as codecs want.
        Raises:
            FarposeError: this OpenCV has no such encoder, or it does not take the size.
        """
        import cv2

        self.path, self.codec, self.size, self.written = path, codec, size, 0
        for rate in dict.fromkeys([fps, round(fps, 2), float(round(fps)) or 1.0]):  # MPEG-4 counts in less than 2^16 parts of a second
            with quiet():
                fourcc = cv2.VideoWriter.fourcc(codec[0], codec[1], codec[2], codec[3])
                self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, rate, size)
            if self._writer.isOpened():
                return
        problem = f"OpenCV cannot write codec {codec!r} to {path.suffix} at {size[0]}x{size[1]} px"
        raise FarposeError(problem, where="--codec", fix=f"such as {CODEC}, VP80 (plays in browsers) or MJPG, or --no-draw")

    def write(self, picture: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB; one of another size than the first is scaled to it."""
        import cv2

        bgr = np.ascontiguousarray(picture[..., ::-1])
        self._writer.write(bgr if bgr.shape[1::-1] == self.size else cv2.resize(bgr, self.size))
        self.written += 1

    def close(self) -> None:
        """
        Raises:
            FarposeError: the file is not whole; the encoder itself says nothing of a full disk.
        """
        import cv2

        with quiet():
            self._writer.release()
            check: Any = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
            there = check.get(cv2.CAP_PROP_FRAME_COUNT) if check.isOpened() else 0
            check.release()
        if self.written and there < 0.9 * self.written:
            with full_disk_named(self.path), open(self.path, "ab") as stream:  # a full disk says so here
                stream.write(b"\0" * 65536)
            raise FarposeError("the drawn video was not written whole", where=self.path.name, fix="try another --codec, or --no-draw")


def opened(given: Given, stopped: Callable[[], bool]) -> Video:
    """A video or stream; what never sends anything is waited for until `stopped` says so.

    Raises:
        FarposeError: see `Video`.
        KeyboardInterrupt: it was stopped before its first frame.
    """
    if given.path is not None:
        return Video(given)
    answer: queue.Queue[Video | FarposeError] = queue.Queue()

    def work() -> None:
        try:
            answer.put(Video(given))
        except FarposeError as error:
            answer.put(error)

    threading.Thread(target=work, daemon=True, name="opening").start()
    while not stopped():
        with contextlib.suppress(queue.Empty):
            found = answer.get(timeout=0.1)
            if isinstance(found, FarposeError):
                raise found
            return found
    raise KeyboardInterrupt


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """OpenCV logs nothing meanwhile; whoever calls says what went wrong."""
    import cv2

    logging: Any = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What OpenCV's writer prints meanwhile, past any log, is dropped too; not for what may take long."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with _silent():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
