"""A small data set, a place to put it, and a web server that misbehaves as told."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from components.datasets.acquire import acquire, transfer
from components.datasets.manifest import check_manifest
from tests.coco_files import COMMITTED

FILES = {
    "annotations/person_keypoints_train2017.json": b'{"images": []}' * 200,
    "annotations/person_keypoints_val2017.json": b'{"images": [1]}' * 100,
    "train2017/000000000001.jpg": bytes(range(256)) * 2000,
    "train2017/000000000002.jpg": b"\xff\xd8second",
    "val2017/a photo.jpg": b"\xff\xd8third" * 50,
    "README.md": b"from somewhere",
}
NOT_WANTED = {".hidden.jpg": b"no", "program.exe": b"no", "train2017/.DS_Store": b"no"}
sha256 = lambda content: hashlib.sha256(content).hexdigest()  # noqa: E731


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def take(tmp_path):
    """`acquire` with a data folder and manifests of the test's own."""
    return functools.partial(acquire, "coco", root=tmp_path / "data", sources=COMMITTED, manifests=tmp_path / "manifests", progress=False)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_complete(tmp_path: Path, files: dict[str, bytes] = FILES) -> None:
    assert contents(tmp_path / "data" / "coco") == dict(sorted(files.items()))
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["README.md", "coco"], "nothing is left over"
    check_manifest(tmp_path / "data" / "coco", tmp_path / "manifests" / "coco.sha256")


class Server(ThreadingHTTPServer):
    """Serves `files`; misbehaves as told."""

    def __init__(self, files: dict[str, bytes], **behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.log, self.lock = files, [], threading.Lock()
        self.cut: dict[str, list[int]] = behaviour.get("cut", {})  # path → bytes after which to hang up, one for each request
        self.ranges: bool = behaviour.get("ranges", True)
        self.busy: int = behaviour.get("busy", 0)  # requests to answer with 503 first
        threading.Thread(target=functools.partial(self.serve_forever, poll_interval=0.01), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name, server = unquote(self.path).lstrip("/"), self.server
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers and server.ranges else 0
        with server.lock:
            server.log.append((self.command, name, start))
            busy, server.busy = server.busy > 0, max(server.busy - 1, 0)
        content = server.files.get(name)
        if busy or content is None:
            self.send_error(503 if busy else 404)
            return
        tag = f'"{sha256(content)[:8]}"'
        if self.headers.get("If-Range", tag) != tag:
            start = 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        if self.command == "GET":
            cuts = server.cut.get(name)
            self.wfile.write(content[start : cuts.pop(0)] if cuts else content[start:])
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(files, **behaviour):
        servers.append(Server(files, **behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def with_sums(files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {"SHA256SUMS": "".join(f"{sha256(content)}  {name}\n" for name, content in files.items()).encode()}


def with_json(files: dict[str, bytes]) -> dict[str, bytes]:
    rows = [{"file": name, "sha256": sha256(content), "bytes": len(content)} for name, content in files.items()]
    return files | {"MANIFEST.json": json.dumps({"files": rows}).encode()}


def with_mapping(files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {"MANIFEST.json": json.dumps({name: sha256(content) for name, content in files.items()}).encode()}


def zipped(files: dict[str, bytes], prefix: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], prefix: str = "", mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ARCHIVES = {
    "coco.zip": zipped(FILES | NOT_WANTED),
    "nested.zip": zipped(FILES, "coco/"),
    "coco.tar.gz": tarred(FILES | NOT_WANTED),
    "nested.tar": tarred(FILES, "./coco/", "w"),
}
