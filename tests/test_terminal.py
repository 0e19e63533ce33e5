"""What a person sees in a terminal of 110 columns: real pseudo-terminals; and what a pipe gets."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from pathlib import Path

import pytest

from pipelines import paths, terminal
from pipelines.reproduction import echo
from tests.repositories import REPOSITORY

COLUMNS = 110
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TABLE = (REPOSITORY / "README.md").read_text().split("<!-- demo's table")[1].split("-->")[1].split("<!-- end")[0].strip() + "\n"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| ")][2:]  # best first
CALL = "import sys; from pipelines import cli, paths; paths.COMPARISON = __import__('pathlib').Path(sys.argv.pop(1)); sys.exit(cli.main())"


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """The widest table that this repository shows: the demo's."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "comparison.md").write_text(TABLE)
    return folder


def shown(compared: Path, *arguments: str, **variables: str) -> tuple[str, int]:
    """What a command writes to a terminal, with its colours, and its exit code."""
    return in_terminal([sys.executable, "-c", CALL, str(compared), *arguments], **variables)


def in_terminal(command: list[str], **variables: str) -> tuple[str, int]:
    """What a process writes to a terminal of `COLUMNS`, and its exit code."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), **variables}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY, env=environment)
    os.close(slave)
    found = b""
    try:
        while chunk := os.read(master, 1 << 16):
            found += chunk
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(master)
    return found.decode().replace("\r\n", "\n"), process.wait(600)


def columns(line: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in line)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare",),
        ("models", "--dataset", "mpii"),
        ("params",),
        ("params", "hrnet_w48_coco_256x192"),
        ("doctor",),
        ("weights",),
        ("verify", "--without-crops"),
    ],
    ids=" ".join,
)
def test_lines_fit_the_terminal(compared, arguments):
    said, code = shown(compared, *arguments)
    lines = COLOUR.sub("", said).splitlines()
    assert code == 0 and len(lines) > 4, said
    assert max(map(columns, lines)) <= COLUMNS, max(lines, key=columns)


def test_the_table_is_whole_in_a_terminal_and_its_best_row_is_green(compared):
    said, _ = shown(compared, "compare")
    plain = COLOUR.sub("", said)
    for heading in ("variant", "AP50", "persons"):
        assert heading in plain
    for value in (ROWS[0][1], ROWS[-1][2], ROWS[0][-1], ROWS[0][-2], "published"):
        assert value in plain and len(value) > 2
    assert "\x1b[32m" in said and "\x1b[1m" in said


def test_lines_of_a_flow_are_broken_beside_the_stage_in_a_terminal_and_whole_in_a_log(capsys):
    line = f"verify | ok      {'a_long_name' * 6}: image → crop → heatmap and back          largest error 1.1e-13 px"
    said, code = in_terminal([sys.executable, "-c", f"from pipelines.reproduction import echo; echo({line!r}); echo('a line')"])
    first, second, last = said.splitlines()
    assert code == 0 and max(map(columns, (first, second))) <= COLUMNS and last == "a line"
    assert first.startswith("verify | ok") and second.startswith(" " * len("verify | ")) and second.split()[-2:] == ["1.1e-13", "px"]
    echo(line)
    assert capsys.readouterr().out == line + "\n"


def test_no_color_is_respected_and_an_error_is_red(compared):
    assert not COLOUR.search(shown(compared, "compare", NO_COLOR="1")[0].replace("\x1b[1m", "").replace("\x1b[0m", ""))
    said, code = shown(compared, "params", "--apply", "nothing")
    assert code == 1 and said.startswith("\x1b[1;31mfarpose: error:\x1b[0m params/examples: unknown example 'nothing'")


def test_a_pipe_gets_the_same_text_plain_and_unbroken(compared, monkeypatch, capsys):
    monkeypatch.setattr(paths, "COMPARISON", compared)
    terminal.markdown(TABLE)
    rows = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(rows) and rows[2].split()[:3] == [ROWS[0][0], *ROWS[0][1].split()]
    terminal.listed([("key: ", "long " * 60)], 4, "red")
    assert capsys.readouterr().out == "key: " + "long " * 60 + "\n"


def test_the_version_is_the_release_and_the_commit():
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "--version"], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout.strip()
    found = re.fullmatch(r"farpose 0\.1\.0, commit ([0-9a-f]{7,})\n", done.stdout)
    assert found and commit.startswith(found[1]) and done.stderr == ""


def test_plots_name_their_variant():
    from dvc.repo import Repo

    with Repo(str(REPOSITORY)) as repository:
        for stage in repository.index.stages:
            for plot in getattr(stage, "outs", []):
                if plot.plot and stage.addressing.startswith("train@"):
                    assert plot.plot["title"] == f"training loss of {stage.addressing.removeprefix('train@')}"
        names = {stage.addressing for stage in repository.index.stages if stage.addressing.startswith("train@")}
    assert len(names) == 5


def test_a_run_says_what_it_does_before_it_looks_at_anything():
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "pipelines.cli", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=600)
    assert done.returncode == 1 and done.stdout.splitlines()[0] == "checking params/ and the stores"
    assert "PREFECT_API_URL" in done.stderr.splitlines()[-1]
