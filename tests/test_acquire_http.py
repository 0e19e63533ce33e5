"""Acquiring data from a web server: resumed by range, retried, checked."""
# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import json

import pytest

from components.base.errors import FarposeError
from tests.acquire_support import (  # noqa: F401
    ARCHIVES,
    FILES,
    NOT_WANTED,
    assert_complete,
    contents,
    serve,
    sha256,
    short_pauses,
    take,
    with_json,
    with_mapping,
    with_sums,
)  # fmt: skip


@pytest.mark.parametrize("listed", [with_sums, with_json, with_mapping])
def test_a_web_folder_is_fetched_once(tmp_path, take, serve, listed):
    server = serve(listed(FILES | NOT_WANTED))
    take(server.url)
    assert_complete(tmp_path)
    server.log.clear()
    take(server.url + "/")
    assert_complete(tmp_path)
    assert {name for _, name, _ in server.log} <= {"MANIFEST.json", "SHA256SUMS"}, "complete and verified files are not fetched again"


BIG = "train2017/000000000001.jpg"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_resumed(tmp_path, take, serve, ranges):
    server = serve(with_sums(FILES), cut={BIG: [300_000, 400_000]}, ranges=ranges)
    take(server.url)
    assert_complete(tmp_path)
    starts = [start for _, name, start in server.log if name == BIG]
    assert len(starts) == 3
    assert (starts[0], starts[1] > 200_000, starts[2] >= starts[1]) == (0, ranges, True)


def test_an_interrupted_download_continues_in_the_next_run(tmp_path, take, serve):
    server = serve(with_json(FILES), cut={BIG: [300_000] + [0] * 20})
    with pytest.raises(FarposeError, match=rf"{BIG}: truncated, 6 attempts .*run the same command again"):
        take(server.url)
    assert not (tmp_path / "data" / "coco").exists()
    server.cut.clear()
    server.log.clear()
    take(server.url)
    assert_complete(tmp_path)
    assert [start > 200_000 for _, name, start in server.log if name == BIG] == [True]


def test_a_busy_server_is_asked_again(tmp_path, take, serve):
    server = serve(with_sums(FILES), busy=2)
    take(server.url)
    assert_complete(tmp_path)
    assert server.log[:2] == [("GET", "MANIFEST.json", 0)] * 2
    with pytest.raises(FarposeError, match="cannot reach it: the server answered 503"):
        take(serve(with_sums(FILES), busy=99).url)


def test_a_web_folder_without_checksums_is_refused(take, serve):
    with pytest.raises(FarposeError, match=r"found neither MANIFEST.json nor SHA256SUMS"):
        take(serve(FILES).url)


@pytest.mark.parametrize("wrong", [FILES[BIG][:-1] + b"!", FILES[BIG][:1000]])
def test_tampered_and_truncated_files_are_named_and_replace_nothing(tmp_path, take, serve, wrong):
    good = serve(with_sums(FILES))
    take(good.url)
    listed = with_sums(FILES | {"README.md": b"version 2"})
    bad = serve(listed | {BIG: wrong})
    with pytest.raises(FarposeError, match=rf"{BIG}: SHA-256 is .*truncated or tampered with"):
        take(bad.url, accept_changes=True, sha256={BIG: sha256(FILES[BIG] + b"other")})
    assert contents(tmp_path / "data" / "coco") == dict(sorted(FILES.items()))
    bad.files[BIG] = FILES[BIG]
    take(bad.url, accept_changes=True)
    assert_complete(tmp_path, FILES | {"README.md": b"version 2"})


def test_a_damaged_part_is_fetched_anew(tmp_path, take, serve):
    server = serve(with_json(FILES), cut={BIG: [300_000] + [0] * 20})
    with pytest.raises(FarposeError, match="truncated"):
        take(server.url)
    (part,) = (tmp_path / "data" / ".cache").rglob("*.part")
    part.write_bytes(b"\0" * part.stat().st_size)
    server.cut.clear()
    take(server.url)
    assert_complete(tmp_path)


def test_a_missing_file_is_named(tmp_path, take, serve):
    files = with_sums(FILES)
    del files[BIG]
    with pytest.raises(FarposeError, match=rf"404 .* for {BIG}"):
        take(serve(files).url)


@pytest.mark.parametrize("path", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:/evil.jpg", "a\\..\\evil.jpg"])
def test_a_list_that_leads_outside_is_refused(tmp_path, take, serve, path):
    listed = {"MANIFEST.json": json.dumps({path: sha256(b"x")}).encode()}
    with pytest.raises(FarposeError, match="unsafe file name"):
        take(serve(listed).url)


def test_an_unreachable_server_is_named(take):
    for address in ("http://127.0.0.1:9/", "http://127.0.0.1:9/coco.zip"):
        with pytest.raises(FarposeError, match="cannot reach it"):
            take(address)
