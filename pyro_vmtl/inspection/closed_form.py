"""What can be taken out of a model without a new fit: the conditions, said in a sentence."""

from __future__ import annotations

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.model import NestedWeights
from pyro_vmtl.model.architectures import takes_no_gradient
from pyro_vmtl.model.closed_form import nested_weights

__all__ = ["check_closed_form"]


def check_closed_form(
    what: str,
    fitted: FittedVMTL,
    train: TaskSet,
    heldout: TaskSet | None = None,
    may_learn: bool = False,
) -> NestedWeights:
    """Make sure that single tasks and samples can be taken out of a model by linear algebra.

    :param what: needs it, in the plural.
    :param train: has to have the model's tasks; ``heldout``: likewise.
    :param may_learn: whether an encoder may have been trained, where it is a function of the inputs
        and held-out samples are predicted: it has seen those of training.
    :return: its weights.
    :raises InputError: for another pool, another encoder, or other tasks.
    """
    in_closed_form, encoder = fitted.vmtl.classifier.shares_weights, fitted.vmtl.encoder
    learned = not takes_no_gradient(fitted.settings.encoder)
    if not in_closed_form or (learned and not (may_learn and encoder.is_function)):
        kind = (
            "one that takes no gradient or is a function of its inputs (stochastic=False)"
            if may_learn
            else "one that takes no gradient"
        )
        raise InputError(
            f"{what} need weights in closed form and an encoder that can be held fixed, {kind}; "
            "expected a model with the pool Nested, or pv.compare of several fits on held-out data"
        )
    if learned and heldout is None:
        raise InputError(
            f"the encoder was trained on the training samples, so {what} cannot be scored by "
            "leaving them out one by one; expected held-out samples (heldout=splits.validation)"
        )
    for name, tasks in (("training", train), ("held-out", heldout)):
        if tasks is not None and tasks.names != fitted.names:
            raise InputError(
                f"the {name} set has the tasks {list(tasks.names)}; the model was trained on "
                f"{list(fitted.names)}"
            )
    return nested_weights(fitted.vmtl)
