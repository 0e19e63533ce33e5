"""What leaves a clone by a DVC remote and comes back in another one: results, and `farpose reproduce` from them.

The remote is a folder, or S3 as moto serves it over HTTP on this machine; DVC speaks to it as to Amazon's.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.repositories import commit, copy_of_this, dvc, farpose, git
from tests.s3_server import s3_server
from tests.test_cli import assert_one_line
from tests.test_pipeline import FIRST, little_to_do

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SECRET = "a-secret-that-nobody-writes-down"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
SEED = 7


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A repository in which one variant's pipeline has run, with everything that git keeps committed and all pushed to a folder."""
    repository = copy_of_this(tmp_path_factory.mktemp("remotes") / "origin")
    little_to_do(repository, (FIRST,))
    commit(repository)
    good(farpose(repository, "acquire", "synthetic"))
    commit(repository)
    good(dvc(repository, "repro"))
    commit(repository)
    remote(repository, str(repository.parent / "a store"))
    good(dvc(repository, "push", "--run-cache"))
    return repository


def good(done) -> str:
    """The output of a command that ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def remote(repository: Path, address: str, endpoint: str = "") -> None:
    """As docs/operate.md says."""
    good(dvc(repository, "remote", "add", "--local", "--force", "--default", "store", address))
    if endpoint:
        good(dvc(repository, "remote", "modify", "--local", "store", "endpointurl", endpoint))


def clone_of(repository: Path, folder: Path) -> Path:
    git(folder.parent, "clone", "--quiet", str(repository), str(folder))
    return folder


def outputs(repository: Path) -> dict[str, bytes]:
    files = [path for top in ("artifacts", "data") for path in (repository / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(repository)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that answers as S3 does."""
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(endpoint, monkeypatch) -> str:
    import boto3

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="farpose")
    return "s3://farpose/results"


def test_a_fresh_clone_has_everything_from_s3_and_trains_nothing(origin, bucket, endpoint, tmp_path):
    kept = (origin / ".dvc" / "config.local").read_bytes()
    remote(origin, bucket, endpoint)
    said = good(dvc(origin, "push", "--run-cache"))
    (origin / ".dvc" / "config.local").write_bytes(kept)
    fresh = clone_of(origin, tmp_path / "a fresh clone")
    remote(fresh, bucket, endpoint)
    said += good(dvc(fresh, "pull", "--run-cache"))
    assert outputs(fresh) == {path: content for path, content in outputs(origin).items() if not path.endswith("retired.lock")}
    assert json.loads(good(dvc(fresh, "status", "--json"))) == {}
    assert git(fresh, "status", "--porcelain") == ""

    told = good(farpose(fresh, "run"))
    assert "\n9 stages unchanged\n" in told, told
    assert not re.search(r"^train@.*(epoch|Running)", told, re.MULTILINE) and git(fresh, "status", "--porcelain") == ""
    written = [path.read_text(errors="replace") for path in (fresh / ".dvc").rglob("*") if path.is_file() and "cache" not in path.parts]
    logs = [path.read_text(errors="replace") for path in (fresh / "mlruns").rglob("*.log")]
    assert not any(SECRET in text for text in (*written, *logs, said, told, git(fresh, "diff", "HEAD")))


def test_a_bucket_that_is_not_there_is_said_in_a_line_and_a_folder_needs_no_server(origin, bucket, endpoint, tmp_path):
    fresh = clone_of(origin, tmp_path / "fresh")
    remote(fresh, f"{bucket}-none", endpoint)
    done = dvc(fresh, "pull")
    assert done.returncode != 0 and "ERROR" in done.stderr and "Traceback" not in done.stderr
    remote(fresh, str(origin.parent / "a store"))
    good(dvc(fresh, "pull"))
    assert json.loads(good(dvc(fresh, "status", "--json"))) == {}


@pytest.fixture(scope="module")
def experiment(origin) -> str:
    """The id of a training by `dvc exp run -S`, of which no commit on a branch holds the parameters; pushed."""
    from components.registry import store

    good(dvc(origin, "exp", "run", "--set-param", f"params/train.yaml:train.seed={SEED}", f"train@{FIRST}"))
    git(origin, "checkout", "--quiet", ".")
    good(dvc(origin, "checkout", "--force"))
    client, experiment_id = store.open_store(origin)
    newest, first, *_ = client.search_runs([experiment_id], "tags.kind = 'train'", order_by=["attributes.start_time DESC"])
    assert newest.data.tags["weights.sha256"] != first.data.tags["weights.sha256"]
    assert newest.data.tags["git.commit"] == git(origin, "rev-parse", "HEAD").strip() + "-dirty"
    return str(newest.info.run_id)


@pytest.fixture
def fresh(origin, tmp_path) -> Path:
    """A clone with the remote's address and a copy of the store, and nothing else."""
    clone = clone_of(origin, tmp_path / "fresh")
    remote(clone, str(origin.parent / "a store"))
    shutil.copytree(origin / "mlruns", clone / "mlruns", dirs_exist_ok=True, ignore=shutil.ignore_patterns("prefect"))
    return clone


def test_an_experiment_is_reproduced_to_the_bit_in_a_fresh_clone(fresh, experiment):
    told = good(farpose(fresh, "reproduce", experiment[:10]))
    assert "with edits that were not committed" in told and told.endswith("environment: the same\n\nresult: same bits\n"), told
    assert re.search(r"^train@.*: [4-9]\d* same bits, 0 within tolerance, 0 different$", told, re.MULTILINE), told
    assert re.search(r"^  weights \(SHA-256\) +same bits: ", told, re.MULTILINE), told
    assert f"train@{FIRST} | > PATH" in told, "it was restored, not run"
    assert "acquire |" not in told and "degrade@direct_64x48 | unchanged" in told  # all that it needs came from the remote
    assert git(fresh, "status", "--porcelain") == "" and git(fresh, "worktree", "list").count("\n") == 1
    assert list((fresh / "scratch" / "reproduce").iterdir()) == []
    assert not (fresh / "artifacts").exists(), "the clone itself is left alone"


def test_a_result_of_another_seed_is_reported_as_different(fresh):
    """The store says another seed than the one that made the model."""
    from components.registry import recorded, snapshot

    found = recorded.find(FIRST, fresh)
    for path in (fresh / "mlruns" / "artifacts").rglob(f"{found.run_id}/**/{snapshot.FOLDER}/params/train.yaml"):
        params = yaml.safe_load(path.read_text())
        params["train"]["seed"] = 11
        path.write_text(yaml.safe_dump(params, sort_keys=False))
    done = farpose(fresh, "reproduce", FIRST, "--keep")
    assert done.returncode == 1 and done.stderr == "", done.stdout + done.stderr
    assert done.stdout.splitlines()[-2] == "result: different"
    assert re.search(r"^  weights \(SHA-256\) +different: ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  loss +different: [0-9.e-]+ → [0-9.e-]+$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  persons +same bits: 17.0$", done.stdout, re.MULTILINE), done.stdout
    folder = Path(done.stdout.splitlines()[-1].split()[1])
    assert (folder / "artifacts" / "models" / FIRST / "model.safetensors").is_file()


def test_data_that_are_nowhere_are_one_line(origin, tmp_path, fresh, experiment):
    """Of a data set that nobody can draw again; its files are in no remote."""
    from components.registry import snapshot

    for path in (fresh / "mlruns" / "artifacts").rglob(f"{experiment}/**/{snapshot.FOLDER}/params/data.yaml"):
        path.write_text(path.read_text().replace("source: synthetic", "source: coco", 1))
    remote(fresh, str(tmp_path / "empty"))
    done = farpose(fresh, "reproduce", experiment)
    assert_one_line(done, "data/ of train@", "MD5 ", "neither the cache nor a remote holds it", "`dvc push`")
    assert git(fresh, "worktree", "list").count("\n") == 1
