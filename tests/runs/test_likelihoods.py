"""Likelihoods of a configuration."""

import pytest
from hydra import compose, initialize_config_dir

import pyro_vmtl as pv
from pyro_vmtl.model.likelihoods import Family
from pyro_vmtl.runs.configuration import config_folder, read_plan


@pytest.mark.parametrize(
    ("name", "likelihood"),
    [
        *(("", None), ("gaussian", pv.Gaussian()), ("categorical", pv.Categorical())),
        *(("student_t", pv.StudentT()), ("poisson", pv.Poisson()), ("ordinal", pv.Ordinal())),
        ("negative_binomial", pv.NegativeBinomial()),
    ],
)
def test_are_chosen_by_name(name: str, likelihood: Family | None) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        chosen = ["data=clusters", "experiment=a test", "recipe=default"]
        chosen += [f"likelihood={name}"] if name else []
        settings = read_plan(compose("train", chosen)).settings
    assert settings.likelihood == likelihood
