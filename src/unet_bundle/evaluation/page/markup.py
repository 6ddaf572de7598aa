"""Pieces of HTML: everything that comes from files is escaped here, and here alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

NUMBER = re.compile(r"[-+]?[\d.]+( (%|min|h|s|± [\d.]+))?|n/a")
"""A cell that stands at the right of its column, as numbers do."""


def section(identifier: str, heading: str, *content: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return f'<section id="{identifier}"><h2>{escape(heading)}</h2>{"".join(content)}</section>'


def paragraph(text: str, kind: str = "") -> str:
    """Plain text."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    bars: Sequence[int] = (),
    strong_last: bool = False,
    kind: str = "",
) -> str:
    """A table whose first column names its rows.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: cells as text.
        bars: columns with shares from 0 to 1, which get a bar behind the number.
        strong_last: whether the last row is a sum of the others.
        kind: "facts" where the cells are sentences.
    """
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for number, (name, *cells) in enumerate(rows):
        total = "total" if strong_last and number == len(rows) - 1 else ""
        inner = "".join(_cell(cell, bar=at in bars) for at, cell in enumerate(cells, start=1))
        lines.append(f'<tr{_class(total)}><th scope="row">{escape(name)}</th>{inner}</tr>')
    return (
        f'<div class="wide" tabindex="0"><table{_class(kind)}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(text: str, *, bar: bool) -> str:
    if bar and re.fullmatch(r"[01]\.\d+", text):
        return f'<td class="n bar" style="--v:{float(text):.3f}">{text}</td>'
    kind = "n" if NUMBER.fullmatch(text) else ""
    return f"<td{_class(kind)}>{escape(text)}</td>"


def figure(content: str, caption: str, kind: str = "") -> str:
    """A chart or a picture with a line below it."""
    return f"<figure{_class(kind)}>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def picture(path: Path, alternative: str) -> str:
    """A PNG file inside the page.

    Args:
        path: of the file.
        alternative: what is seen, for those who do not see it.
    """
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}">'


def legend(names: Sequence[tuple[str, str]]) -> str:
    """Names with their colours.

    Args:
        names: each with the style that sets its colour, see `charts.Series.style`.
    """
    items = "".join(f'<li style="{escape(style)}">{escape(name)}</li>' for name, style in names)
    return f'<ul class="legend">{items}</ul>'


def cards(entries: Sequence[tuple[str, str]]) -> str:
    """The figures that count, large: value and what it is."""
    items = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in entries)
    return f'<dl class="cards">{items}</dl>'


def markdown(text: str) -> str:
    """The Markdown of a bundle's docs/README.md: paragraphs, lists and tables, with code and bold in them."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            head, _, *rows = [_cells(line) for line in lines]
            titles = "".join(f'<th scope="col">{inline(cell)}</th>' for cell in head)
            body = "".join(
                f'<tr><th scope="row">{inline(row[0])}</th>{"".join(f"<td>{inline(c)}</td>" for c in row[1:])}</tr>'
                for row in rows
            )
            blocks.append(
                f'<div class="wide" tabindex="0"><table class="text"><thead><tr>{titles}</tr></thead>'
                f"<tbody>{body}</tbody></table></div>"
            )
        elif all(line.startswith("- ") for line in lines):
            blocks.append(f"<ul>{''.join(f'<li>{inline(line[2:])}</li>' for line in lines)}</ul>")
        elif block.startswith("    "):
            blocks.append(f"<pre>{escape(block)}</pre>")
        else:
            blocks.append(f"<p>{inline(' '.join(lines))}</p>")
    return "".join(blocks)


def inline(text: str) -> str:
    """A line of Markdown: code, bold and links in angle brackets."""
    parts = []
    for number, piece in enumerate(text.split("`")):
        if number % 2:
            parts.append(f"<code>{escape(piece)}</code>")
            continue
        words = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(piece))
        parts.append(re.sub(r"&lt;(https://[^\s&]+)&gt;", r'<a href="\1">\1</a>', words))
    return "".join(parts)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
