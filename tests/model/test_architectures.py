"""Variants of an architecture for baselines keep the backbone."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    MLP,
    Architecture,
    BayesianLinear,
    DeterministicEncoder,
    Encoder,
    GaussianEncoder,
    Identity,
)

MLPS = [MLP(3, hidden=(5,)), MLP(3, (), 0.1, stochastic=False, per_task=True)]


def _encoder(architecture: Architecture) -> Encoder:
    return architecture((4,), 2)


def _is_shared(encoder: Encoder) -> bool:
    """Whether the same inputs mean the same in every task."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
        out = encoder.eval()(torch.ones(2, 1, 4)).mean
    return bool(out[0].allclose(out[1]))


@pytest.mark.parametrize("encoder", MLPS, ids=repr)
@pytest.mark.parametrize(("per_task", "stochastic"), list(product([False, True], repeat=2)))
def test_of_an_mlp_differ_in_what_is_asked_and_nothing_else(
    encoder: MLP, per_task: bool, stochastic: bool
) -> None:
    variant = encoder.variant(per_task=per_task, stochastic=stochastic)
    backbone = (encoder.latent_dim, encoder.hidden, encoder.dropout)
    assert (variant.latent_dim, variant.hidden, variant.dropout) == backbone
    kind = GaussianEncoder if stochastic else DeterministicEncoder
    assert isinstance(_encoder(variant), kind)
    assert _is_shared(_encoder(variant)) is not per_task


@pytest.mark.parametrize("per_task", [False, True])
def test_of_a_bayesian_layer_without_uncertainty_is_a_linear_layer(per_task: bool) -> None:
    layer = BayesianLinear(3, dropout=0.1, per_task=not per_task)
    variant = layer.variant(per_task=per_task, stochastic=False)
    assert variant == MLP(3, (), 0.1, stochastic=False, per_task=per_task)
    uncertain = layer.variant(per_task=per_task, stochastic=True)
    assert uncertain == BayesianLinear(3, dropout=0.1, per_task=per_task)


def test_of_no_encoder_is_no_encoder() -> None:
    assert Identity().variant(per_task=True, stochastic=True) == Identity()


@pytest.mark.parametrize("encoder", [Identity(), *MLPS, BayesianLinear(3)], ids=repr)
def test_that_asks_for_nothing_is_the_same(encoder: Architecture) -> None:
    assert encoder.variant() == encoder


def test_of_an_architecture_of_the_users_own_are_refused() -> None:
    class Mine(Architecture):
        """It has no variants."""

    with pytest.raises(InputError, match="no variants"):
        Mine().variant(per_task=True)
