"""Faults survived: runs the tests of faults and writes results/reliability.json and the table of docs/reliability.md.

python -m benchmarks.faults                  # all of them, every repeated fault ten times (about an hour on two free cores)
python -m benchmarks.faults --only killed    # those whose test's name holds a word; other counts stay
python -m benchmarks.faults --record FILE    # counts that tests wrote into FARPOSE_FAULT_RECORD=FILE; other counts stay
python -m benchmarks.faults --table          # the table alone, from the counts that results/ has

A test counts a fault once it has seen all that must hold after it, so a count without a failure is the number survived.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import report
from components.base.config import REPOSITORY
from components.base.files import atomic_file, read_json, write_json
from tests.faults import RECORD, REPEATS

RESULT, DOCUMENT = REPOSITORY / "results" / "reliability.json", REPOSITORY / "docs" / "reliability.md"
BEGIN, END = "<!-- table: python -m benchmarks.faults -->", "<!-- end -->"
TIMES = 10
VERSIONS = ("dvc", "dvc-s3", "prefect", "mlflow", "boto3", "moto")


@dataclass(frozen=True)
class Row:
    """A fault as tests count it, what happens, and the test, `file::function` in tests/."""

    fault: str
    happens: str
    test: str
    counted: bool = True  # the test counts itself; else a test that passed is one fault


KILLED, INTERRUPTED, FULL = "test_killed_flow.py", "test_interrupted.py", "test_full_disk.py"
S3, STORE = "test_s3_faults.py", "test_store_faults.py"
ENDS = "ends within seconds with one line and exit code {}; processes end, runs are closed, the earlier results are there"
ROWS = (
    Row(
        "flow killed",
        "SIGKILL of `farpose run` with all that it started, of it alone, or of a DVC, at a random moment: its processes end; the next run "
        "ends with the same bytes of every result and the same dvc.lock, closes the runs in Prefect and MLflow, and no lock is left",
        f"{KILLED}::test_a_flow_killed_at_random_moments_ends_with_the_same_results",
    ),
    Row(
        "DVC or farpose killed in a stage",
        "the stage ends too; the next run, or `make serve`, brings back the results that DVC had removed",
        f"{INTERRUPTED}::test_a_stage_ends_with_what_runs_it_and_its_results_come_back",
    ),
    Row(
        "a second process on a stage",
        "waits for the first one and says so; a lock whose process was killed is free",
        f"{INTERRUPTED}::test_a_second_process_waits_for_the_first_and_says_so",
    ),
    Row(
        "Ctrl-C in a terminal",
        ENDS.format(130),
        f"{KILLED}::test_a_flow_that_is_asked_to_end_does_so_within_seconds_and_leaves_the_earlier_results",
    ),
    Row(
        "SIGINT to farpose",
        ENDS.format(130),
        f"{KILLED}::test_a_flow_that_is_asked_to_end_does_so_within_seconds_and_leaves_the_earlier_results",
    ),
    Row(
        "SIGTERM to farpose",
        ENDS.format(143),
        f"{KILLED}::test_a_flow_that_is_asked_to_end_does_so_within_seconds_and_leaves_the_earlier_results",
    ),
    Row(
        "half a dvc.lock, or a stale list of files in use",
        "the last whole one is put back; entries of DVCs that are gone are dropped",
        f"{INTERRUPTED}::test_half_a_lock_is_replaced_by_the_last_whole_one",
    ),
    Row(
        "disk full in a stage",
        "one line with the way out; every earlier result is there, byte for byte; the next run continues (each of the nine stages)",
        f"{FULL}::test_a_stage_on_a_full_disk_is_one_line_and_the_next_run_continues",
    ),
    Row(
        "disk full in DVC's cache",
        "one line; dvc.lock stays; the next run continues",
        f"{FULL}::test_a_full_disk_under_dvcs_cache_is_named_and_the_next_run_continues",
    ),
    Row(
        "S3 fails while data are acquired",
        "500, 503, silence, half a file or a closed connection for half of the requests: asked again, continued where it broke off",
        f"{S3}::test_data_arrive_whole_from_an_s3_that_fails_half_of_the_requests",
    ),
    Row(
        "a byte from S3 is wrong",
        "found by the SHA-256 of the manifest; the file is fetched again",
        f"{S3}::test_a_spoilt_byte_is_found_by_its_hash_and_fetched_again",
    ),
    Row(
        "S3 fails while DVC pushes and pulls",
        "the same for three of ten requests: one `dvc push` and one `dvc pull` bring every file whole",
        f"{S3}::test_dvc_pushes_and_pulls_whole_files_through_a_bad_line",
    ),
    Row(
        "a byte from S3 is wrong while DVC pulls",
        "found by its checksum; the next `dvc pull` fetches those files again",
        f"{S3}::test_dvc_pushes_and_pulls_whole_files_through_a_bad_line",
    ),
    Row(
        "four stages at once",
        "dvc.lock holds all four with the digests of what is there, and `dvc status` is clean",
        "test_side_by_side.py::test_four_stages_at_once_never_spoil_the_lock",
    ),
    Row(
        "MLflow's server away at the start and in the middle",
        "the stage ends well; its record waits in mlruns/waiting and is written once when the server is back",
        f"{STORE}::test_stages_end_well_while_the_server_is_gone_and_their_records_arrive_once",
        counted=False,
    ),
    Row(
        "MLflow's answers lost on the way",
        "asked again; nothing is recorded twice",
        f"{STORE}::test_answers_that_are_lost_make_nothing_twice",
        counted=False,
    ),
    Row(
        "PostgreSQL killed in a run",
        "the record waits, and is written when the database is back",
        "test_stores.py::test_postgres_and_s3_hold_everything_and_may_go_away",
        counted=False,
    ),
    Row(
        "worker or MLflow's server of `make serve` killed",
        "the run is closed; `make serve` starts again what died, and the schedule stays",
        "test_serving.py::test_what_died_is_started_again_or_stopped_and_the_schedule_stays",
        counted=False,
    ),
    Row(
        "two flows at once",
        "the second waits for its turn and says so; both end well, and no stage runs twice at once",
        "test_flows.py::test_two_flows_at_once_both_end_well_and_no_stage_runs_twice",
        counted=False,
    ),
    Row(
        "Prefect's and MLflow's servers killed in mid-run and started again",
        "the stages end well, the run ends as completed, and its records and pages are there",
        "test_flows.py::test_a_run_survives_a_restart_of_both_servers_and_its_page_carries_what_it_did",
        counted=False,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORD", help="tests whose name holds it")
    parser.add_argument("--record", metavar="FILE", type=Path, help="take the counts that tests wrote into FARPOSE_FAULT_RECORD=FILE")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    options = parser.parse_args()
    if not options.table:
        code, counts = (0, recorded(options.record)) if options.record else run(options.only)
        known = read_json(RESULT)["survived"] if (options.only or options.record) and RESULT.is_file() else {}
        write_json(RESULT, provenance() | {"survived": dict(sorted((known | counts).items()))})
        if code:
            print("a test failed: its fault is not counted", file=sys.stderr)
            return code
    text = DOCUMENT.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    with atomic_file(DOCUMENT) as temporary:
        temporary.write_text(f"{text[:begin]}\n{table(read_json(RESULT)['survived'])}\n{text[end:]}")
    return 0


def run(only: str | None) -> tuple[int, dict[str, int]]:
    """Run the rows' tests with all repetitions; pytest's exit code, and how often each fault was survived."""
    tests = list(dict.fromkeys(f"tests/{row.test}" for row in ROWS))
    with tempfile.TemporaryDirectory() as scratch:
        record, passed = Path(scratch) / "record", Path(scratch) / "passed.xml"
        command = [sys.executable, "-m", "pytest", "--timeout", "14400", f"--junitxml={passed}", *tests, *(["-k", only] if only else [])]
        done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, REPEATS: str(TIMES), RECORD: str(record)}, check=False)
        counts = recorded(record)
        ended_well = [case.attrib["name"].split("[")[0] for case in ElementTree.parse(passed).iter("testcase") if len(case) == 0]
    for row in ROWS:
        times = ended_well.count(row.test.split("::")[1])
        if not row.counted and times:
            counts[row.fault] = times
    return done.returncode, counts


def recorded(path: Path) -> dict[str, int]:
    """What tests wrote into the file that FARPOSE_FAULT_RECORD named."""
    counts: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.is_file() else ():
        found = json.loads(line)
        counts[found["fault"]] += found["survived"]
    return dict(counts)


def provenance() -> dict[str, Any]:
    """Command, date, hardware and versions."""
    versions = {name: version(name) for name in VERSIONS}
    date = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return {"command": "python -m benchmarks.faults", "date": date, "hardware": report.hardware(), "versions": versions}


def table(survived: dict[str, int]) -> str:
    """Markdown: fault, what happens, test, and how often it was survived."""
    lines = ["| fault | what happens | test | survived |", "|---|---|---|---:|"]
    lines += [f"| {row.fault} | {row.happens} | `{row.test}` | {survived.get(row.fault, 'not counted yet')} |" for row in ROWS]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
