"""The command line `unet-bundle`: one file a verb, each thin over the configs the MONAI CLI runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from unet_bundle import __version__
from unet_bundle.cli import check, demo, evaluate, export, import_nnunet, inspect, label, plan, predict, report, train
from unet_bundle.cli.workflow import split_overrides
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, our_error, storage_words

VERBS = (check, plan, train, evaluate, report, predict, export, inspect, import_nnunet, label, demo)

DESCRIPTION = """\
Point it at labelled scans and get back a standard MONAI bundle with a U-Net configured for them,
trained, scored on the scans' own grids, and ready for the MONAI CLI and MONAI Label.

  unet-bundle check DATASET                     read every scan, say what is wrong
  unet-bundle plan DATASET --output BUNDLE      look at the scans, write the bundle
  unet-bundle train BUNDLE DATASET              train it on the folds but one
  unet-bundle evaluate BUNDLE DATASET           score it on that one
  unet-bundle report BUNDLE                     its scores, pictures and curves on one page
  unet-bundle predict BUNDLE SCANS OUTPUT       segment new scans
  unet-bundle export BUNDLE --to onnx           its network as a file for another runtime
  unet-bundle inspect SCANS                     what a DICOM study holds, and what would be read
  unet-bundle label --studies SCANS             serve a bundle to annotators (3D Slicer, OHIF, MITK)
  unet-bundle import-nnunet MODEL --output BUNDLE   make a bundle of a trained model of nnU-Net

Never seen it? `unet-bundle demo` makes its own scans and does all of it in a few minutes.
Research software: not a medical device."""

EXIT_CODES = """\
exit codes: 0 done, 1 a scan was refused or a run failed, 2 wrong usage or configuration, 130 interrupted,
143 ended by SIGTERM"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="unet-bundle",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"unet-bundle {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs)

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    show_traceback = False
    try:
        known = list(sys.argv[1:] if arguments is None else arguments)
        overrides: list[str] = []
        place = next((i for i, word in enumerate(known) if word in verbs.choices), None)
        if place is not None and verbs.choices[known[place]].get_default("takes_overrides"):
            rest, overrides = split_overrides(known[place + 1 :], verbs.choices[known[place]])
            known = [*known[: place + 1], *rest]
        parsed = parser.parse_args(known)
        parsed.overrides, show_traceback = overrides, parsed.traceback
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        _say("Interrupted.")
        return EXIT_INTERRUPTED
    except Exception as error:
        ours = our_error(error)
        if ours is None and isinstance(error, OSError):
            ours = ConfigError(storage_words(error))
        if show_traceback or ours is None:
            raise
        # What the system refuses (a full disk, a folder nobody may write to) is a person's to mend too.
        _say(f"Error: {ours}")
        return EXIT_USAGE if isinstance(ours, ConfigError) else EXIT_CASES_FAILED


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")
