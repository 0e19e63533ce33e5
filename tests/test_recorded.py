"""What `farpose reproduce` finds in the store, how it builds a worktree, and what it says of numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from components.registry import lineage, recorded, register, snapshot, tracking, verdict
from components.registry.recorded import Part, Recorded
from components.registry.verdict import DIFFERENT, NEAR, SAME
from pipelines import cli, rebuild
from pipelines.commands import reproduce
from pipelines.repeating import Report
from tests.repositories import commit, git
from tests.test_lineage import repository  # noqa: F401

NAME = "a_variant"
WEIGHTS = "a" * 64


def written(kind: str, folder: Path, weights: str = WEIGHTS, **metrics: float) -> tracking.Run:
    """A finished run of a stage."""
    tags = {"kind": kind, "variant": NAME}
    with tracking.run(f"{kind}@{NAME}", params={"device": "cpu"}, tags=tags, repository=folder) as run:
        run.metrics(metrics)
        run.tags({register.WEIGHTS_TAG: weights})
    return run


def version(run: tracking.Run) -> None:
    """A registered model of these weights, as the registry makes it."""
    run.client.create_registered_model(NAME)
    source = run.client.get_run(run.run_id).info.artifact_uri
    run.client.create_model_version(NAME, source, run.run_id, tags={register.WEIGHTS_TAG: WEIGHTS})
    run.client.set_registered_model_alias(NAME, register.CHALLENGER, "1")


def test_a_training_and_the_evaluation_of_its_weights_are_one_result(repository):  # noqa: F811
    trained = written("train", repository, loss=0.5)
    written("train", repository, "b" * 64, loss=0.7)
    scored = written("evaluate", repository, AP_gt_boxes=0.3)
    version(scored)
    head = git(repository, "rev-parse", "HEAD").strip()
    of_run, of_model, of_score = (recorded.find(asked, repository) for asked in (trained.run_id[:12], f"{NAME}@1", scored.run_id))
    for found in (of_run, of_model, of_score):
        assert [part.run_id for part in found.parts] == [trained.run_id, scored.run_id]
        assert [part.stage for part in found.parts] == [f"train@{NAME}", f"evaluate@{NAME}"]
        assert (found.commit, found.dirty, found.data_md5, found.weights) == (head, False, "abc.dir", WEIGHTS)
        assert found.parts[0].numbers == {"loss": 0.5} and found.parts[1].numbers == {"AP_gt_boxes": 0.3}
        assert {part.device for part in found.parts} == {"cpu"} and found.parts[0].tags["machine.threads"]
    assert of_run.run_id == trained.run_id and of_model.run_id == of_score.run_id == scored.run_id


def test_an_evaluation_whose_training_the_store_does_not_have_names_its_weights(repository):  # noqa: F811
    found = recorded.find(written("evaluate", repository, AP_gt_boxes=0.3).run_id, repository)
    assert found.parts[0] == Part(f"train@{NAME}") and found.weights == WEIGHTS


def test_an_evaluation_at_another_commit_is_no_part_of_a_training(repository):  # noqa: F811
    trained = written("train", repository, loss=0.5)
    (repository / "components" / "code.py").write_text("ONE = 3\n")
    commit(repository)
    scored = written("evaluate", repository, AP_gt_boxes=0.3)
    assert [part.stage for part in recorded.find(trained.run_id, repository).parts] == [f"train@{NAME}"]
    assert recorded.find(scored.run_id, repository).commit == git(repository, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("register", "has no numbers of its own .*NAME@VERSION"),
        ("compare", "has no numbers of its own"),
        ("pipeline", r"of a whole pipeline.*name one of them: [0-9a-f]{8} \(train@a_variant\)"),
        ("failed", "is FAILED: it has no result"),
    ],
)
def test_runs_without_a_result_are_named(repository, monkeypatch, kind, said):  # noqa: F811
    if kind == "pipeline":
        with tracking.pipeline_run(repository=repository) as (run, variables):
            for key, value in variables.items():
                monkeypatch.setenv(key, value)
            written("train", repository)
    elif kind == "failed":
        with pytest.raises(ValueError), tracking.run(f"train@{NAME}", tags={"kind": "train"}, repository=repository) as run:
            raise ValueError("no")
    else:
        run = written(kind, repository)
    with pytest.raises(FarposeError, match=said):
        recorded.find(run.run_id, repository)


def test_what_is_not_there_is_one_line_with_the_way_out(repository):  # noqa: F811
    run = written("train", repository, "b" * 64)
    with pytest.raises(FarposeError, match=r"no run begins with 'abcdef' .*MLFLOW_TRACKING_URI"):
        recorded.find("abcdef" if not run.run_id.startswith("abcdef") else "abcde0", repository)
    with pytest.raises(FarposeError, match=r"no model is registered yet"):
        recorded.find(NAME, repository)
    version(run)
    with pytest.raises(FarposeError, match=r"no run of this store trained or evaluated a_variant, version 1 .*MLFLOW_TRACKING_URI"):
        recorded.find(NAME, repository)
    run.client.set_model_version_tag(NAME, "1", "released", "pose_64x48")
    with pytest.raises(FarposeError, match=r"came with the clone.*released/pose_64x48/README.md"):
        recorded.find(NAME, repository)


def result(folder: Path, dirty: bool = False) -> Recorded:
    return Recorded("train@x, run 12345678", "0" * 32, git(folder, "rev-parse", "HEAD").strip(), dirty, "abc.dir", WEIGHTS, ())


def test_a_worktree_holds_what_the_run_was_made_of_and_goes_away(repository, tmp_path):  # noqa: F811
    """The run had edits, a new file and parameters of `dvc exp run -S`; since then the clone has moved on."""
    first = git(repository, "rev-parse", "HEAD").strip()
    (repository / "components" / "code.py").write_text("ONE = 2\n")
    (repository / "params" / "new.yaml").write_text("new: {}\n")
    (repository / "params" / "train.yaml").write_text("train: {epochs: 9}\n")
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    run = written("train", repository)
    git(repository, "checkout", "--quiet", ".")
    (repository / "params" / "new.yaml").unlink()
    (repository / "components" / "code.py").write_text("ONE = 4\n")
    commit(repository)
    found = recorded.find(run.run_id, repository)
    assert found.dirty and found.commit == first
    kept = recorded.kept(found, tmp_path, repository)
    with rebuild.worktree(found.commit, repository) as folder:
        assert (folder / "components" / "code.py").read_text() == "ONE = 1\n" and folder.is_relative_to(repository / "scratch")
        rebuild.restore(folder, found, kept)
        assert (folder / "components" / "code.py").read_text() == "ONE = 2\n" and (folder / "params" / "new.yaml").is_file()
        assert (folder / "params" / "train.yaml").read_text() == "train: {epochs: 9}\n"
        assert (folder / "dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"
    assert not folder.exists() and git(repository, "worktree", "list").count("\n") == 1
    assert (repository / "components" / "code.py").read_text() == "ONE = 4\n"
    with rebuild.worktree(found.commit, repository, keep=True) as folder:
        pass
    assert folder.is_dir()


def test_a_worktree_goes_away_after_an_error_too(repository):  # noqa: F811
    with pytest.raises(FarposeError, match="no"), rebuild.worktree("HEAD", repository) as folder:
        raise FarposeError("no")
    assert not folder.exists() and git(repository, "worktree", "list").count("\n") == 1


def test_a_commit_of_another_clone_and_edits_that_nobody_kept_are_one_line(repository, tmp_path):  # noqa: F811
    with (
        pytest.raises(FarposeError, match=r"commit 123412341234 is not in this clone .*git fetch"),
        rebuild.worktree("1234" * 10, repository),
    ):
        pass
    with pytest.raises(FarposeError, match=r"files differed from commit .*did not keep how"):
        rebuild.restore(repository, result(repository, dirty=True), None)
    with pytest.raises(FarposeError, match=r"files differed from commit .*did not keep how"):
        rebuild.restore(repository, result(repository, dirty=True), tmp_path)
    (tmp_path / snapshot.PATCH).write_text("no patch\n")
    with pytest.raises(FarposeError, match=r"git apply: .*valid patch"):
        rebuild.restore(repository, result(repository, dirty=True), tmp_path)


def test_what_a_store_lost_is_named(repository):  # noqa: F811
    run = written("train", repository)
    found = recorded.find(run.run_id, repository)
    shutil.rmtree(repository / "mlruns" / "artifacts")
    assert recorded.kept(found, repository, repository) is None  # as of runs that kept nothing: the commit's own files are taken


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (0.3, 0.3, SAME),
        (0.3, 0.1 + 0.2, NEAR),  # the next number after 0.3
        (0.3, 0.3029, NEAR),
        (0.3, 0.304, DIFFERENT),
        (0.0, 1e-9, DIFFERENT),
        (17.0, 17.0, SAME),
        (1000.0, 1001.0, DIFFERENT),  # counts
        (float("nan"), float("nan"), SAME),
        (None, 0.3, DIFFERENT),
        (0.3, None, DIFFERENT),
    ],
)
def test_a_number_is_the_same_near_or_different(before, now, said):
    parts = [Part("evaluate@x", numbers={} if value is None else {"AP": value}) for value in (before, now)]
    (line,) = verdict.numbers(*parts, tolerance=0.01)
    assert (line.name, line.verdict) == ("AP", said)


def test_clocks_are_not_compared_nor_what_the_registry_said_of_a_training():
    before = Part("train@x", numbers={"loss": 0.5, "images_per_second": 20.0, "AP_gt_boxes": 0.3, "system/cpu_utilization_percentage": 3.0})
    now = Part(
        "train@x",
        numbers={
            "loss": 0.5,
            "images_per_second": 90.0,
            "train_seconds": 3.0,
            "data_share_percent": 3.0,
            "system/cpu_utilization_percentage": 9.0,
        },
    )
    assert [line.name for line in verdict.numbers(before, now, 0.0)] == ["loss"]


def test_the_environment_names_what_changed_and_older_runs_are_not_blamed():
    now = lineage.tags("train@x")
    assert {"machine.cpu", "machine.os", "machine.threads", "version.python", "version.torch"} <= now.keys()
    before = now | {"version.torch": "1.0", "machine.cpu": "another", "git.commit": "1"}
    assert [(line.name, line.recorded) for line in verdict.around(before, now)] == [("cpu", "another"), ("torch", "1.0")]
    silent = {name: value for name, value in now.items() if not name.startswith("machine.")}
    assert verdict.around(silent, now) == []


def test_the_report_says_it_all(capsys):
    lines = {
        f"train@{NAME}": [verdict.weights(WEIGHTS, "b" * 64), verdict.Line("loss", 0.5, 0.501, NEAR)],
        f"evaluate@{NAME}": [verdict.Line("AP", 0.3, 0.3, SAME)],
    }
    report = Report("a_variant, version 1", lines, [verdict.Line("cpu", "one", "two", DIFFERENT)], None)
    said = reproduce.said(report, 0.01)
    assert report.verdict == DIFFERENT and said[-1] == "result: different"
    assert f"train@{NAME}: 0 same bits, 1 within tolerance, 1 different" in said and "  cpu: one → two" in said
    assert "  weights (SHA-256)  different: aaaaaaaaaaaaaaaa… → bbbbbbbbbbbbbbbb…" in said
    assert "  loss               within tolerance: 0.5 → 0.501" in said and "  AP  same bits: 0.3" in said
    lines[f"train@{NAME}"][0] = verdict.weights(WEIGHTS, WEIGHTS)
    assert reproduce.said(Report("x", lines, [], None), 0.01)[-1].startswith("result: within tolerance (relative difference up to 0.01")


def test_a_tolerance_that_is_none_is_refused(capsys):
    assert cli.main(["reproduce", NAME, "--tolerance", "2"]) == 1
    assert "a tolerance of 2.0 is none" in capsys.readouterr().err
