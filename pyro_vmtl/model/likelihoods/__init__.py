"""Likelihoods, a file each: what a task's representation and weights say about its targets."""

from pyro_vmtl.model.likelihoods.base import (
    Family,
    Likelihood,
    OutputwiseLikelihood,
    linear_predictor,
    of_known,
    quadrature,
    with_bias,
)
from pyro_vmtl.model.likelihoods.bernoulli import Bernoulli, BernoulliLikelihood
from pyro_vmtl.model.likelihoods.categorical import Categorical, CategoricalLikelihood
from pyro_vmtl.model.likelihoods.feedback_bernoulli import (
    FeedbackBernoulli,
    FeedbackBernoulliLikelihood,
)
from pyro_vmtl.model.likelihoods.gaussian import Gaussian, GaussianLikelihood
from pyro_vmtl.model.likelihoods.negative_binomial import (
    NegativeBinomial,
    NegativeBinomialLikelihood,
)
from pyro_vmtl.model.likelihoods.ordinal import Ordinal, OrdinalLikelihood
from pyro_vmtl.model.likelihoods.poisson import Poisson, PoissonLikelihood
from pyro_vmtl.model.likelihoods.student_t import StudentT, StudentTLikelihood

__all__ = [
    "Bernoulli",
    "BernoulliLikelihood",
    "Categorical",
    "CategoricalLikelihood",
    "Family",
    "FeedbackBernoulli",
    "FeedbackBernoulliLikelihood",
    "Gaussian",
    "GaussianLikelihood",
    "Likelihood",
    "NegativeBinomial",
    "NegativeBinomialLikelihood",
    "Ordinal",
    "OrdinalLikelihood",
    "OutputwiseLikelihood",
    "Poisson",
    "PoissonLikelihood",
    "StudentT",
    "StudentTLikelihood",
    "linear_predictor",
    "of_known",
    "quadrature",
    "with_bias",
]
