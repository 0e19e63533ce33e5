"""OpenCV's decoder, and what it says about a file.

libjpeg goes on after damage, fills in what it lacks and prints one line on the process's standard error, which names no file. OpenCV passes
on neither the line nor its number of warnings. So images are decoded in threads whose standard error is a file in memory, where the line is
read afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

STDERR = 2
CLONE_FILES = 0x400  # Linux, <sched.h>: the thread gets its own table of open files

_own = threading.local()
_turn = threading.Lock()


def decode(data: bytes) -> tuple[np.ndarray | None, str]:
    """(H, W, 3) uint8 BGR pixels as stored, or None, and what the decoder said; it may be called from many threads.

    Raises:
        cv2.error: more than 2^30 px.
    """
    return _threads(os.getpid()).submit(_decode, data).result()


@functools.lru_cache(maxsize=1)
def _threads(_process: int) -> ThreadPoolExecutor:
    """The decoding threads of this process (a fork has none of its parent's)."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decoder", initializer=_separate)


def _separate() -> None:
    """Give this thread a standard error of its own, where the system allows that."""
    said = _memory()
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    _own.alone = unshare is not None and unshare(CLONE_FILES) == 0
    if not _own.alone:
        _own.said = said
        return
    os.dup2(said, STDERR)
    os.closerange(STDERR + 1, os.sysconf("SC_OPEN_MAX"))  # copies of others' files: a pipe would not end, a lock not be released


def _memory() -> int:
    """A file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("decoder")
    handle, path = tempfile.mkstemp()
    os.unlink(path)
    return handle


def _decode(data: bytes) -> tuple[np.ndarray | None, str]:
    with _heard() as said:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return image, said.text


class _Said:
    text = ""


@contextlib.contextmanager
def _heard() -> Iterator[_Said]:
    """What is printed on standard error meanwhile."""
    said = _Said()
    if _own.alone:
        try:
            yield said
        finally:
            said.text = _taken(STDERR)
        return
    with _turn:  # one at a time, because standard error is everybody's
        everybodys = os.dup(STDERR)
        os.dup2(_own.said, STDERR)
        try:
            yield said
        finally:
            os.dup2(everybodys, STDERR)
            os.close(everybodys)
            said.text = _taken(_own.said)


def _taken(file: int) -> str:
    """What was written to the file, which is emptied."""
    length = os.fstat(file).st_size
    if not length:
        return ""
    text = os.pread(file, length, 0).decode(errors="replace")
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    return text
