"""`farpose predict --model`: another model of released/ than the main one."""

from __future__ import annotations

from components.models import zoo
from pipelines import cli
from tests.stand_in import release
from tests.test_predict_command import OTHER, TOP_DOWN, detect, images, records, released, trained, weights  # noqa: F401  (fixtures)


def test_another_released_model_is_chosen_by_its_name(released, images, weights, tmp_path, monkeypatch, capsys):  # noqa: F811
    detect(monkeypatch, [[20, 10, 60, 130]], [0.9])
    release(released.with_name("other"), zoo.variant(OTHER), weights / OTHER / "model.safetensors")
    for model, variant in ((released.name, TOP_DOWN), ("other", OTHER)):
        assert cli.main(["predict", str(images["wide"]), "--model", model, "--output", str(tmp_path / model)]) == 0
        assert records(tmp_path / model)[0]["provenance"]["variant"] == variant
    capsys.readouterr()
    for given, said in ((["--model", "othr"], "unknown released model 'othr' (did you mean 'other'?)"),
                        (["--model", "other", "--variant", TOP_DOWN], "--model and --variant both name what predicts")):  # fmt: skip
        assert cli.main(["predict", str(images["wide"]), *given, "--output", str(tmp_path / "none")]) == 1
        assert said in capsys.readouterr().err and not (tmp_path / "none").exists()
