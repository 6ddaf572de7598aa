"""A bundle's report: one HTML page that needs nothing else, not even JavaScript."""

from __future__ import annotations

from html import escape
from pathlib import Path

from unet_bundle.evaluation.page import markup, scoring, sections
from unet_bundle.evaluation.page.content import Content, read_content

__all__ = ["read_content", "report_page"]


def report_page(content: Content) -> str:
    """The page; pure, the same bytes for the same content.

    Args:
        content: of the bundle and its evaluation, see `read_content`.

    Returns:
        HTML, complete in itself: its style sheet and its pictures are in it.
    """
    title = str(content.metadata.get("name") or "Segmentation bundle")
    parts = {
        "Summary": sections.summary(content),
        "Scores": scoring.scores(content),
        "Worst cases": scoring.worst(content),
        scoring.size_heading(content): scoring.sizes(content),
        "Training": sections.training(content),
        "All cases": scoring.all_cases(content),
        "Plan": sections.plan(content),
        "About": sections.about(content),
    }
    shown = {name: html for name, html in parts.items() if html}
    links = "".join(f'<a href="#{_identifier(name)}">{escape(name)}</a>' for name in shown)
    body = "".join(markup.section(_identifier(name), name, html) for name, html in shown.items())
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    version = escape(str(content.metadata.get("version", "")))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} {version}: report</title><style>\n{style}</style></head>\n<body>"
        f'<header><p class="over">Report of a segmentation bundle</p><h1>{escape(title)} <small>{version}</small></h1>'
        f'{sections.lead(content)}<nav aria-label="Parts of the report">{links}</nav></header>\n'
        f"<main>{body}</main>\n</body></html>\n"
    )


def _identifier(name: str) -> str:
    return name.lower().replace(" ", "-")
