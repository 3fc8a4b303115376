"""The weights' posterior starts where it is said to."""

import torch

from pyro_vmtl.model import MeanFieldWeights


def test_starts_at_the_scale_and_jitter_it_is_given() -> None:
    posterior = MeanFieldWeights(5, 20, 40, initial_scale=0.03, initial_jitter=0.2)
    torch.testing.assert_close(posterior.scale, torch.full((5, 20, 41), 0.03))
    assert abs(posterior.loc.std() - 0.2) < 0.01
    assert MeanFieldWeights(2, 2, 2, initial_jitter=0).loc.abs().max() == 0


def test_is_one_gaussian_a_task_with_the_bias_as_last_column() -> None:
    posterior = MeanFieldWeights(3, 2, 4)
    law = posterior()
    assert law.batch_shape == (3, 1)
    assert law.event_shape == posterior.event_shape == (2, 5)
    loc, scale = posterior.gaussians()
    assert law.mean.squeeze(1).equal(loc)
    assert law.stddev.squeeze(1).equal(scale)
    assert MeanFieldWeights(3, 2, 4, bias=False).event_shape == (2, 4)
