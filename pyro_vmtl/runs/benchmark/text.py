"""Tables as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Entry", "TextTable", "latex", "latex_escape", "markdown", "markdown_escape", "narrow"]


@dataclass(frozen=True)
class Entry:
    """What stands in a table.

    :ivar text: plain, with the signs that a person reads.
    :ivar style: ``bold``, ``italic`` or empty.
    """

    text: str
    style: Literal["", "bold", "italic"] = ""


@dataclass(frozen=True)
class TextTable:
    """A table.

    :ivar title: what it shows.
    :ivar head: names of the columns; the first names the rows.
    :ivar rows: an entry a column.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


def narrow(table: TextTable, most: int) -> list[TextTable]:
    """The same table in parts for a page: each has the names of the rows and some columns.

    :param table: to be parted.
    :param most: columns of a part beside the names.
    """
    columns = len(table.head) - 1
    parts = max(1, -(-columns // most))
    size = max(1, -(-columns // parts))
    chosen = [
        (0, *range(start, min(start + size, columns + 1))) for start in range(1, columns + 1, size)
    ]
    return [
        TextTable(
            table.title if parts == 1 else f"{table.title} ({number} of {parts})",
            tuple(table.head[column] for column in part),
            tuple(tuple(row[column] for column in part) for row in table.rows),
        )
        for number, part in enumerate(chosen, 1)
    ]


def markdown_escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also inside a table."""
    return re.sub(r"([\\`*_{}\[\]<>|~$#&])", r"\\\1", " ".join(text.split()))


def markdown(table: TextTable, level: int = 3) -> str:
    """A heading and a table.

    :param table: what to write.
    :param level: of the heading.
    """
    marks = {"": "", "bold": "**", "italic": "*"}
    lines = [
        f"{'#' * level} {markdown_escape(table.title)}",
        "",
        _row([markdown_escape(name) for name in table.head]),
        _row(["---"] + ["---:"] * (len(table.head) - 1)),
    ]
    lines += [
        _row(
            [
                f"{marks[entry.style]}{markdown_escape(entry.text)}{marks[entry.style]}"
                for entry in row
            ]
        )
        for row in table.rows
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # Signs that a plain pdflatex has no letter for.
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "–": "--",
}


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def latex(table: TextTable, label: str) -> str:
    """A ``table`` with rules of booktabs, shrunk where it is wider than the page (graphicx).

    :param table: what to write.
    :param label: to refer to it by.
    """
    marks = {"": "{}", "bold": r"\textbf{{{}}}", "italic": r"\textit{{{}}}"}
    head = _line([latex_escape(name) for name in table.head])
    body = [
        _line([marks[entry.style].format(latex_escape(entry.text)) for entry in row])
        for row in table.rows
    ]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{latex_escape(table.title)}}}",
            rf"\label{{{re.sub(r'[^A-Za-z0-9:.-]+', '-', label)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
