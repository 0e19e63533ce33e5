"""Read each image once, several at a time, and make something of it where `base.fan_out` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from components.base.errors import FarposeError
from components.base.fan_out import mapped, usable_cores
from components.pose import pictures

Made = TypeVar("Made")

AGAIN = "acquire it again"
PROBLEMS = {  # of an image file, and the way out
    pictures.EMPTY: ("image file is empty", AGAIN),
    pictures.CUT: ("image file is cut short", AGAIN),
    pictures.DAMAGED: ("image file is damaged", AGAIN),
    pictures.TOO_LARGE: ("image is larger than OpenCV decodes (2^30 px)", "make it smaller"),
    pictures.OTHER: ("OpenCV cannot decode the file as an image", AGAIN),
}
PART_IMAGES, PART_BYTES = 32, 16 << 20  # of a part at most: its images, and what is made of them (a single image may be larger)


def read_image(path: str | Path, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 BGR pixels of an image file.

    Args:
        upright: rotate the image by its EXIF orientation, as viewers do. False: pixels as stored.
    Raises:
        FarposeError: the file is missing, empty, cut short, damaged, too large for OpenCV or not an image (see `pose.pictures.pixels`).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FarposeError("image not found", where=path, fix="run the fetch stage again") from None
    except OSError as error:
        raise FarposeError(f"image cannot be read: {error.strerror}", where=path) from error
    try:
        return pictures.pixels(data, upright)
    except pictures.Unreadable as error:
        problem, fix = PROBLEMS[error.kind]
        raise FarposeError(problem + (f": {error.said}" if error.said else ""), where=path, fix=fix) from error


@dataclass(frozen=True)
class Work(Generic[Made]):
    """What is made of the rows that lie in an image.

    Attributes:
        make: (image, job) → what is made; a module's function, or `functools.partial` of one. It runs in threads or other processes.
        job: rows (n,) → the job, which holds what `make` needs of them; called in this process, and the job may be sent to another.
        put: takes rows and what was made of them, image by image in the order of the paths; called in this process.
        size: (N,) or a number: bytes that are made of a row, which bound what is held at once.
    """

    make: Callable[[np.ndarray, Any], Made]
    job: Callable[[np.ndarray], Any]
    put: Callable[[np.ndarray, Made], None]
    size: np.ndarray | int


def for_each_image(
    image_paths: np.ndarray,
    data_root: Path,
    work: Work[Made],
    threads: int = 0,
    progress: str | None = None,
    upright: bool = False,
    image_size: np.ndarray | None = None,
) -> None:
    """Decode every distinct image once, and make of it what `work` says.

    Args:
        image_paths: (N,) paths relative to `data_root`.
        threads: images in flight, if threads of this process work; 0 means one per usable core.
        progress: label of a progress bar, or None for silence.
        upright: see `read_image`.
        image_size: (N, 2) width, height that the images have by their table, px; None: unchecked.
    Raises:
        FarposeError: an image is unreadable or of another size; of several, the first in the order of the paths. Images that are not
            yet in work are dropped.
    """
    paths, group = np.unique(np.asarray(image_paths, dtype=object), return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(len(paths) + 1))
    size = np.broadcast_to(work.size, len(group))
    most = min(PART_IMAGES, max(1, len(paths) // (4 * usable_cores())))  # a few images are shared out too

    def parts() -> Iterator[_Part[Made]]:
        part, held = _Part(data_root, upright, work.make), 0
        for index, path in enumerate(paths):
            rows = order[bounds[index] : bounds[index + 1]]
            more = int(size[rows].sum())
            if part.rows and (len(part.rows) >= most or held + more > PART_BYTES):
                yield part
                part, held = _Part(data_root, upright, work.make), 0
            said = None if image_size is None else (int(image_size[rows[0], 0]), int(image_size[rows[0], 1]))
            part.add(str(path), said, rows, work.job(rows))
            held += more
        if part.rows:
            yield part

    with _progress(len(paths), progress) as bar:
        for part, made in mapped(_made, parts(), threads):
            for rows, one in zip(part.rows, made, strict=True):
                work.put(rows, one)
            bar.update(len(made))


class _Part(Generic[Made]):
    """Some images and their jobs."""

    def __init__(self, data_root: Path, upright: bool, make: Callable[[np.ndarray, Any], Made]) -> None:
        self.data_root, self.upright, self.make = data_root, upright, make
        self.paths: list[str] = []
        self.sizes: list[tuple[int, int] | None] = []
        self.rows: list[np.ndarray] = []
        self.jobs: list[Any] = []

    def add(self, path: str, size: tuple[int, int] | None, rows: np.ndarray, job: Any) -> None:
        self.paths.append(path)
        self.sizes.append(size)
        self.rows.append(rows)
        self.jobs.append(job)


def _made(part: _Part[Made]) -> list[Made]:
    """One entry per image."""
    made = []
    for path, size, job in zip(part.paths, part.sizes, part.jobs, strict=True):
        image = read_image(part.data_root / path, part.upright)
        _check_size(image, size, part.data_root / path)
        made.append(part.make(image, job))
    return made


def _check_size(image: np.ndarray, said: tuple[int, int] | None, where: Path) -> None:
    found = (image.shape[1], image.shape[0])
    if said is None or found == said:
        return
    exif = "; its EXIF orientation may exchange the sides, see `orientation` in params/data.yaml" if found == said[::-1] else ""
    fix = f"run the fetch stage again{exif}"
    raise FarposeError(f"image is {found[0]}x{found[1]} px, its table says {said[0]}x{said[1]}", where=where, fix=fix)


def _progress(images: int, label: str | None) -> Any:
    from tqdm import tqdm

    return tqdm(total=images, desc=label, unit="image", mininterval=0.5, disable=label is None)
