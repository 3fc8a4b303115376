"""What commands print: names and sentences as they are, whatever signs are in them."""

from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["plain_console", "styled"]


def plain_console(**options: Any) -> Console:
    """A console that takes no text for markup: a task may be called ``[/a]`` or ``:smile:``.

    :param options: further ones of :class:`rich.console.Console`.
    """
    return Console(markup=False, emoji=False, **options)


def styled(style: str, label: str, text: str) -> Text:
    """A line that starts with a label in colour.

    :param style: of the label, such as ``"yellow"``.
    """
    return Text.assemble((label, style), f" {text}")
