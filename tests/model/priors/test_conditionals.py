"""Posterior and cavity of weights, against one dense Gaussian of all m, c and e."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_vmtl.model.priors.conditionals import (
    Moments,
    cavity,
    log_evidence,
    posterior,
    product,
)
from pyro_vmtl.model.priors.gibbs import Evidence, Hyperpriors, State

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Evidence, which parts the prior has, and S draws of partition and scales."""

    evidence: Evidence
    prior: Hyperpriors
    state: State


@st.composite
def worlds(draw: Any, proper: bool = False) -> World:
    """Random shapes, partitions and scales.

    :param proper: whether every weight has a variance: a Gaussian of no variance has no density.
    """
    chains, num_tasks = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rows, q = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    has_mean, has_clusters, has_bias, infers_noise = (draw(st.booleans()) for _ in range(4))
    groups = {
        "features": np.arange(q),
        "shared": np.zeros(q, int),
        "none": np.full(q, -1),
        "intercept": np.array([-1] * (q - 1) + [0]),
    }[draw(st.sampled_from(["features", "shared", "none", "intercept"]))]
    if proper and not (has_mean or has_clusters):
        groups = np.arange(q)

    def scales(*shape: int) -> Tensor:
        return torch.from_numpy(np.exp(generator.normal(0, 1, shape)))

    # Some tasks have fewer samples than weights, and some have none.
    counts = generator.integers(0, 5, num_tasks)
    x = [generator.normal(size=(n, q)) for n in counts]
    precision = np.stack([np.stack([row.T @ row] * rows) for row in x])
    shift = np.stack(
        [generator.normal(size=(rows, n)) @ row for n, row in zip(counts, x, strict=True)]
    )
    evidence = Evidence(
        torch.from_numpy(precision),
        torch.from_numpy(shift),
        torch.from_numpy(counts.astype(float)),
        torch.ones(num_tasks, rows, dtype=torch.float64) if infers_noise else None,
    )
    is_bias = torch.zeros(rows, q, dtype=torch.bool)
    is_bias[:, -1] = has_bias
    prior = Hyperpriors(
        torch.from_numpy(groups), is_bias, has_mean=has_mean, has_clusters=has_clusters
    )
    labels = generator.integers(0, num_tasks, (chains, num_tasks))
    noise = scales(chains, num_tasks, rows)
    state = State(
        torch.from_numpy(labels if has_clusters else 0 * labels),
        scales(chains, int(groups.max()) + 1),
        scales(chains),
        scales(chains),
        scales(chains) * has_clusters,
        scales(chains),
        noise if infers_noise else torch.ones_like(noise),
        scales(chains),
    )
    return World(evidence, prior, state)


def _dense(world: World, chain: int, row: int, without: int | None = None) -> tuple[Array, Array]:
    """Mean and covariance of all tasks' weights in one row, ``[T, q]`` and ``[T, q, T, q]``.

    u = (m, c_1, ..., c_T, e_1, ..., e_T) has a diagonal covariance, and w is a sum of its parts.
    """
    evidence, prior, state = world.evidence, world.prior, world.state
    num_tasks, _, q = evidence.shift.shape
    labels = state.labels[chain].numpy()
    of_mean = np.where(prior.is_bias[row].numpy(), 4.0, float(state.mean[chain]))
    deviation = state.deviation[chain].numpy()
    groups = prior.groups.numpy()
    of_own = np.array([deviation[g] if g >= 0 else 0.0 for g in groups])
    variances = np.concatenate(
        [
            of_mean * prior.has_mean,
            np.repeat(float(state.cluster[chain]) * prior.has_clusters, num_tasks * q),
            np.tile(of_own, num_tasks),
        ]
    )
    cluster: Array = (labels[:, None] == np.arange(num_tasks)).astype(float)
    parts = np.concatenate([np.ones((num_tasks, 1)), cluster, np.eye(num_tasks)], 1)
    loading = np.kron(parts, np.eye(q))
    covariance = (loading * variances) @ loading.T
    noise = state.noise[chain, :, row].numpy()
    precision, shift = np.zeros((num_tasks, q, num_tasks, q)), np.zeros((num_tasks, q))
    for t in range(num_tasks):
        if t != without:
            precision[t, :, t] = evidence.precision[t, row].numpy() / noise[t]
            shift[t] = evidence.shift[t, row].numpy() / noise[t]
    size = num_tasks * q
    inner = np.eye(size) + covariance @ precision.reshape(size, size)
    after = np.linalg.solve(inner, covariance)
    return (after @ shift.ravel()).reshape(num_tasks, q), after.reshape(num_tasks, q, num_tasks, q)


def _assert_dense(world: World, moments: Moments, takes_own_out: bool) -> None:
    chains, num_tasks, rows = moments.loc.shape[:3]
    for s in range(chains):
        for k in range(rows):
            for t in range(num_tasks):
                loc, covariance = _dense(world, s, k, t if takes_own_out else None)
                np.testing.assert_allclose(moments.loc[s, t, k], loc[t], atol=1e-8, rtol=1e-8)
                np.testing.assert_allclose(
                    moments.covariance[s, t, k], covariance[t, :, t], atol=1e-8, rtol=1e-8
                )


@settings(max_examples=40)
@given(world=worlds())
def test_the_posterior_is_the_dense_one(world: World) -> None:
    moments = posterior(world.evidence, world.prior, world.state)
    _assert_dense(world, moments, takes_own_out=False)


@settings(max_examples=40)
@given(world=worlds())
def test_the_cavity_is_the_dense_one_without_the_tasks_own_site(world: World) -> None:
    _assert_dense(world, cavity(world.evidence, world.prior, world.state), takes_own_out=True)


@settings(max_examples=40)
@given(world=worlds(proper=True))
def test_the_posterior_is_the_site_times_the_cavity(world: World) -> None:
    noise = world.state.noise
    precision = world.evidence.precision / noise[..., None, None]
    shift = world.evidence.shift / noise[..., None]
    out = product(cavity(world.evidence, world.prior, world.state), precision, shift)
    expected = posterior(world.evidence, world.prior, world.state)
    for one, other in zip(out, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


@settings(max_examples=40)
@given(world=worlds(), task=st.integers(0, 4), factor=st.floats(0, 50))
def test_what_a_task_saw_is_not_in_its_own_cavity(world: World, task: int, factor: float) -> None:
    evidence = world.evidence
    task %= len(evidence.shift)
    before = cavity(evidence, world.prior, world.state)
    precision, shift = evidence.precision.clone(), evidence.shift.clone()
    precision[task] *= factor
    shift[task] = factor * shift[task] + precision[task].sum(-1)
    after = cavity(replace(evidence, precision=precision, shift=shift), world.prior, world.state)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one[:, task], other[:, task], atol=1e-8, rtol=1e-8)


@settings(max_examples=40)
@given(world=worlds(), seed=st.integers(0, 99))
def test_tasks_in_another_order_have_their_moments_in_that_order(world: World, seed: int) -> None:
    evidence, state = world.evidence, world.state
    order = torch.randperm(len(evidence.shift), generator=torch.Generator().manual_seed(seed))
    dealt = replace(
        evidence,
        precision=evidence.precision[order],
        shift=evidence.shift[order],
        counts=evidence.counts[order],
    )
    moved = replace(state, labels=state.labels[:, order], noise=state.noise[:, order])
    for moments in (posterior, cavity):
        before = moments(evidence, world.prior, state)
        after = moments(dealt, world.prior, moved)
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one[:, order], other, atol=1e-8, rtol=1e-8)


@settings(max_examples=40)
@given(world=worlds())
def test_evidence_is_that_of_one_dense_gaussian(world: World) -> None:
    """log E exp(h w - w L w / 2) = h (C^-1 + L)^-1 h / 2 - log |1 + C L| / 2 for w ~ N(0, C)."""
    evidence, state = world.evidence, world.state
    nothing = replace(
        evidence,
        precision=torch.zeros_like(evidence.precision),
        shift=torch.zeros_like(evidence.shift),
    )
    found = log_evidence(evidence, world.prior, state)
    num_tasks, rows, q = evidence.shift.shape
    for chain in range(len(state.labels)):
        expected = 0.0
        for row in range(rows):
            noise = state.noise[chain, :, row].numpy()
            _, after = _dense(world, chain, row)
            _, before = _dense(replace(world, evidence=nothing), chain, row)
            sites = np.zeros((num_tasks, q, num_tasks, q))
            for t in range(num_tasks):
                sites[t, :, t] = evidence.precision[t, row].numpy() / noise[t]
            size = num_tasks * q
            inner = before.reshape(size, size) @ sites.reshape(size, size)
            shift = (evidence.shift[:, row].numpy() / noise[:, None]).ravel()
            expected += 0.5 * (shift @ after.reshape(size, size) @ shift)
            expected -= 0.5 * np.linalg.slogdet(np.eye(size) + inner)[1]
        assert abs(float(found[chain]) - expected) < 1e-8 * (1 + abs(expected))
