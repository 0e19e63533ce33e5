"""Read each image once, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from components.base.errors import FarposeError
from components.pose import pictures

AGAIN = "acquire it again"
PROBLEMS = {  # of an image file, and the way out
    pictures.EMPTY: ("image file is empty", AGAIN),
    pictures.CUT: ("image file is cut short", AGAIN),
    pictures.DAMAGED: ("image file is damaged", AGAIN),
    pictures.TOO_LARGE: ("image is larger than OpenCV decodes (2^30 px)", "make it smaller"),
    pictures.OTHER: ("OpenCV cannot decode the file as an image", AGAIN),
}


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


def for_each_image(
    image_paths: np.ndarray,
    data_root: Path,
    work: Callable[[np.ndarray, np.ndarray], None],
    threads: int = 0,
    progress: str | None = None,
    upright: bool = False,
) -> None:
    """Decode every distinct image once and call `work(image, rows)` with the rows that lie in it.

    Args:
        image_paths: (N,) paths relative to `data_root`.
        work: called from several threads at once; rows of different calls are disjoint.
        threads: images in flight; 0 means one per usable core.
        progress: label of a progress bar, or None for silence.
        upright: see `read_image`.
    Raises:
        FarposeError: an image is unreadable; images that are not yet in work are dropped.
    """
    paths, group = np.unique(np.asarray(image_paths, dtype=object), return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(len(paths) + 1))

    def one(index: int) -> None:
        work(read_image(data_root / str(paths[index]), upright), order[bounds[index] : bounds[index + 1]])

    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        futures = [pool.submit(one, index) for index in range(len(paths))]
        try:
            for future in _tracked(futures, progress):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tracked(futures: list[Future[None]], progress: str | None) -> Iterable[Future[None]]:
    if progress is None:
        return as_completed(futures)
    from tqdm import tqdm

    return tqdm(as_completed(futures), total=len(futures), desc=progress, unit="image", mininterval=0.5)
