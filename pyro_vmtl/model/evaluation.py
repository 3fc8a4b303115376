"""Looking at a model in evaluation mode, and leaving it as it was."""

import contextlib
from collections.abc import Iterator

from torch import nn

__all__ = ["evaluating"]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; afterwards every part of it is in the mode it had.

    A part that is in evaluation mode while the rest trains (a pretrained network whose batch norm
    is to stay as it is) stays so.

    :param module: a model, or a part of one.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:  # a part comes after what it is a part of
            if part.training != training:
                part.train(training)
