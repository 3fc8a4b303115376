"""The weights of a model, for what can be asked of those in closed form alone."""

from pyro_vmtl.errors import InputError
from pyro_vmtl.model.priors.nested import NestedBorrowing, NestedWeights
from pyro_vmtl.model.priors.sites import ConjugateWeights
from pyro_vmtl.model.vmtl import VMTL

__all__ = ["conjugate_weights", "nested_weights", "partitions_of"]


def conjugate_weights(vmtl: VMTL) -> ConjugateWeights:
    """Those to which each task's data contribute a Gaussian site.

    :raises InputError: where weights are learned by gradients.
    """
    if not isinstance(vmtl.classifier, ConjugateWeights):
        raise InputError(
            f"the weights are {type(vmtl.classifier).__name__}, which gradients have fitted; "
            "expected weights in closed form (classifier='conjugate')"
        )
    return vmtl.classifier


def nested_weights(vmtl: VMTL) -> NestedWeights:
    """Those under the nested prior, which single tasks and rows can join and leave.

    :raises InputError: for another pool, or one in which tasks share more than weights.
    """
    weights = vmtl.classifier
    if not isinstance(weights, NestedWeights) or not weights.shares_weights:
        raise InputError(
            f"the model has the pool {type(vmtl.pool).__name__}; expected Nested, whose draws of "
            "clusters a task can join and leave"
        )
    return weights


def partitions_of(vmtl: VMTL) -> NestedBorrowing:
    """The relatedness of tasks that draws of partitions tell of.

    :raises InputError: for another pool, or without clusters.
    """
    borrows = "weights" in vmtl.borrowing
    borrowing = vmtl.borrowing["weights"] if borrows else None
    if not isinstance(borrowing, NestedBorrowing):
        raise InputError(
            f"the pool is {type(vmtl.pool).__name__}, which draws no partitions of tasks; expected "
            "Nested (relatedness() tells of every pool)."
        )
    return borrowing
