"""``unet-bundle report``: one page with a bundle's scores, curves and choices."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import say
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import EXIT_OK

logger = logging.getLogger(__name__)

EPILOG = """\
The page is one HTML file that needs nothing else: it can be mailed, printed and read offline, in light and in dark.
It shows what there is of: scores of each class and case, pictures of the worst cases, predicted and true volumes,
curves of the training, and the plan with its reasons. Cases are named as the evaluation names them.

examples:
  unet-bundle report bundle
  unet-bundle report bundle --evaluation scores/ --output hippocampus.html"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "report",
        help="one page with scores, pictures and curves",
        description="Write what is known of a bundle's training and scores as one HTML page.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--evaluation", type=Path, metavar="FOLDER", help="output of evaluate (default: BUNDLE/eval)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: BUNDLE/report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    from unet_bundle.evaluation.page import read_content, report_page
    from unet_bundle.evaluation.page.sections import outdated
    from unet_bundle.io.files import write_text

    if args.evaluation is not None and not args.evaluation.is_dir():
        raise ConfigError(f"{args.evaluation} is no folder: give the output folder of unet-bundle evaluate.")
    output = args.output or args.bundle / "report.html"
    if output.is_dir():
        raise ConfigError(f"{output} is a folder: give the file that is to be written.")
    content = read_content(args.bundle, args.evaluation or args.bundle / "eval")
    write_text(output, report_page(content))
    say(f"{len(content.runs)} runs and {len(content.cases)} scored cases, on one page: {output}")
    if note := outdated(content):
        logger.warning(note)
    return EXIT_OK
