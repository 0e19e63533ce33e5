"""Acquiring data from archives: damaged and malicious ones leave nothing behind."""
# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from components.base.errors import FarposeError
from components.datasets.acquire.unpack import unpack
from tests.acquire_support import ARCHIVES, assert_complete, serve, sha256, short_pauses, take, tarred, zipped  # noqa: F401


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_taken_from_disk_and_web(tmp_path, take, serve, name):
    (tmp_path / name).write_bytes(ARCHIVES[name])
    take(str(tmp_path / name))
    assert_complete(tmp_path)
    server = serve({f"files/{name}": ARCHIVES[name]}, cut={f"files/{name}": [700]})
    take(f"{server.url}/files/{name}", sha256={name: sha256(ARCHIVES[name])})
    assert_complete(tmp_path)
    assert [start for method, _, start in server.log if method == "GET"] == [0, 700]
    with pytest.raises(FarposeError, match=f"{name}: SHA-256 is"):
        take(f"{server.url}/files/{name}", sha256={name: sha256(b"other")})


def test_a_changed_archive_is_not_continued_from_the_old_part(tmp_path, take, serve):
    server = serve({"coco.zip": ARCHIVES["coco.zip"]}, cut={"coco.zip": [700] + [0] * 20})
    with pytest.raises(FarposeError, match="truncated"):
        take(server.url + "/coco.zip")
    server.files["coco.zip"] = ARCHIVES["nested.zip"]
    server.cut.clear()
    server.log.clear()
    take(server.url + "/coco.zip")
    assert_complete(tmp_path)
    assert [start for method, _, start in server.log if method == "GET"] == [0]


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_archives_are_named(tmp_path, take, name, share):
    content = ARCHIVES[name][: int(len(ARCHIVES[name]) * share)]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FarposeError, match=f"{name}: (the archive is damaged or truncated|no file annotations)"):
        take(str(tmp_path / name))
    assert not (tmp_path / "data" / "coco").exists()


def special_tar(kind: bytes, name: str = "train2017/1.jpg") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return stream.getvalue()


def link_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("train2017/1.jpg")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return stream.getvalue()


def twice_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/1.jpg", "one")
        archive.writestr("a/1.jpg", "two")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("up.zip", lambda: zipped({"../evil.jpg": b"x"}), "unsafe file name"),
        ("root.zip", lambda: zipped({"/tmp/evil.jpg": b"x"}), "unsafe file name"),
        ("up.tar", lambda: tarred({"a/../../evil.jpg": b"x"}, mode="w"), "unsafe file name"),
        ("root.tar.gz", lambda: tarred({"/tmp/evil.jpg": b"x"}), "unsafe file name"),
        ("link.zip", link_zip, "link or a device"),
        ("link.tar", lambda: special_tar(tarfile.SYMTYPE), "link or a device"),
        ("hard.tar", lambda: special_tar(tarfile.LNKTYPE), "link or a device"),
        ("device.tar", lambda: special_tar(tarfile.CHRTYPE), "link or a device"),
        ("pipe.tar", lambda: special_tar(tarfile.FIFOTYPE), "link or a device"),
        ("twice.zip", twice_zip, "occurs twice"),
        ("bomb.zip", lambda: zipped({"a/1.jpg": b"\0" * (80 << 20)}), "60 times as large"),
        ("bomb.tar.gz", lambda: tarred({"a/1.jpg": b"\0" * (80 << 20)}), "60 times as large"),
        ("text.zip", lambda: b"no archive", "damaged or truncated"),
        ("text.tar.gz", lambda: b"no archive", "damaged or truncated"),
    ],
)
def test_malicious_archives_leave_nothing_behind(tmp_path, name, content, said):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content())
    (tmp_path / "out").mkdir()
    with pytest.raises(FarposeError, match=said):
        unpack(tmp_path / "in" / name, tmp_path / "out" / "coco", progress=False)
    assert list((tmp_path / "out").iterdir()) == []
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [name]


def test_a_damaged_member_is_named(tmp_path):
    content = bytearray(zipped({"train2017/1.jpg": bytes(range(256)) * 9}))
    content[60] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(FarposeError, match=r"bad.zip: the archive is damaged or truncated at train2017/1.jpg"):
        unpack(tmp_path / "bad.zip", tmp_path / "coco", progress=False)
