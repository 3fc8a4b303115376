"""Optional packages: imported where they are needed, missed in one sentence."""

from __future__ import annotations

import importlib
from typing import Any

from pyro_vmtl.errors import InputError

__all__ = ["import_torchvision"]


def import_torchvision(submodule: str, purpose: str) -> Any:
    """``torchvision.<submodule>``.

    :param purpose: what it is needed for, the subject of the sentence.
    :raises InputError: if torchvision is not installed, naming the extra that installs it.
    """
    try:
        return importlib.import_module(f"torchvision.{submodule}")
    except ImportError as error:
        raise InputError(
            f"{purpose} needs torchvision, which cannot be imported ({error}); "
            "expected the extra 'images' to be installed: pip install 'pyro_vmtl[images]'."
        ) from error
