"""`farpose predict` on videos and folders: real files, whole, turned, cut and damaged."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import cli
from tests import films
from tests.films import (
    CODECS,
    FPS,
    FRAMES,
    HEIGHT,
    NAME,
    WIDTH,
    asked,
    error_of,
    film,
    images,
    pixels,
    read,
    records,
)
from tests.tiny_people import texture

weights, alone = films.weights, films.alone  # fixtures


@pytest.mark.parametrize("suffix", CODECS)
def test_every_frame_has_an_id_a_time_and_a_drawing(weights, tmp_path, capfd, suffix):
    clip = film(tmp_path / f"clip{suffix}")
    assert cli.main(asked(weights, tmp_path / "out", clip)) == 0
    said = capfd.readouterr()
    assert f"{clip}, {WIDTH}x{HEIGHT} px, {FRAMES} frames (2.3 s): persons in {FRAMES} of them, at most 1 at once" in said.out
    assert said.err == "" and "note:" not in said.out  # no progress where nobody watches
    listed = images(tmp_path / "out")
    assert list(listed) == [str(number) for number in range(1, FRAMES + 1)]
    for index, record in enumerate(listed.values()):
        expected = {"file": str(clip), "frame": index, "time_s": pytest.approx(index / FPS, abs=0.002), "width": WIDTH, "height": HEIGHT}
        assert record == expected
    found = records(tmp_path / "out")
    assert [one["image_id"] for one in found] == list(range(1, FRAMES + 1)) and {one["file_name"] for one in found} == {clip.name}
    assert found[0]["provenance"].keys() == {"variant", "weights_sha256", "boxes"}
    drawn, fps = read(tmp_path / "out" / "clip.mp4")
    assert len(drawn) == FRAMES and fps == pytest.approx(FPS) and drawn[0].shape == (HEIGHT, WIDTH, 3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", "images.json", "predictions.json"}


def test_a_video_gives_what_its_frames_give_as_images(weights, tmp_path):
    clip = film(tmp_path / "clip.avi", "MJPG", frames=11)
    for index, frame in enumerate(read(clip)[0]):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), frame)
    assert cli.main(asked(weights, tmp_path / "video", clip)) == 0
    assert cli.main(asked(weights, tmp_path / "images", *sorted(tmp_path.glob("*.png")), options=("--no-draw",))) == 0
    joints = [np.array([record["keypoints"] for record in records(tmp_path / name)]) for name in ("video", "images")]
    assert joints[0].shape == (11, 51)
    np.testing.assert_allclose(*joints, atol=0.02)  # frames' joints are stored to hundredths of a px


@pytest.mark.parametrize(("options", "indices"), [(("--every", "7"), [0, 7, 14, 21, 28]), (("--every", "4", "--frames", "3"), [0, 4, 8])])
def test_some_frames_alone(weights, tmp_path, options, indices):
    assert cli.main(asked(weights, tmp_path / "out", film(tmp_path / "clip.mp4"), options=options)) == 0
    listed = images(tmp_path / "out").values()
    assert [one["frame"] for one in listed] == indices
    assert [one["time_s"] for one in listed] == pytest.approx([index / FPS for index in indices], abs=0.002)
    drawn, fps = read(tmp_path / "out" / "clip.mp4")
    assert len(drawn) == len(indices) and fps == pytest.approx(FPS / int(options[1]), rel=0.01)  # it lasts as long


def turn(path: Path, degrees: int) -> None:
    """Write the turn into the track's matrix (ISO 14496-12, `tkhd`), as telephones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one, minus, none = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True), bytes(4)
    a, b, c, d = {90: (none, one, minus, none), 180: (minus, none, none, minus), 270: (none, minus, one, none)}[degrees]
    content[at : at + 20] = a + b + none + c + d
    path.write_bytes(content)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_seen_as_players_show_them(weights, tmp_path, degrees):
    clip = film(tmp_path / "clip.mp4", frames=4)
    turn(clip, degrees)
    assert cli.main(asked(weights, tmp_path / "out", clip, options=("--draw-above", "1e9"))) == 0  # nobody is drawn
    upright = np.rot90(pixels(0), -degrees // 90)
    listed = images(tmp_path / "out")["1"]
    assert (listed["width"], listed["height"]) == upright.shape[1::-1]
    drawn = read(tmp_path / "out" / "clip.mp4")[0][0]
    assert drawn.shape == upright.shape and np.abs(drawn.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("size", [(161, 121), (64, 48), (200, 90)])
@pytest.mark.parametrize("fps", [23.976, 119.88])
def test_drawn_videos_keep_size_and_rate(weights, tmp_path, size, fps):
    clip = film(tmp_path / "clip.avi", "FFV1", frames=3, size=size, fps=fps)
    assert cli.main(asked(weights, tmp_path / "out", clip)) == 0
    drawn, rate = read(tmp_path / "out" / "clip.mp4")
    assert drawn[0].shape[1::-1] == tuple(side // 2 * 2 for side in size) and rate == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize(("codec", "name"), [("VP80", "clip.webm"), ("MJPG", "clip.avi"), ("FFV1", "clip.mkv")])
def test_other_codecs_are_written_to_their_containers(weights, tmp_path, capfd, codec, name):
    assert cli.main(asked(weights, tmp_path / "out", film(tmp_path / "clip.mp4", frames=5), options=("--codec", codec))) == 0
    assert len(read(tmp_path / "out" / name)[0]) == 5 and capfd.readouterr().err == ""


def without_frames(path: Path) -> None:
    film(path.with_suffix(".avi"), "MJPG", frames=1)
    content = path.with_suffix(".avi").read_bytes()
    end = content.index(b"movi") + 4
    path.with_suffix(".avi").unlink()
    path.write_bytes(content[:end])


def of_unknown_codec(path: Path) -> None:
    film(path.with_suffix(".avi"), "MJPG").rename(path)
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"zzzz"))


def cut_before_its_index(path: Path) -> None:
    path.write_bytes(film(path).read_bytes()[:-400])


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "the video file is empty"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "does not open: it is damaged"),
    "cut": (cut_before_its_index, "does not open: it is damaged, lacks its end"),
    "no frame": (without_frames, "no frame of the video can be decoded"),
    "codec": (of_unknown_codec, "of a codec that OpenCV does not read"),
    "missing": (lambda path: None, "video not found"),
    "text": (lambda path: path.write_text("a text\n"), "does not open"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_video_is_one_line_and_leaves_earlier_outputs(weights, tmp_path, capfd, kind):
    make, problem = BAD[kind]
    bad, out = tmp_path / "bad.mp4", tmp_path / "out"
    make(bad)
    out.mkdir()
    (out / "predictions.json").write_text("mine")
    assert cli.main(asked(weights, out, film(tmp_path / "good.mp4"), bad)) == 1
    error = error_of(capfd)
    assert "bad.mp4" in error and problem in error, error
    assert [path.name for path in out.iterdir()] == ["predictions.json"] and (out / "predictions.json").read_text() == "mine"


@pytest.mark.parametrize(("suffix", "codec", "frames"), [(".avi", "MJPG", 30), (".mkv", "MJPG", 60), (".webm", "VP80", 60)])
def test_a_video_that_was_cut_short_keeps_what_was_read(weights, tmp_path, capfd, suffix, codec, frames):
    clip = film(tmp_path / f"clip{suffix}", codec, frames=frames)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    whole = len(read(clip)[0])
    assert 0 < whole < frames
    assert cli.main(asked(weights, tmp_path / "out", clip)) == 0
    said = capfd.readouterr()
    assert said.err == "" and f"note: {clip}: it ends after" in said.out and f"of {frames / FPS:.1f} s, cut short" in said.out
    assert len(images(tmp_path / "out")) == len(read(tmp_path / "out" / "clip.mp4")[0]) == whole


def test_a_folder_gives_its_images_and_videos_and_names_what_it_leaves_out(weights, tmp_path, capfd):
    folder = tmp_path / "in"
    film(folder / "clip.mp4", frames=3)
    film(folder / "other.avi", frames=2)
    (folder / "broken.mkv").write_bytes(b"no video")
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(folder / name), texture(40, 50, np.random.default_rng(0)))
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("mine")
    (folder / "deeper").mkdir()
    film(folder / "deeper" / "hidden.mp4")
    assert cli.main(asked(weights, tmp_path / "out", folder)) == 0
    said = capfd.readouterr()
    assert said.err == "" and "5 persons in 2 images and 5 frames"[2:] in said.out
    for left in ("1 file of", "broken.mkv: the video does not open", "cut.png: image file is cut short"):
        assert left in said.out
    found = [(Path(one["file"]).name, one.get("frame")) for one in images(tmp_path / "out").values()]
    assert found == [
        ("a.jpg", None),
        ("b.png", None),
        ("clip.mp4", 0),
        ("clip.mp4", 1),
        ("clip.mp4", 2),
        ("other.avi", 0),
        ("other.avi", 1),
    ]
    drawn = {"a.png", "b.png", "clip.mp4", "other.mp4", "images.json", "predictions.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == drawn


@pytest.mark.parametrize(
    ("make", "options", "problem"),
    [
        (lambda tmp: [tmp], (), "no image or video lies in this folder"),
        (lambda tmp: [film(tmp / "clip.mp4")], ("--codec", "qqqq"), "OpenCV cannot write codec 'qqqq' to .mkv"),
        (lambda tmp: [film(tmp / "clip.mp4")], ("--codec", "mp3"), "a codec has four letters"),
        (lambda tmp: [film(tmp / "clip.mp4")], ("--every", "0"), "--every must be at least 1, got 0"),
        (lambda tmp: [film(tmp / "clip.mp4")], ("--frames", "-3"), "--frames must be at least 1"),
        (lambda tmp: [film(tmp / "a" / "clip.mp4"), film(tmp / "b" / "clip.avi")], (), "another input has the same name"),
        (lambda tmp: [film(tmp / "out" / "clip.mp4")], (), "would replace the one that is read"),
        (lambda tmp: ["-", film(tmp / "clip.mp4")], (), "a stream is read alone or last"),
        (lambda tmp: ["987"], (), "camera 987: no such camera"),
        (lambda tmp: ["http://127.0.0.1:9/clip.mp4"], (), "http://127.0.0.1:9/clip.mp4: no video stream opens"),
        (lambda tmp: ["rtsp://me:secret@127.0.0.1:9/live"], (), "rtsp://127.0.0.1:9/live: no video stream opens"),
    ],
)
def test_what_cannot_be_done_is_one_line(weights, tmp_path, capfd, make, options, problem):
    assert cli.main(asked(weights, tmp_path / "out", *make(tmp_path), options=options)) == 1
    assert problem in error_of(capfd) and not (tmp_path / "out" / "predictions.json").exists()


def test_boxes_are_of_images(weights, tmp_path, capfd):
    given = ["predict", str(film(tmp_path / "clip.mp4")), "--variant", NAME, "--weights", str(weights), "--boxes", "b.json"]
    assert cli.main([*given, "--output", str(tmp_path / "out")]) == 1
    assert "--boxes are of images, not of a video's frames (remove --boxes)" in error_of(capfd)


class Terminal:
    """What a person sees on standard error."""

    def __init__(self) -> None:
        self.said = ""

    def write(self, text: str) -> int:
        self.said += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_frames_persons_and_rate(weights, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(asked(weights, tmp_path / "out", film(tmp_path / "clip.mp4"))) == 0
    assert f"/{FRAMES} [" in terminal.said and "clip.mp4" in terminal.said and ("frame/s" in terminal.said or "s/frame" in terminal.said)


def highest() -> int:
    """KiB of memory that this process had at most since the last call of `forget`."""
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not forget the highest use")
def test_memory_does_not_grow_with_the_video(weights, tmp_path):
    peaks = []
    for frames in (10, 90):  # 2.8 MB each, of which 80 are 220 MB
        clip = film(tmp_path / f"{frames}.avi", "MJPG", frames=frames, size=(1280, 720))
        Path("/proc/self/clear_refs").write_text("5")
        assert cli.main(asked(weights, tmp_path / "out", clip)) == 0
        peaks.append(highest())
    assert peaks[1] - peaks[0] < 80 * 1024, peaks
