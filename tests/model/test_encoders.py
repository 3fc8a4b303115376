"""Encoders: what they say about z, and that tasks with encoders of their own stay apart."""

from functools import partial
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_vmtl.errors import InputError
from pyro_vmtl.model import (
    MLP,
    BayesianLinear,
    BayesianLinearEncoder,
    DeterministicEncoder,
    GaussianEncoder,
    Identity,
    IdentityEncoder,
    PerTask,
    PrincipalComponents,
    mlp,
)


@given(
    tasks=st.integers(1, 4),
    samples=st.integers(1, 4),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
def test_every_architecture_takes_inputs_of_any_shape(
    tasks: int, samples: int, shape: list[int]
) -> None:
    x = torch.randn(tasks, samples, *shape)
    for architecture in (
        Identity(),
        PrincipalComponents(2),
        MLP(5, hidden=()),
        MLP(5, hidden=(3, 4), stochastic=False),
        MLP(5, hidden=(3,), per_task=True),
        BayesianLinear(5),
        BayesianLinear(5, per_task=True, prior="samples"),
    ):
        encoder = architecture(shape, tasks)
        law = encoder(x)
        assert law.batch_shape == (tasks, samples)
        assert law.event_shape == (encoder.latent_dim,)
        assert law.rsample().shape == (tasks, samples, encoder.latent_dim)


def test_identity_is_the_input() -> None:
    x = torch.randn(3, 2, 4, 5)
    law = IdentityEncoder((4, 5))(x)
    assert isinstance(law, dist.Delta)
    assert law.sample().equal(x.reshape(3, 2, 20))


class TestPrincipalComponents:
    def _encoded(self, x: Tensor, latent_dim: int, centre: bool = True) -> Tensor:
        encoder = PrincipalComponents(latent_dim)(x.shape[1:], 1)
        encoder.learn_from(x, centre)
        z: Tensor = encoder(x.unsqueeze(0)).mean
        return z[0]

    def _inputs(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
        x = x @ torch.randn(6, 6, generator=generator, dtype=torch.float64) + 3
        x[:, 2] = 7.0  # says nothing
        return x

    def test_are_uncorrelated_and_fall_in_variance(self) -> None:
        z = self._encoded(self._inputs(), 4)
        covariance = z.mT.cov(correction=0)
        variances = covariance.diagonal()
        torch.testing.assert_close(covariance, variances.diag(), atol=1e-10, rtol=0)
        assert (variances.diff() < 0).all()
        torch.testing.assert_close(variances.mean(), torch.tensor(1.0).double())
        torch.testing.assert_close(z.mean(0), torch.zeros(4).double(), atol=1e-10, rtol=0)

    def test_have_variances_that_sum_to_five_however_many_there_are(self) -> None:
        x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
        for count in (8, 12):
            encoder = PrincipalComponents(count)((12,), 1)
            encoder.learn_from(x)
            total = encoder(x[None]).mean[0].double().var(0, correction=0).sum()
            torch.testing.assert_close(total, torch.tensor(5.0).double(), atol=1e-4, rtol=0)

    def test_all_together_keep_every_distance_between_standardised_inputs(self) -> None:
        x = self._inputs()
        z = self._encoded(x, 6)
        assert (z[:, 5] == 0).all()  # five inputs vary
        varying = x[:, [0, 1, 3, 4, 5]]
        standardised = (varying - varying.mean(0)) / varying.std(0, correction=0)
        torch.testing.assert_close(torch.cdist(z, z), torch.cdist(standardised, standardised))

    def test_say_what_is_left_out(self) -> None:
        x = self._inputs()
        encoder = PrincipalComponents(2)((6,), 1)
        encoder.learn_from(x)
        (sentence,) = encoder.sentences()
        variances = self._encoded(x, 6).var(0)
        share = float(variances[:2].sum() / variances.sum())
        assert (
            f"Of 6 inputs the model sees 2 principal components, which hold {share:.1%}" in sentence
        )
        whole = PrincipalComponents(6)((6,), 1)
        whole.learn_from(x)
        assert whole.sentences() == []

    def test_do_not_depend_on_units_nor_on_the_order_of_samples(self) -> None:
        x = self._inputs()
        z = self._encoded(x, 3)
        torch.testing.assert_close(self._encoded(100 * x - 5, 3), z)
        torch.testing.assert_close(self._encoded(x.flip(0), 3).flip(0), z)

    def test_without_a_bias_means_are_kept(self) -> None:
        x = self._inputs()[:, [0, 1, 3]]
        z = self._encoded(x, 3, centre=False)
        plain = x / x.std(0, correction=0)
        lengths = z.square().sum(1) / plain.square().sum(1)
        torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))

    @pytest.mark.parametrize("latent_dim", [0, 2.5, True])
    def test_their_number_is_whole_and_positive(self, latent_dim: Any) -> None:
        with pytest.raises(InputError, match="latent_dim"):
            PrincipalComponents(latent_dim)


class TestNetworks:
    def test_a_network_of_the_users_own_sees_samples_one_after_the_other(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 8))
        x = torch.randn(2, 4, 1, 8, 8)
        flat = torch.stack([network(x[t]) for t in range(2)])
        torch.testing.assert_close(DeterministicEncoder(network, 8)(x).sample(), flat)
        law = GaussianEncoder(network, 4, initial_scale=0.3)(x)
        torch.testing.assert_close(law.mean, flat[..., :4])
        assert (law.stddev > 0).all()
        # More of the second half is more uncertainty.
        order = flat[..., 4:].flatten().argsort()
        assert (law.stddev.flatten()[order].diff() >= 0).all()

    def test_the_scale_starts_where_it_is_said_to(self) -> None:
        law = GaussianEncoder(nn.Linear(3, 4), 2, initial_scale=0.3)
        for parameter in law.parameters():
            nn.init.zeros_(parameter)
        stddev = law(torch.randn(2, 5, 3)).stddev
        torch.testing.assert_close(stddev, torch.full((2, 5, 2), 0.3), rtol=1e-3, atol=0)


class TestPerTask:
    @given(tasks=st.integers(1, 4), seed=st.integers(0, 99))
    def test_is_each_network_on_its_own_task(self, tasks: int, seed: int) -> None:
        build = partial(mlp, (3,), (4,), 2)
        torch.manual_seed(seed)
        networks = [build() for _ in range(tasks)]
        torch.manual_seed(seed)
        stacked = PerTask(build, tasks)
        x = torch.randn(tasks, 5, 3)
        out = stacked(x)
        for t, network in enumerate(networks):
            torch.testing.assert_close(out[t], network(x[t]))
        assert tasks == 1 or not out[0].equal(out[1])

    def test_a_task_reaches_its_own_parameters_only(self) -> None:
        stacked = PerTask(partial(mlp, (3,), (4,), 2), 3)
        stacked(torch.randn(3, 5, 3))[1].square().sum().backward()
        for parameter in stacked.parameters():
            assert parameter.grad is not None
            assert parameter.grad[[0, 2]].abs().max() == 0
            assert parameter.grad[1].abs().max() > 0

    def test_buffers_come_along(self) -> None:
        def build() -> nn.Module:
            network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
            network[1].running_mean = torch.randn(4)
            return network.eval()

        torch.manual_seed(1)
        networks = [build() for _ in range(2)]
        torch.manual_seed(1)
        stacked = PerTask(build, 2).eval()
        x = torch.randn(2, 5, 3)
        for t in range(2):
            torch.testing.assert_close(stacked(x)[t], networks[t](x[t]))

    def test_dropout_is_for_training(self) -> None:
        stacked = PerTask(partial(mlp, (3,), (50,), 2, dropout=0.5), 2)
        x = torch.randn(1, 5, 3).expand(2, 5, 3)
        assert not stacked(x).equal(stacked(x))
        encoder = DeterministicEncoder(stacked, 2)
        encoder.eval()
        assert stacked(x).equal(stacked(x))
        encoder.train()
        assert not stacked(x).equal(stacked(x))

    def test_saves_and_loads(self) -> None:
        one, two = (PerTask(partial(mlp, (3,), (4,), 2), 3) for _ in range(2))
        two.load_state_dict(one.state_dict())
        x = torch.randn(3, 5, 3)
        assert one(x).equal(two(x))
        assert one.double()(x.double()).dtype == torch.float64


class TestBayesianLinear:
    @pytest.mark.parametrize("num_layers", [1, 3])
    def test_is_the_law_of_phi_x(self, num_layers: int) -> None:
        encoder = BayesianLinearEncoder((2,), 4, num_layers=num_layers, initial_scale=0.4)
        with torch.no_grad():
            encoder.loc.add_(torch.randn_like(encoder.loc))
            encoder.raw_scale.add_(torch.randn_like(encoder.loc))
        x = torch.randn(3, 2, 2)
        law = encoder(x)
        layer = encoder.layer()
        assert layer is not None
        phi = torch.distributions.Normal(*layer).sample(torch.Size((40_000,)))
        z = phi[..., :-1, :].mT.unsqueeze(-3) @ x.unsqueeze(-1)
        z = z.squeeze(-1) + phi[..., -1:, :]
        error = law.stddev / 40_000**0.5
        assert ((z.mean(0) - law.mean).abs() < 5 * error).all()
        torch.testing.assert_close(z.std(0), law.stddev, rtol=0.02, atol=0)

    def test_says_whose_kl_it_is(self) -> None:
        layer, samples = (
            BayesianLinearEncoder((2,), 4),
            BayesianLinearEncoder((2,), 4, 1, "samples"),
        )
        assert not layer.has_density
        assert layer.layer() is not None
        assert samples.has_density
        assert samples.layer() is None

    def test_layers_of_the_tasks_start_equal(self) -> None:
        encoder = BayesianLinear(4, per_task=True)((2,), 3)
        layer = encoder.layer()
        assert layer is not None
        assert layer.loc.shape == layer.scale.shape == (3, 3, 4)
        assert (layer.loc == layer.loc[0]).all()
        assert layer.loc[0].std() > 0

    def test_starts_at_the_scale_it_is_given(self) -> None:
        layer = BayesianLinearEncoder((2,), 4, initial_scale=0.07, initial_jitter=0.0).layer()
        assert layer is not None
        torch.testing.assert_close(layer.scale, torch.full((1, 3, 4), 0.07))
        assert layer.loc.abs().max() == 0

    def test_dropout_is_for_training(self) -> None:
        encoder = BayesianLinearEncoder((50,), 4, dropout=0.5)
        x = torch.randn(1, 2, 50)
        assert not encoder(x).mean.equal(encoder(x).mean)
        encoder.eval()
        assert encoder(x).mean.equal(encoder(x).mean)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (MLP, {"latent_dim": 0}, "latent_dim is 0"),
        (MLP, {"hidden": (3, -1)}, "hidden width is -1"),
        (MLP, {"dropout": 1.0}, "dropout is 1.0"),
        (MLP, {"hidden": 128}, r"hidden is 128; expected a list of widths such as \[256\]"),
        (MLP, {"hidden": ("wide",)}, "hidden width is 'wide'; expected a whole number"),
        (MLP, {"stochastic": "maybe"}, "stochastic is 'maybe'; expected true or false"),
        (MLP, {"latent_dim": 2.5}, "latent_dim is 2.5; expected a whole number"),
        (BayesianLinear, {"latent_dim": -2}, "latent_dim is -2"),
        (BayesianLinear, {"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: type[MLP] | type[BayesianLinear], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        kind(**options)


@pytest.mark.parametrize("outputs", [4, 8, 9])
def test_a_network_of_another_width_is_named(outputs: int) -> None:
    network, x = nn.Linear(3, outputs), torch.randn(2, 5, 3)
    for kind, width in ((DeterministicEncoder, 4), (GaussianEncoder, 8)):
        encoder = kind(network, 4)
        if outputs == width:
            assert encoder(x).event_shape == (4,)
            continue
        with pytest.raises(InputError, match=f"gives {outputs} numbers a sample; expected {width}"):
            encoder(x)


def test_an_unknown_prior_is_refused() -> None:
    with pytest.raises(InputError, match="'tasks'"):
        BayesianLinear(4, prior="tasks")((2,), 3)


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_an_architecture_makes_a_new_encoder_each_time() -> None:
    architecture = MLP(4, hidden=(5,))
    one, two = architecture((3,), 2), architecture((3,), 2)
    before = _parameters(two)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert all(value.equal(before[name]) for name, value in two.named_parameters())
