"""Everything the model knows, as ArviZ holds it: labelled draws, one group for each kind."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from pyro_vmtl.data import TaskSet
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference.fit import FittedVMTL
from pyro_vmtl.inspection.arviz_adapter import to_arviz
from pyro_vmtl.inspection.draws import (
    BASE,
    borrowing_of,
    is_relaxation,
    relatedness_draws,
    responsibility_draws,
)
from pyro_vmtl.inspection.latent_draws import Draws, posterior_draws, prior_draws
from pyro_vmtl.inspection.training import kept_epoch
from pyro_vmtl.model import SITES, to_plain

__all__ = ["VARIABLES", "leave_one_out", "to_inference_data"]

VARIABLES = (
    *(f"relatedness_{site}" for site in SITES),
    *(f"responsibilities_{site}" for site in SITES),
    *("task_distances", "weights", "representations"),
)
"""What the posterior group can hold: the sites of the model, and what is derived from them."""

_Array = npt.NDArray[Any]

# Numbers up to which an array is exported unasked: 4 MB of representations, 16 MB of inputs.
_SMALL_REPRESENTATIONS = 2**20
_SMALL_INPUTS = 2**22


def to_inference_data(
    fitted: FittedVMTL,
    tasks: TaskSet,
    num_samples: int = 200,
    *,
    sites: Sequence[str] | None = None,
    thin: int = 1,
    prior_samples: int | None = None,
    representation_samples: int = 10,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """Export a fitted model and its predictions of a task set to ArviZ.

    Groups: ``posterior``, ``prior``, ``posterior_predictive``, ``prior_predictive``,
    ``log_likelihood``, ``observed_data``, ``constant_data``. Coordinates carry the user's names:
    ``task``, ``other_task`` (the tasks and ``base``; NaN for the task itself and where there is no
    base), ``class`` or ``output``, ``latent`` (``bias`` last). Tasks may differ in size: what is
    per sample lies flat along ``sample`` (the rows of the task set) with the name of each sample's
    task in ``sample_task``. Rows without a label are in ``posterior_predictive`` only.

    Memory: draws are made a block at a time, and only what is exported is kept. Representations
    are left out unless they are small or asked for; ``sites`` and ``thin`` bound the rest.

    :param tasks: of the names, classes and input shape of training.
    :param num_samples: draws from the posterior, in one chain.
    :param sites: which of :data:`VARIABLES` the posterior holds; None, all that the model has,
        ``representations`` only up to about a million numbers.
    :param thin: keep every so many draws in ``posterior`` and ``prior``; predictions and
        log-likelihoods keep all. ``draw`` numbers them alike.
    :param prior_samples: draws from the prior; None, as many; 0, no prior groups.
    :param representation_samples: draws of the representation for each draw of the weights, over
        which a pointwise likelihood is averaged; the time that the export takes grows with it.
    :param seed: of the draws; the relatedness is that of :func:`relatedness` with the same numbers.
    :param config: kept as JSON in the attribute ``config``; None, the model's settings.
    :return: ``arviz.InferenceData``, or ``xarray.DataTree`` where ArviZ is version 1 or newer.
    :raises InputError: for tasks that do not fit the model, or numbers out of range.
    """
    _check(fitted, tasks, num_samples, thin, prior_samples, representation_samples, sites)
    chosen = _chosen(fitted, tasks, sites, len(range(0, num_samples, thin)))
    labelled = tasks.labelled.cpu().numpy()
    coords = _coords(fitted, tasks)
    draws = posterior_draws(
        fitted.vmtl,
        tasks,
        num_samples,
        representation_samples,
        thin,
        {"weights", "representations", "task_distances"} & set(chosen),
        seed,
    )
    number = np.arange(num_samples)
    groups = {
        "posterior": _sites_dataset(
            fitted,
            draws,
            coords,
            number[::thin],
            {
                **_relatedness(fitted, chosen, num_samples, thin, seed),
                **({"task_distances": draws.distances} if draws.distances is not None else {}),
            },
        ),
        "posterior_predictive": _targets(fitted, draws.targets, coords, number),
        "log_likelihood": _per_sample(
            {"targets": draws.log_likelihood}, coords, number, keep=labelled
        ),
    }
    note = leave_one_out(fitted)
    groups["log_likelihood"].attrs.update(note)
    if prior_samples != 0:
        size = num_samples if prior_samples is None else prior_samples
        wanted = {"weights"} & set(chosen)
        prior = prior_draws(fitted.vmtl, tasks, size, thin, wanted, seed)
        relatedness = {name: values for name, values in prior.relatedness.items() if name in chosen}
        number = np.arange(size)
        groups["prior"] = _sites_dataset(fitted, prior, coords, number[::thin], relatedness)
        groups["prior_predictive"] = _targets(fitted, prior.targets, coords, number)
        for name in ("prior", "prior_predictive"):
            groups[name].attrs.update(_prior_note(fitted))
    groups["observed_data"] = _observed(tasks, coords, labelled)
    groups["constant_data"] = _constant(fitted, tasks, coords)
    return to_arviz(groups, _attributes(fitted, num_samples, thin, seed, config) | note)


def _check(
    fitted: FittedVMTL,
    tasks: TaskSet,
    num_samples: int,
    thin: int,
    prior_samples: int | None,
    representation_samples: int,
    sites: Sequence[str] | None,
) -> None:
    least = {
        "num_samples": (num_samples, 1),
        "thin": (thin, 1),
        "prior_samples": (prior_samples, 0),
    }
    least["representation_samples"] = (representation_samples, 1)
    for name, (value, smallest) in least.items():
        if value is not None and value < smallest:
            raise InputError(f"{name} is {value}; expected at least {smallest}.")
    for what, ours, theirs in (
        ("tasks", fitted.names, tasks.names),
        ("classes", fitted.classes, tasks.classes),
        ("input shape", fitted.input_shape, tasks.input_shape),
    ):
        if ours != theirs:
            raise InputError(
                f"the task set has the {what} {theirs}; the model was fitted to {ours}."
            )
    if len(tasks) == 0:
        raise InputError("the task set has no samples; expected some to export.")
    unknown = [name for name in sites or () if name not in VARIABLES]
    if unknown:
        raise InputError(f"there is no site {unknown[0]!r}; expected some of {list(VARIABLES)}.")


def _chosen(
    fitted: FittedVMTL, tasks: TaskSet, sites: Sequence[str] | None, kept: int
) -> tuple[str, ...]:
    if sites is not None:
        return tuple(sites)
    size = kept * len(tasks) * fitted.vmtl.encoder.latent_dim
    small = size <= _SMALL_REPRESENTATIONS
    return tuple(name for name in VARIABLES if small or name != "representations")


# Labels


def _text(names: Sequence[str]) -> _Array:
    return np.array(list(names), dtype=np.str_)


def _coords(fitted: FittedVMTL, tasks: TaskSet) -> dict[str, Any]:
    columns = fitted.vmtl.classifier.event_shape[-1]
    latents = [f"z{number}" for number in range(fitted.vmtl.encoder.latent_dim)]
    names = _text(fitted.names)
    return {
        "task": names,
        "other_task": _text([*fitted.names, BASE]),
        **{dim: _text(rows) for dim, rows in _rows(fitted).items()},
        "latent": _text((latents + ["bias"])[:columns]),
        "representation": _text(latents),
        "sample": np.arange(len(tasks)),
        "sample_task": ("sample", names[tasks.task.cpu().numpy()]),
    }


def _rows(fitted: FittedVMTL) -> dict[str, tuple[str, ...]]:
    """The dimensions that name classes or outputs.

    Of two classes one has a row of weights, and classes in an order have one together.
    """
    if fitted.classes is None:
        return {"output": fitted.outputs or ()}
    single = fitted.classes[1:] if len(fitted.classes) == 2 else ("higher classes",)
    return {"class": fitted.classes, "log_odds_of": single}


def _row_dim(fitted: FittedVMTL) -> str:
    if fitted.classes is None:
        return "output"
    return "class" if fitted.vmtl.likelihood.num_outputs > 1 else "log_odds_of"


def _by_class(fitted: FittedVMTL, weights: _Array) -> _Array:
    """Draws of weights ``[S, T, K, q]`` with a row for each class, where they are of contrasts."""
    rows = torch.as_tensor(weights, device=fitted.vmtl.device)
    found: _Array = fitted.vmtl.likelihood.class_weights(rows).cpu().numpy()
    return found


def _dataset(
    values: Mapping[str, tuple[tuple[str, ...], _Array]], coords: Mapping[str, Any]
) -> xr.Dataset:
    used = {dim for dims, _ in values.values() for dim in dims}
    kept = {name: value for name, value in coords.items() if name in used}
    if "sample" in used:
        kept["sample_task"] = coords["sample_task"]
    return xr.Dataset(dict(values), coords=kept)


def _with_draws(
    values: Mapping[str, tuple[tuple[str, ...], _Array]], coords: Mapping[str, Any], number: _Array
) -> xr.Dataset:
    """A dataset of draws ``[S, ...]``, with the one chain that they form put before them."""
    chained = {
        name: (("chain", "draw", *dims), array[None]) for name, (dims, array) in values.items()
    }
    return _dataset(chained, {**coords, "chain": np.array([0]), "draw": number})


# Groups


def _relatedness(
    fitted: FittedVMTL, chosen: Sequence[str], num_samples: int, thin: int, seed: int
) -> dict[str, _Array]:
    values = {}
    for site in fitted.vmtl.borrowing:
        if f"relatedness_{site}" in chosen:
            values[f"relatedness_{site}"] = relatedness_draws(fitted.vmtl, site, num_samples, seed)[
                ::thin
            ]
        if f"responsibilities_{site}" in chosen:
            draws = responsibility_draws(fitted.vmtl, site, num_samples, seed)
            if draws is not None:
                values[f"responsibilities_{site}"] = draws[::thin]
    return values


def _sites_dataset(
    fitted: FittedVMTL,
    draws: Draws,
    coords: Mapping[str, Any],
    number: _Array,
    between_tasks: Mapping[str, _Array],
) -> xr.Dataset:
    values: dict[str, tuple[tuple[str, ...], _Array]] = {}
    for name, array in between_tasks.items():
        missing = len(fitted.names) + 1 - array.shape[-1]  # one where there is no base
        array = np.pad(array, [(0, 0), (0, 0), (0, missing)], constant_values=np.nan)
        values[name] = (("task", "other_task"), array)
    if draws.weights is not None:
        weights = _by_class(fitted, draws.weights)
        values["weights"] = (("task", _row_dim(fitted), "latent"), weights)
    if draws.representations is not None:
        values["representations"] = (("sample", "representation"), draws.representations)
    dataset = _with_draws(values, coords, number)
    if "task_distances" in dataset:
        dataset["task_distances"].attrs["description"] = (
            "root mean square difference between the weights of two tasks; to base: their root "
            "mean square"
        )
    return dataset


def _per_sample(
    values: Mapping[str, _Array],
    coords: Mapping[str, Any],
    number: _Array,
    dims: tuple[str, ...] = ("sample",),
    keep: npt.NDArray[np.bool_] | None = None,
) -> xr.Dataset:
    dataset = _with_draws({name: (dims, array) for name, array in values.items()}, coords, number)
    return dataset if keep is None else dataset.isel(sample=np.flatnonzero(keep))


def _targets(
    fitted: FittedVMTL, targets: _Array, coords: Mapping[str, Any], number: _Array
) -> xr.Dataset:
    dims = ("sample", _row_dim(fitted))[: targets.ndim - 1]
    dataset = _per_sample({"targets": targets}, coords, number, dims)
    return _name_classes(dataset, fitted.classes)


def _name_classes(dataset: xr.Dataset, classes: tuple[str, ...] | None) -> xr.Dataset:
    if classes is not None:
        dataset["targets"].attrs["classes"] = json.dumps(list(classes))
    return dataset


def _observed(
    tasks: TaskSet, coords: Mapping[str, Any], labelled: npt.NDArray[np.bool_]
) -> xr.Dataset:
    y = tasks.y.cpu().numpy()
    dims = ("sample", "output")[: y.ndim]
    dataset = _dataset({"targets": (dims, y)}, coords).isel(sample=np.flatnonzero(labelled))
    return _name_classes(dataset, tasks.classes)


def _constant(fitted: FittedVMTL, tasks: TaskSet, coords: Mapping[str, Any]) -> xr.Dataset:
    values: dict[str, tuple[tuple[str, ...], _Array]] = {
        "task_index": (("sample",), tasks.task.cpu().numpy()),
        "labelled_samples": (("task",), tasks.sizes.cpu().numpy()),
    }
    if tasks.x.numel() <= _SMALL_INPUTS:
        inputs = tuple(f"input_{number}" for number in range(len(tasks.input_shape)))
        values["inputs"] = (("sample", *inputs), tasks.x.cpu().numpy())
    if tasks.truth is not None:
        values["true_cluster"] = (("task",), tasks.truth.cpu().numpy())
    noise = getattr(fitted.vmtl.likelihood, "noise", None)
    if isinstance(noise, torch.Tensor):
        array = noise.detach().cpu().numpy()[:, 0]
        values["noise_scale"] = (("task", "output"), array)
    return _dataset(values, coords)


# Attributes


def leave_one_out(fitted: FittedVMTL) -> dict[str, Any]:
    """Whether leave-one-out estimates (PSIS-LOO) from the exported draws mean what they say.

    :return: ``loo_valid``, 1 or 0, and ``loo_note``, the reasons in a sentence.
    """
    vmtl = fitted.vmtl
    reasons = []
    tempered = {site: weight for site, weight in vmtl.tempering.items() if weight != 1}
    if vmtl.classifier.is_point:
        reasons.append("the weights are point estimates, of which there are no draws")
        tempered.pop("weights", None)
    if vmtl.classifier.is_conjugate:  # it knows Bayes' rule alone
        tempered.pop("weights", None)
    if vmtl.encoder.is_function:
        tempered.pop("representations", None)
    if tempered:
        weights = ", ".join(f"{site} at {weight:g}" for site, weight in tempered.items())
        reasons.append(f"the posterior is tempered (KL weight of {weights}, not 1)")
    if vmtl.classifier.draws_scales:
        reasons.append("relatedness and scales have seen every sample and stay as they are")
    own_evidence = {"weights"} if vmtl.classifier.is_conjugate else set()
    if set(vmtl.borrowing) - own_evidence:
        reasons.append(
            "tasks lend their posteriors, so that a sample's evidence comes back through the others"
        )
    if any(borrowing_of(vmtl, site).empirical_bayes for site in vmtl.borrowing):
        reasons.append("the relatedness was fitted to every sample and stays as it is")
    if vmtl.encoder.layer() is not None:
        reasons.append("the likelihoods average over the encoder layer, which saw every sample")
    elif any(True for _ in vmtl.encoder.parameters()):
        reasons.append("the encoder was fitted to every sample and stays as it is")
    if reasons:
        return {"loo_valid": 0, "loo_note": "LOO is not valid: " + "; ".join(reasons) + "."}
    return {
        "loo_valid": 1,
        "loo_note": (
            "For training samples only; the draws are from the variational posterior, not the "
            "exact one: importance weights must include log p(w) p(y | w) / q(w), and Pareto k "
            "must stay below 0.7."
        ),
    }


def _prior_note(fitted: FittedVMTL) -> dict[str, str]:
    vmtl = fitted.vmtl
    if vmtl.encoder.has_density:
        representations = "N(0, I)"
    elif vmtl.encoder.layer() is not None:
        representations = "Phi x with Phi from its prior p(Phi)"
    else:
        representations = "the fitted encoder's output, which has no prior"
    weights = "N(0, s^2 I), its scale s inferred" if vmtl.classifier.is_conjugate else "N(0, I)"
    if "weights" in vmtl.borrowing:
        own = vmtl.classifier.is_conjugate
        lent = "what the data of the other tasks say" if own else "the other tasks' posteriors"
        weights = f"pool {vmtl.pool}: {lent}"
    elif vmtl.pool.needs_closed_form:
        weights = f"pool {vmtl.pool}"
    return {"prior_of_weights": weights, "prior_of_representations": representations}


def _attributes(
    fitted: FittedVMTL,
    num_samples: int,
    thin: int,
    seed: int,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    plain = to_plain(fitted.settings) if config is None else dict(config)
    attrs: dict[str, Any] = {
        "created_by": "pyro_vmtl",
        "num_samples": num_samples,
        "thin": thin,
        "seed": seed,
        "config": json.dumps(plain, default=str),
        "kl_weights": json.dumps(fitted.vmtl.tempering),
        "warnings": json.dumps(list(fitted.warnings)),
    }
    for name in ("pyro_vmtl", "pyro-ppl", "torch", "arviz", "xarray", "numpy"):
        attrs[f"{name.replace('-', '_')}_version"] = _version(name)
    attrs["python_version"] = platform.python_version()
    row = kept_epoch(fitted.history)
    if row is not None:
        attrs["elbo"] = float(fitted.history["elbo"].iloc[row])
        attrs["epoch"] = int(fitted.history["epoch"].iloc[row])
    noise = any(is_relaxation(fitted.vmtl, site) for site in fitted.vmtl.borrowing)
    attrs["relatedness_spread"] = "relaxation" if noise else "posterior"
    return attrs


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
