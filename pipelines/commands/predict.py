"""`predict`: the joints of the persons in images, videos and streams of your own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import sha256_of
from pipelines import photographs, series, sources, videos
from pipelines.choosing import chosen
from pipelines.photographs import Photograph
from pipelines.predicting import Finder
from pipelines.series import Clip, Item, Photographs, Series
from pipelines.tally import Tally
from pipelines.written import Written

DETECTED_ABOVE = 0.1  # person's score up to which a detected person is not drawn: one pose in seven is right; see results/detector
CROPS_ONLY = ("boxes", "whole_image", "score", "tile")  # options that say where persons are


def predict(options: argparse.Namespace) -> int:
    """Write predictions.json (COCO results), images.json (what each image id is), a drawing per image and a drawn video per video.

    All coordinates are px of the upright image, as viewers show it. Every file is looked at before anything is written, and the earlier
    outputs stay until the new ones are whole. The exit code says whether a signal ended it before its input did.
    """
    from components.models.weights import read_metadata

    given = sources.sort(options.images)
    _check(options, given)
    subject = chosen(options.variant, options.weights, lambda variant: _refuse(options, variant), options.model)
    shots, places = _photographs(options, given)
    clips = _clips(options, given)
    if not shots and not clips:
        raise FarposeError("none of the files can be read", where=", ".join(map(str, given.folders)), fix="; ".join(given.notes[:3]))
    finder = Finder(subject, options.score, options.tile)
    located = photographs.given(options.boxes, shots) if options.boxes else photographs.Located({})
    for note in (*given.notes, *subject.notes, *located.notes):
        print(f"note: {note}")
    variant, takes = subject.built.variant.name, finder.approach.takes_boxes
    boxes = str(options.boxes) if options.boxes else "whole image" if options.whole_image else finder.detects if takes else "none"
    weights = {"weights_sha256": sha256_of(subject.weights)} if clips else {"weights": read_metadata(subject.weights)}
    provenance = {"variant": variant, **weights, "boxes": boxes}
    usual = DETECTED_ABOVE if takes and not options.boxes and not options.whole_image else finder.approach.draw_above
    tally = Tally(subject.built.variant, usual if options.draw_above is None else options.draw_above, takes and usual == DETECTED_ABOVE)
    first = max(shots, default=0) + 1
    every: list[Series | videos.Given] = [*([Photographs(shots, places)] if shots else []), *clips]
    with series.Stop() as stop, Written(options.output) as written:
        for one in every:
            if stop():
                break
            if isinstance(one, videos.Given):
                one = Clip(videos.opened(one, stop), first, options.every, options.frames, options.codec)
            _work(one, finder, options, located, provenance, tally, written, stop)
            first += one.taken if isinstance(one, Clip) else 0
    tally.report(options.output, not options.no_draw, takes)
    endless = bool(clips) and clips[-1].path is None
    return 0 if not stop() or endless else 128 + stop.signal


def _work(
    one: Series,
    finder: Finder,
    options: argparse.Namespace,
    located: photographs.Located,
    provenance: Mapping[str, Any],
    tally: Tally,
    written: Written,
    stop: series.Stop,
) -> None:
    """Find, write and draw the persons of one series, a batch at a time."""
    from tqdm import tqdm

    with tqdm(total=one.total, unit=one.unit, desc=tally.begin(one), disable=None, dynamic_ncols=True, leave=False) as bar:
        for batch in series.batches(one.items(stop)):
            images = {item.number: item.pixels for item in batch}
            found, scores = finder.find(images, _boxes(options, located, batch))
            if isinstance(one, Clip):
                found = _rounded(found)
            written.add(found, scores, provenance, {item.number: item.record for item in batch}, located.category_id)
            for item in batch:
                rows = np.flatnonzero(found.image_id == item.number)
                strong, caption = tally.add(item, found, scores, rows)
                if not options.no_draw:
                    picture = finder.approach.picture(
                        item.pixels[..., ::-1],
                        found.select(strong),
                        scores[strong],
                        finder.subject.built,
                        finder.subject.evaluate,
                        frame=isinstance(one, Clip),
                    )
                    one.draw(item, picture, caption, written)
            bar.set_postfix(persons=tally.persons, refresh=False)
            bar.update(len(batch))
    one.close(written)
    tally.end(one, stop())


def _rounded(found: Any) -> Any:
    """Joints of frames to hundredths of a px: a video has many."""
    import dataclasses

    rounded = {name: getattr(found, name).round(2) for name in ("keypoints_image", "bbox_xywh", "areas")}
    return dataclasses.replace(found, keypoint_scores=found.keypoint_scores.round(4), **rounded)


def _boxes(options: argparse.Namespace, located: photographs.Located, batch: list[Item]) -> dict[int, np.ndarray] | None:
    if options.boxes:
        return {item.number: located.boxes[item.number] for item in batch}
    if options.whole_image:
        return {item.number: np.array([[0.0, 0.0, *item.pixels.shape[1::-1]]]) for item in batch}
    return None


def _photographs(options: argparse.Namespace, given: sources.Sources) -> tuple[dict[int, Photograph], dict[int, str]]:
    """The photographs by number, each of them opened once, and the names of their drawings."""
    files = photographs.unique([*given.photographs, *photographs.readable(given.collected, given.notes)])
    drawings = photographs.drawings(options.output, files.values())
    return {number: Photograph.of(path) for number, path in files.items()}, {number: drawings[path].name for number, path in files.items()}


def _clips(options: argparse.Namespace, given: sources.Sources) -> list[videos.Given]:
    """The videos and streams; each file is opened once, and one of a folder that does not open is left out."""
    kept = []
    for clip in given.videos:
        try:
            if clip.path is not None:
                videos.Video(clip).close()
        except FarposeError as error:
            if clip.path is None or clip.path.parent not in given.folders:
                raise
            given.notes.append(f"left out: {clip.name}: {error.problem}")
        else:
            kept.append(clip)
    return kept


def _check(options: argparse.Namespace, given: sources.Sources) -> None:
    if options.boxes and options.whole_image:
        raise FarposeError("--boxes and --whole-image exclude each other", fix="remove one")
    if options.boxes and given.videos:
        raise FarposeError("--boxes are of images, not of a video's frames", where=given.videos[0].name, fix="remove --boxes")
    for name, value in (("every", options.every), ("frames", options.frames)):
        if value is not None and value < 1:
            raise FarposeError(f"--{name} must be at least 1, got {value}", fix="such as 5")
    photographs.drawings(options.output, photographs.unique(given.photographs).values())
    series.check_places(options.output, given.videos, options.codec)
    streams = [clip for clip in given.videos if clip.path is None]
    if len(streams) > 1 or (streams and given.videos[-1] is not streams[0]):
        raise FarposeError(
            "a stream is read alone or last, since what follows waits for its end", where=streams[0].name, fix="name it last"
        )


def _refuse(options: argparse.Namespace, variant: Any) -> None:
    """Refuse options that say where persons are, for a variant that finds them itself."""
    from components.approaches import approach

    if approach(variant.approach).takes_boxes:
        return
    for name in CROPS_ONLY:
        if getattr(options, name) not in (None, False):
            option = "--" + name.replace("_", "-")
            what = "boxes" if name == "boxes" else option
            problem = f"the variant finds the persons of whole images and takes no {what}"
            raise FarposeError(problem, where=variant.name, fix=f"remove {option}")
