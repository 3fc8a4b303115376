"""Numbers that tell early that a fit goes wrong, and the sentences that say what to change."""

import torch

from pyro_vmtl.data import Batch
from pyro_vmtl.model import VMTL

__all__ = ["INFORMATION_THRESHOLD", "diagnose", "explain"]

INFORMATION_THRESHOLD = 0.1
"""Nats per sample under which representations are reported as carrying no information."""


@torch.no_grad()
def diagnose(vmtl: VMTL, batch: Batch) -> dict[str, float]:
    """Diagnostics of the posteriors on a batch.

    ``weights_scale`` and ``weights_loc``: mean posterior standard deviation and mean absolute mean
    of the weights. For a stochastic encoder ``representations_scale``, the mean posterior standard
    deviation of z, and ``representations_information`` in nats per sample: half the sum over latent
    dimensions of log(1 + variance of the means / mean variance), the capacity of a Gaussian channel
    with that signal and noise, an upper bound on what z can say about x.
    """
    loc, scale = vmtl.classifier.gaussians()
    numbers = {"weights_scale": scale.mean().item(), "weights_loc": loc.abs().mean().item()}
    training = vmtl.training
    vmtl.eval()
    law = vmtl.encoder(batch.x)
    vmtl.train(training)
    base = getattr(law, "base_dist", None)
    if isinstance(base, torch.distributions.Normal) and int(batch.mask.sum()) > 1:
        means, variances = base.loc[batch.mask], base.scale[batch.mask].square()
        signal = means.var(0, correction=0) / variances.mean(0)
        numbers["representations_scale"] = variances.sqrt().mean().item()
        numbers["representations_information"] = 0.5 * signal.log1p().sum().item()
    return numbers


def explain(numbers: dict[str, float]) -> list[str]:
    """Sentences for a person, one for each number past its documented threshold."""
    sentences = []
    information = numbers.get("representations_information")
    if information is not None and information < INFORMATION_THRESHOLD:
        sentences.append(
            f"The representations carry {information:.3f} nats of information per sample, under "
            f"{INFORMATION_THRESHOLD}: their posterior has collapsed to the prior and predictions "
            "ignore the inputs. Lower the KL weight of representations "
            "(training.kl_representations.value=0.001), or use an encoder whose KL is paid once "
            "(model/encoder=bayesian_linear)."
        )
    return sentences
