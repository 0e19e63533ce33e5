"""Files of a web server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from components.base.errors import FarposeError
from components.datasets.acquire.listing import CHECKSUM_LISTS, BrokenTransfer, Entry, Stream, parse_checksums, visible, wanted

CHUNK = 1 << 18
TIMEOUT_S = (10, 60)  # to connect, and between two packets


class HttpPlace:
    """A web folder with a MANIFEST.json or SHA256SUMS, or (`single`) one file at exactly this address."""

    threads = 8

    def __init__(self, url: str, single: bool = False) -> None:
        import requests

        self.url, self.single, self.left_out = url, single, list[str]()
        self._session = requests.Session()
        # Bytes must arrive as they are stored, so that offsets and sizes refer to the file.
        self._session.headers["Accept-Encoding"] = "identity"

    def entries(self) -> list[Entry]:
        if self.single:
            return [self._single_entry()]
        for name in CHECKSUM_LISTS:
            response = self._get(self._address(name), {})
            if response.status_code == 200:
                listed = parse_checksums(name, response.content, self._address(name))
                self.left_out = [entry.path for entry in listed if visible(entry.path) and not wanted(entry.path)]
                return sorted((entry for entry in listed if wanted(entry.path)), key=lambda entry: entry.path)
            response.close()
            if response.status_code >= 500:
                raise BrokenTransfer(f"the server answered {response.status_code}")
        fix = "give the address of a .zip or .tar.gz, or put the output of `sha256sum` there as SHA256SUMS"
        raise FarposeError(f"found neither {' nor '.join(CHECKSUM_LISTS)} (last answer: {response.status_code})", where=self.url, fix=fix)

    def open(self, entry: Entry, offset: int) -> Stream:
        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if entry.tag and entry.tag != entry.sha256:
                headers["If-Range"] = entry.tag  # if the file has changed, the server sends all of it
        response = self._get(self.url if self.single else self._address(entry.path), headers)
        length = response.headers.get("Content-Length")
        if response.status_code == 206:
            match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if match and int(match[1]) == offset:
                return Stream(offset, int(match[2]) if match[2] != "*" else None, self._chunks(response))
            response.close()
            return self.open(entry, 0)
        if response.status_code == 416 and offset:
            response.close()
            return self.open(entry, 0)
        self._refuse(response, entry)
        return Stream(0, int(length) if length else None, self._chunks(response))

    def _refuse(self, response: Any, entry: Entry) -> None:
        code = response.status_code
        if code == 200:
            return
        response.close()
        if code >= 500 or code in (408, 429):
            raise BrokenTransfer(f"the server answered {code}")
        raise FarposeError(f"the server answered {code} {response.reason} for {entry.path}", where=self.url, fix="check the address")

    def _single_entry(self) -> Entry:
        import requests

        tag, size = "", None
        try:
            response = self._session.head(self.url, timeout=TIMEOUT_S, allow_redirects=True)
        except requests.RequestException as error:
            raise BrokenTransfer(_reason(error)) from error
        if response.status_code == 200:  # some servers do not answer HEAD
            etag = response.headers.get("ETag", "")
            tag = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
            length = response.headers.get("Content-Length")
            size = int(length) if length else None
        return Entry(urlsplit(self.url).path.rsplit("/", 1)[-1], size, tag)

    def _address(self, path: str) -> str:
        return self.url.rstrip("/") + "/" + quote(path)

    def _get(self, url: str, headers: dict[str, str]) -> Any:
        import requests

        try:
            return self._session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise BrokenTransfer(_reason(error)) from error
        except requests.RequestException as error:
            raise FarposeError(f"not a usable address: {_reason(error)}", where=url) from error

    def _chunks(self, response: Any) -> Iterator[bytes]:
        import urllib3

        try:
            with response:
                yield from response.raw.stream(CHUNK, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise BrokenTransfer(_reason(error)) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
