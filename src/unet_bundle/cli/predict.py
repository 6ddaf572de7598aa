"""``unet-bundle predict``: segment new scans."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet_bundle.cli import pacs
from unet_bundle.cli.cases import check_model, make_folder, run_one_by_one, say_refused
from unet_bundle.cli.study import find_work, is_done, reading_options
from unet_bundle.cli.workflow import (
    OVERRIDES_HELP,
    add_bundle,
    load_workflow,
    monai_line,
    parse_overrides,
    read_config,
    say,
)
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK

FILES = ("inference.json",)

FORMATS = (
    *("auto", "nifti", "nrrd", "seg.nrrd"),
    *("dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct"),
)
"""`unet_bundle.io.FORMATS`, said here too, since a line of help must not wait for MONAI."""

EPILOG = f"""\
INPUT is a scan or a folder of scans. Each gives one label map <scan>_seg.nii.gz with exactly the scan's grid
(of a PNG or TIFF picture a <picture>_seg.png, of a DICOM series a DICOM SEG <series UID>_seg.dcm; see --format);
volumes.csv holds the volume of each structure in ml (of planes the area in mm2).
Of a DICOM study (folder, .zip) every series is segmented that fits the bundle's modality, and named by its UID.
{pacs.EPILOG}
What is already there is skipped. A scan that is refused is named at the end; the others are done, the exit code is 1.
{OVERRIDES_HELP}

examples:
  unet-bundle predict bundle scans/ segmentations/
  unet-bundle predict bundle scans/case_17.nii.gz segmentations/ --overwrite --precision bfloat16
  unet-bundle predict bundle study/ segmentations/ --dicom::on_tilt resample
  unet-bundle predict bundle segmentations/ --dicomweb https://pacs/dicom-web --study 1.2.840.1 --store"""


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
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help="a scan, a folder of scans, a DICOM study")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the label maps")
    parser.add_argument("--format", metavar="FORMAT", help=f"of the results: {', '.join(FORMATS)}")
    parser.add_argument("--overwrite", action="store_true", help="segment again what is already there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    pacs.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment scans."""
    source = pacs.pacs_of(args)
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file: give a folder for the label maps.")
    if source is None:
        return _segment(args)
    config = read_config(args.bundle, FILES[0])
    overrides = parse_overrides(args.overrides, _own(args))
    if args.store:
        pacs.check_storable(_format(config, overrides))
    with pacs.fetched(source, reading_options(config, overrides).get("modality")) as (folder, left_out):
        args.input = folder
        return _segment(args, source, left_out)


def _segment(args: argparse.Namespace, source: pacs.Pacs | None = None, unfetched: Sequence[str] = ()) -> int:
    if not args.input.exists():
        raise ConfigError(f"{args.input} does not exist: give a scan or a folder of scans.")
    if args.output.resolve() == (args.input if args.input.is_dir() else args.input.parent).resolve():
        raise ConfigError(f"{args.output} holds the scans: label maps among them would be taken for scans next time.")
    own = {"dataset_dir": str(args.input), "output_dir": str(args.output)}
    overrides = parse_overrides(args.overrides, {**own, **_own(args)})
    config = read_config(args.bundle, FILES[0])
    work = find_work(args.input, config, overrides)
    if not work.items:
        _say_left_out([*unfetched, *work.left_out])
        raise InputError("no series of the study fits the bundle: the reasons stand above.")
    images, name_format = work.items, _format(config, overrides)
    todo = [i for i in images if args.overwrite or not is_done(i, args.output, name_format)]
    if source is None:
        say(f"MONAI: {monai_line(args.bundle, FILES, overrides)}")
    workflow = load_workflow(args.bundle, FILES, {**overrides, "dataset::data": todo}, "infer")
    check_model(workflow)
    if len(todo) < len(images):
        say(f"{len(images) - len(todo)} of {len(images)} are already there and skipped (--overwrite does them again).")
    if args.dry_run:
        say(f"{len(todo)} scans would be segmented.")
        _say_left_out([*unfetched, *work.left_out])
        return EXIT_OK
    make_folder(args.output)
    refused = run_one_by_one(workflow)
    workflow.finalize()
    say(f"{len(todo) - len(refused)} of {len(todo)} scans segmented, in {args.output}")
    say_refused(refused)
    _say_left_out([*unfetched, *work.left_out])
    if source is not None and args.store:
        pacs.store_results(source, args.output, [item for item in images if item["series"] not in refused])
    return EXIT_CASES_FAILED if refused else EXIT_OK


def _own(args: argparse.Namespace) -> dict[str, str]:
    """What options of the verb set in the config."""
    if args.format is None:
        return {}
    if args.format not in FORMATS:
        raise ConfigError(f"--format is {args.format!r}: it must be one of {', '.join(FORMATS)}.")
    return {"output_format": args.format}


def _format(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    return str(overrides.get("output_format", config.get("output_format", "auto")))


def _say_left_out(reasons: Sequence[str]) -> None:
    for reason in reasons:
        say(f"  left out: {reason}")
