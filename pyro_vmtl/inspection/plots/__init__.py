"""Pictures: every function draws on the axes it is given, or on a new figure, and returns them."""

from pyro_vmtl.inspection.plots.relatedness import plot_relatedness
from pyro_vmtl.inspection.plots.training import plot_elbo, plot_training, plot_validation

__all__ = ["plot_elbo", "plot_relatedness", "plot_training", "plot_validation"]
