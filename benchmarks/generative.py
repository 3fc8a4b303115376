"""Does the nested prior's posterior agree with NUTS on the generative program?

The program says the prior as its documentation does: m, c, e, their scales and the noise are
sampled, nothing is integrated out, and none of the product's algebra is in it. NUTS samples it with
the partition given; the product is fitted to the same rows, told the same partition:

    python benchmarks/generative.py               # seeds 400 to 404, half an hour on a core
    python benchmarks/generative.py --seeds 0

Results go to a CSV, a row a seed and kind of target; those that are there are not computed again.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size
from torch import Tensor

import pyro_vmtl as pv
from pyro_vmtl.model import Nested, NestedWeights, Settings
from pyro_vmtl.model.priors.moves import DOF, LOG_NOISE

SEEDS = (400, 401, 402, 403, 404)
LABELS = [0, 0, 0, 1, 1, 1]
ROWS, FEATURES = 12, 2
WARMUP, DRAWS = 300, 1000


def _half_t(name: str, scale: float) -> Tensor:
    """A standard deviation, in float64."""
    law = dist.StudentT(torch.tensor(DOF, dtype=torch.float64), 0.0, scale)
    return pyro.sample(name, dist.FoldedDistribution(law))


def _normal(name: str, *shape: int) -> Tensor:
    zeros = torch.zeros(*shape, dtype=torch.float64)
    return pyro.sample(name, dist.Normal(zeros, 1.0).to_event(len(shape)))


def program(features: Tensor, targets: Tensor, is_regression: bool) -> dict[str, Tensor]:
    """The nested prior of one row of weights a task.

    :param features: ``[T, B, q]``, a bias last; ``targets``: ``[T, B]``, standardised or 0 and 1.
    :return: what is compared: weights ``[T, q]`` and the logarithms of variances.
    """
    num_tasks, _, q = features.shape
    of_slopes = _half_t("mean scale", 1.0)
    scales = torch.cat([of_slopes.expand(q - 1), of_slopes.new_tensor([2.0])])
    cluster = _half_t("cluster scale", 1.0)
    level, spread = _half_t("deviation scale", 0.5), _half_t("deviation spread", 1.0)
    own = level * (0.5 * spread * _normal("variances", q)).exp()
    base = scales * _normal("mean", q) + cluster * _normal("centres", 2, q)[LABELS]
    weights = base + own * _normal("deviations", num_tasks, q)
    out = {
        "weights": weights,
        "log A": 2 * of_slopes.log(),
        "log B": 2 * cluster.log(),
        "log V": 2 * own.log(),
    }
    eta = (features @ weights.unsqueeze(-1)).squeeze(-1)
    law: dist.TorchDistribution
    if is_regression:
        centre = LOG_NOISE[0] + LOG_NOISE[1] * _normal("noise centre", 1)
        logs = centre + _half_t("noise spread", 0.3) * _normal("noises", num_tasks)
        out["log noise"] = logs
        law = dist.Normal(eta, (0.5 * logs).exp().unsqueeze(-1))
    else:
        law = dist.Bernoulli(logits=eta)
    pyro.sample("targets", law.to_event(2), obs=targets)
    return out


def draw(seed: int, is_regression: bool) -> pv.TaskSet:
    """Six tasks in two clusters, 12 rows each."""
    generator = np.random.default_rng((seed, 11))
    centres = generator.normal(size=FEATURES + 1) + generator.normal(0, 0.8, (2, FEATURES + 1))
    tasks = {}
    for t, k in enumerate(LABELS):
        weights = centres[k] + generator.normal(0, 0.3, FEATURES + 1)
        x = generator.normal(size=(ROWS, FEATURES))
        eta = x @ weights[:-1] + weights[-1]
        noise = generator.normal(0, 0.7, ROWS) if is_regression else generator.logistic(size=ROWS)
        tasks[f"task {t}"] = (x, eta + noise if is_regression else (eta + noise > 0).astype(int))
    return pv.TaskSet.from_arrays(tasks)


def compare(seed: int, is_regression: bool) -> dict[str, object]:
    """Differences between product and NUTS, in standard deviations of the posterior."""
    tasks = draw(seed, is_regression)
    settings = Settings(pool=Nested(known=LABELS))
    fitted = pv.fit(tasks, settings=settings, seed=seed, accelerator="cpu", log_warnings=False)
    weights, batch = fitted.vmtl.classifier, tasks.dense()
    assert isinstance(weights, NestedWeights)
    with torch.no_grad():
        z = fitted.vmtl.encoder(batch.x).mean.double()
    features = torch.cat([z, torch.ones_like(z[..., :1])], -1)
    targets = fitted.vmtl.likelihood.standardised(batch.y).double().view(features.shape[:2])
    started = time.process_time()
    pyro.set_rng_seed(seed)
    kernel = NUTS(program, jit_compile=True, ignore_jit_warnings=True, max_tree_depth=5)
    mcmc = MCMC(kernel, num_samples=DRAWS, warmup_steps=WARMUP, disable_progbar=True)
    mcmc.run(features, targets, is_regression)
    found = [
        pyro.poutine.condition(program, data=dict(zip(mcmc.get_samples(), row, strict=True)))(
            features, targets, is_regression
        )
        for row in zip(*mcmc.get_samples().values(), strict=True)
    ]
    nuts = {name: torch.stack([draw[name] for draw in found]) for name in found[0]}
    own = {
        "log A": weights.draws.mean.log(),
        "log B": weights.draws.cluster.log(),
        "log V": weights.draws.deviation.log(),
        "log noise": weights.draws.noise.log().squeeze(-1),
    }
    sd = nuts["weights"].std(0)
    away = (weights.loc[:, 0] - nuts["weights"].mean(0)) / sd
    ratio = weights.covariance[:, 0].diagonal(dim1=-2, dim2=-1).sqrt() / sd
    row: dict[str, object] = {
        "seed": seed,
        "targets": "regression" if is_regression else "two classes",
        "mean of weights": float(away.square().mean().sqrt()),
        "sd of weights": float(ratio.log().mean().exp()),
        "effective": float(effective_sample_size(nuts["weights"][None]).median()),
        "seconds": time.process_time() - started,
    }
    for name in own.keys() & nuts.keys():
        difference = (own[name].mean(0) - nuts[name].mean(0)) / nuts[name].std(0)
        row[name] = float(difference.mean())
    return row


def main() -> None:
    """Compute what is missing; print the means over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    default = Path(__file__).parent / "results" / "generative.csv"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    done = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame(columns=["seed", "targets"])
    for seed in args.seeds:
        for is_regression in (True, False):
            kind = "regression" if is_regression else "two classes"
            if ((done.seed == seed) & (done.targets == kind)).any():
                continue
            row = compare(seed, is_regression)
            print(
                " ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in row.items())
            )
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(args.out, index=False)
    print(summary(done[done.seed.isin(args.seeds)]))


def summary(rows: pd.DataFrame) -> str:
    """A Markdown table: mean ± standard deviation over seeds, by kind of target."""
    names = [
        "mean of weights",
        "sd of weights",
        "log A",
        "log B",
        "log V",
        "log noise",
        "effective",
    ]
    lines = ["| targets | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for kind, part in rows.groupby("targets", sort=False):
        cells = [
            "-" if part[name].isna().all() else f"{part[name].mean():.2f} ± {part[name].std():.2f}"
            for name in names
        ]
        lines.append(f"| {kind} | {len(part)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
