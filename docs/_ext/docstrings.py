"""Docstrings as Sphinx reads them: ours are plain sentences, in which a colon or a star means nothing special."""

from __future__ import annotations

import re
from typing import Any

COLON = "\ue000"
"""Stands for a colon while napoleon looks for the types that other projects write before one."""

PLAIN = {"attribute", "data", "property"}
_SINGLE_COLON = re.compile(r"(?<!:):(?!:)")
_STAR = re.compile(r"(?<=[\[(, ])\*(?=\w)")
_SECTION = re.compile(r"^(\w[\w ]*):$")


def before_napoleon(_app: Any, what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Hide colons in what a value is and in what a function returns, and say that ``[1, *shape]`` is no emphasis."""
    returns = False
    for number, line in enumerate(lines):
        section = _SECTION.match(line)
        if section:
            returns = section[1] in {"Returns", "Yields"}
        is_plain = not section and (what in PLAIN or returns)
        lines[number] = _STAR.sub(r"\\*", _SINGLE_COLON.sub(COLON, line) if is_plain else line)


def after_napoleon(_app: Any, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Bring the colons back."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Connect both, before and after napoleon."""
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
