"""Exact Bayesian inference on simulated tasks: the references of `benchmarks/simulated.py`.

Everything here is dense, in float64, and independent of how `pyro_vmtl` infers. Given auxiliary
variables, the likelihood of a task is Gaussian in its weights, exp(h w - w F w / 2), with

    F = X' Omega X,    h = X' kappa,

where Omega is fixed for Gaussian noise, inverse gamma for Student t noise, and Polya-Gamma for
logits (Polson, Scott and Windle 2013; several classes one at a time, given the others, as in
Holmes and Held 2006). Weights then have a Gaussian posterior under each of three priors: tasks on
their own, tasks with a known covariance, and tasks in clusters. The clusters are known, or drawn
with all weights integrated out under a mixture of finite mixtures (Miller and Harrison 2018) whose
number of clusters is uniform from 1 to the number of tasks. Where nothing is left to draw (Gaussian
noise and clusters known), the answer is in closed form, and else it is an average over chains.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from scipy.stats import t as student_t
from simulated_worlds import World, arrays
from torch import Tensor

_TERMS = 10  # the variance that later terms of a Polya-Gamma variable add is below 1e-6


@dataclass(frozen=True)
class Budget:
    """How long to sample.

    :ivar chains: per seed, an even number; two halves of them tell the Monte Carlo error.
    :ivar sweeps: per chain.
    :ivar burn: how many of the sweeps are thrown away.
    """

    chains: int = 8
    sweeps: int = 400
    burn: int = 100


@dataclass
class Answer:
    """What a reference says of several seeds of a world, a number per seed each.

    :ivar scores: test metrics, averaged over tasks.
    :ivar errors: the differences that two halves of the chains show, Monte Carlo errors.
    :ivar together: the chance that two tasks share a cluster, ``[S, T, T]``, where it is inferred.
    """

    scores: dict[str, list[float]]
    errors: dict[str, list[float]] = field(default_factory=dict)
    together: Tensor | None = None
    seconds: float = 0.0


def polya_gamma(tilt: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from PG(1, tilt): the first terms of its series, and the mean of the others."""
    tilt = tilt.abs().clamp_min(1e-6)
    places = torch.arange(1, _TERMS + 1, dtype=tilt.dtype) - 0.5
    rates = places**2 + (tilt.unsqueeze(-1) / (2 * math.pi)) ** 2
    draws = torch.empty_like(rates).exponential_(generator=generator)
    centred = ((draws - 1) / rates).sum(-1) / (2 * math.pi**2)
    return (centred + torch.tanh(tilt / 2) / (2 * tilt)).clamp_min(1e-8)


class Logits:
    """Classes: one row of weights for two of them, and else a row a class."""

    def __init__(self, y: Tensor, present: Tensor, num_classes: int) -> None:
        """Take over targets ``[B, T, N]``."""
        self.y, self.present = y.long(), present
        self.rows = 1 if num_classes == 2 else num_classes

    def site(self, row: int, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Omega and kappa ``[B, T, N]`` of a row, given the scores ``[B, T, N, K]`` of all."""
        own = scores[..., row]
        label = 1 if self.rows == 1 else row
        if self.rows == 1:
            others = torch.zeros_like(own)
        else:
            others = torch.cat([scores[..., :row], scores[..., row + 1 :]], -1).logsumexp(-1)
        omega = polya_gamma(own - others, generator) * self.present
        kappa = ((self.y == label).double() - 0.5) * self.present + omega * others
        return omega, kappa

    def outlook(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The probabilities ``[..., C]`` of the classes."""
        if self.rows == 1:
            chance = torch.sigmoid(scores[..., 0])
            return torch.stack([1 - chance, chance], -1)
        return scores.softmax(-1)

    @staticmethod
    def scores(outlook: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Metrics ``[S]`` of averaged probabilities ``[S, T, M, C]``."""
        likely = outlook.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
        hit = outlook.argmax(-1) == targets
        return {"nll": -likely.log().mean((1, 2)), "accuracy": hit.double().mean((1, 2))}


class Noisy:
    """Real targets with noise of known scale, Gaussian or Student t."""

    rows = 1

    def __init__(self, y: Tensor, present: Tensor, scale: float, freedom: float) -> None:
        """Take over targets ``[B, T, N]``."""
        self.y, self.present, self.scale, self.freedom = y, present, scale, freedom

    @property
    def is_gaussian(self) -> bool:
        """Whether there is nothing to draw."""
        return math.isinf(self.freedom)

    def site(self, row: int, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Logits.site`."""
        if self.is_gaussian:
            omega = self.present / self.scale**2
        else:
            residual = self.y - scores[..., row]
            # torch.distributions takes no generator.
            shape = torch.full_like(residual, (self.freedom + 1) / 2)
            draws = torch._standard_gamma(shape, generator=generator)  # noqa: SLF001
            rate = (self.freedom * self.scale**2 + residual**2) / 2
            omega = draws / rate * self.present
        return omega, omega * self.y

    def outlook(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Density and distribution function at the target, and the mean, ``[..., 3]``."""
        return _student(scores[..., 0], self.scale, self.freedom, targets)

    @staticmethod
    def scores(outlook: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Metrics ``[S]`` of averaged outlooks ``[S, T, M, 3]``."""
        density, below, mean = outlook.unbind(-1)
        inside = (below > 0.05) & (below < 0.95)
        return {
            "nll": -density.log().mean((1, 2)),
            "rmse": (mean - targets).square().mean(-1).sqrt().mean(-1),
            "coverage90": inside.double().mean((1, 2)),
        }


def _gaussian(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """Density and distribution function of a Gaussian at the target, and its mean."""
    z = (targets - mean) / variance.sqrt()
    density = (-0.5 * z**2).exp() / (2 * math.pi * variance).sqrt()
    return torch.stack([density, torch.special.ndtr(z), mean.expand_as(z)], -1)


def _student(mean: Tensor, scale: float, freedom: float, targets: Tensor) -> Tensor:
    """The same of Student's t."""
    z = ((targets - mean) / scale).numpy()
    law = student_t(freedom)
    density, below = (torch.from_numpy(np.asarray(f(z))) for f in (law.pdf, law.cdf))
    return torch.stack([density / scale, below, mean.expand_as(below)], -1)


def _draw_gaussian(precision: Tensor, shift: Tensor, generator: torch.Generator) -> Tensor:
    """A draw from N(P^-1 h, P^-1)."""
    root = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(shift.unsqueeze(-1), root)
    noise = torch.randn(mean.shape, dtype=mean.dtype, generator=generator)
    return (mean + torch.linalg.solve_triangular(root.mT, noise, upper=True)).squeeze(-1)


class Independent:
    """Every task on its own: w_t ~ N(0, v I)."""

    together: Tensor | None = None

    def __init__(self, variance: Tensor) -> None:
        """Take over v, ``[B]``."""
        self.variance = variance

    def update(self, F: Tensor, h: Tensor, generator: torch.Generator) -> None:
        """There is nothing but weights."""

    def _precision(self, F: Tensor) -> Tensor:
        return F + torch.eye(F.shape[-1], dtype=F.dtype) / self.variance[:, None, None, None]

    def draw(self, F: Tensor, h: Tensor, generator: torch.Generator) -> Tensor:
        """Weights ``[B, T, d]`` given the evidence."""
        return _draw_gaussian(self._precision(F), h, generator)

    def moments(self, F: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``[B, T, d]`` and covariances of the weights given the evidence."""
        covariance = torch.linalg.inv(self._precision(F))
        return (covariance @ h.unsqueeze(-1)).squeeze(-1), covariance


class Correlated:
    """Tasks with a known covariance: cov(w_t, w_u) = Omega_tu I."""

    together: Tensor | None = None

    def __init__(self, covariance: Tensor) -> None:
        """Take over Omega, ``[B, T, T]``."""
        self.precision = torch.linalg.inv(covariance)

    def update(self, F: Tensor, h: Tensor, generator: torch.Generator) -> None:
        """There is nothing but weights."""

    def draw(self, F: Tensor, h: Tensor, generator: torch.Generator) -> Tensor:
        """Weights ``[B, T, d]`` given the evidence, drawn jointly."""
        B, T, d = h.shape
        eye = torch.eye(d, dtype=F.dtype)
        joint = torch.einsum("btu,ij->btiuj", self.precision, eye).contiguous()
        joint.diagonal(dim1=1, dim2=3).add_(F.permute(0, 2, 3, 1))
        return _draw_gaussian(joint.reshape(B, T * d, T * d), h.reshape(B, -1), generator).view(
            B, T, d
        )


class Clustered:
    """Tasks in known clusters: w_t = a c_k(t) + e_t, with c_k ~ N(0, I) and e_t ~ N(0, v I)."""

    together: Tensor | None = None

    def __init__(self, labels: Tensor, centre_variance: float, spread_variance: float) -> None:
        """Take over the clusters ``[B, T]``."""
        self.labels = labels.clone()
        self.scale, self.spread = math.sqrt(centre_variance), spread_variance

    def update(self, F: Tensor, h: Tensor, generator: torch.Generator) -> None:
        """The clusters are known."""

    def _about_centre(self, F: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The evidence of each task about its centre c, the deviation e integrated out."""
        W = torch.linalg.inv(torch.eye(F.shape[-1], dtype=F.dtype) + self.spread * F)
        L = W @ F
        g = (W @ h.unsqueeze(-1)).squeeze(-1)
        return self.scale**2 * (L + L.mT) / 2, self.scale * g

    def _summed(self, L: Tensor, g: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
        """The evidence of every cluster, and how many tasks it has."""
        member = torch.nn.functional.one_hot(self.labels, slots).to(g.dtype).mT
        total = (member @ L.flatten(2)).unflatten(-1, L.shape[-2:])
        return total, member @ g, member.sum(-1)

    def _given_centre(self, F: Tensor, h: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        eye = torch.eye(F.shape[-1], dtype=F.dtype)
        own = centre.gather(1, self.labels.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
        return F + eye / self.spread, h + self.scale * own / self.spread

    def draw(self, F: Tensor, h: Tensor, generator: torch.Generator) -> Tensor:
        """Weights ``[B, T, d]`` given the evidence and the clusters."""
        total, shift, _ = self._summed(*self._about_centre(F, h), int(self.labels.max()) + 1)
        eye = torch.eye(F.shape[-1], dtype=F.dtype)
        centre = _draw_gaussian(total + eye, shift, generator)
        return _draw_gaussian(*self._given_centre(F, h, centre), generator)

    def moments(self, F: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``[B, T, d]`` and covariances of the weights given the evidence and clusters."""
        total, shift, _ = self._summed(*self._about_centre(F, h), int(self.labels.max()) + 1)
        C = torch.linalg.inv(total + torch.eye(F.shape[-1], dtype=F.dtype))
        centre = (C @ shift.unsqueeze(-1)).squeeze(-1)
        precision, pull = self._given_centre(F, h, centre)
        own = torch.linalg.inv(precision)
        C = C[torch.arange(len(C))[:, None], self.labels]
        covariance = own + (self.scale / self.spread) ** 2 * own @ C @ own
        return (own @ pull.unsqueeze(-1)).squeeze(-1), covariance


class Partitioned(Clustered):
    """Tasks in unknown clusters: a mixture of finite mixtures, collapsed Gibbs sampling."""

    def __init__(self, *arguments: object, gamma: float = 1.0) -> None:
        """Take over where the chains start; ``gamma`` is the Dirichlet's parameter."""
        super().__init__(*arguments)
        self.gamma = gamma
        self.together = torch.zeros(*self.labels.shape, self.labels.shape[1], dtype=torch.double)
        T = self.labels.shape[1]
        K = np.arange(1, T + 1)[:, None]
        t = np.arange(1, T + 2)
        # V(t), the sum over K of K! / (K - t)! Gamma(gamma K) / Gamma(gamma K + T) / T.
        terms = gammaln(K + 1) - gammaln(np.maximum(K - t, 0) + 1)
        terms = terms + gammaln(gamma * K) - gammaln(gamma * K + T)
        self.log_v = torch.from_numpy(logsumexp(np.where(t <= K, terms, -1e30), axis=0))

    def _log_prior(self, count: Tensor) -> Tensor:
        """Log of the prior's odds of joining each cluster, up to a constant."""
        empty = count < 0.5
        found = (~empty).sum(-1)
        new = math.log(self.gamma) + self.log_v[found] - self.log_v[found - 1]
        new = new - empty.sum(-1).clamp_min(1).to(count.dtype).log()
        return torch.where(empty, new[:, None], (count + self.gamma).log())

    def update(self, F: Tensor, h: Tensor, generator: torch.Generator) -> None:
        """Move every task once, given the evidence, all weights integrated out."""
        L, g = self._about_centre(F, h)
        B, T = self.labels.shape
        chain = torch.arange(B)
        self._compact()
        slots = min(T, int(self.labels.max()) + 4)
        total, shift, count = self._summed(L, g, slots)
        log_evidence = _log_evidence(total, shift)
        for t in torch.randperm(T, generator=generator).tolist():
            own = self.labels[:, t]
            total[chain, own] -= L[:, t]
            shift[chain, own] -= g[:, t]
            count[chain, own] -= 1
            left = _log_evidence(total[chain, own], shift[chain, own])
            log_evidence[chain, own] = torch.where(count[chain, own] < 0.5, 0.0, left)
            if int((count < 0.5).sum(-1).min()) == 0 and slots < T:
                total, shift, count, log_evidence = (
                    torch.cat([part, torch.zeros_like(part[:, :1])], 1)
                    for part in (total, shift, count, log_evidence)
                )
                slots += 1
            joined = _log_evidence(total + L[:, t : t + 1], shift + g[:, t : t + 1])
            odds = joined - log_evidence + self._log_prior(count)
            own = torch.multinomial(odds.softmax(-1), 1, generator=generator).squeeze(-1)
            self.labels[:, t] = own
            total[chain, own] += L[:, t]
            shift[chain, own] += g[:, t]
            count[chain, own] += 1
            log_evidence[chain, own] = joined[chain, own]

    def _compact(self) -> None:
        """Number the clusters from 0 without gaps."""
        used = torch.zeros(len(self.labels), int(self.labels.max()) + 1, dtype=torch.long)
        used.scatter_(1, self.labels, 1)
        self.labels = (used.cumsum(-1) - 1).gather(1, self.labels)


def _log_evidence(total: Tensor, shift: Tensor) -> Tensor:
    """Log of the integral of exp(g c - c L c / 2) over c ~ N(0, I)."""
    root = torch.linalg.cholesky(total + torch.eye(total.shape[-1], dtype=total.dtype))
    u = torch.linalg.solve_triangular(root, shift.unsqueeze(-1), upper=False).squeeze(-1)
    return 0.5 * u.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@dataclass(frozen=True)
class _Rows:
    """Training and test rows of several seeds of a world."""

    x: Tensor  # [S, T, N, d]
    y: Tensor  # [S, T, N]
    present: Tensor  # [S, T, N]
    test_x: Tensor  # [S, T, M, d]
    test_y: Tensor  # [S, T, M]

    @classmethod
    def of(cls, worlds: Sequence[World]) -> "_Rows":
        parts = [arrays(world.train) for world in worlds]
        longest = max(y.shape[1] for _, y, _ in parts)

        def padded(part: Tensor) -> Tensor:
            room = longest - part.shape[1]
            shape = (part.shape[0], room, *part.shape[2:])
            return torch.cat([part, torch.zeros(shape, dtype=part.dtype)], 1)

        x, y, present = (
            torch.stack([padded(part[i]) for part in parts]).double() for i in range(3)
        )
        tests = [arrays(world.test) for world in worlds]
        test_x, test_y = (torch.stack([part[i] for part in tests]) for i in range(2))
        return cls(x, y, present, test_x, test_y)

    def pooled(self) -> "_Rows":
        """All rows as those of one task."""
        return _Rows(
            *(
                part.flatten(1, 2).unsqueeze(1)
                for part in (self.x, self.y, self.present, self.test_x, self.test_y)
            )
        )


def _infer(
    rows: _Rows,
    world: World,
    prior_of: Callable[[int], Independent | Correlated | Clustered],
    budget: Budget,
    seed: int = 0,
) -> Answer:
    """Average the predictive distribution over chains, or take it where nothing is to be drawn.

    :param world: of any of the seeds, for its likelihood.
    :param prior_of: the prior, given the number of chains per seed.
    """
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    is_real = world.kind == "regression"
    is_gaussian = is_real and math.isinf(world.freedom)
    prior = prior_of(1)
    if is_gaussian and not isinstance(prior, Partitioned):
        budget = Budget(chains=1, sweeps=1, burn=0)
    C = budget.chains
    prior = prior_of(C)
    S, T, _, d = rows.x.shape
    x, y, present = (part.repeat_interleave(C, 0) for part in (rows.x, rows.y, rows.present))
    likelihood: Logits | Noisy
    if is_real:
        likelihood = Noisy(y, present, world.noise, world.freedom)
    else:
        likelihood = Logits(y, present, world.train.num_classes)
    weights = torch.zeros(S * C, T, d, likelihood.rows, dtype=torch.double)
    targets = rows.test_y.unsqueeze(1)
    sums: Tensor | None = None
    kept = 0
    for sweep in range(budget.sweeps):
        for row in range(likelihood.rows):
            omega, kappa = likelihood.site(row, x @ weights, generator)
            F = x.mT @ (omega.unsqueeze(-1) * x)
            h = (x.mT @ kappa.unsqueeze(-1)).squeeze(-1)
            prior.update(F, h, generator)
            if not is_gaussian:
                weights[..., row] = prior.draw(F, h, generator)
        if sweep < budget.burn:
            continue
        if prior.together is not None:
            prior.together += prior.labels[:, :, None] == prior.labels[:, None]
        # A Gaussian's moments are dear, and change with the clusters alone.
        if (sweep - budget.burn) % (8 if is_gaussian else 2):
            continue
        if is_gaussian:
            mean, covariance = (part.unflatten(0, (S, C)) for part in prior.moments(F, h))
            test = rows.test_x.unsqueeze(1)
            at = (test @ mean.unsqueeze(-1)).squeeze(-1)
            variance = ((test @ covariance) * test).sum(-1) + world.noise**2
            outlook = _gaussian(at, variance, targets)
        else:
            scores = _test_scores(rows.test_x, weights.unflatten(0, (S, C)))
            outlook = likelihood.outlook(scores, targets)
        sums = outlook if sums is None else sums.add_(outlook)
        kept += 1
    assert sums is not None
    averages = sums / kept
    scores = likelihood.scores(averages.mean(1), rows.test_y)
    answer = Answer({name: value.tolist() for name, value in scores.items()})
    if C > 1:
        halves = [likelihood.scores(averages[:, i::2].mean(1), rows.test_y) for i in (0, 1)]
        answer.errors["nll error"] = (halves[0]["nll"] - halves[1]["nll"]).tolist()
    if prior.together is not None:
        chances = (prior.together / (budget.sweeps - budget.burn)).unflatten(0, (S, C))
        answer.together = chances.mean(1)
        if C > 1:
            gap = chances[:, 0::2].mean(1) - chances[:, 1::2].mean(1)
            answer.errors["pair error"] = gap.square().mean((1, 2)).sqrt().tolist()
    answer.seconds = time.perf_counter() - started
    return answer


def _test_scores(x: Tensor, weights: Tensor) -> Tensor:
    """Scores ``[S, C, T, M, K]`` of ``x [S, T, M, d]`` under weights ``[S, C, T, d, K]``."""
    S, C, T, d, K = weights.shape
    scores = x @ weights.permute(0, 2, 3, 1, 4).reshape(S, T, d, C * K)
    return scores.unflatten(-1, (C, K)).permute(0, 3, 1, 2, 4)


def standard(worlds: Sequence[World], budget: Budget) -> Answer:
    """Every task on its own, told the mean variance of weights and the noise."""
    variance = torch.tensor([np.diag(world.covariance).mean() for world in worlds])
    rows = _Rows.of(worlds)
    return _infer(rows, worlds[0], lambda C: Independent(variance.repeat_interleave(C)), budget)


def pooled(worlds: Sequence[World], budget: Budget) -> Answer:
    """One model of all rows, with weights N(0, I); the noise of a regression is inferred."""
    rows = _Rows.of(worlds).pooled()
    if worlds[0].kind == "regression":
        return _pooled_regression(rows)
    return _infer(
        rows, worlds[0], lambda C: Independent(torch.ones(len(worlds) * C).double()), budget
    )


def _pooled_regression(rows: _Rows) -> Answer:
    """Bayesian linear regression with weights N(0, I), and Gaussian noise summed over a grid."""
    started = time.perf_counter()
    scales = torch.linspace(math.log(0.05), math.log(20), 400, dtype=torch.double).exp()
    variance = scales**2
    outlooks = []
    for x, y, present, test_x, test_y in zip(
        rows.x[:, 0], rows.y[:, 0], rows.present[:, 0], rows.test_x[:, 0], rows.test_y[:, 0],
        strict=True,
    ):  # fmt: skip
        x, y = x[present > 0.5], y[present > 0.5]
        values, basis = torch.linalg.eigh(x.mT @ x)
        shift = basis.mT @ (x.mT @ y)
        precision = 1 + values / variance[:, None]  # [G, d], in the basis of eigenvectors
        log_evidence = (
            0.5 * ((shift / variance[:, None]) ** 2 / precision - precision.log()).sum(-1)
            - 0.5 * y.square().sum() / variance
            - len(y) * scales.log()
        )
        mean = shift / variance[:, None] / precision
        total = 0.0
        chances = log_evidence.softmax(0)
        for g in (chances > 1e-8).nonzero().squeeze(-1).tolist():
            rotated = test_x @ basis
            at = rotated @ mean[g]
            spread = rotated.square() @ precision[g].reciprocal() + variance[g]
            total = total + chances[g] * _gaussian(at, spread, test_y)
        outlooks.append(total)
    scores = Noisy.scores(torch.stack(outlooks).unsqueeze(1), rows.test_y)
    return Answer(
        {name: value.tolist() for name, value in scores.items()},
        seconds=time.perf_counter() - started,
    )


def oracle(worlds: Sequence[World], budget: Budget) -> Answer:
    """Told the clusters, the variances and the noise; or, without clusters, the covariance."""
    first = worlds[0]
    rows = _Rows.of(worlds)
    if first.truth is None:
        covariance = torch.from_numpy(np.stack([world.covariance for world in worlds]))
        return _infer(rows, first, lambda C: Correlated(covariance.repeat_interleave(C, 0)), budget)
    truth = _truths(worlds)
    variances = first.centre_variance, first.spread_variance
    return _infer(
        rows, first, lambda C: Clustered(truth.repeat_interleave(C, 0), *variances), budget
    )


def exact(worlds: Sequence[World], budget: Budget) -> Answer:
    """Told the variances and the noise, but not the clusters.

    Every second chain starts at the true clusters, the others with every task alone, so that the
    halves of the chains differ by more than noise where a chain is stuck.
    """
    first = worlds[0]
    truth = _truths(worlds)
    variances = first.centre_variance, first.spread_variance

    def prior(C: int) -> Partitioned:
        labels = truth.repeat_interleave(C, 0)
        labels[torch.arange(len(labels)) % C % 2 == 1] = torch.arange(labels.shape[1])
        return Partitioned(labels, *variances)

    return _infer(_Rows.of(worlds), first, prior, budget)


def _truths(worlds: Sequence[World]) -> Tensor:
    return torch.from_numpy(np.stack([world.truth for world in worlds if world.truth is not None]))
