"""Are posteriors as wide as they say? Simulation-based calibration where the truth is computable.

Tasks are linear-Gaussian: y = w_t x + noise, the noise's scale known. Weights are drawn from the
prior (clusters of tasks, each task by itself N(0, I)), data from the weights, and a posterior is
fitted. Where it is right, the rank of the true weight among its draws is uniform over simulations
(Talts et al. 2018). Posteriors here are Gaussian, so the rank among infinitely many draws is taken:
the posterior's distribution function at the truth.

    python benchmarks/calibration.py
    python benchmarks/calibration.py --replicates 3 --steps 300

Designs: `orthogonal`, where weights are independent given the data and mean-field is exact; and
`correlated`, where it is not. The exact posteriors, single-task and multi-task (given clusters and
spread), are beside the fitted ones. A row a method goes to the CSV, histograms to the figure.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from scipy.stats import binom, kstest, norm

import pyro_vmtl as pv
from pyro_vmtl.model import VMTL, ConjugateWeights, assemble

Array = npt.NDArray[np.float64]

TASKS, CLUSTERS, WEIGHTS, SAMPLES = 12, 4, 4, 8
SPREAD, NOISE, CORRELATION = 0.3, 1.5, 0.8
TRUTH = np.arange(TASKS) % CLUSTERS
DESIGNS = ("orthogonal", "correlated")

POOLS: dict[str, Callable[[], pv.Pool]] = {
    "standard": pv.Standard,
    "nested, known": lambda: pv.Nested(known=TRUTH.tolist(), deviation="shared"),
    "nested": lambda: pv.Nested(deviation="shared"),
    "power": lambda: pv.Power(spread="scalar"),
    "mixture": lambda: pv.Mixture(base=True, spread="scalar"),
    "mixture, recursive": pv.Mixture,
}
EXACT = ("exact, single-task", "exact, multi-task")


def simulate(design: str, seed: int) -> tuple[Array, Array, Array]:
    """Inputs ``[T, N, P]``, weights ``[T, P]`` and targets ``[T, N]``."""
    generator = np.random.default_rng((seed, DESIGNS.index(design)))
    x = generator.standard_normal((TASKS, SAMPLES, WEIGHTS))
    if design == "orthogonal":
        x = math.sqrt(SAMPLES) * np.linalg.qr(x)[0]
    else:
        shared = generator.standard_normal((TASKS, SAMPLES, 1))
        x = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * x
    centres = generator.standard_normal((CLUSTERS, WEIGHTS))
    own = generator.standard_normal((TASKS, WEIGHTS))
    weights = math.sqrt(1 - SPREAD**2) * centres[TRUTH] + SPREAD * own
    noise = NOISE * generator.standard_normal((TASKS, SAMPLES))
    return x, weights, np.einsum("tnp,tp->tn", x, weights) + noise


def exact(x: Array, y: Array, shared: bool) -> tuple[Array, Array]:
    """Means and standard deviations of the exact posterior of every weight, ``[T, P]``.

    :param shared: whether the tasks of a cluster are known to be relatives, and how close.
    """
    together = (TRUTH[:, None] == TRUTH) & shared
    prior = (1 - SPREAD**2) * together + SPREAD**2 * np.eye(TASKS)
    np.fill_diagonal(prior, 1.0)
    precision = np.kron(np.linalg.inv(prior), np.eye(WEIGHTS))
    shift = np.einsum("tnp,tn->tp", x, y).reshape(-1) / NOISE**2
    for t, own in enumerate(x):
        block = slice(t * WEIGHTS, (t + 1) * WEIGHTS)
        precision[block, block] += own.T @ own / NOISE**2
    covariance = np.linalg.inv(precision)
    shape = (TASKS, WEIGHTS)
    return (covariance @ shift).reshape(shape), np.sqrt(np.diag(covariance)).reshape(shape)


def fitted(x: Array, y: Array, method: str, steps: int, seed: int) -> tuple[Array, Array]:
    """Means and standard deviations of a variational posterior of every weight, ``[T, P]``."""
    pyro.set_rng_seed(seed)
    classifier = "mean_field" if "recursive" in method else None
    settings = pv.Settings(pv.Identity(), POOLS[method](), classifier=classifier, bias=False)
    vmtl = assemble(settings, TASKS, 1, (WEIGHTS,), is_classification=False)
    shape = (TASKS, SAMPLES)
    batch = pv.Batch(
        torch.from_numpy(x / NOISE).float(),
        torch.from_numpy(y / NOISE).float(),
        torch.ones(shape, dtype=torch.bool),
        torch.ones(shape),
        torch.arange(TASKS * SAMPLES).reshape(shape),
    )
    # Divided by it, data have a noise of 1, which is known.
    if isinstance(vmtl.classifier, ConjugateWeights):
        for weights in vmtl.classifier.modules():  # those that tasks lend as well
            assert isinstance(weights, ConjugateWeights)
            weights.infers_noise = False
            for name, buffer in weights.named_buffers(recurse=False):
                if name in ("noise", "chain_noise", "draw_noise"):
                    buffer.fill_(1.0)
        vmtl.likelihood.take_noise(torch.ones(TASKS, 1))
    else:
        noise = vmtl.likelihood.get_parameter("raw_noise").requires_grad_(False)
        noise.fill_(math.log(math.e - 1))
    train(vmtl, batch, steps)
    loc, scale = vmtl.classifier.gaussians()
    return loc.detach().squeeze(1).double().numpy(), scale.detach().squeeze(1).double().numpy()


def train(vmtl: VMTL, batch: pv.Batch, steps: int) -> None:
    """Adam at KL weight 1, its rate decaying until the noise of the gradients is gone.

    Where nothing takes a gradient, weights in closed form are found by two updates.
    """
    start, end = 0.05, 0.001
    learned = [p for p in vmtl.parameters() if p.requires_grad]
    if not learned:
        vmtl.update(batch)
        vmtl.update(batch, last=True)
        return
    optimizer = torch.optim.Adam(learned, lr=start)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, (end / start) ** (1 / steps))
    elbo = TraceMeanField_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=2)
    for step in range(steps):
        optimizer.zero_grad()
        elbo.differentiable_loss(vmtl.model, vmtl.guide, batch).backward()
        optimizer.step()
        vmtl.update(batch, last=step == steps - 1)
        decay.step()


def ranks(replicates: int, steps: int) -> Iterator[tuple[str, str, Array]]:
    """Design, method, and how far each true weight lies from its posterior mean, in scales."""
    for design in DESIGNS:
        for method in (*EXACT, *POOLS):
            started, scores = time.perf_counter(), []
            for seed in range(replicates):
                x, weights, y = simulate(design, seed)
                if method in EXACT:
                    loc, scale = exact(x, y, shared=method == "exact, multi-task")
                else:
                    loc, scale = fitted(x, y, method, steps, seed)
                scores.append((weights - loc) / scale)
            print(f"{design}, {method}: {time.perf_counter() - started:.0f} s", flush=True)
            yield design, method, np.stack(scores)


def row(design: str, method: str, scores: Array) -> dict[str, object]:
    """What the ranks ``[S, T, P]`` say; errors are over the S simulations."""
    rank = norm.cdf(scores)
    inside = {level: np.abs(rank - 0.5) < level / 2 for level in (0.5, 0.9)}
    values: dict[str, object] = {"design": design, "posterior": method, "ranks": rank.size}
    for name, by_simulation in (
        ("spread of z", (scores**2).mean((1, 2))),
        ("inside 50%", inside[0.5].mean((1, 2))),
        ("inside 90%", inside[0.9].mean((1, 2))),
    ):
        error = by_simulation.std(ddof=1) / math.sqrt(len(scores))
        mean = by_simulation.mean()
        if name == "spread of z":  # the root of the mean square, and the error of a root
            mean, error = math.sqrt(mean), error / (2 * math.sqrt(mean))
        values |= {name: mean, f"{name}, se": error}
    return values | {"KS distance": kstest(rank.reshape(-1), "uniform").statistic}


def as_markdown(table: pd.DataFrame) -> str:
    """The table with errors beside their values."""
    measured = ("spread of z", "inside 50%", "inside 90%")
    names = ["design", "posterior", "ranks", *measured, "KS distance"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for _, values in table.iterrows():
        cells = [str(values[name]) for name in names[:3]]
        cells += [f"{values[name]:.3f} ± {values[f'{name}, se']:.3f}" for name in measured]
        lines.append("| " + " | ".join([*cells, f"{values['KS distance']:.3f}"]) + " |")
    return "\n".join(lines)


def draw(results: list[tuple[str, str, Array]], path: Path, bins: int = 20) -> None:
    """A histogram of the ranks of every method, with where a uniform one would lie."""
    methods = list(dict.fromkeys(method for _, method, _ in results))
    figure, axes = plt.subplots(
        len(DESIGNS), len(methods), figsize=(2 * len(methods), 4.4), sharex=True, sharey=True
    )
    for design, method, scores in results:
        axis = axes[DESIGNS.index(design), methods.index(method)]
        count = scores.size
        axis.hist(
            norm.cdf(scores).reshape(-1),
            bins=np.linspace(0, 1, bins + 1),
            weights=np.full(count, bins / count),
            color="#4477aa",
        )
        low, high = binom.ppf([0.025, 0.975], count, 1 / bins) * bins / count
        axis.axhspan(low, high, color="0.5", alpha=0.4, linewidth=0)
        axis.set_ylim(0, 4)
        axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        if design == DESIGNS[0]:
            axis.set_title(method.replace(", ", ",\n"), fontsize=9)
        if method == methods[0]:
            axis.set_ylabel(f"{design} design\ndensity of ranks", fontsize=9)
    figure.supxlabel("rank of the true weight in its posterior", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=20, help="simulations")
    parser.add_argument("--steps", type=int, default=400, help="optimiser steps of a fit")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration.csv"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/calibration.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits
    pyro.enable_validation(False)
    results = list(ranks(options.replicates, options.steps))
    table = pd.DataFrame([row(*result) for result in results])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out, index=False)
    draw(results, options.figure)
    print(as_markdown(table))


if __name__ == "__main__":
    main()
