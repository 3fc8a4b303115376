"""Samples as seen through other tasks: attention over their training inputs (VMTL, section 3.2)."""

from __future__ import annotations

import os

import torch

from pyro_vmtl.data.batch import Views
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.errors import InputError

__all__ = ["attention_views"]


@torch.no_grad()
def attention_views(tasks: TaskSet) -> Views:
    r"""The view of x_tn through task i: an attention average of task i's training inputs.

    .. math::
        \tilde x_{tn}^{(i)} = \sum_m \mathrm{softmax}_m
            \Big(\frac{x_{tn}^\top x_{im}}{\|x_{tn}\|\,\|x_{im}\|}\Big)\, x_{im}

    over the samples m of task i with the same class (in a regression: over all of them). A class
    that task i lacks leaves no view through it. It looks at targets: a training device, computed
    once for a data set. It holds T inputs a sample, 4 N T bytes for each number of an input: of
    10,000 samples of 4096 features in 6 tasks 1 GB.

    :param tasks: training samples; those without a label have no views.
    :raises InputError: where the views of all samples are more than the machine has memory.
    """
    _check_memory(tasks)
    x = tasks.x.flatten(1).float()
    norms = x.norm(dim=1, keepdim=True)
    directions = x / torch.where(norms > 0, norms, torch.ones_like(norms))
    views = x.unsqueeze(1).repeat(1, tasks.num_tasks, 1)
    present = torch.zeros(len(tasks), tasks.num_tasks, dtype=torch.bool, device=x.device)
    group = tasks.y if tasks.is_classification else torch.zeros_like(tasks.task)
    for value in group[tasks.labelled].unique().tolist():
        members = (tasks.labelled & (group == value)).nonzero().squeeze(-1)
        for i in tasks.task[members].unique().tolist():
            seen = members[tasks.task[members] == i]
            attention = (directions[members] @ directions[seen].mT).softmax(-1)
            views[members, i] = attention @ x[seen]
            present[members, i] = True
    return Views(views.reshape(len(tasks), tasks.num_tasks, *tasks.input_shape), present)


def _check_memory(tasks: TaskSet) -> None:
    needed, there = 4 * tasks.x.numel() * tasks.num_tasks, _memory()
    if tasks.x.device.type == "cpu" and there is not None and needed > there:
        raise InputError(
            f"the views of {len(tasks)} samples of {list(tasks.input_shape)} through "
            f"{tasks.num_tasks} tasks take {needed / 1e9:.1f} GB, and this machine has "
            f"{there / 1e9:.1f} GB of memory; expected fewer samples, smaller inputs, or "
            "representations that are not borrowed (pool@representation_pool=standard)"
        )


def _memory() -> int | None:
    """Bytes of this machine, or None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
