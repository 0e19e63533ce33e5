"""Files of an S3 bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from components.base.errors import FarposeError
from components.datasets.acquire.listing import BrokenTransfer, Entry, Stream, is_archive, safe_path, visible, wanted

CHUNK = 1 << 18
ATTEMPTS = 6  # of one request, with growing pauses; a transfer that breaks off is also continued (`transfer`)
SILENT_S = 30.0  # after which a request that brings no byte is given up


class S3Place:
    """Everything under s3://bucket/prefix, or one archive.

    Credentials come from boto3's usual places (environment, profile, instance). The endpoint is the argument, or
    AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL, or Amazon's.
    """

    threads = 8

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        parts = urlsplit(url)
        self.url, self.bucket, self.prefix = url, parts.netloc, parts.path.strip("/")
        self.left_out: list[str] = []
        if not self.bucket:
            raise FarposeError("the address names no bucket", where=url, fix="write s3://bucket/prefix")
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        self.single = is_archive(self.prefix)
        style = {"addressing_style": "path"} if endpoint else {}
        config = Config(
            s3=style,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=self.threads,
            connect_timeout=SILENT_S,
            read_timeout=SILENT_S,
        )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        try:
            self._client = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
        except (BotoCoreError, ValueError) as error:
            raise FarposeError(f"cannot use S3: {error}", where=endpoint or url, fix="check the endpoint and AWS's settings") from error

    def entries(self) -> list[Entry]:
        from botocore.exceptions import BotoCoreError, ClientError

        folder = self.prefix if self.single or not self.prefix else self.prefix + "/"
        base = self.prefix.rpartition("/")[0] + "/" if self.single and "/" in self.prefix else ("" if self.single else folder)
        entries = []
        self.left_out.clear()
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder):
                for item in page.get("Contents", ()):
                    path = item["Key"].removeprefix(base)
                    if (self.single and item["Key"] == self.prefix) or (not self.single and wanted(path)):
                        entries.append(Entry(safe_path(path, self.url), item["Size"], item["ETag"]))
                    elif not self.single and visible(path) and not path.endswith("/"):
                        self.left_out.append(path)
        except (BotoCoreError, ClientError) as error:
            raise self._refused(error) from error
        if not entries:
            raise FarposeError("there are no usable files", where=self.url, fix="check bucket, prefix and endpoint")
        return entries

    def open(self, entry: Entry, offset: int) -> Stream:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        key = self.prefix if self.single else "/".join(part for part in (self.prefix, entry.path) if part)
        span = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=key, IfMatch=entry.tag, **span)
        except (ClientError, NoCredentialsError) as error:
            code = _status(error)
            if code >= 500 or code == 429:
                raise BrokenTransfer(str(error)) from error
            if code == 416:
                return self.open(entry, 0)
            raise self._refused(error, entry.path) from error
        except BotoCoreError as error:
            raise BrokenTransfer(str(error)) from error
        return Stream(offset, entry.size, _chunks(answer["Body"]))

    def _refused(self, error: Exception, path: str = "") -> FarposeError:
        where = f"{self.url.rstrip('/')}/{path}" if path else self.url
        if _status(error) == 412:
            return FarposeError("the file changed while it was fetched", where=where, fix="run the same command again")
        return FarposeError(
            f"S3 refused: {' '.join(str(error).split())}",
            where=where,
            fix="check the address, --endpoint and the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)",
        )


def _status(error: Exception) -> int:
    response: dict[str, Any] = getattr(error, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _chunks(body: Any) -> Iterator[bytes]:
    import urllib3
    from botocore.exceptions import BotoCoreError

    try:
        yield from body.iter_chunks(CHUNK)
    except (BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
        raise BrokenTransfer(str(error)) from error
    finally:
        body.close()
