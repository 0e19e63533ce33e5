"""S3 that answers part of the requests with 500, 503, silence, half a file or nothing: moto's server behind a proxy that does so."""
# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from components.datasets.acquire import s3
from tests.acquire_support import FILES, assert_complete, short_pauses, take  # noqa: F401
from tests.faults import survived
from tests.faulty_proxy import FAULTS, FaultyProxy
from tests.repositories import REPOSITORY, dvc, git
from tests.test_acquire_s3 import bucket, s3_endpoint  # noqa: F401

pytestmark = [pytest.mark.operation, pytest.mark.slow]


@pytest.fixture
def proxy(s3_endpoint, monkeypatch) -> Iterator[FaultyProxy]:
    monkeypatch.setattr(s3, "SILENT_S", 1.0)
    made = FaultyProxy(s3_endpoint, share=0.5)
    yield made
    made.close()


def test_data_arrive_whole_from_an_s3_that_fails_half_of_the_requests(tmp_path, take, bucket, proxy):
    client, name = bucket
    many = FILES | {f"val2017/{number:012d}.jpg": bytes([number]) * (1000 + number) for number in range(30)}
    for path, content in many.items():
        client.put_object(Bucket=name, Key=f"people/coco/{path}", Body=content)
    take("s3://farpose/people/coco", endpoint=proxy.url)
    assert_complete(tmp_path, many)
    assert all(proxy.counts[kind] > 0 for kind in FAULTS), proxy.counts
    survived("S3 fails while data are acquired", sum(proxy.counts[kind] for kind in FAULTS))


def test_a_spoilt_byte_is_found_by_its_hash_and_fetched_again(tmp_path, take, bucket, s3_endpoint, monkeypatch):
    take("s3://farpose/people/coco", endpoint=s3_endpoint)  # writes the manifest, which git keeps
    shutil.rmtree(tmp_path / "data")
    spoilt: set[str] = set()

    def spoil(request: tuple[str, str]) -> str:
        """The first answer for each image."""
        first = request[1].endswith(".jpg") and request[1] not in spoilt
        spoilt.add(request[1])
        return "flipped" if first else ""

    line = FaultyProxy(s3_endpoint, share=0.0)
    monkeypatch.setattr(line, "fault", spoil)
    try:
        take("s3://farpose/people/coco", endpoint=line.url)
    finally:
        line.close()
    assert_complete(tmp_path)
    survived("a byte from S3 is wrong", sum(path.endswith(".jpg") for path in spoilt))


def test_an_s3_that_never_answers_well_is_one_line_and_what_has_arrived_stays(tmp_path, take, bucket, s3_endpoint, monkeypatch):
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    dead = FaultyProxy(s3_endpoint, share=0.0)
    monkeypatch.setattr(dead, "fault", lambda request: "503" if "train2017/" in request[1] else "")
    try:
        with pytest.raises(FarposeError, match=r"train2017/.*: truncated, 6 attempts without progress .*503.* \(what has arrived is kept"):
            take("s3://farpose/people/coco", endpoint=dead.url)
    finally:
        dead.close()
    take("s3://farpose/people/coco", endpoint=s3_endpoint)
    assert_complete(tmp_path)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A repository with a folder of data of many sizes, which DVC owns."""
    folder = tmp_path / "toy"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / "data").mkdir()
    for number in range(16):
        (folder / "data" / f"{number}.bin").write_bytes(bytes([number]) * 4**number if number < 10 else bytes([number]) * (10_000 * number))
    git(folder, "init", "--quiet")
    assert dvc(folder, "add", "data").returncode == 0
    return folder


@pytest.mark.parametrize("kinds", [FAULTS, ("flipped",)], ids=["failing", "spoiling"])
def test_dvc_pushes_and_pulls_whole_files_through_a_bad_line(toy, bucket, s3_endpoint, kinds):
    line = FaultyProxy(s3_endpoint, share=0.3, kinds=kinds)
    for command in (
        ("remote", "add", "--default", "store", "s3://farpose/dvc"),
        ("remote", "modify", "store", "endpointurl", line.url),
        ("remote", "modify", "store", "read_timeout", "2"),
        ("remote", "modify", "store", "verify", "true"),
    ):
        assert dvc(toy, *command).returncode == 0
    before = {path.name: path.read_bytes() for path in (toy / "data").iterdir()}
    try:
        pushed = tries(toy, "push")
        shutil.rmtree(toy / ".dvc" / "cache")
        shutil.rmtree(toy / "data")
        pulled = tries(toy, "pull")
    finally:
        line.close()
    assert pushed == 1 and pulled == (1 if kinds == FAULTS else pulled) <= 4, (pushed, pulled)
    assert sum(line.counts[kind] for kind in kinds) >= 5, line.counts
    assert {path.name: path.read_bytes() for path in (toy / "data").iterdir()} == before
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    fault = "S3 fails while DVC pushes and pulls" if kinds == FAULTS else "a byte from S3 is wrong while DVC pulls"
    survived(fault, sum(line.counts[kind] for kind in kinds))


def tries(folder: Path, command: str) -> int:
    """How often a command is given until it succeeds."""
    for number in range(1, 6):
        done = dvc(folder, command)
        if done.returncode == 0:
            return number
    raise AssertionError(done.stderr)
