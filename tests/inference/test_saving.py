"""A saved model knows the table that it was trained on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from pyro_vmtl.data import TaskSplits, read_rows, split_table
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import (
    FittedVMTL,
    ScaledVMTL,
    TrainingSettings,
    fit,
    load,
    save,
    scale_temperature,
)
from pyro_vmtl.inspection import kl_per_task, relatedness
from pyro_vmtl.model import Identity, Mixture, Settings


def table(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    age = generator.normal(60, 10, rows)
    return pd.DataFrame(
        {
            "clinic": generator.choice(["north", "south", "west"], rows),
            "age": age,
            "year": generator.integers(1990, 2020, rows),
            "ill": np.where(age + generator.normal(0, 5, rows) > 60, "yes", "no"),
            "stay": (age - 60) / 10 + generator.normal(0, 0.3, rows),
        }
    )


def fitted_to(target: str) -> tuple[FittedVMTL, TaskSplits]:
    splits = split_table(table(), "clinic", target, features=["age", "year"])
    settings = Settings(encoder=Identity())
    training = TrainingSettings(epochs=2, steps_per_epoch=30, validation_samples=5)
    return fit(splits.train, splits.validation, settings, training), splits


@pytest.mark.parametrize("target", ["ill", "stay"])
def test_new_rows_are_predicted_alike_before_and_after(tmp_path: Path, target: str) -> None:
    fitted, splits = fitted_to(target)
    loaded = load(save(fitted, tmp_path / "model"))
    assert loaded.columns == fitted.columns == splits.train.columns
    new = table(8, seed=1).drop(columns=["ill", "stay"])
    expected = fitted.predict(read_rows(new, like=splits.train)).frame()
    for model in (fitted, loaded):
        frame = model.predict(read_rows(new, like=model)).frame()
        pd.testing.assert_frame_equal(frame, expected)
    assert expected["task"].tolist() == new["clinic"].tolist()
    if target == "ill":
        assert set(expected["prediction"]) <= {"no", "yes"}


def test_known_rows_are_scored_as_in_the_test_part(tmp_path: Path) -> None:
    fitted, splits = fitted_to("stay")
    loaded = load(save(fitted, tmp_path / "model"))
    everything = loaded.predict(read_rows(table(), like=loaded)).frame()
    tested = fitted.predict(splits.test).frame()
    merged = tested.merge(everything, on=["task", "target"], suffixes=("", "_again"))
    assert len(merged) == len(tested)
    # Regressions: in the unit of the column, as they stand in the table.
    assert everything["target"].tolist() == table()["stay"].astype("float32").tolist()
    assert merged["prediction"].to_numpy() == pytest.approx(
        merged["prediction_again"].to_numpy(), rel=1e-4, abs=1e-4
    )


def test_a_model_of_an_earlier_version_opens(tmp_path: Path) -> None:
    fitted, splits = fitted_to("ill")
    path = save(fitted, tmp_path / "model") / "model.json"
    description = json.loads(path.read_text())
    del description["columns"]
    path.write_text(json.dumps(description))
    loaded = load(tmp_path / "model")
    assert loaded.columns is None
    assert len(loaded.predict(splits.test).mean) == len(splits.test)
    with pytest.raises(InputError, match="does not say which columns of a table"):
        read_rows(table(), like=loaded)


def test_a_model_of_a_version_that_had_lenders_opens(tmp_path: Path) -> None:
    """There tasks lent each other their posteriors, or what anchors had learned of them."""
    splits = split_table(table(), "clinic", "ill", features=["age", "year"])
    settings = Settings(Identity(), Mixture(), classifier="mean_field")
    training = TrainingSettings(epochs=1, steps_per_epoch=3)
    fitted = fit(splits.train, None, settings, training)
    folder = save(fitted, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    assert bool(tensors.pop("_extra_state"))
    save_file(tensors | {"lenders.started": torch.tensor(True)}, folder / "model.safetensors")
    description = json.loads((folder / "model.json").read_text())
    del description["digest"]
    description["settings"] |= {"classifier": "default", "lenders": {"Recursive": {}}}
    (folder / "model.json").write_text(json.dumps(description))
    loaded = load(folder)
    assert loaded.settings.classifier == "mean_field"
    pd.testing.assert_frame_equal(relatedness(loaded, 5), relatedness(fitted, 5))
    pd.testing.assert_frame_equal(kl_per_task(loaded), kl_per_task(fitted))
    description["settings"]["lenders"] = {"Anchored": {}}
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"pool Mixture.*fit it anew"):
        load(folder)


def test_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fitted, _ = fitted_to("ill")
    path = save(fitted, tmp_path / "model") / "model.json"
    description = json.loads(path.read_text())
    description["columns"]["inputs"] = []
    path.write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"the inputs are \[\]; expected some of"):
        load(tmp_path / "model")


def test_what_is_not_a_fitted_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a dict cannot be saved; expected a FittedVMTL"):
        save({}, tmp_path / "model")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_scaled_model_keeps_its_temperatures(tmp_path: Path) -> None:
    fitted, splits = fitted_to("ill")
    scaled = scale_temperature(fitted, splits.validation)
    loaded = load(save(scaled, tmp_path / "model"))
    assert isinstance(loaded, ScaledVMTL)
    pd.testing.assert_frame_equal(loaded.frame(), scaled.frame())
    assert loaded.predict(splits.test, 20).mean.equal(scaled.predict(splits.test, 20).mean)
    assert loaded.fitted.predict(splits.test, 20).mean.equal(fitted.predict(splits.test, 20).mean)
    with pytest.raises(InputError, match=r"expected scaled\.fitted\.forget"):
        loaded.forget(fitted.names[0])
    path = tmp_path / "model" / "model.json"
    description = json.loads(path.read_text())
    description["scaling"]["temperature"][0] = -1
    path.write_text(json.dumps(description))
    with pytest.raises(InputError, match="is not the description of a saved model"):
        load(tmp_path / "model")


def test_a_saved_model_gives_way_where_it_may(tmp_path: Path) -> None:
    fitted, _ = fitted_to("ill")
    path = save(fitted, tmp_path / "model")
    with pytest.raises(InputError, match="or overwrite=True"):
        save(fitted, path)
    (path / "model.json").write_text("{}")
    assert load(save(fitted, path, overwrite=True)).names == fitted.names
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    (path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="nothing but a saved model"):
        save(fitted, path, overwrite=True)
    assert (path / "mine.txt").read_text() == "mine"
