"""``unet-bundle predict``: segment new scans."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import (
    OVERRIDES_HELP,
    add_bundle,
    load_workflow,
    monai_line,
    parse_overrides,
    read_config,
    say,
)
from unet_bundle.errors import CheckpointError, ConfigError, InputError, UnetBundleError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK, our_error

logger = logging.getLogger(__name__)

FILES = ("inference.json",)

EPILOG = f"""\
INPUT is a scan or a folder of scans. Each gives one label map <scan>_seg.nii.gz with exactly the scan's grid.
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
        raise InputError(f"{args.input} does not exist: give a scan or a folder of scans.")
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file: give a folder for the label maps.")
    if args.output.resolve() == (args.input if args.input.is_dir() else args.input.parent).resolve():
        raise ConfigError(f"{args.output} holds the scans: label maps among them would be taken for scans next time.")
    own = {"dataset_dir": str(args.input), "output_dir": str(args.output)}
    overrides = parse_overrides(args.overrides, own)
    channels = read_config(args.bundle, FILES[0])["network_def"]["in_channels"]
    images = find_images(args.input, channels) if args.input.is_dir() else [{"image": str(args.input)}]
    todo = [i for i in images if args.overwrite or not (args.output / output_name(i["image"])).exists()]
    say(f"MONAI: {monai_line(args.bundle, FILES, overrides)}")
    workflow = load_workflow(args.bundle, FILES, {**overrides, "dataset::data": todo}, "infer")
    if len(todo) < len(images):
        say(f"{len(images) - len(todo)} of {len(images)} are already there and skipped (--overwrite does them again).")
    if args.dry_run:
        say(f"{len(todo)} scans would be segmented.")
        return EXIT_OK
    refused = _segment(workflow, todo) if todo else {}
    say(f"{len(todo) - len(refused)} of {len(todo)} scans segmented, in {args.output}")
    for name, message in refused.items():
        say(f"  refused: {name}: {message}")
    return EXIT_CASES_FAILED if refused else EXIT_OK


def _segment(workflow: Any, todo: list[dict[str, str]]) -> dict[str, str]:
    """Segment each scan by the config's evaluator; returns those that failed, with the reason."""
    from monai.data import DataLoader, Dataset

    from unet_bundle.io import case_name

    preprocessing = workflow.parser.get_parsed_content("preprocessing")
    refused: dict[str, str] = {}
    output = Path(workflow.parser.get_parsed_content("output_dir"))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be made ({error.strerror}): give another folder for the label maps."
        ) from error
    for number, item in enumerate(todo, start=1):
        name = case_name(item["image"])
        logger.info("%d of %d: %s", number, len(todo), name)
        # A new one each time: after an exception the next run of an Ignite engine ends at once and in silence.
        workflow.parser.ref_resolver.remove_resolved_content("evaluator")
        evaluator = workflow.parser.get_parsed_content("evaluator")
        evaluator.data_loader = DataLoader(Dataset([item], preprocessing), batch_size=1)
        evaluator.state.epoch_length = 1
        try:
            evaluator.run()
        except (UnetBundleError, RuntimeError, ValueError, OSError, MemoryError) as error:
            ours = our_error(error)
            if isinstance(ours, CheckpointError | ConfigError):
                raise  # no other scan will fare better
            refused[name] = str(ours) if ours is not None else _first_line(error)
            logger.warning("%s is refused: %s", name, refused[name])
    workflow.finalize()
    return refused


def _first_line(error: BaseException) -> str:
    """Of the error that was there first: around it stand MONAI's, which name the transform."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
