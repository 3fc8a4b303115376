"""What can be taken out of a model without a new fit: the conditions, said in a sentence."""

from __future__ import annotations

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.model import NestedWeights
from pyro_vmtl.model.architectures import takes_no_gradient

__all__ = ["check_closed_form"]


def check_closed_form(
    what: str, fitted: FittedVMTL, train: TaskSet, heldout: TaskSet | None = None
) -> NestedWeights:
    """Make sure that single tasks and samples can be taken out of a model by linear algebra.

    :param what: needs it, in the plural.
    :param train: has to have the model's tasks; ``heldout``: likewise.
    :return: its weights.
    :raises InputError: for another pool, an encoder that was trained, or other tasks.
    """
    weights = fitted.vmtl.classifier
    if (
        not isinstance(weights, NestedWeights)
        or not weights.shares_weights
        or not takes_no_gradient(fitted.settings.encoder)
    ):
        raise InputError(
            f"{what} need weights in closed form and an encoder that takes no gradient; expected a "
            "model with the pool Nested on a table, or pv.compare of several fits on held-out data"
        )
    for name, tasks in (("training", train), ("held-out", heldout)):
        if tasks is not None and tasks.names != fitted.names:
            raise InputError(
                f"the {name} set has the tasks {list(tasks.names)}; the model was trained on "
                f"{list(fitted.names)}"
            )
    return weights
