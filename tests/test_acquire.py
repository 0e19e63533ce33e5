"""Acquiring data from a folder: resumed, checked, never half in place. Web, archives and S3 have files of their own."""
# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import pytest

from components.base.errors import FarposeError
from components.datasets.acquire import acquire
from components.datasets.acquire.listing import kinds_of, parse_checksums, safe_path, wanted
from components.datasets.manifest import check_manifest, read_manifest
from components.datasets.params import SourceParams, SplitFiles
from components.datasets.synthetic import SyntheticParams
from tests.acquire_support import FILES, NOT_WANTED, assert_complete, contents, put, sha256, short_pauses, take, tarred, zipped  # noqa: F401
from tests.coco_files import COMMITTED


def test_a_local_folder_is_copied_with_manifest_and_note(tmp_path, take):
    done = take(str(put(tmp_path / "from", FILES | NOT_WANTED)))
    assert_complete(tmp_path)
    assert (done.files, done.size_bytes, done.changed) == (len(FILES), sum(map(len, FILES.values())), False)
    assert read_manifest(done.manifest) == {name: sha256(content) for name, content in sorted(FILES.items())}
    note = (tmp_path / "data" / "README.md").read_text()
    assert "## coco" in note and "| train2017 | 2 |" in note and "CC BY 4.0" in note
    before = note, done.manifest.read_bytes()
    take(str(tmp_path / "from"))
    assert ((tmp_path / "data" / "README.md").read_text(), done.manifest.read_bytes()) == before


def test_an_interrupted_copy_continues(tmp_path, take, monkeypatch):
    source, opened = str(put(tmp_path / "from", FILES)), []
    from components.datasets.acquire.local import LocalFolder

    original = LocalFolder.open

    def fragile(self, entry, offset):
        opened.append(entry.path)
        if len(opened) == 4:
            raise KeyboardInterrupt
        return original(self, entry, offset)

    monkeypatch.setattr(LocalFolder, "threads", 1)
    monkeypatch.setattr(LocalFolder, "open", fragile)
    with pytest.raises(KeyboardInterrupt):
        take(source)
    assert not (tmp_path / "data" / "coco").exists()
    arrived, count = set(opened[:3]), len(opened)
    with open(tmp_path / "data" / ".cache" / "coco.jsonl", "a") as ledger:
        ledger.write('{"path": "train20')  # as a killed run may leave it
    take(source)
    assert_complete(tmp_path)
    assert opened[count:]
    assert not set(opened[count:]) & arrived, "what had arrived is not copied again"


def test_changed_data_are_refused_until_accepted(tmp_path, take):
    source = put(tmp_path / "from", FILES)
    take(str(source))
    (source / "README.md").write_bytes(b"changed")
    (source / "val2017" / "new.jpg").write_bytes(b"new")
    with pytest.raises(FarposeError, match=r"README.md: SHA-256 is .*--accept-changes"):
        take(str(source))
    (source / "README.md").write_bytes(FILES["README.md"])
    with pytest.raises(FarposeError, match=r"unexpected val2017/new.jpg.*--accept-changes"):
        take(str(source))
    assert contents(tmp_path / "data" / "coco") == dict(sorted(FILES.items()))
    assert take(str(source), accept_changes=True).changed
    assert_complete(tmp_path, FILES | {"val2017/new.jpg": b"new"})


def test_a_folder_with_checksums_is_checked(tmp_path, take):
    source = put(tmp_path / "from", FILES)
    sums = "".join(f"{sha256(content)}  ./{name}\n" for name, content in FILES.items())
    (source / "SHA256SUMS").write_text(sums)
    (source / "train2017/000000000002.jpg").write_bytes(b"\xff\xd8sec")
    with pytest.raises(FarposeError, match=r"train2017/000000000002.jpg: SHA-256 is"):
        take(str(source))
    (source / "train2017/000000000002.jpg").unlink()
    with pytest.raises(FarposeError, match=r"train2017/000000000002.jpg is on the list"):
        take(str(source))
    put(source, FILES)
    take(str(source))
    assert_complete(tmp_path)


def test_a_killed_installation_is_recovered(tmp_path, take):
    take(str(put(tmp_path / "from", FILES)))
    data = tmp_path / "data"
    (data / ".cache").mkdir()
    (data / "coco").rename(data / ".cache" / "coco.old")
    with pytest.raises(FarposeError, match="no such file"):
        take(str(tmp_path / "nowhere"))
    assert contents(data / "coco") == dict(sorted(FILES.items()))


def test_two_at_one_time_are_refused(tmp_path, take, monkeypatch):
    source = str(put(tmp_path / "from", FILES))
    from components.datasets.acquire import main

    original, seen = main._collect, []

    def collect(*arguments):
        monkeypatch.setattr(main, "_collect", original)
        with pytest.raises(FarposeError, match="another `farpose acquire`") as caught:
            take(source)
        seen.append(caught)
        return original(*arguments)

    monkeypatch.setattr(main, "_collect", collect)
    take(source)
    assert seen
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    ("source", "location", "said"),
    [
        ("cocoo", "x", "did you mean 'coco'"),
        ("coco", None, "no location is given for coco"),
        ("coco", "nowhere/at/all", "no such file or folder"),
        ("coco", "ftp://host/x", "unknown kind of address 'ftp'"),
        ("coco", "s3://", "names no bucket"),
        ("synthetic", "somewhere", "rendered here"),
    ],
)
def test_wrong_requests_are_named(tmp_path, source, location, said):
    with pytest.raises(FarposeError, match=said):
        acquire(source, location, tmp_path / "data", COMMITTED, manifests=tmp_path, progress=False)


def test_a_folder_without_annotations_is_refused(tmp_path, take):
    with pytest.raises(FarposeError, match=r"no file annotations/person_keypoints_train2017\.json there .*val2017\.json.*data\.yaml"):
        take(str(put(tmp_path / "from", {"train2017/1.jpg": b"x"})))
    assert not (tmp_path / "data" / "coco").exists()
    with pytest.raises(FarposeError, match="no images or annotations"):
        take(str(put(tmp_path / "other", NOT_WANTED)))


def test_synthetic_people_are_acquired_and_verified(tmp_path):
    params = SyntheticParams(train_images=2, val_images=1)
    settings = {"sources": COMMITTED, "manifests": tmp_path / "manifests", "progress": False}
    (tmp_path / "data" / ".cache" / ".synthetic.killed.tmp").mkdir(parents=True)
    done = acquire("synthetic", None, tmp_path / "data", synthetic=params, **settings)
    assert done.files == 5
    check_manifest(done.folder, done.manifest)
    before = contents(tmp_path / "data")
    acquire("synthetic", None, tmp_path / "data", synthetic=params, **settings)
    assert contents(tmp_path / "data") == before
    other = SyntheticParams(train_images=3, val_images=1)
    with pytest.raises(FarposeError, match="differ from the committed"):
        acquire("synthetic", None, tmp_path / "data", synthetic=other, **settings)
    assert contents(tmp_path / "data" / "synthetic") == {k.removeprefix("synthetic/"): v for k, v in before.items() if "/" in k}
    assert acquire("synthetic", None, tmp_path / "data", synthetic=other, accept_changes=True, **settings).files == 6


# --- small parts


@pytest.mark.parametrize(
    ("path", "yes"),
    [("x.json.gz", True), ("__MACOSX/a.jpg", False), ("a.npz", False), ("SHA256SUMS", False)]
    + [(f"a/b.{kind}", True) for kind in ("JPG", "jpeg", "jfif", "WebP", "BMP", "TIF", "tiff", "AVIF", "PNG")],
)
def test_wanted_kinds(path, yes):
    assert wanted(path) == yes


OTHERS = {"train2017/x.heic": b"1", "train2017/Y.HEIC": b"2", "film.mp4": b"3", "Makefile": b"4"}


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_files_of_other_kinds_are_left_out_by_name(take, tmp_path, form):
    files = FILES | OTHERS | {".hidden.jpg": b"no"}
    if form == "folder":
        place = put(tmp_path / "from", files)
    else:
        place = tmp_path / f"all.{form}"
        place.write_bytes(zipped(files) if form == "zip" else tarred(files, mode="w"))
    done = take(str(place))
    assert sorted(done.left_out) == sorted(OTHERS)
    said = kinds_of(done.left_out)
    assert said == "2 .heic (train2017/Y.HEIC, train2017/x.heic), 1 .mp4 (film.mp4), 1 without ending (Makefile)"
    assert_complete(tmp_path)


def test_safe_paths_stay_as_they_are():
    assert safe_path("a//b/./c..jpg", "here") == "a/b/c..jpg"


@pytest.mark.parametrize("content", [b"{", b'{"files": [{"path": "a"}]}', b'{"a.jpg": "12"}', b'{"files": 3}', b"\xff\xfe"])
def test_malformed_lists_are_refused(content):
    with pytest.raises(FarposeError, match=r"SHA-256|not a list of checksums"):
        parse_checksums("MANIFEST.json", content, "here")


def test_every_data_set_that_can_be_acquired_says_what_it_is():
    for name, source in COMMITTED.items():
        if source.splits:
            assert source.description.endswith(".") and source.licence != "not stated", name


def test_a_data_set_of_ones_own_is_acquired_by_its_entry(tmp_path):
    own = SourceParams(
        "coco", "coco_17", "oks", {"val": SplitFiles("labels/all.json", "photos")}, "params/manifests/farm.sha256", licence="ours"
    )
    files = {"labels/all.json": b"{}", "photos/1.png": b"pixels"}
    done = acquire("horses", str(put(tmp_path / "from", files)), tmp_path / "data", {"horses": own}, manifests=tmp_path, progress=False)
    assert contents(tmp_path / "data" / "horses") == files and done.manifest == tmp_path / "farm.sha256"
    note = (tmp_path / "data" / "README.md").read_text()
    assert "## horses\n" in note and "Licence: ours." in note and "| photos | 1 |" in note
