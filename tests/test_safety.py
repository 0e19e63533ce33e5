"""Sources that unpickle nothing and run no shell, and data that nobody trusts: weights, archives, lists of files, names."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from components.base import config
from components.datasets.synthetic import SyntheticParams, write_synthetic
from components.pose.images import write_images
from tests.coco_files import COMMITTED
from tests.repositories import REPOSITORY, Console, copy_of_this, python
from tests.tiny_shard import tiny_source, write_tiny_shard

SOURCES = [path for part in ("components", "pipelines", "benchmarks", "released") for path in sorted((REPOSITORY / part).rglob("*.py"))]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "pty"}
CALLS = {  # the last two names of what is called, which read code from files or give text to a shell
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
    "jit.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive",
}  # fmt: skip
NAMES = {"extractall", "eval", "exec"}  # of a function or a method
SHELLS = {"sh", "bash", "zsh", "dash", "/bin/sh", "/bin/bash"}


def unsafe(source: str) -> Iterator[str]:
    """What a module does that it must not, by line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            yield from (f"{node.lineno}: imports {name}" for name in names if name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            last = called.rpartition(".")[2]
            own_method = last in ("eval", "exec") and "." in called  # `model.eval()` is torch's
            if ".".join(called.split(".")[-2:]) in CALLS or (last in NAMES and not own_method):
                yield f"{node.lineno}: calls {called}"
            if called == "torch.load" and given.get("weights_only") != "True":
                yield f"{node.lineno}: torch.load without weights_only=True"
            yield from (f"{node.lineno}: {name}={given[name]}" for name in ("allow_pickle", "shell") if given.get(name, "False") != "False")
        elif isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant) and node.elts[0].value in SHELLS:
            yield f"{node.lineno}: runs a shell"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "import dill as p", "import os; os.system('x')", "subprocess.run('x', shell=True)",
        "subprocess.run('x', shell=flag)", "torch.load(path)", "torch.load(path, weights_only=False)", "torch.jit.load(path)",
        "np.load(path, allow_pickle=True)", "yaml.load(text)", "archive.extractall(folder)", "eval(text)", "run(['bash', '-c', text])",
        "pd.read_pickle(path)", "shutil.unpack_archive(path)", "subprocess.getoutput('x')", "from os import system; os.popen('x')",
    ],
)  # fmt: skip
def test_the_scan_sees_each_kind(line):
    assert list(unsafe(line))


@pytest.mark.parametrize(
    "line", ["model.eval()", "torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "run(['dvc'])"]
)
def test_the_scan_passes_what_is_safe(line):
    assert not list(unsafe(line))


def test_no_source_unpickles_or_runs_a_shell():
    assert len(SOURCES) > 200
    found = [f"{path.relative_to(REPOSITORY)}:{said}" for path in SOURCES for said in unsafe(path.read_text())]
    assert [re.sub(r":\d+", "", said) for said in found] == ["components/base/config.py: calls yaml.load"]
    assert issubclass(config._UniqueKeyLoader, yaml.constructor.SafeConstructor)


class Harmful:
    """Makes a folder if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def console(tmp_path_factory) -> Iterator[Console]:
    clone = copy_of_this(tmp_path_factory.mktemp("clone") / "clone")
    made = tmp_path_factory.mktemp("tiny")
    shutil.copytree(write_tiny_shard(made), clone / "artifacts" / "shards" / "direct_64x48")
    people = tiny_source(made / "people").persons
    people.write(clone / "artifacts" / "persons" / "persons.parquet")
    write_images(clone / "artifacts" / "persons" / "images.parquet", people.frame.assign(licence="none"))
    started = Console(clone)
    yield started
    started.close()


TINY = "hrnet_tiny_coco_64x48"
WITH_WEIGHTS = ("--variant", TINY, "--weights", "{file}", "--output", "{out}")
COMMANDS = {
    "import-weights": ("import-weights", TINY, "{file}"),
    "import-weights of a start": ("import-weights", "movenet_thunder", "{file}"),
    "predict": ("predict", "{image}", "--whole-image", *WITH_WEIGHTS),
    "evaluate": ("evaluate", TINY.replace("coco", "synthetic"), "--shards", "direct_64x48", "--weights", "{file}"),
    "submit": (
        "submit",
        "{list}",
        "--folder",
        "{folder}",
        "--variant",
        TINY,
        "--weights",
        "{file}",
        "--boxes",
        "{boxes}",
        "--output",
        "{out}",
    ),
    "export": ("export", TINY, "--crops", "direct_64x48", "--weights", "{file}", "--output", "{out}"),
    "release": ("release", TINY, "--from", "{folder}", "--shards", "direct_64x48", "--as", "mine", "--commit", "HEAD"),
    "results": ("evaluate", "--results", "{file}"),
    "boxes": ("predict", "{image}", "--boxes", "{file}", "--output", "{out}"),
}


@pytest.fixture
def places(tmp_path) -> dict[str, Path]:
    """A photograph, the list of it, boxes, and a folder that holds a harmful model.safetensors."""
    from PIL import Image

    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.jpg")
    (tmp_path / "list.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 64}]}))
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 40, 60], "score": 0.9}]))
    return {
        "folder": folder,
        "image": folder / "a.jpg",
        "list": tmp_path / "list.json",
        "boxes": tmp_path / "boxes.json",
        "out": tmp_path / "out.zip",
        "file": folder / "model.safetensors",
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "pickle"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_malicious_file_is_refused_by_every_command_that_takes_one(command, zipped, console, places, tmp_path):
    trace = tmp_path / "trace"
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "hook": Harmful(trace)}
    torch.save(content, places["file"]) if zipped else places["file"].write_bytes(pickle.dumps(content))
    (places["folder"] / "timing.json").write_text("{}")
    done = console.farpose(*(part.format(**places) for part in COMMANDS[command]))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("farpose: error: "), done.stderr
    assert "not foreseen" not in done.stderr and str(places["file"]) in done.stderr, done.stderr
    assert not trace.exists()
    with open(places["file"], "rb") as stream:  # the file is one that would have run it
        torch.load(stream, weights_only=False) if zipped else pickle.load(stream)
    assert trace.is_dir()


OUTSIDE = ["../secret.jpg", "/tmp/secret.jpg", "a/../../secret.jpg"]


@pytest.fixture(scope="module")
def drawn(console) -> Path:
    """A few synthetic images as the clone's raw data."""
    people = SyntheticParams(train_images=1, val_images=1, min_height_px=80.0, max_persons=1, empty_fraction=0.0)
    write_synthetic(console.folder / "data" / "synthetic", people, progress=False, workers=1)
    return console.folder / "data" / "synthetic"


@pytest.mark.parametrize("name", OUTSIDE)  # an absolute one is looked for inside, below the folder of images
def test_annotations_cannot_name_a_file_outside_of_their_data_set(name, console, drawn, tmp_path):
    path = drawn / COMMITTED["synthetic"].splits["val"].annotations
    before = path.read_text()
    value = json.loads(before)
    value["images"][0]["file_name"] = name
    path.write_text(json.dumps(value))
    shutil.copy(next((drawn / "val").glob("*.jpg")), drawn.parent / "secret.jpg")
    done = console.farpose("convert", "synthetic", str(tmp_path / "out"))
    path.write_text(before)
    if name.startswith("/"):
        assert done.returncode == 0 and name.strip("/") in named(tmp_path / "out")
    else:
        assert done.returncode == 1 and f"{path}" in done.stderr and name in done.stderr and "expected a path inside" in done.stderr
        assert not (tmp_path / "out").exists()
    assert console.farpose("convert", "synthetic", str(tmp_path / "whole")).returncode == 0
    assert name.strip("/") not in named(tmp_path / "whole")


def named(folder: Path) -> list[str]:
    return [image["file_name"] for image in json.loads((folder / "val.json").read_text())["images"]]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_list_of_images_cannot_name_one_outside_of_its_folder(name, console, places):
    shutil.copy(places["image"], places["folder"].parent / "secret.jpg")
    places["list"].write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    done = console.farpose("submit", str(places["list"]), "--folder", str(places["folder"]), "--output", str(places["out"]))
    assert done.returncode == 1 and f"{places['list']}: unsafe file name {name!r}" in done.stderr and not places["out"].exists()


@pytest.mark.parametrize("name", OUTSIDE)
def test_boxes_cannot_name_an_image_that_nobody_gave(name, console, places, tmp_path):
    """Their names are compared with those of the given images and never opened or written."""
    shutil.copy(places["image"], places["folder"].parent / "secret.jpg")
    box = {"image_id": 1, "file_name": name, "category_id": 1, "bbox": [1, 1, 40, 60], "score": 0.9}
    places["boxes"].write_text(json.dumps([box]))
    done = console.farpose("predict", str(places["image"]), "--boxes", str(places["boxes"]), "--output", str(tmp_path / "out"))
    made = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")]
    assert not [path for path in made if "secret" in path]
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stdout + done.stderr


SIGNS = ["$(touch made);`touch made`.jpg", "-rf.jpg", "a' \" b&c|d.jpg", "--no-draw.jpg"]


def test_file_names_are_never_read_as_commands_or_options(console, places, tmp_path):
    from PIL import Image

    folder = tmp_path / "signs"
    folder.mkdir()
    for name in SIGNS:
        Image.new("RGB", (64, 64)).save(folder / name)
    done = console.farpose("predict", *(str(folder / name) for name in SIGNS), "--whole-image", "--output", str(tmp_path / "found"))
    assert done.returncode == 0, done.stderr
    written = {record["file_name"] for record in json.loads((tmp_path / "found" / "predictions.json").read_text())}
    assert written == {str(folder / name) for name in SIGNS} or {Path(name).name for name in written} == set(SIGNS)
    assert not list(tmp_path.rglob("made")) and not list(console.folder.glob("made"))


@pytest.mark.parametrize("target", ["plan; touch made", "$(touch made)", "--force", "-f"])
def test_names_of_stages_are_never_read_as_commands_or_options(target, console):
    done = console.farpose("run", "--", target)
    assert done.returncode == 1 and f"no stage {target!r}" in done.stderr and not (console.folder / "made").exists()


@pytest.mark.parametrize("tag", ["x; touch made", "$(touch made)", "../x", "a b"])
def test_a_variant_cannot_be_named_like_a_command(tag, console):
    """DVC gives a variant's name to a shell, as a word of the stage's command."""
    path, name = console.folder / "params" / "pipeline.yaml", f"dark_hrnet_tiny_synthetic_64x48_{tag}"
    before = path.read_text()
    value = yaml.safe_load(before)
    value["variants"] = {name: {"table": "demo", "shards": next(iter(value["shards"]))}}
    path.write_text(yaml.safe_dump(value))
    try:
        done = console.farpose("run")
        assert done.returncode == 1 and f"{name!r} is no name of a variant" in done.stderr, done.stderr
    finally:
        path.write_text(before)


TELEMETRY = """
from pipelines import environment
import importlib.util
import dvc.analytics, mlflow.telemetry.utils, prefect.settings
print(dvc.analytics.is_enabled())
print(importlib.util.find_spec("great_expectations.analytics") is not None)  # earlier versions had one
print(not mlflow.telemetry.utils.is_telemetry_disabled())
print(prefect.settings.get_current_settings().server.analytics_enabled)
"""


@pytest.mark.operation
@pytest.mark.slow  # imports all four
def test_nothing_is_told_to_anybody(console):
    variables = dict.fromkeys(("DVC_NO_ANALYTICS", "DO_NOT_TRACK", "CI", "DVC_TEST"), "")
    assert python(console.folder, TELEMETRY, **variables).stdout.split() == ["False"] * 4
