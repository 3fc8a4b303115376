"""Tables as Markdown and LaTeX say what they are given, whatever is in it."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pyro_vmtl.runs.benchmark.text import (
    Entry,
    TextTable,
    latex,
    latex_escape,
    markdown,
    markdown_escape,
    narrow,
)

NASTY = ["a_b_c", "*x*", "50% & more", "a|b", "{$x^2$}", "C:\\tmp", "<b>", "#1 ~ [x](y)", "`q`"]
TABLE = TextTable(
    "a_title & more",
    ("method", "n|ll"),
    (
        (Entry("one_two"), Entry("0.1 ± 0.2", "bold")),
        (Entry("three"), Entry("−0.5", "italic")),
        (Entry("four"), Entry("–")),
    ),
)


def _shown(text: str) -> list[list[str]]:
    """The cells of the first table of a page, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if token.type == "inline" and before.type in ("th_open", "td_open"):
            rows[-1].append("".join(_text(child) for child in token.children or []))
    return rows


def _text(token: Token) -> str:
    assert token.type in (
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "em_open",
        "em_close",
    ), f"{token.type} is no plain text"
    return token.content


@given(
    st.sampled_from(NASTY) | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))
)
def test_markdown_shows_what_it_is_given(text: str) -> None:
    table = TextTable("title", ("method", text), ((Entry(text), Entry(text)),))
    assert _shown(markdown(table)) == [["method", text], [text, text]]


def test_markdown_marks_the_best() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(TABLE))
    marked = {
        child.content: before.type
        for token in tokens
        for before, child in zip(token.children or [], (token.children or [])[1:], strict=False)
        if child.type == "text" and before.type.endswith("_open")
    }
    assert marked == {"0.1 ± 0.2": "strong_open", "−0.5": "em_open"}
    assert _shown(markdown(TABLE))[1:] == [
        ["one_two", "0.1 ± 0.2"],
        ["three", "−0.5"],
        ["four", "–"],
    ]


def test_a_line_stays_one_line() -> None:
    assert markdown_escape("a\n| b") == r"a \| b"
    assert latex_escape("a\n\nb") == "a b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("50% & $5 #1", r"50\% \& \$5 \#1"),
        ("{x}", r"\{x\}"),
        ("\\", r"\textbackslash{}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("0.1 ± 0.2", r"0.1 $\pm$ 0.2"),
        ("−1", "$-$1"),
        ("N(0, I)", "N(0, I)"),
    ],
)
def test_latex_prints_what_it_is_given(text: str, expected: str) -> None:
    assert latex_escape(text) == expected


@given(st.text(st.sampled_from("\\{}$&#%_~^|<>ab ")))
def test_nothing_that_latex_would_act_on_is_left(text: str) -> None:
    known = r"\\text[a-z]+\{\}|\\[{}$&#%_]"
    assert not re.search(r"[\\{}$&#%_~^|<>]", re.sub(known, "", latex_escape(text)))


def test_a_latex_table_has_rules_and_marks() -> None:
    text = latex(TABLE, "tab:a_1")
    assert [line for line in text.splitlines() if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert r"one\_two & \textbf{0.1 $\pm$ 0.2} \\" in text
    assert r"three & \textit{$-$0.5} \\" in text
    assert r"\caption{a\_title \& more}" in text
    assert r"\label{tab:a-1}" in text
    assert r"\begin{tabular}{lr}" in text
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begun == ended[::-1]


@given(st.integers(0, 20), st.integers(1, 8))
def test_a_parted_table_has_every_column_once(columns: int, most: int) -> None:
    head = ("name", *(f"c{i}" for i in range(columns)))
    table = TextTable("t", head, (tuple(Entry(name) for name in head),))
    parts = narrow(table, most)
    assert [name for part in parts for name in part.head[1:]] == list(head[1:])
    for part in parts:
        assert part.head[0] == "name"
        assert len(part.head) <= most + 1
        assert [entry.text for entry in part.rows[0]] == list(part.head)
    if len(parts) == 1:
        assert parts == [table]
