"""`make setup` and what comes with a clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.repositories import PYTHON, REPOSITORY

STUB = """#!/usr/bin/env bash
set -eu
printf '%s|' "$@" >> "$RECORD"
printf 'VIRTUAL_ENV=%s\\n' "${VIRTUAL_ENV:-}" >> "$RECORD"
if [ "$1" = venv ]; then mkdir -p .venv/bin; ln -s "$REAL_PYTHON" .venv/bin/python; fi
"""


def test_setup_works_in_a_path_with_a_space(tmp_path):
    """With a uv that only writes down what it is asked for, itself in a path with a space."""
    folder, tools, record = tmp_path / "a clone", tmp_path / "my tools", tmp_path / "record"
    shutil.copytree(REPOSITORY / ".ci", folder / ".ci")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    tools.mkdir()
    (tools / "uv").write_text(STUB)
    (tools / "uv").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(PYTHON).parent), os.environ["PATH"]])
    variables = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    variables |= {"PATH": path, "RECORD": str(record), "REAL_PYTHON": PYTHON}
    for _ in range(2):  # the second finds nothing to do
        done = subprocess.run(["make", "setup"], cwd=folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    asked = record.read_text().splitlines()
    assert [line.split("|")[0] for line in asked] == ["venv", "pip", "pip"]
    assert all(line.endswith(f"VIRTUAL_ENV={folder}/.venv") for line in asked[1:])


def test_an_extra_stays_until_others_are_named(tmp_path):
    """With the same uv that only writes down what it is asked for."""
    record = tmp_path / "record"
    shutil.copytree(REPOSITORY / ".ci", tmp_path / ".ci")
    for name in ("Makefile", "requirements.lock", "requirements-postgres.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "uv").write_text(STUB)
    (tmp_path / "tools" / "uv").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "tools"), str(Path(PYTHON).parent), os.environ["PATH"]])
    variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "EXTRAS", "MAKEFLAGS")}
    variables |= {"PATH": path, "RECORD": str(record), "REAL_PYTHON": PYTHON}

    def setup(*arguments: str) -> list[bool]:
        """Whether each `pip sync` that was asked for installs the extra."""
        record.write_text("")
        done = subprocess.run(["make", "setup", *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return ["requirements-postgres.lock" in line for line in record.read_text().splitlines() if line.startswith("pip|sync")]

    assert setup("EXTRAS=postgres") == [True] and setup() == [] and setup("EXTRAS=postgres") == []
    later = (tmp_path / "requirements.lock").stat().st_mtime + 60
    ready = (tmp_path / ".venv" / ".farpose-ready").stat().st_mtime + 60
    os.utime(tmp_path / "requirements.lock", (max(later, ready),) * 2)
    assert setup() == [True]  # a new lock keeps the extra
    os.utime(tmp_path / "requirements.lock", (1, 1))
    assert setup("EXTRAS=") == [False] and setup() == []
    done = subprocess.run(["make", "setup", "EXTRAS=nothere"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "EXTRAS: no extra 'nothere'; there are: postgres" in done.stderr


def test_the_lock_names_no_place_and_keeps_its_bounds():
    """Addresses of package indexes differ between machines; the bounds are those without which Prefect's server fails."""
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock and "://" not in (REPOSITORY / "requirements-postgres.lock").read_text()
    for package, bound in (("sqlalchemy", (2, 1)), ("fastapi", (0, 150))):
        version = re.search(rf"^{package}==(\d+)\.(\d+)", lock, re.MULTILINE)
        assert version and tuple(map(int, version.groups())) < bound


def test_the_lock_has_a_hash_for_each_package():
    """Else `--require-hashes`, by which `make setup` installs, refuses the whole lock; a package without one might be another."""
    lock = (REPOSITORY / "requirements.lock").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > 250 and all(re.match(r"[\w.\[\]-]+==\S+", entry) for entry in entries)
    assert all(re.search(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", entry, re.MULTILINE) for entry in entries)
    assert "--require-hashes" in (REPOSITORY / "Makefile").read_text()


def test_the_licence_is_the_one_that_the_package_names():
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (REPOSITORY / "pyproject.toml").read_text()
