"""Likelihoods: w z + b for every task, by loops in the test."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vmtl.model import CategoricalLikelihood, GaussianLikelihood, linear_predictor


@given(
    lead=st.lists(st.integers(1, 3), max_size=1).map(tuple),
    tasks=st.integers(1, 3),
    samples=st.integers(1, 3),
    outputs=st.integers(1, 3),
    latent=st.integers(1, 3),
    has_bias=st.booleans(),
)
def test_the_linear_predictor_is_w_z_plus_b(
    lead: tuple[int, ...], tasks: int, samples: int, outputs: int, latent: int, has_bias: bool
) -> None:
    z = torch.randn(*lead, tasks, samples, latent)
    w = torch.randn(*lead, tasks, 1, outputs, latent + int(has_bias))
    out = linear_predictor(z, w)
    assert out.shape == (*lead, tasks, samples, outputs)
    flat_z, flat_w = z.reshape(-1, samples, latent), w.reshape(-1, outputs, w.shape[-1])
    for index, row in enumerate(out.reshape(-1, samples, outputs)):
        for n in range(samples):
            expected = flat_w[index, :, :latent] @ flat_z[index, n]
            if has_bias:
                expected = expected + flat_w[index, :, -1]
            torch.testing.assert_close(row[n], expected)


def test_classes_have_the_softmax_of_the_predictor() -> None:
    z, w = torch.randn(3, 4, 2), torch.randn(3, 1, 5, 3)
    law = CategoricalLikelihood(5)(z, w)
    torch.testing.assert_close(law.probs, linear_predictor(z, w).softmax(-1))


def test_two_classes_have_the_sigmoid_of_a_single_row() -> None:
    likelihood = CategoricalLikelihood(2)
    assert likelihood.num_outputs == 1
    z, w = torch.randn(3, 4, 2), torch.randn(3, 1, 1, 3)
    law = likelihood(z, w)
    assert law.batch_shape == (3, 4)
    torch.testing.assert_close(law.probs[..., 1], linear_predictor(z, w).squeeze(-1).sigmoid())


def test_every_task_has_noise_of_its_own() -> None:
    likelihood = GaussianLikelihood(3, 1, initial_noise=0.5)
    torch.testing.assert_close(likelihood.noise, torch.full((3, 1, 1), 0.5), rtol=1e-3, atol=0)
    with torch.no_grad():
        likelihood.raw_noise[:, 0, 0] = torch.tensor([-2.0, 0.0, 2.0])
    z, w = torch.randn(7, 3, 4, 2), torch.randn(7, 3, 1, 1, 3)
    law = likelihood(z, w)
    assert law.batch_shape == (7, 3, 4)
    assert law.event_shape == ()
    torch.testing.assert_close(law.mean, linear_predictor(z, w).squeeze(-1))
    torch.testing.assert_close(law.stddev, likelihood.noise.squeeze(-1).expand(7, 3, 4))
    assert (law.stddev[0, :, 0].diff() > 0).all()


def test_noise_is_never_zero() -> None:
    likelihood = GaussianLikelihood(2)
    with torch.no_grad():
        likelihood.raw_noise.fill_(-1e4)
    assert (likelihood.noise > 0).all()


def test_vectors_of_targets_are_one_event() -> None:
    law = GaussianLikelihood(3, 2)(torch.randn(3, 4, 5), torch.randn(3, 1, 2, 5))
    assert law.batch_shape == (3, 4)
    assert law.event_shape == (2,)
