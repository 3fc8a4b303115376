"""Pictures: every function draws on the axes it is given, or on a new figure, and returns them."""

from pyro_vmtl.inspection.plots.calibration import (
    plot_calibration,
    plot_coverage,
    plot_pit,
    plot_reliability,
)
from pyro_vmtl.inspection.plots.influence import plot_influence
from pyro_vmtl.inspection.plots.relatedness import (
    plot_intervals,
    plot_relatedness,
    plot_relatedness_roc,
    plot_responsibilities,
    plot_stability,
)
from pyro_vmtl.inspection.plots.structure import plot_dendrogram, plot_relatedness_graph
from pyro_vmtl.inspection.plots.training import (
    plot_elbo,
    plot_kl_per_task,
    plot_kls_over_time,
    plot_relatedness_over_time,
    plot_scales,
    plot_schedules,
    plot_training,
    plot_validation,
)
from pyro_vmtl.inspection.plots.uncertainty import (
    plot_bands,
    plot_extreme_samples,
    plot_out_of_distribution,
    plot_risk_coverage,
    plot_uncertainty,
    plot_uncertainty_of_samples,
)

__all__ = [
    "plot_bands",
    "plot_calibration",
    "plot_coverage",
    "plot_dendrogram",
    "plot_elbo",
    "plot_extreme_samples",
    "plot_influence",
    "plot_intervals",
    "plot_kl_per_task",
    "plot_kls_over_time",
    "plot_out_of_distribution",
    "plot_pit",
    "plot_relatedness",
    "plot_relatedness_graph",
    "plot_relatedness_over_time",
    "plot_relatedness_roc",
    "plot_reliability",
    "plot_responsibilities",
    "plot_risk_coverage",
    "plot_scales",
    "plot_schedules",
    "plot_stability",
    "plot_training",
    "plot_uncertainty",
    "plot_uncertainty_of_samples",
    "plot_validation",
]
