"""Failures that pass by themselves are told from those that do not, by exception, by exit code and through DVC."""

from __future__ import annotations

import sqlite3
import urllib.request

import pytest
import requests

from components.base.errors import FarposeError
from components.datasets.acquire.listing import BrokenTransfer
from pipelines import passing
from pipelines.driver import Passing
from tests.test_flow import driver, stage, toy  # noqa: F401  (a fixture)

NOWHERE = "http://127.0.0.1:9/"  # nothing listens on the discard port


def raised(cause: BaseException, explicit: bool = True) -> FarposeError:
    """An error as a person sees it, with what led to it behind it."""
    try:
        try:
            raise cause
        except BaseException as error:
            if explicit:
                raise FarposeError("it does not work", fix="mend it") from error
            raise FarposeError("it does not work", fix="mend it")  # noqa: B904
    except FarposeError as error:
        return error


def refused(library: str) -> BaseException:
    """What a library raises where nothing listens."""
    import boto3
    import urllib3
    from botocore.config import Config

    def s3() -> None:
        config = Config(retries={"max_attempts": 0}, proxies={})
        client = boto3.client("s3", endpoint_url=NOWHERE, region_name="x", aws_access_key_id="x", aws_secret_access_key="x", config=config)
        client.list_buckets()

    session = requests.Session()
    session.trust_env = False
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    calls = {
        "requests": lambda: session.get(NOWHERE, timeout=5),
        "urllib": lambda: opener.open(NOWHERE, timeout=5),
        "urllib3": lambda: urllib3.PoolManager(retries=False).request("GET", NOWHERE),
        "boto3": s3,
    }
    try:
        calls[library]()
    except Exception as error:
        return error
    raise AssertionError("something listens on the discard port")


@pytest.mark.parametrize("library", ["requests", "urllib", "urllib3", "boto3"])
@pytest.mark.parametrize("explicit", [True, False])
def test_a_connection_that_is_refused_passes(library, explicit):
    assert passing.passes(raised(refused(library), explicit))


def locked(path: str) -> BaseException:
    holder, other = sqlite3.connect(path), sqlite3.connect(path, timeout=0)
    holder.execute("begin exclusive")
    try:
        other.execute("create table a (b)")
    except sqlite3.OperationalError as error:
        return error
    finally:
        holder.close()
        other.close()
    raise AssertionError("the database is not locked")


@pytest.mark.parametrize(("error", "yes"), [
    (TimeoutError(), True), (BrokenTransfer("the server answered 503"), True), (ValueError("7 is no number"), False),
    (FileNotFoundError("rows.json"), False), (PermissionError("mlruns"), False), (KeyError("x"), False),
])  # fmt: skip
def test_a_person_s_mistake_does_not(error, yes):
    assert passing.passes(error) == passing.passes(raised(error)) == yes


def test_exit_codes_say_it_to_flows_alone(tmp_path, monkeypatch):
    error = raised(locked(str(tmp_path / "a.db")))
    monkeypatch.delenv(passing.ASKED, raising=False)
    assert passing.exit_code(error) == 1
    monkeypatch.setenv(passing.ASKED, "1")
    assert passing.exit_code(error) == passing.CODE and passing.exit_code(FarposeError("row 7")) == 1


@pytest.mark.parametrize(("mode", "kind"), [("busy", Passing), ("fail", FarposeError)])
def test_dvc_passes_the_exit_code_on(toy, mode, kind):  # noqa: F811
    work, _ = driver(toy)
    work.reproduce(stage(toy, "first"))
    (toy / "mode-x.txt").write_text(f"{mode}\n")
    with pytest.raises(FarposeError) as told:
        work.reproduce(stage(toy, "middle@x"))
    assert type(told.value) is kind
