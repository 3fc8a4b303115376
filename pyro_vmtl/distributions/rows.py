"""Gaussians whose entries are correlated within a row, and independent between rows."""

import pyro.distributions as dist
from torch import Tensor

from pyro_vmtl.distributions.gaussians import Gaussians

__all__ = ["RowGaussians"]


class RowGaussians(dist.Independent):
    """Rows of weights, each a multivariate normal: ``RowGaussians(MultivariateNormal(...), 1)``.

    Batch shape ``[*batch]``, event shape ``[K, q]``, for a base of batch shape ``[*batch, K]``.
    """

    @property
    def marginals(self) -> Gaussians:
        """Of every entry by itself, ``[*batch, K, q]``."""
        base = self.base_dist
        return Gaussians(base.loc, base.variance.sqrt())

    @property
    def total_correlation(self) -> Tensor:
        r"""KL of the rows to the product of their marginals, ``[*batch]``, in nats.

        From a factorised Gaussian p, :math:`KL(q \| p)` is that of q's marginals and this.
        """
        root = self.base_dist.scale_tril
        logs = self.marginals.scale.log() - root.diagonal(dim1=-2, dim2=-1).log()
        return logs.sum((-2, -1)).clamp_min(0)
