"""``unet-bundle check``: read every labelled scan and say what is wrong with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_bundle.cli.workflow import check_folder, say
from unet_bundle.errors import InputError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK

if TYPE_CHECKING:
    from unet_bundle.planning.task_card import TaskCard

EPILOG = """\
DATASET is a folder of labelled scans; its layout is found by looking: the Medical Segmentation Decathlon's
(dataset.json, imagesTr/, labelsTr/), nnU-Net's raw data (case_0000.nii.gz, ...), images/ and labels/ with files of the
same names, or BIDS derivatives. For any other, a task card states patterns:

  image_files: "*/{case}.nii.gz"             or a list, one for each channel
  label_files: "*/{case}_seg.nii.gz"

An error would spoil training or stop it, a warning may, a note tells what was accepted. `plan` checks first, too.
exit codes: 0 no error, 1 an error, 2 wrong usage or card

examples:
  unet-bundle check Task04_Hippocampus
  unet-bundle check scans --card card.yaml --json > findings.json"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "check",
        help="read every labelled scan and say what is wrong",
        description="Read every labelled scan of a data set and say, a line each, what would spoil training.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of labelled scans")
    parser.add_argument("--card", type=Path, help="YAML task card: labels, modality, subjects, patterns of files")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="threads that read (default: processors, up to 4)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check a data set."""
    from unet_bundle.io import read_description
    from unet_bundle.planning.check import card_to_check, check_dataset

    check_folder(args.dataset)
    card = card_to_check(args.card, read_description(args.dataset))
    report = check_dataset(args.dataset, card, args.workers)
    lines = [json.dumps(report.as_dict(), indent=2)] if args.json else [*report.table(), report.summary()]
    for line in lines:
        say(line)
    return EXIT_CASES_FAILED if report.would_spoil_training else EXIT_OK


def check_before_planning(dataset: Path, card: TaskCard) -> None:
    """Check a data set and say what was found.

    Raises:
        InputError: something would spoil training.
    """
    from unet_bundle.planning.check import check_dataset

    report = check_dataset(dataset, card)
    for line in [*report.table(), report.summary()]:
        say(line)
    if report.would_spoil_training:
        errors = report.count("error")
        raise InputError(
            f"{errors} error{'' if errors == 1 else 's'} in {report.dataset} would spoil training: "
            "mend what is listed above, then plan again"
        )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number
