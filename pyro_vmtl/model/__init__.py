"""The model: encoders, posteriors, likelihoods, pools, and VMTL itself."""

from pyro_vmtl.model.amortised import AmortisedWeights
from pyro_vmtl.model.architectures import (
    MLP,
    Architecture,
    BayesianLinear,
    Identity,
    PrincipalComponents,
)
from pyro_vmtl.model.borrowing import Borrowing
from pyro_vmtl.model.build import Settings, assemble
from pyro_vmtl.model.encoders import (
    BayesianLinearEncoder,
    DeterministicEncoder,
    Encoder,
    GaussianEncoder,
    IdentityEncoder,
    PerTask,
    PrincipalComponentsEncoder,
    mlp,
)
from pyro_vmtl.model.evaluation import evaluating
from pyro_vmtl.model.likelihoods import (
    Bernoulli,
    BernoulliLikelihood,
    Categorical,
    CategoricalLikelihood,
    Family,
    FeedbackBernoulli,
    FeedbackBernoulliLikelihood,
    Gaussian,
    GaussianLikelihood,
    Likelihood,
    NegativeBinomial,
    NegativeBinomialLikelihood,
    Ordinal,
    OrdinalLikelihood,
    OutputwiseLikelihood,
    Poisson,
    PoissonLikelihood,
    StudentT,
    StudentTLikelihood,
    linear_predictor,
    of_known,
    with_bias,
)
from pyro_vmtl.model.plain import from_plain, to_plain
from pyro_vmtl.model.pools import Geometric, Kind, Linear, Mixture, Pool, Power, Spread, Standard
from pyro_vmtl.model.posteriors import (
    MeanFieldWeights,
    PointWeights,
    Posterior,
    WeightsPosterior,
)
from pyro_vmtl.model.priors.feedback import Feedback, FeedbackBorrowing, FeedbackWeights
from pyro_vmtl.model.priors.nested import Nested, NestedBorrowing, NestedWeights
from pyro_vmtl.model.priors.pooled import PooledWeights
from pyro_vmtl.model.priors.sites import ConjugateWeights
from pyro_vmtl.model.priors.stacking import StackedEncoder
from pyro_vmtl.model.vmtl import SITES, VMTL

__all__ = [
    "MLP",
    "SITES",
    "VMTL",
    "AmortisedWeights",
    "Architecture",
    "BayesianLinear",
    "BayesianLinearEncoder",
    "Bernoulli",
    "BernoulliLikelihood",
    "Borrowing",
    "Categorical",
    "CategoricalLikelihood",
    "ConjugateWeights",
    "DeterministicEncoder",
    "Encoder",
    "Family",
    "Feedback",
    "FeedbackBernoulli",
    "FeedbackBernoulliLikelihood",
    "FeedbackBorrowing",
    "FeedbackWeights",
    "Gaussian",
    "GaussianEncoder",
    "GaussianLikelihood",
    "Geometric",
    "Identity",
    "IdentityEncoder",
    "Kind",
    "Likelihood",
    "Linear",
    "MeanFieldWeights",
    "Mixture",
    "NegativeBinomial",
    "NegativeBinomialLikelihood",
    "Nested",
    "NestedBorrowing",
    "NestedWeights",
    "Ordinal",
    "OrdinalLikelihood",
    "OutputwiseLikelihood",
    "PerTask",
    "PointWeights",
    "Poisson",
    "PoissonLikelihood",
    "Pool",
    "PooledWeights",
    "Posterior",
    "Power",
    "PrincipalComponents",
    "PrincipalComponentsEncoder",
    "Settings",
    "Spread",
    "StackedEncoder",
    "Standard",
    "StudentT",
    "StudentTLikelihood",
    "WeightsPosterior",
    "assemble",
    "evaluating",
    "from_plain",
    "linear_predictor",
    "mlp",
    "of_known",
    "to_plain",
    "with_bias",
]
