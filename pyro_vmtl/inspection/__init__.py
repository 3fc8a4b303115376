"""Looking inside a fitted model: relatedness, uncertainty, training, and the export to ArviZ."""

from pyro_vmtl.inspection.arviz_adapter import group_names, read_netcdf, save_netcdf
from pyro_vmtl.inspection.export import to_inference_data
from pyro_vmtl.inspection.plots import (
    plot_elbo,
    plot_relatedness,
    plot_training,
    plot_validation,
)
from pyro_vmtl.inspection.relatedness import (
    independence,
    relatedness,
    relatedness_auc,
    relatedness_matrix,
)

__all__ = [
    "group_names",
    "independence",
    "plot_elbo",
    "plot_relatedness",
    "plot_training",
    "plot_validation",
    "read_netcdf",
    "relatedness",
    "relatedness_auc",
    "relatedness_matrix",
    "save_netcdf",
    "to_inference_data",
]
