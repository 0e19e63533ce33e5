"""The command `farpose`. Only the standard library is imported here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from pipelines import environment
from pipelines.lifeline import INTERRUPTED, TERMINATED, Terminated, terminable

DESCRIPTION = "Find the joints of people who cover few pixels: raw images and annotations in, trained and compared models out."
EPILOG = (
    "`farpose predict IMAGE` works at once, with the model that comes with the clone. To train: `farpose acquire synthetic`, then "
    "`farpose run`. Parameters live in params/, every key with its comment."
)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"farpose {_version()}")
        parser.exit()


def _version() -> str:
    """The release, and the commit of the code where it is a clone's."""
    import subprocess
    import tomllib

    release = tomllib.loads((environment.REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    asked = ["git", "-C", str(environment.REPOSITORY), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}, commit {commit}"


def parser() -> argparse.ArgumentParser:
    """The command line; each command's defaults name the function that runs it."""
    root = argparse.ArgumentParser(prog="farpose", description=DESCRIPTION, epilog=EPILOG)
    root.add_argument("--version", action=_Version, nargs=0, help="show the version and commit, and exit")
    root.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, handler: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(handler=handler)
        return added

    acquire = command("acquire", "data:acquire", "fill data/ with a data set and let DVC own it")
    acquire.add_argument("source", help="synthetic, coco, or another source of params/data.yaml")
    acquire.add_argument("--from", dest="origin", metavar="PATH|URL|s3://…", help="local folder, HTTP(S) address or S3 prefix")
    acquire.add_argument("--endpoint", metavar="URL", help="S3 endpoint other than Amazon's")
    acquire.add_argument("--accept-changes", action="store_true", help="replace the committed manifest if the files differ from it")

    text = "write a data set's annotations in another form, one file per split; nothing is filtered, and ids stay"
    convert = command("convert", "data:convert", text)
    convert.add_argument("name", metavar="NAME", help="a data set of params/data.yaml whose files are in data/NAME")
    convert.add_argument("--to", choices=("coco",), default="coco", help="the form: COCO keypoints (coco)")
    convert.add_argument("output", type=Path, metavar="OUTPUT", help="folder that gets train.json, val.json, …")

    run = command("run", "run:run", "bring every stage up to date, as a Prefect flow over DVC's graph")
    run.add_argument("targets", nargs="*", metavar="STAGE", help="only these stages and what they need (such as compare, train@NAME)")
    run.add_argument("--no-verify", action="store_true", help="leave out the checks that come before the first stage")
    text = "the work pool whose workers train and evaluate the variants, in clones of their own (docs/scale.md)"
    run.add_argument("--over", metavar="POOL", help=text)
    work = command("work", "flows:work", "train and evaluate variants for other clones, as a worker of a pool of the Prefect server")
    work.add_argument("pool", metavar="POOL", help="the name that `farpose run --over` gives")

    text = "take in new data: check them beside those that are there, then put them in place and run the pipeline, or say what is wrong"
    ingest = command("ingest", "flows:ingest", text)
    ingest.add_argument("source", help="a source of params/data.yaml")
    text = "folder, archive, HTTP(S) address or S3 prefix (the source's `origin` in params/data.yaml)"
    ingest.add_argument("--from", dest="place", metavar="PATH|URL|s3://…", help=text)
    ingest.add_argument("--endpoint", metavar="URL", help="S3 endpoint other than Amazon's")

    text = "do once what every night does: refresh data from their origin, run the pipeline, compare new challengers with the champion"
    nightly = command("nightly", "flows:nightly", text)
    nightly.add_argument("--split", choices=("val", "dev"), help="the persons that models are compared on (dev, if the data have one)")

    text = "say when the flow nightly runs by itself on the servers of `make serve`; without an argument: show it"
    schedule = command("schedule", "schedule:schedule", text)
    text = 'five fields in quotes: minute, hour, day, month, weekday, such as "0 3 * * *"; off: at no time'
    schedule.add_argument("cron", nargs="*", metavar="CRON|off", help=text)
    schedule.add_argument("--timezone", default="UTC", metavar="NAME", help="that the fields are in, such as Europe/Berlin (UTC)")

    stage = command("stage", "run:stage", "run one stage's code directly, as dvc.yaml does; its inputs must be there")
    stage.add_argument("name", metavar="NAME", help="plan, fetch, validate, degrade, train, evaluate, compare, report or register")
    stage.add_argument("item", nargs="?", metavar="ITEM", help="shards for degrade; variant for train, evaluate and register")

    train = command("train", "run:train", "train one variant")
    train.add_argument("variant", metavar="NAME", help="a variant of the pipeline, or any other of params/variants/ (then into scratch/)")
    train.add_argument("--shards", help="crops for a variant that is not in the pipeline")

    text = "evaluate one trained variant, a registered model on any data set, or another network's predictions"
    evaluate = command("evaluate", "run:evaluate", text)
    text = "as for `train`; with --on a registered model: NAME@ALIAS, NAME@VERSION or NAME; none with --results"
    evaluate.add_argument("variant", nargs="?", metavar="VARIANT", help=text)
    text = "a data set of params/data.yaml on which a registered model is scored; into scratch/judged/DATASET/NAME"
    evaluate.add_argument("--on", metavar="DATASET", help=text)
    evaluate.add_argument("--shards", help="crops for a variant that is not in the pipeline")
    text = "predictions of any network (COCO results, .json or .json.gz); `person` or `annotation_id` of a record: whose box was given"
    evaluate.add_argument("--results", type=Path, metavar="FILE", help=text)
    evaluate.add_argument("--name", help="with --results: for `farpose compare NAME …`; written to scratch/NAME (the file's name)")
    evaluate.add_argument("--split", choices=("val", "dev"), help="with --results and --on: the split (evaluate.split)")
    text = "with --results: folder of persons.parquet and images.parquet (artifacts/persons)"
    evaluate.add_argument("--data", type=Path, metavar="FOLDER", help=text)
    evaluate.add_argument("--weights", type=Path, metavar="FILE", help="not those that `train` made, but these (see import-weights)")

    imports = command("import-weights", "weights:import_weights", "turn an author's checkpoint file into weights of ours")
    text = "the variant that it belongs to (`farpose models`), spsr_x4, or a start of params/weights.yaml"
    imports.add_argument("name", metavar="NAME", help=text)
    text = ".pth, .pt, .tar, .bin or .safetensors; of a start .json or .tgz; pickled code is never run"
    imports.add_argument("file", type=Path, metavar="FILE", help=text)
    text = "where to write (artifacts/weights/NAME.safetensors, of a start its path in params/weights.yaml)"
    imports.add_argument("--output", type=Path, metavar="PATH", help=text)

    command("weights", "weights:weights", "list the weights that trainings may start from: files, origins, licences")

    compare = command("compare", "models:compare", "print the table of all variants; or, of two, which is better and how sure that is")
    compare.add_argument("names", nargs="*", metavar="NAME", help="two variants, groups of seeds, peers, or evaluations' folders")
    text = "say what is wrong with predictions, by person height and joint, what fixing it would gain, and show the worst"
    errors = command("errors", "asks:errors", text)
    errors.add_argument("name", metavar="NAME", help="a variant, a peer, an evaluation's folder, or a COCO results file")
    errors.add_argument("--condition", metavar="NAME", help="the predictions under this condition, such as h32 or detector_boxes")
    text = "folder of persons.parquet and images.parquet (artifacts/persons)"
    errors.add_argument("--data", type=Path, metavar="FOLDER", help=text)
    errors.add_argument("--images", type=Path, metavar="FOLDER", help="the folder that the table's image paths start in (data/<source>)")
    errors.add_argument("--split", choices=("val", "dev"), help="the split that was predicted, for a results file (evaluate.split)")
    errors.add_argument("--no-gallery", action="store_true", help="numbers and plot alone, without reading images")
    errors.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (scratch/NAME/errors)")

    text = "AP (of MPII PCKh), AR and PCK against person height and input size for any set of models, and where each stops being useful"
    curve = command("curve", "asks:curve", text)
    curve.add_argument(
        "names", nargs="*", metavar="NAME", help="variants, peers, evaluations' folders, results files (all that is evaluated)"
    )
    text = "another network's predictions, as COCO results; NAME@h32=FILE: its predictions of persons at most 32 px high"
    curve.add_argument("--results", action="append", metavar="NAME=FILE", help=text)
    curve.add_argument("--size", action="append", metavar="NAME=HxW", help="input of a network whose name is none of a variant, px")
    text = "part of the AP (of MPII PCKh) at large heights under which a method is no longer useful (0.5)"
    curve.add_argument("--share", type=float, default=0.5, metavar="PART", help=text)
    text = "folder of persons.parquet and images.parquet (artifacts/persons)"
    curve.add_argument("--data", type=Path, metavar="FOLDER", help=text)
    curve.add_argument("--split", choices=("val", "dev"), help="the split that was predicted, for results files (evaluate.split)")
    curve.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (scratch/curve)")

    text = "write one HTML page of what is evaluated now: leaderboard, differences, curves, errors, pictures, provenance"
    page = command("report", "asks:report", text)
    page.add_argument("--images", type=Path, metavar="FOLDER", help="the folder that the table's image paths start in (data/<source>)")
    page.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (scratch/report)")

    verify = command("verify", "verify:verify", "run the checks that need no training: AP of the truth, flips, round trips, bounds")
    verify.add_argument("--without-crops", action="store_true", help="do not compare crops with the table (they may be about to be made)")

    text = "find the joints of the persons in images and videos of your own: drawings, and joints in px of the upright image as JSON"
    predict = command("predict", "predict:predict", text)
    text = "photographs, videos, folders of them; or a camera (0), a stream (rtsp://…, http://…), or - for video on standard input"
    predict.add_argument("images", nargs="+", metavar="IMAGE", help=text)
    text = "a variant: its registered version, or as trained, or any with --weights (the registry's champion, or else the released model)"
    predict.add_argument("--variant", metavar="NAME", help=text)
    predict.add_argument("--model", metavar="NAME", help="a released model (pose_128x96, pose_64x48), or a registered one: NAME@champion")
    predict.add_argument("--weights", type=Path, metavar="FILE", help="not those that `train` made, but these (see import-weights)")
    text = "person boxes, px of the upright image: COCO detections or annotations (JSON); without them a detector finds persons"
    predict.add_argument("--boxes", type=Path, metavar="FILE", help=text)
    predict.add_argument("--whole-image", action="store_true", help="each image shows one person, who fills it")
    predict.add_argument("--score", type=float, metavar="SCORE", help="drop boxes that the detector scores lower; lower finds more (0.3)")
    text = "side of the detector's smallest tiles, px; smaller finds farther persons and takes longer; 0: none (416)"
    predict.add_argument("--tile", type=int, metavar="PX", help=text)
    text = "draw and list only persons that score higher (0.1; with --boxes: all); the file holds all of them"
    predict.add_argument("--draw-above", type=float, metavar="SCORE", help=text)
    predict.add_argument("--no-draw", action="store_true", help="write predictions.json alone, no pictures")
    predict.add_argument("--every", type=int, default=1, metavar="N", help="of videos: only each N-th frame (1)")
    predict.add_argument("--frames", type=int, metavar="N", help="of videos and streams: end after so many frames")
    text = "of drawn videos, four letters: mp4v, VP80 (plays in browsers), MJPG, … (mp4v)"
    predict.add_argument("--codec", default="mp4v", metavar="NAME", help=text)
    predict.add_argument("--output", type=Path, default=Path("predictions"), metavar="FOLDER", help="where to write (predictions/)")

    text = "predict images without annotations, such as COCO's test-dev, and write the results file that an evaluation server takes"
    submit = command("submit", "submit:submit", text)
    submit.add_argument("images", type=Path, metavar="LIST", help="JSON with COCO's `images`, such as image_info_test-dev2017.json")
    submit.add_argument("--folder", type=Path, required=True, metavar="FOLDER", help="of the image files, such as test2017")
    submit.add_argument("--boxes", type=Path, metavar="FILE", help="a detector's COCO results on these images, for models that take boxes")
    text = "the data set of params/data.yaml that they belong to: its category id and its `orientation` (the one that the model learned)"
    submit.add_argument("--data-set", metavar="NAME", help=text)
    submit.add_argument("--variant", metavar="NAME", help="a trained variant, or any with --weights (the released model)")
    submit.add_argument("--model", metavar="NAME", help="a released model (pose_128x96, pose_64x48), or a registered one: NAME@champion")
    submit.add_argument("--weights", type=Path, metavar="FILE", help="not those that `train` made, but these (see import-weights)")
    text = ".json, or .zip with one JSON file of its name (person_keypoints_test-dev2017_farpose_results.zip)"
    submit.add_argument("--output", type=Path, metavar="FILE", default=Path("person_keypoints_test-dev2017_farpose_results.zip"), help=text)

    export = command("export", "export:export", "write a trained variant as an ONNX file, if ONNX Runtime finds the same joints with it")
    export.add_argument("variant", metavar="NAME", help="a trained variant")
    export.add_argument("--weights", type=Path, metavar="FILE", help="its weights, if not those of the pipeline or of `train`")
    export.add_argument("--output", type=Path, metavar="FILE", help="where to write (scratch/NAME/NAME.onnx)")
    export.add_argument("--crops", metavar="SHARDS", help="crops or images to compare the joints on, if not those it was trained on")

    text = "make a trained variant a model that comes with a clone: weights in half precision, ONNX file, card, digests"
    release = command("release", "release:release", text)
    release.add_argument("variant", metavar="NAME", help="a trained variant")
    text = "its training's folder, with model.safetensors and summary.json, if not that of the pipeline or of `train`"
    release.add_argument("--from", dest="origin", type=Path, metavar="FOLDER", help=text)
    release.add_argument("--as", dest="name", required=True, metavar="NAME", help="name of the released model, such as pose_64x48")
    release.add_argument("--shards", help="the crops it was trained on, for a variant that is not in the pipeline")
    text = "numbers of the rounded weights, if they were evaluated already (a folder of `farpose evaluate --weights`)"
    release.add_argument("--evaluation", type=Path, metavar="FOLDER", help=text)
    release.add_argument("--commit", help="the commit that holds the training's code, if MLflow's store does not know the training")
    release.add_argument("--example", metavar="NAME", help="the one of params/examples that trains it; the card names it")
    release.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (released/NAME)")

    text = "make a registered model the champion if its data, targets and export are right and it is better than the present one"
    promote = command("promote", "promote:promote", text)
    promote.add_argument("name", nargs="?", metavar="NAME", help="NAME (its challenger), NAME@ALIAS or NAME@VERSION")
    promote.add_argument("--split", choices=("val", "dev"), default="dev", help="the persons that both are scored on (dev)")
    text = "persons are also limited to these heights; it must be better at each of them, and as they are not worse"
    promote.add_argument("--heights", nargs="+", type=int, default=(), metavar="PX", help=text)
    promote.add_argument("--rollback", action="store_true", help="give the alias back to the champion before the last promotion")

    text = "build a run's or a model's result again from what is recorded of it, and say whether it is the same"
    reproduce = command("reproduce", "reproduce:reproduce", text)
    text = "the id of a run of train, evaluate, fetch, validate or degrade, or its beginning; or a model: NAME, NAME@ALIAS, NAME@VERSION"
    reproduce.add_argument("what", metavar="RUN|MODEL", help=text)
    text = "relative difference up to which a number is within tolerance; the exit code is then 0 (0.01)"
    reproduce.add_argument("--tolerance", type=float, default=0.01, metavar="SHARE", help=text)
    reproduce.add_argument("--keep", action="store_true", help="leave the git worktree in which it was built, in scratch/reproduce")

    params = command("params", "params:params", "check all parameters and print them, or one variant's")
    params.add_argument("variant", nargs="?", metavar="NAME", help="print this variant with everything resolved")
    params.add_argument("--apply", metavar="NAME", help="lay params/examples/NAME over params/")
    text = "put these variants in the place of those in params/, with their data set and the crops or images that they need"
    params.add_argument("--only", nargs="+", metavar="NAME", help=text)
    params.add_argument("--force", action="store_true", help="with --apply and --only: also over edits that are not committed")

    models = command("models", "models:models", "list every variant with its parameters, multiply-adds and what its paper reports")
    models.add_argument("--method", metavar="NAME", help="only this method, such as srpose")
    models.add_argument("--dataset", metavar="NAME", help="only this data set, such as coco")
    models.add_argument("--size", metavar="HxW", help="only this input, such as 64x48")
    models.add_argument("--json", action="store_true", help="print everything that is known as JSON")
    text = "count networks that results/costs.json lacks and write it; all: every network again (minutes)"
    models.add_argument("--count", nargs="?", const="missing", choices=("missing", "all"), help=text)
    command("doctor", "doctor:doctor", "print versions, devices, disk, stores, and what is missing")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    The exit code is 0, 1 after an error (one line on stderr), 2 for a wrong command line, 130 after Ctrl-C, 143 after SIGTERM.
    """
    options = parser().parse_args(arguments)
    module, function = options.handler.split(":")
    try:
        with terminable():
            return int(getattr(importlib.import_module(f"pipelines.commands.{module}"), function)(options) or 0)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    except Exception as error:
        if options.debug:
            raise
        return report(error)


def report(error: BaseException) -> int:
    """Print an error on one line of stderr; the exit code."""
    from components.base.errors import FarposeError
    from components.registry.secrets import without_secrets
    from pipelines import disk, memory, passing

    error = memory.named(disk.named(error))
    text = without_secrets(" ".join(str(error).split()))
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in ("components", "pipelines"):
        text = f"{sys.executable} lacks the package {error.name!r} (`make setup` once, then `.venv/bin/farpose` in place of this Python)"
    elif not isinstance(error, FarposeError):
        text = f"{type(error).__name__}: {text} (not foreseen; `farpose --debug …` shows where)"
    if not sys.stderr.isatty():
        print(f"farpose: error: {text}", file=sys.stderr)
        return passing.exit_code(error)
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text.assemble(("farpose: error:", "bold red"), f" {text}"))
    return passing.exit_code(error)


def _interrupted(error: KeyboardInterrupt) -> int:
    said, code = ("ended by SIGTERM", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
    print(f"farpose: {said}; the same command continues where it stopped", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
