"""Results of other parameters and of earlier commits reach a fresh clone by a DVC remote, as docs/operate.md says.

The graph is a small one whose outputs hold the time, so a stage that ran anew is seen in its bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.repositories import REPOSITORY, commit, dvc, git, toy_repository

pytestmark = [pytest.mark.slow, pytest.mark.operation, pytest.mark.timeout(1800)]
OUTPUTS = ("first.txt", "middle-x.txt", "middle-y.txt", "last.txt", "metric-x.json")


def good(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def told(title: str) -> list[str]:
    """The commands of the guide's section `title`, one a line, without comments."""
    section = (REPOSITORY / "docs" / "operate.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = "".join(re.findall(r"^```\n(.*?)^```", section, re.M | re.S)).splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def as_told(folder: Path, line: str) -> str:
    """Run a line of the guide that is one of DVC, with this test's names in it."""
    assert line in told("Share results"), line
    return good(dvc(folder, *line.replace("/mnt/team/farpose", str(folder.parent / "a store")).replace("NAME", "tried").split(" ")[1:]))


def add_the_store(folder: Path) -> None:
    good(dvc(folder, "remote", "add", "--local", "--default", "store", str(folder.parent / "a store")))


def fresh_clone(origin: Path, name: str) -> Path:
    folder = origin.parent / name
    git(origin.parent, "clone", "--quiet", str(origin.parent / "team.git"), str(folder))
    (folder / "mlruns").mkdir(exist_ok=True)
    add_the_store(folder)
    return folder


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A clone whose graph ran and was committed, with a folder as its remote and a git repository that others clone."""
    folder = toy_repository(tmp_path_factory.mktemp("shared") / "origin")
    (folder / ".gitignore").write_text("spans.txt\n")  # when stages ran; it differs from run to run
    good(dvc(folder, "repro"))
    commit(folder)
    git(folder.parent, "clone", "--quiet", "--bare", str(folder), str(folder.parent / "team.git"))
    git(folder, "remote", "add", "origin", str(folder.parent / "team.git"))
    add_the_store(folder)
    return folder


def test_an_experiment_comes_with_its_results_and_nothing_runs_again(origin):
    kept = results(origin)
    (origin / "mode-x.txt").write_text("tried\n")
    good(dvc(origin, "exp", "run", "--name", "tried"))
    tried = results(origin)
    assert tried["middle-x.txt"] != kept["middle-x.txt"]
    git(origin, "checkout", "--quiet", ".")
    good(dvc(origin, "checkout", "--force"))
    as_told(origin, "dvc push")
    as_told(origin, "dvc exp push origin NAME")

    fresh = fresh_clone(origin, "fresh")
    as_told(fresh, "dvc pull")
    assert results(fresh) == kept and json.loads(good(dvc(fresh, "status", "--json"))) == {}
    as_told(fresh, "dvc exp pull origin NAME")
    as_told(fresh, "dvc exp apply NAME")
    assert results(fresh) == tried and (fresh / "mode-x.txt").read_text() == "tried\n"
    assert json.loads(good(dvc(fresh, "status", "--json"))) == {}
    assert "Running stage" not in good(dvc(fresh, "repro")) and results(fresh) == tried


def test_an_earlier_commit_comes_if_it_was_pushed_and_the_run_cache_brings_nothing(origin):
    earlier = results(origin)
    as_told(origin, "dvc push")
    (origin / "mode-y.txt").write_text("later\n")
    good(dvc(origin, "repro"))
    commit(origin)
    later = results(origin)
    (origin / "mode-y.txt").write_text("between\n")
    good(dvc(origin, "repro"))
    between = results(origin)
    git(origin, "checkout", "--quiet", ".")
    good(dvc(origin, "checkout", "--force"))
    good(dvc(origin, "push", "--run-cache"))
    git(origin, "push", "--quiet", "origin", "HEAD")

    fresh = fresh_clone(origin, "another")
    good(dvc(fresh, "pull", "--run-cache"))
    assert results(fresh) == later
    (fresh / "mode-y.txt").write_text("between\n")
    assert "Running stage 'middle@y'" in good(dvc(fresh, "repro", "--pull"))  # its record came, its files did not
    assert results(fresh)["middle-y.txt"] not in (later["middle-y.txt"], between["middle-y.txt"])
    git(fresh, "checkout", "--quiet", "--force", "HEAD~1")
    good(dvc(fresh, "pull", "--force"))
    assert results(fresh) == earlier and json.loads(good(dvc(fresh, "status", "--json"))) == {}
