"""One face for ArviZ before and after its version 1: InferenceData there, xarray's DataTree here.

Everything else in this room speaks of groups, each an ``xarray.Dataset``, and comes here to have
them put together, written, or taken apart.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import h5netcdf
import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import H5NetCDFStore

from pyro_vmtl.errors import InputError

__all__ = [
    "attributes",
    "group",
    "group_names",
    "pareto_smoothed",
    "read_netcdf",
    "save_netcdf",
    "to_arviz",
]

_ENGINE: Literal["h5netcdf"] = "h5netcdf"


def _arviz() -> ModuleType:
    # Importing ArviZ takes seconds, so only what needs it does; 0.23 greets with a FutureWarning.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def _has_inference_data() -> bool:
    # By the number: from 1 on the name is still there, and means a DataTree.
    return int(version("arviz").split(".")[0]) < 1


def to_arviz(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Any:
    """An ``arviz.InferenceData`` (ArviZ before 1) or an ``xarray.DataTree`` (from 1 on).

    :param groups: ArviZ's groups, such as ``posterior``, by name.
    :param attrs: of the whole.
    """
    if _has_inference_data():
        return _arviz().InferenceData(attrs=dict(attrs), **groups)
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs = dict(attrs)
    return tree


def group_names(data: Any) -> list[str]:
    """The names of the groups that an export holds."""
    if isinstance(data, xr.DataTree):
        return list(data.children)
    return list(data.groups())


def group(data: Any, name: str) -> xr.Dataset:
    """One group of an export.

    :raises InputError: if the export has no such group.
    """
    if name not in group_names(data):
        raise InputError(f"there is no group {name!r}; expected one of {group_names(data)}.")
    if isinstance(data, xr.DataTree):
        return data.children[name].to_dataset(inherit=False)
    dataset: xr.Dataset = data[name]
    return dataset


def attributes(data: Any) -> dict[str, Any]:
    """The attributes of the whole export."""
    return dict(data.attrs)


def save_netcdf(data: Any, path: str | Path) -> Path:
    """Write an export as netCDF, compressed; what stood there before stays whole until then.

    :param data: of :func:`pyro_vmtl.inspection.to_inference_data`.
    """
    path = Path(path)
    side = path.with_name(f".{path.name}.part")
    try:
        side.write_bytes(_packed(data))
        side.replace(path)
    finally:
        side.unlink(missing_ok=True)
    return path


def _packed(data: Any) -> memoryview:
    """The content of the file, made in memory: HDF5 may crash where a disk is full."""
    content = io.BytesIO()
    with h5netcdf.File(content, "w") as root:
        for name, value in attributes(data).items():
            root.attrs[name] = value
        for name in group_names(data):
            dataset = group(data, name)
            numeric = [v for v, values in dataset.variables.items() if values.dtype.kind in "iufb"]
            encoding = {variable: {"zlib": True} for variable in numeric}
            dataset.dump_to_store(H5NetCDFStore(root.create_group(name)), encoding=encoding)
    return content.getbuffer()


def read_netcdf(path: str | Path) -> Any:
    """Read what :func:`save_netcdf` wrote, into memory.

    :raises InputError: if there is no such file, or it is not one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected a netCDF file of an export.")
    try:
        if _has_inference_data():
            data = _arviz().from_netcdf(str(path), engine=_ENGINE)
            return to_arviz({name: data[name].load() for name in data.groups()}, data.attrs)
        with xr.open_datatree(path, engine=_ENGINE) as tree:
            return tree.load()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected a netCDF file of an export."
        ) from error


def pareto_smoothed(
    log_ratios: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Importance weights whose tail is smoothed by a generalised Pareto distribution.

    Pareto smoothed importance sampling (Vehtari, Simpson, Gelman, Yao, Gabry 2024). ArviZ before 1
    takes the log ratios themselves, from 1 on their negatives (the log-likelihoods left out).

    :param log_ratios: of draws, up to a constant of every row, ``[R, S]``, finite.
    :return: log weights that sum to 1 in every row, ``[R, S]``, and Pareto's k, ``[R]``: above 0.7
        they are not to be trusted. Ratios that are all equal need no smoothing: k is then -inf.
    """
    log_weights = np.full(log_ratios.shape, -np.log(log_ratios.shape[-1]))
    k = np.full(len(log_ratios), -np.inf)
    varied = np.flatnonzero(np.ptp(log_ratios, axis=-1) > 0)  # without a tail there is no fit
    if not len(varied):
        return log_weights, k
    if _has_inference_data():
        smoothed = _arviz().psislw(log_ratios[varied])
    else:
        arrays = importlib.import_module("arviz_stats.base").array_stats
        smoothed = arrays.psislw(-log_ratios[varied])
    log_weights[varied], k[varied] = (np.asarray(part) for part in smoothed)
    return log_weights, k
