"""Everything lives where the module and the batch live: on the meta device nothing else mixes in.

The default device stays the CPU, so a tensor made without a thought of its device is caught.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vmtl.data import Batch
from pyro_vmtl.model import MLP, VMTL, Likelihood, Settings, assemble
from tests.model.conftest import Case


class OneDevice(TorchDispatchMode):
    """Raises where an operation mixes meta tensors with CPU tensors that are not scalars."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_meta for x in tensors):
            for x in tensors:
                if not x.is_meta and x.dim() > 0:
                    raise AssertionError(f"{func} got a {x.device} tensor of shape {x.shape}")
        return func(*args, **(kwargs or {}))
