"""`farpose acquire`: collect a data set in a work folder, check it, move it into place, and write its manifest."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.base.config import PARAMS
from components.base.errors import FarposeError, unknown_name
from components.datasets.acquire import transfer
from components.datasets.acquire.http import HttpPlace
from components.datasets.acquire.listing import BrokenTransfer, Entry, Place, is_archive, kinds_of
from components.datasets.acquire.local import LocalFolder
from components.datasets.acquire.s3 import S3Place
from components.datasets.acquire.sources import require_parts, write_readme
from components.datasets.acquire.transfer import Ledger, Transfer
from components.datasets.acquire.unpack import unpack
from components.datasets.manifest import differences, digest_tree, read_manifest, save_manifest, summary
from components.datasets.params import SourceParams, require_format
from components.datasets.synthetic import SyntheticParams, write_synthetic
from components.datasets.synthetic.forms import ANNOTATE

MANIFESTS = PARAMS / "manifests"
LISTING_ATTEMPTS = 3
WORK = ".cache"  # inside the data root, so that the last step is a rename; .dvcignore names it


@dataclass(frozen=True)
class Acquired:
    """What was acquired: its folder, manifest, number of files, size, whether it differs from the earlier manifest, and files of other
    kinds that were left out."""

    folder: Path
    manifest: Path
    files: int
    size_bytes: int
    changed: bool
    left_out: tuple[str, ...] = ()


def acquire(
    source: str,
    location: str | None,
    root: Path,
    sources: Mapping[str, SourceParams],
    *,
    endpoint: str | None = None,
    sha256: Mapping[str, str] | None = None,
    manifests: Path = MANIFESTS,
    accept_changes: bool = False,
    synthetic: SyntheticParams | None = None,
    progress: bool = True,
    check: Callable[[Path], None] | None = None,
) -> Acquired:
    """Fill `root`/`source` and write its manifest and `root`/README.md.

    The new data replace the old data in one step at the end. If interrupted, the next call continues: complete files are kept, partial
    files are resumed, and files of the old data with the expected checksum are not fetched again.

    Args:
        source: one of `sources`, the data sets of params/data.yaml.
        location: local folder or archive, http(s) address of an archive or of a folder with a MANIFEST.json or SHA256SUMS, or
            s3://bucket/prefix; None for a rendered source.
        root: the data folder.
        endpoint: S3 endpoint other than Amazon's.
        sha256: expected digests by path inside the data set, or by file name of the archive.
        manifests: folder of the committed manifests.
        accept_changes: accept data that differ from the committed manifest.
        synthetic: settings of the renderer.
        check: is given the folder of the collected files before they replace the old data; they do not if it raises.
    Raises:
        FarposeError: unknown source or location; a file is missing, truncated or tampered with; the data differ from the
            committed manifest; `check` raises; the disk is full; another acquisition is running. Earlier data stay unchanged.
    """
    if source not in sources:
        raise unknown_name("source", source, sources, where="params/data.yaml")
    entry = sources[source]
    require_format(source, entry.format)
    manifest = manifests / (PurePosixPath(entry.manifest).name if entry.manifest else f"{source}.sha256")
    committed = read_manifest(manifest) if manifest.exists() else {}
    with _alone(root):
        staging, retired = root / WORK / source, root / WORK / f"{source}.old"
        if retired.exists() and not (root / source).exists():  # a run was killed between the two renames
            os.replace(retired, root / source)
        if source in ANNOTATE:
            if location is not None:
                raise FarposeError(f"{source} is rendered here, not fetched", where=location, fix="leave out --from")
            write_synthetic(staging, synthetic or SyntheticParams(), progress, annotate=ANNOTATE[source])
            digests, left_out = digest_tree(staging), list[str]()
        else:
            expected = {**({} if accept_changes else committed), **(sha256 or {})}
            digests, left_out = _collect(source, location, root, endpoint, expected, progress)
        require_parts(entry, staging, where=location or source)
        different = differences(committed, digests) if committed else []
        if different and not accept_changes:
            fix = f"the old data stay; `farpose acquire {source} --accept-changes` takes the new ones"
            raise FarposeError(f"the data differ from the committed ones: {summary(different)}", where=manifest, fix=fix)
        if check is not None:
            check(staging)
        size = sum((staging / path).stat().st_size for path in digests)
        _install(staging, root / source, retired)
        save_manifest(digests, manifest, where=root / source)
        write_readme(root, sources)
        shutil.rmtree(root / WORK)
    return Acquired(root / source, manifest, len(digests), size, bool(different), tuple(left_out))


def _collect(
    source: str, location: str | None, root: Path, endpoint: str | None, expected: Mapping[str, str], progress: bool
) -> tuple[dict[str, str], list[str]]:
    """Copy the files from `location` into the staging folder; returns their digests, and the files that are left out."""
    if not location:
        raise FarposeError(f"no location is given for {source}", fix=f"farpose acquire {source} --from PATH|URL|s3://bucket/prefix")
    work, staging = root / WORK, root / WORK / source
    place = _place(location, endpoint)
    if place is None:
        left_out = unpack(Path(location).expanduser(), staging, progress)
        return digest_tree(staging), left_out
    ledger = Ledger(work / f"{source}.jsonl", location)
    archives = work / f"{source}.archive"
    if not ledger.continues:
        for folder in (staging, archives):
            shutil.rmtree(folder, ignore_errors=True)
    entries = _entries(place, location)
    if len(entries) == 1 and is_archive(entries[0].path):
        Transfer(place, archives, ledger, expected, progress=progress).run(entries)
        left_out = unpack(archives / entries[0].path, staging, progress)
        return digest_tree(staging), left_out
    Transfer(place, staging, ledger, expected, root / source, progress).run(entries)
    digests = digest_tree(staging)
    for path, digest in digests.items():
        if digest != ledger.files[path]["sha256"]:
            (staging / path).unlink()
            raise FarposeError("the file changed on disk after its transfer", where=path, fix="run the same command again")
    return digests, place.left_out


def _place(location: str, endpoint: str | None) -> Place | None:
    """The source of the files; None for a local archive."""
    scheme = location.partition("://")[0].lower() if "://" in location else ""
    if scheme in ("http", "https"):
        return HttpPlace(location, single=is_archive(location.partition("?")[0]))
    if scheme == "s3":
        return S3Place(location, endpoint)
    if scheme:
        raise unknown_name("kind of address", scheme, ("http", "https", "s3"), where=location)
    path = Path(location).expanduser()
    if path.is_dir():
        return LocalFolder(path)
    if path.is_file() and is_archive(path.name):
        return None
    problem = "not a folder, .zip or .tar.gz" if path.exists() else "no such file or folder"
    raise FarposeError(problem, where=location, fix="give an existing folder or archive, an address, or s3://bucket/prefix")


def _entries(place: Place, location: str) -> list[Entry]:
    for attempt in range(1, LISTING_ATTEMPTS + 1):
        try:
            entries = place.entries()
            break
        except BrokenTransfer as error:
            if attempt == LISTING_ATTEMPTS:
                raise FarposeError(f"cannot reach it: {error}", where=location, fix="check the address and the network") from error
            time.sleep(transfer.FIRST_PAUSE_S * 2**attempt)
    if not entries:
        other = f" but {kinds_of(place.left_out)}" if place.left_out else ""
        raise FarposeError(f"no images or annotations there{other}", where=location, fix="check the address")
    return entries


def _install(staging: Path, folder: Path, retired: Path) -> None:
    """Replace the old data by the collected data."""
    shutil.rmtree(retired, ignore_errors=True)
    if folder.exists():
        os.replace(folder, retired)
    os.replace(staging, folder)
    shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold a lock on the data folder, and remove incomplete files of a killed run."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (root / WORK).mkdir(exist_ok=True)
        for leftover in (root / WORK).glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    except BlockingIOError:
        raise FarposeError("another `farpose acquire` is filling this folder", where=root, fix="wait until it has ended") from None
    finally:
        os.close(handle)
