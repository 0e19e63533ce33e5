"""`farpose predict` on streams: real pipes, a real web server, real signals."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import cli, paths
from tests import films
from tests.films import asked, film, images, read, records

weights, alone = films.weights, films.alone  # fixtures


def jpegs(count: int) -> list[bytes]:
    """Frames of some 20 kB: FFmpeg waits for a part of a stream before it gives the first frame."""
    return [
        cv2.imencode(".jpg", np.random.default_rng(index).integers(0, 255, (120, 160, 3), np.uint8))[1].tobytes() for index in range(count)
    ]


@pytest.fixture
def pipe(tmp_path) -> Iterator[Path]:
    """A pipe that a thread of the test writes to; a reader that stayed away is called, so that the thread ends."""
    path = tmp_path / "live.mjpg"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def send(pipe: Path, frames: int, then=lambda: None) -> threading.Thread:
    """Write frames, then wait in `then` before the pipe is closed."""

    def work() -> None:
        try:
            with open(pipe, "wb", buffering=0) as stream:
                for content in jpegs(frames):
                    stream.write(content)
                then()
        except BrokenPipeError:
            pass  # the reader has enough

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_pipe_is_read_to_its_end(weights, tmp_path, pipe):
    send(pipe, 20)
    assert cli.main(asked(weights, tmp_path / "out", pipe)) == 0
    assert [one["frame"] for one in images(tmp_path / "out").values()] == list(range(20))
    assert len(read(tmp_path / "out" / "live.mp4")[0]) == 20


def test_a_stream_ends_after_so_many_frames(weights, tmp_path, pipe):
    over = threading.Event()
    thread = send(pipe, 40, lambda: over.wait(60))
    try:
        assert cli.main(asked(weights, tmp_path / "out", pipe, options=("--frames", "6"))) == 0
    finally:
        over.set()
    thread.join(60)
    assert len(images(tmp_path / "out")) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_that_is_stopped_keeps_what_was_found_even_while_nothing_is_sent(weights, tmp_path, pipe, capfd, number):
    over, out = threading.Event(), tmp_path / "out"

    def stop() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not any(path.stat().st_size > 100 for path in out.glob(".unfinished-*/live.mp4")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)
        over.wait(120)

    send(pipe, 60, stop)
    before = signal.getsignal(number)
    try:
        assert cli.main(asked(weights, out, pipe)) == 0
    finally:
        over.set()
    assert signal.getsignal(number) is before
    kept = len(images(out))
    assert kept and f"note: stopped after {kept} frames; what was found until then is kept" in capfd.readouterr().out
    assert len(records(out)) == kept and len(read(out / "live.mp4")[0]) == kept


def test_a_video_is_read_from_a_web_server_without_its_password_in_the_records(weights, tmp_path):
    film(tmp_path / "site" / "clip.webm", frames=9)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "site")
    handler.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        try:
            assert cli.main(asked(weights, tmp_path / "out", f"http://me:secret@127.0.0.1:{port}/clip.webm?key=secret")) == 0
        finally:
            server.shutdown()
    assert len(images(tmp_path / "out")) == 9 and "secret" not in (tmp_path / "out" / "images.json").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", "images.json", "predictions.json"}


def test_a_stream_that_never_sends_can_be_interrupted(weights, tmp_path, pipe, capfd):
    over = threading.Event()
    send(pipe, 0, lambda: (time.sleep(2), os.kill(os.getpid(), signal.SIGINT), over.wait(120)))
    try:
        assert cli.main(asked(weights, tmp_path / "out", pipe)) == 130
    finally:
        over.set()
    assert "interrupted" in capfd.readouterr().err and not list((tmp_path / "out").iterdir())


@pytest.mark.operation
@pytest.mark.slow
def test_a_killed_run_leaves_the_earlier_outputs_and_the_next_one_clears_up(weights, tmp_path):
    out, environment = tmp_path / "out", {**os.environ, "FARPOSE_DEVICE": "cpu"}
    assert cli.main(asked(weights, out, film(tmp_path / "live.mp4", frames=3))) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    command = [sys.executable, "-m", "pipelines.cli", *asked(weights, out, "-")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=paths.REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    try:
        assert process.stdin is not None
        for content in jpegs(60):
            process.stdin.write(content)
        process.stdin.flush()
        deadline = time.monotonic() + 300
        while not any(path.stat().st_size > 100 for path in out.glob(".unfinished-*/stdin.mp4")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
    left = list(out.glob(".unfinished-*"))
    assert len(left) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    done = subprocess.run(command, input=b"".join(jpegs(12)), cwd=paths.REPOSITORY, env=environment, capture_output=True, timeout=600)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert len(images(out)) == 12 and {path.name for path in out.iterdir()} == {*before, "stdin.mp4"}
