"""Acquiring data from S3, played by moto on this machine."""
# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import pytest

from components.base.errors import FarposeError
from tests.acquire_support import ARCHIVES, FILES, NOT_WANTED, assert_complete, short_pauses, take  # noqa: F401
from tests.s3_server import s3_server

BIG = "train2017/000000000001.jpg"


@pytest.fixture(scope="module")
def s3_endpoint():
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(s3_endpoint, monkeypatch):
    """A client and the name of a bucket that holds FILES under people/coco/."""
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="farpose")
    for name, content in (FILES | NOT_WANTED).items():
        client.put_object(Bucket="farpose", Key=f"people/coco/{name}", Body=content)
    client.put_object(Bucket="farpose", Key="people/cocoa/other.jpg", Body=b"of a neighbour")
    client.put_object(Bucket="farpose", Key="archives/coco.zip", Body=ARCHIVES["coco.zip"])
    yield client, "farpose"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="farpose"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="farpose", Key=item["Key"])
    client.delete_bucket(Bucket="farpose")


def test_s3_prefix_is_fetched_and_not_fetched_twice(tmp_path, take, bucket, s3_endpoint, monkeypatch):
    from components.datasets.acquire.s3 import S3Place

    opened, original = [], S3Place.open
    monkeypatch.setattr(S3Place, "open", lambda self, entry, offset: opened.append(entry.path) or original(self, entry, offset))
    take("s3://farpose/people/coco/", endpoint=s3_endpoint)
    assert_complete(tmp_path)
    assert sorted(opened) == sorted(FILES)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    take("s3://farpose/people/coco")
    assert_complete(tmp_path)
    assert len(opened) == len(FILES)


def test_s3_lists_more_than_one_page(bucket, s3_endpoint):
    from components.datasets.acquire.s3 import S3Place

    place = S3Place("s3://farpose/people/coco", s3_endpoint)
    paginator = place._client.get_paginator
    place._client.get_paginator = lambda name: _Small(paginator(name))
    assert [entry.path for entry in place.entries()] == sorted(FILES)


class _Small:
    """Pages of two keys."""

    def __init__(self, paginator) -> None:
        self.paginator = paginator

    def paginate(self, **options):
        pages = list(self.paginator.paginate(**options, PaginationConfig={"PageSize": 2}))
        assert len(pages) >= 3
        return pages


def test_s3_is_resumed_by_range(tmp_path, take, bucket, s3_endpoint, monkeypatch):
    from components.datasets.acquire import s3
    from components.datasets.acquire.listing import BrokenTransfer

    original, cut, offsets = s3._chunks, [True], []

    def breaking(body):
        for number, chunk in enumerate(original(body)):
            if number == 1 and cut.pop():
                raise BrokenTransfer("hung up")
            yield chunk

    opening = s3.S3Place.open
    monkeypatch.setattr(s3, "_chunks", breaking)
    monkeypatch.setattr(s3.S3Place, "open", lambda self, e, offset: offsets.append((e.path, offset)) or opening(self, e, offset))
    take("s3://farpose/people/coco", endpoint=s3_endpoint)
    assert_complete(tmp_path)
    assert [offset for path, offset in offsets if path == BIG] == [0, s3.CHUNK]


def test_s3_archive(tmp_path, take, bucket, s3_endpoint):
    take("s3://farpose/archives/coco.zip", endpoint=s3_endpoint)
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    ("address", "said"), [("s3://none/x", "S3 refused: .*NoSuchBucket"), ("s3://farpose/none", "there are no usable files")]
)
def test_s3_problems_are_named(take, bucket, s3_endpoint, address, said):
    with pytest.raises(FarposeError, match=said):
        take(address, endpoint=s3_endpoint)
