"""What `predict` was given, told apart: photographs, videos, streams, and folders of both."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from components.base.errors import FarposeError
from pipelines.videos import Given

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm")
VIDEOS = (
    ".mp4",
    ".avi",
    ".mkv",
    ".mov",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
    ".mjpeg",
    ".mjpg",
)
STDIN = "-"


@dataclass(frozen=True)
class Sources:
    """
    Attributes:
        photographs: files that the user named.
        collected: photographs of folders, of which a damaged one is left out.
        videos: and streams, in order; those of folders have a `path` in `folders`.
        folders: that were looked into.
        notes: what was left out, a line each.
    """

    photographs: list[Path]
    collected: list[Path]
    videos: list[Given]
    folders: list[Path]
    notes: list[str]


def sort(inputs: Iterable[str]) -> Sources:
    """Tell inputs apart.

    Raises:
        FarposeError: a file is not there, a folder holds neither photographs nor videos, or two videos have one name.
    """
    found = Sources([], [], [], [], [])
    for given in inputs:
        path = Path(given)
        if given == STDIN:
            found.videos.append(Given("pipe:0", "standard input", "stdin"))
        elif "://" in given:
            found.videos.append(_stream(given))
        elif given.isdecimal() and not path.exists():
            found.videos.append(Given(int(given), f"camera {int(given)}", f"camera{int(given)}"))
        elif path.is_dir():
            _look_into(path, found)
        elif path.exists() and stat.S_ISFIFO(path.stat().st_mode):
            found.videos.append(Given(given, given, path.stem))
        elif path.suffix.lower() in VIDEOS:
            if not path.is_file():
                raise FarposeError("video not found", where=path, fix="give the path of a video file")
            found.videos.append(Given(str(path), given, path.stem, path))
        else:
            found.photographs.append(path)
    stems = [video.stem for video in found.videos] + [path.stem for path in (*found.photographs, *found.collected)]
    twice = next((video for video in found.videos if stems.count(video.stem) > 1), None)
    if twice is not None:
        problem = "another input has the same name, and the drawings would overwrite each other"
        raise FarposeError(problem, where=twice.name, fix="rename one, or give them one after another with an --output each")
    return found


def _stream(address: str) -> Given:
    """Its name holds no password, since it is printed and stored."""
    name = re.sub(r"//[^/@]*@", "//", address).partition("?")[0]
    stem = Path(urlsplit(name).path).stem
    return Given(address, name, re.sub(r"[^\w.-]", "_", stem) or "stream")


def _look_into(folder: Path, found: Sources) -> None:
    """Add a folder's own files; what lies in its folders is not looked at."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    photographs = [path for path in files if path.suffix.lower() in PHOTOGRAPHS]
    videos = [path for path in files if path.suffix.lower() in VIDEOS]
    if not photographs and not videos:
        ends = f"{', '.join(PHOTOGRAPHS[:4])} … or {', '.join(VIDEOS[:5])} …"
        raise FarposeError("no image or video lies in this folder", where=folder, fix=f"name one that holds files ending in {ends}")
    found.folders.append(folder)
    found.collected.extend(photographs)
    found.videos.extend(Given(str(path), str(path), path.stem, path) for path in videos)
    others = len(files) - len(photographs) - len(videos)
    if others:
        found.notes.append(f"{others} {'file' if others == 1 else 'files'} of {folder} left out: neither images nor videos")
