"""``unet-bundle predict``: segment new scans."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unet_bundle.cli.cases import check_model, make_folder, run_one_by_one, say_refused
from unet_bundle.cli.workflow import (
    OVERRIDES_HELP,
    add_bundle,
    load_workflow,
    monai_line,
    parse_overrides,
    read_config,
    say,
)
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK

FILES = ("inference.json",)

EPILOG = f"""\
INPUT is a scan or a folder of scans. Each gives one label map <scan>_seg.nii.gz with exactly the scan's grid
(of a PNG or TIFF picture a <picture>_seg.png);
volumes.csv holds the volume of each structure in ml (of planes the area in mm2).
What is already there is skipped. A scan that is refused is named at the end; the others are done, the exit code is 1.
{OVERRIDES_HELP}

examples:
  unet-bundle predict bundle scans/ segmentations/
  unet-bundle predict bundle scans/case_17.nii.gz segmentations/ --overwrite --precision bfloat16"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "predict",
        help="segment a scan or a folder of scans",
        description="Segment new scans with a trained bundle.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_bundle(parser)
    parser.add_argument("input", type=Path, metavar="INPUT", help="a scan, or a folder of scans")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the label maps")
    parser.add_argument("--overwrite", action="store_true", help="segment again what is already there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment scans."""
    from unet_bundle.io import find_images, output_name

    if not args.input.exists():
        raise ConfigError(f"{args.input} does not exist: give a scan or a folder of scans.")
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file: give a folder for the label maps.")
    if args.output.resolve() == (args.input if args.input.is_dir() else args.input.parent).resolve():
        raise ConfigError(f"{args.output} holds the scans: label maps among them would be taken for scans next time.")
    own = {"dataset_dir": str(args.input), "output_dir": str(args.output)}
    overrides = parse_overrides(args.overrides, own)
    channels = read_config(args.bundle, FILES[0])["dataset"]["data"].get("channels")
    images = find_images(args.input, channels) if args.input.is_dir() else [{"image": str(args.input)}]
    todo = [i for i in images if args.overwrite or not (args.output / output_name(i["image"])).exists()]
    say(f"MONAI: {monai_line(args.bundle, FILES, overrides)}")
    workflow = load_workflow(args.bundle, FILES, {**overrides, "dataset::data": todo}, "infer")
    check_model(workflow)
    if len(todo) < len(images):
        say(f"{len(images) - len(todo)} of {len(images)} are already there and skipped (--overwrite does them again).")
    if args.dry_run:
        say(f"{len(todo)} scans would be segmented.")
        return EXIT_OK
    make_folder(args.output)
    refused = run_one_by_one(workflow)
    workflow.finalize()
    say(f"{len(todo) - len(refused)} of {len(todo)} scans segmented, in {args.output}")
    say_refused(refused)
    return EXIT_CASES_FAILED if refused else EXIT_OK
