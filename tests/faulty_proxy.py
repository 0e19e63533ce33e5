"""A server between a client and a real one that spoils part of the answers, as overloaded stores and bad lines do."""

from __future__ import annotations

import collections
import http.client
import itertools
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "silent", "short", "hung up")
HOP = ("connection", "transfer-encoding", "keep-alive", "date", "server")  # headers of one connection, which the proxy writes itself


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; of the requests with the given methods, `share` meet the next fault of `kinds`.

    `counts` tells how often each fault was met, and `served` how many answers were whole. Not two in a row of one request's tries
    are spoiled `most` times: the server is ill, not dead.
    """

    daemon_threads = True

    def __init__(
        self, upstream: str, share: float, kinds: tuple[str, ...] = FAULTS, silent_s: float = 3.0, most: int = 2, seed: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.share, self.silent_s, self.most = urlsplit(upstream).netloc, share, silent_s, most
        self.counts: collections.Counter[str] = collections.Counter()
        self._kinds, self._random, self._lock = itertools.cycle(kinds), random.Random(seed), threading.Lock()
        self._in_a_row: collections.Counter[tuple[str, str]] = collections.Counter()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, request: tuple[str, str]) -> str:
        """The fault that a request meets, or nothing."""
        with self._lock:
            if self._random.random() >= self.share or self._in_a_row[request] >= self.most:
                self._in_a_row[request] = 0
                self.counts["whole"] += 1
                return ""
            self._in_a_row[request] += 1
            kind = next(self._kinds)
            self.counts[kind] += 1
            return kind

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        fault = self.server.fault((self.command, self.path))
        body = self._body()
        if fault in ("500", "503"):
            return self._say(int(fault))
        if fault == "silent":
            time.sleep(self.server.silent_s)
        if fault in ("silent", "hung up"):
            return self._hang_up()
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in (*HOP, "content-length", "expect")}
        connection.request(self.command, self.path, body, {**headers, "Host": self.server.upstream})
        found = connection.getresponse()
        content = found.read()
        connection.close()
        length = found.headers.get("Content-Length", str(len(content)))
        self.send_response(found.status)
        for name, value in found.headers.items():
            if name.lower() not in (*HOP, "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "flipped" and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault == "short" and self.command == "GET":
            self.wfile.write(content[: len(content) // 2])
            return self._hang_up()
        self.wfile.write(content if self.command != "HEAD" else b"")
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def _body(self) -> bytes | None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        length = self.headers.get("Content-Length")
        return self.rfile.read(int(length)) if length else None

    def handle_expect_100(self) -> bool:
        return True

    def _say(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
