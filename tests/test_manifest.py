"""Manifests: readable by `sha256sum -c`, and every change of the raw data is named."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from components.datasets.manifest import check_manifest, digest_tree, read_manifest, save_manifest


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "data" / "coco"
    for name, content in {"b.json": b"{}", "train/a.jpg": b"pixels", "train/with space.jpg": b"", "a/deep/er.txt": b"x" * 3000}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def manifest(root, tmp_path) -> Path:
    path = tmp_path / "params" / "manifests" / "coco.sha256"
    save_manifest(digest_tree(root), path)
    return path


def test_digests_are_those_of_the_bytes(root):
    digests = digest_tree(root)
    assert list(digests) == ["a/deep/er.txt", "b.json", "train/a.jpg", "train/with space.jpg"]
    assert all(digest == hashlib.sha256((root / name).read_bytes()).hexdigest() for name, digest in digests.items())


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum here")
def test_sha256sum_accepts_the_manifest_and_writes_the_same(root, manifest):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", str(manifest)], cwd=root, check=True)
    names = list(read_manifest(manifest))
    assert subprocess.run(["sha256sum", *names], cwd=root, check=True, capture_output=True, text=True).stdout == manifest.read_text()


def test_unchanged_data_pass_and_writing_again_changes_nothing(root, manifest):
    before = manifest.read_bytes()
    check_manifest(root, manifest)
    save_manifest(digest_tree(root), manifest)
    assert digest_tree(root) == read_manifest(manifest)
    assert manifest.read_bytes() == before


def remove(root):
    (root / "b.json").unlink()


def tamper(root):
    (root / "train" / "a.jpg").write_bytes(b"pixelz")


def add(root):
    (root / "train" / "new.jpg").write_bytes(b"")


@pytest.mark.parametrize(("edit", "said"), [(remove, "missing b.json"), (tamper, "changed train/a.jpg"), (add, "unexpected train/new.jpg")])
def test_a_change_is_named_with_the_way_out(root, manifest, edit, said):
    edit(root)
    with pytest.raises(FarposeError, match=said) as caught:
        check_manifest(root, manifest)
    assert "dvc checkout data.dvc" in str(caught.value)
    assert "farpose acquire coco --accept-changes" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_changes_are_counted(root, manifest):
    for number in range(9):
        (root / f"extra{number}.txt").touch()
    with pytest.raises(FarposeError, match=r"unexpected extra0.txt, .*unexpected extra4.txt and 4 more"):
        check_manifest(root, manifest)


def test_missing_data_and_manifests_are_named(root, manifest, tmp_path):
    with pytest.raises(FarposeError, match="manifest not found"):
        check_manifest(root, tmp_path / "none.sha256")
    with pytest.raises(FarposeError, match="raw data not found"):
        check_manifest(root / "nowhere", manifest)
    (root / "empty").mkdir()
    with pytest.raises(FarposeError, match="no files"):
        save_manifest(digest_tree(root / "empty"), manifest)


@pytest.mark.parametrize("line", ["", "zz  a.jpg", "0" * 64 + " a.jpg", "0" * 63 + "  a.jpg"])
def test_a_damaged_manifest_is_named_with_its_line(manifest, line, root):
    manifest.write_text(manifest.read_text() + line + "\n")
    with pytest.raises(FarposeError, match=r"coco.sha256:5: not a line of `sha256sum`"):
        check_manifest(root, manifest)


def test_a_name_that_does_not_fit_on_a_line_is_refused(root, manifest):
    (root / "two\nlines.jpg").touch()
    with pytest.raises(FarposeError, match="line break"):
        save_manifest(digest_tree(root), manifest)
