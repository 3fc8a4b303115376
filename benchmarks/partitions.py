"""How should evidence choose the clusters, and become a prior? Alternatives to what is built in.

The tasks of `benchmarks/honesty.py` (`clusters`), but without stochastic training: every mean-field
posterior is found by L-BFGS with the expected log-likelihood by quadrature, and partitions are
sampled until chains have converged. What is left is the statistics:

    python benchmarks/partitions.py                # some minutes
    python benchmarks/partitions.py --samples 40

- `apart`: partitions judge each weight's evidence by itself;
- `measured` (built in): evidence is spread over the directions in which a task's data vary;
- `own evidence out`: as `measured`, but each borrower weighs the partitions by 1 / Z, what they
  predicted of its own data, so that those do not choose the cluster it borrows from;
- `posterior matched`: the exact mixture of posteriors over partitions is matched in mean and
  variance, and the borrower's evidence divided out again (as in expectation propagation);
- `mixture`: the prior is the mixture over partitions itself, by its tight bound.

Results go to a CSV, the summary over seeds, mean ± sd, is printed as Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.distributions import (
    Evidence,
    Gaussians,
    Partitions,
    PosteriorMixture,
    evidence_of,
    pooled_prior,
    sample_partitions,
)

FIRST_SEED = 300
CHAINS, SWEEPS, KEPT = 8, 300, 100
NODES, MASSES = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(20))

Divergence = Callable[[Tensor, Tensor], Tensor]


def expected(function: Callable[[Tensor], Tensor], x: Tensor, posterior: Gaussians) -> Tensor:
    """E[f(w x)] under a mean-field posterior of weights ``[T, P]``, for ``x [T, N, P]``."""
    mean = (x @ posterior.loc.unsqueeze(-1)).squeeze(-1)
    deviation = (x.square() @ posterior.scale.square().unsqueeze(-1)).squeeze(-1).sqrt()
    values = function(mean.unsqueeze(-1) + deviation.unsqueeze(-1) * NODES)
    return values @ (MASSES / MASSES.sum())


def infer(x: Tensor, y: Tensor, start: Gaussians, divergence: Divergence) -> Gaussians:
    """The mean-field posterior of logistic weights, ``[T, P]``.

    :param divergence: KL(q || prior), summed over tasks, of ``loc`` and ``scale``.
    """
    sign = (2 * y - 1).unsqueeze(-1)
    loc = start.loc.clone().requires_grad_()
    log_scale = start.scale.log().requires_grad_()
    search = torch.optim.LBFGS(
        [loc, log_scale], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        search.zero_grad()
        q = Gaussians(loc, log_scale.exp())
        fit = expected(lambda f: torch.nn.functional.logsigmoid(sign * f), x, q).sum()
        value = divergence(*q) - fit
        value.backward()
        return value

    search.step(loss)
    return Gaussians(loc.detach(), log_scale.detach().exp())


def to_gaussian(prior: Gaussians) -> Divergence:
    """KL(q || prior) of diagonal Gaussians."""
    target = torch.distributions.Normal(*prior)

    def divergence(loc: Tensor, scale: Tensor) -> Tensor:
        q = torch.distributions.Normal(loc, scale)
        return torch.distributions.kl_divergence(q, target).sum()

    return divergence


def to_mixture(each: list[Gaussians]) -> Divergence:
    """The tight bound to the mixture of priors of single partitions, each ``[T, P]``."""
    stacked = Gaussians(*(torch.stack(parts, 1) for parts in zip(*each, strict=True)))
    mixture = PosteriorMixture(torch.zeros(stacked.loc.shape[:2]).double(), stacked)
    return lambda loc, scale: mixture.tight_bound(loc, scale).sum()


def draw(
    evidence: Evidence, moments: Tensor | None = None, known: Tensor | None = None
) -> Partitions:
    """Partitions given evidence, with parameters that fit the lending, weight by weight."""
    start = torch.arange(len(evidence.shift)) if known is None else known
    generator = torch.Generator().manual_seed(0)
    chains = Partitions.at_start(start.repeat(CHAINS, 1))
    draws, _ = sample_partitions(
        evidence, chains, SWEEPS, KEPT, generator=generator, known=known is not None,
        moments=moments,
    )  # fmt: skip
    if moments is None:
        return draws
    again = Partitions.at_start(draws.labels)
    return sample_partitions(evidence, again, 60, generator=generator, known=True)[0]


def each_prior(evidence: Evidence, partitions: Partitions) -> list[Gaussians]:
    """The pooled prior of every draw by itself."""
    return [
        pooled_prior(evidence, Partitions(*(x[s : s + 1] for x in partitions)))
        for s in range(len(partitions.labels))
    ]


def matched(loc: Tensor, variance: Tensor, weights: Tensor) -> Gaussians:
    """Mean and variance of a mixture, ``[S, T, P]`` with weights ``[S, T]``."""
    weights = weights.unsqueeze(-1)
    mean = (weights * loc).sum(0)
    return Gaussians(mean, (weights * (variance + (loc - mean).square())).sum(0).sqrt())


def without_own_evidence(
    evidence: Evidence, partitions: Partitions, each: list[Gaussians]
) -> Gaussians:
    """Draws weighted by 1 / Z of the borrower's own evidence."""
    loc, variance, posterior, mean = _posteriors(evidence, partitions, each)
    log_z = (posterior / variance).log() + mean.square() / posterior - loc.square() / variance
    return matched(loc, variance, (-0.5 * log_z.sum(-1)).softmax(0))


def divided_posterior(
    evidence: Evidence, partitions: Partitions, each: list[Gaussians]
) -> Gaussians:
    """The matched posterior over partitions, with the borrower's evidence divided out."""
    _, _, posterior, mean = _posteriors(evidence, partitions, each)
    uniform = torch.full(mean.shape[:2], 1 / len(mean)).double()
    loc, scale = matched(mean, posterior, uniform)
    factor = partitions.factor.mean()
    widest = pooled_prior(evidence, partitions).scale.max()
    precision = scale.square().reciprocal() - factor * evidence.precision
    precision = precision.clamp_min(1 / widest.square())
    shift = loc / scale.square() - factor * evidence.shift
    return Gaussians(shift / precision, precision.rsqrt())


def _posteriors(
    evidence: Evidence, partitions: Partitions, each: list[Gaussians]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every draw, mean and variance before and variance and mean after the own evidence."""
    loc, scale = (torch.stack(parts) for parts in zip(*each, strict=True))
    factor, variance = partitions.factor[:, None, None], scale.square()
    posterior = (variance.reciprocal() + factor * evidence.precision).reciprocal()
    return loc, variance, posterior, posterior * (loc / variance + factor * evidence.shift)


def compare(samples: int, seed: int) -> list[dict[str, object]]:
    """A row of test NLL a prior."""
    splits = pv.clusters(samples=samples, seed=seed)
    train, test = splits.train.dense(), splits.test.dense()
    x, y = train.x.double(), train.y.double()
    truth = splits.train.truth
    assert truth is not None
    shape = (len(x), x.shape[-1])
    standard = Gaussians(torch.zeros(shape).double(), torch.ones(shape).double())
    anchors = infer(x, y, standard, to_gaussian(standard))
    evidence, moments = evidence_of(anchors), x.mT @ x
    apart, measured = draw(evidence), draw(evidence, moments)
    each = each_prior(evidence, measured)
    known = pooled_prior(evidence, draw(evidence, known=truth))
    start = pooled_prior(evidence, measured)
    priors: dict[str, tuple[Divergence, Partitions | None]] = {
        "standard": (to_gaussian(standard), None),
        "apart": (to_gaussian(pooled_prior(evidence, apart)), apart),
        "measured": (to_gaussian(start), measured),
        "own evidence out": (
            to_gaussian(without_own_evidence(evidence, measured, each)),
            measured,
        ),
        "posterior matched": (to_gaussian(divided_posterior(evidence, measured, each)), measured),
        "mixture": (to_mixture(each[:: len(each) // 100]), measured),
        "oracle": (to_gaussian(known), None),
    }
    rows: list[dict[str, object]] = []
    pairs = torch.triu_indices(len(x), len(x), 1)
    related = (truth[:, None] == truth)[tuple(pairs)]
    for name, (divergence, partitions) in priors.items():
        q = infer(x, y, start, divergence)
        sign = (2 * test.y.double() - 1).unsqueeze(-1)
        chance = expected(lambda f, sign=sign: torch.sigmoid(sign * f), test.x.double(), q)  # type: ignore[misc]
        row = {"samples": samples, "seed": seed, "prior": name, "nll": -chance.log().mean().item()}
        if partitions is not None:
            together = partitions.together().mean(0)[tuple(pairs)]
            above = (together[related][:, None] - together[~related]).sign()
            row["auc"] = (above.mean().item() + 1) / 2
            row["spread"] = partitions.spread.mean().item()
        rows.append(row)
    return rows


def summary(results: pd.DataFrame) -> str:
    """Mean ± sd over seeds as Markdown, with the share of the oracle's gain per seed."""
    nll = results.pivot_table(index=["samples", "seed"], columns="prior", values="nll")
    whole = nll["standard"] - nll["oracle"]
    gaps = nll.rsub(nll["standard"], axis=0).div(whole, axis=0)
    lines = ["| samples a task | prior | nll | gap closed | auc |", "|---|---|---|---|---|"]
    for (samples, prior), group in results.groupby(["samples", "prior"], sort=False):
        gap = gaps.loc[samples, prior]
        auc = group["auc"].dropna()
        cells = [
            f"{x.mean():.3f} ± {x.std():.3f}" if len(x) else "-" for x in (group["nll"], gap, auc)
        ]
        lines.append(f"| {samples} | {prior} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[12, 40])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/partitions.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits
    rows = [
        row
        for samples in options.samples
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds)
        for row in compare(samples, seed)
    ]
    results = pd.DataFrame(rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results.to_csv(options.out, index=False)
    print(summary(results))


if __name__ == "__main__":
    main()
