"""`errors`, `curve`, `report`: what users ask of finished evaluations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError
from pipelines import paths, settings, terminal


def errors(options: argparse.Namespace) -> None:
    """Errors of one set of predictions into scratch/NAME/errors: numbers, plot, and a gallery of the worst.

    Raises:
        FarposeError: the name is unknown, or what reading and classifying raise.
    """
    from components.base.files import atomic_directory
    from components.evaluate import error_gains, error_pictures
    from pipelines import asked, reporting

    given = one_of(options.name)
    params = settings.evaluation()
    split = options.split or given.split or params.split
    truth = asked.truth_of(options.data, split)
    file = given.under(options.condition) if options.condition else given.file
    predictions, scores, boxes = given.read(file, truth)
    name = f"{given.name}_{options.condition}" if options.condition else given.name
    result, found = error_gains.diagnose(truth, (predictions, scores), params)
    result = {"name": name, "split": split, "boxes": boxes, **result}
    title = f"{name}, split {split}: {error_gains.title_of(result)}"
    out = options.output or paths.SCRATCH / given.name / ("errors" if not options.condition else f"errors_{options.condition}")
    with atomic_directory(_new_or_ours(out, "errors.json")) as folder:
        error_gains.write(folder, result)
        error_pictures.plot(folder / "errors.png", title, result)
        if not options.no_gallery:
            read = reporting.reader(options.images, options.data, truth.persons)
            pictures = error_pictures.worst(truth, (predictions, scores), found, read, params.gallery_size)
            if pictures:
                error_pictures.gallery(folder / "worst.png", title, pictures)
    terminal.markdown(_table(*error_gains.table(result)))
    terminal.say(error_gains.in_words(name, result))
    print(f"written to {paths.shown(out)}: " + ", ".join(sorted(path.name for path in out.iterdir())))


def one_of(name: str) -> Any:
    """The one set of predictions of this name.

    Raises:
        FarposeError: what `asked.find` raises, or several seeds have the name.
    """
    from pipelines import asked

    found = asked.find(name)
    found = [one for one in found if one.name == name] or found  # the first seed may have its group's name
    if len(found) > 1:
        raise FarposeError(f"{len(found)} seeds have this name", where=name, fix=f"name one: {', '.join(one.name for one in found)}")
    return found[0]


def _table(headings: list[str], cells: list[list[str]]) -> str:
    from components.evaluate.table import markdown

    return markdown(headings, cells, [])


def _new_or_ours(folder: Path, mark: str) -> Path:
    """A folder that may be replaced: it does not exist, is empty, or was written by the same command.

    Args:
        mark: a file that the command always writes.
    Raises:
        FarposeError: it holds something else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / mark).is_file() or not any(folder.iterdir()))):
        raise FarposeError("this is not a folder that the command made", where=folder, fix="give another --output")
    return folder


def curve(options: argparse.Namespace) -> None:
    """AP (of MPII PCKh), AR and PCK of models against person height and input size into scratch/curve, and where each stops being useful.

    Raises:
        FarposeError: a name is unknown, options contradict each other, or what reading raises.
    """
    from components.base.files import atomic_directory
    from components.evaluate import usefulness
    from components.evaluate.usefulness_plot import plot
    from pipelines import asked, curves

    if not 0 < options.share < 1:
        raise FarposeError(f"--share must be between 0 and 1, got {options.share:g}", fix="0.5 is half of the value at large heights")
    given = curves.asked_for(options.names, options.results or [], options.size or [])
    params = settings.evaluation()
    split = curves.one_split(given, options.split, params.split)
    truth = asked.truth_of(options.data, split)
    models = [curves.model(one, truth) for one in given]
    found = usefulness.curves(truth, models, params, options.share)
    out = options.output or paths.SCRATCH / "curve"
    with atomic_directory(_new_or_ours(out, "curve.json")) as folder:
        usefulness.write(folder, found, options.share)
        plot(folder / "curve.png", found, models, f"split {split}, {len(truth.persons.labelled()):,} persons")
    for over, (headings, cells) in usefulness.tables(found).items():
        print(f"{found.heading} in percent, by the {usefulness.SIZES[over]}")
        terminal.markdown(_table(headings, cells).rstrip())
        print()
    terminal.say("\n".join(one.sentence(options.share) for one in found.limits))
    print(f"written to {paths.shown(out)}: " + ", ".join(sorted(path.name for path in out.iterdir())))


def report(options: argparse.Namespace) -> None:
    """The page of what is evaluated now, into scratch/report.

    Raises:
        FarposeError: nothing is evaluated, or what making the page raises.
    """
    from components.base.files import atomic_directory
    from pipelines import reporting

    out = options.output or paths.SCRATCH / "report"
    with atomic_directory(_new_or_ours(out, reporting.PAGE)) as folder:
        said = reporting.make(folder, options.images)
    size = (out / reporting.PAGE).stat().st_size / 2**20
    print(f"{said}\n{paths.shown(out / reporting.PAGE)} ({size:.1f} MiB, needs no other file)")
