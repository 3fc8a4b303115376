"""Several priors on the same tasks: fit each with one budget, and rank them on held-out data."""

from collections.abc import Callable, Mapping

import pandas as pd

from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL
from pyro_vmtl.inspection.comparison import compare
from pyro_vmtl.runs.configuration import Plan
from pyro_vmtl.runs.fits import fit_plan
from pyro_vmtl.runs.processes import refuse_parallel

__all__ = ["rank_plans"]


def rank_plans(
    plans: Mapping[str, Plan],
    heldout: str = "validation",
    num_samples: int = 2000,
    seed: int = 0,
    on_fit: Callable[[str, FittedVMTL], None] | None = None,
) -> pd.DataFrame:
    """Fit every plan and rank the fits; see :func:`pyro_vmtl.inspection.comparison.compare`.

    :param plans: by name, all with the same data.
    :param heldout: ``"validation"``, to choose a prior on, or ``"test"``, for a last look.
    :param num_samples: posterior draws.
    :param seed: of start, noise and draws.
    :param on_fit: called after each fit.
    :raises InputError: for another part of the data, or one without labels.
    """
    if not plans:
        raise InputError("there is no prior to rank; expected one or more, pools=[standard,...]")
    if heldout not in ("validation", "test"):
        raise InputError(f"heldout is {heldout!r}; expected 'validation' or 'test'")
    for plan in plans.values():
        refuse_parallel(plan.trainer, "a ranking")
    splits = next(iter(plans.values())).splits
    part = getattr(splits, heldout)
    if not bool(part.labelled.any()):
        raise InputError(f"the {heldout} part has no labelled sample; expected some to rank on")
    fits = {}
    for name, plan in plans.items():
        # Who is called after each fit says the warnings.
        fits[name] = fit_plan(plan, seed, log_warnings=on_fit is None)
        if on_fit is not None:
            on_fit(name, fits[name])
    return compare(fits, part, splits.train, num_samples, seed)
