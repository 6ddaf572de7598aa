"""``unet-bundle import-nnunet``: a trained model of nnU-Net v2 as a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import say
from unet_bundle.runtime import EXIT_OK

EPILOG = """\
MODEL_FOLDER holds plans.json, dataset.json and fold_X/checkpoint_final.pth: what nnU-Net calls
Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres. The second stage of a cascade is not imported.
nnU-Net itself is not needed, neither now nor when the bundle runs.

examples:
  unet-bundle import-nnunet nnUNetTrainer__nnUNetPlans__3d_fullres --output bundle
  unet-bundle import-nnunet nnUNetTrainer__nnUNetPlans__3d_fullres --output bundle --folds 0 --orientation LPS"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "import-nnunet",
        help="make a bundle of a trained model of nnU-Net v2",
        description="Make a bundle of a trained model of nnU-Net v2, which then runs without nnU-Net.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model_folder", type=Path, metavar="MODEL_FOLDER", help="with plans.json and fold_X")
    parser.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="folder to write the bundle to")
    parser.add_argument(
        "--folds", nargs="+", default=[], metavar="FOLD", help="such as 0 1, or all (default: those there)"
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="default: checkpoint_final.pth, or else checkpoint_best.pth"
    )
    parser.add_argument(
        "--orientation",
        metavar="AXES",
        help="such as LPS: axes of all scans it was trained on, to which scans are turned (default: left as they are)",
    )
    parser.add_argument(
        "--any-trainer",
        action="store_true",
        help="import what a trainer not of nnU-Net's own made: it changed training alone",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import a model."""
    from unet_bundle.planning.nnunet_import import import_model, write_imported
    from unet_bundle.planning.nnunet_import_folder import read_nnunet_folder

    source = read_nnunet_folder(args.model_folder, args.folds, args.checkpoint, any_trainer=args.any_trainer)
    imported = import_model(source, args.orientation)
    write_imported(imported, args.output)
    model = imported.model
    say(f"{model.name}: {source.configuration_name} by {source.trainer}, folds {', '.join(source.folds)}")
    say(f"  spacing {model.spacing}, patch {model.patch_size}, labels {', '.join(model.labels)}")
    if model.orientation is None and model.unit == "mm":
        say("Give it scans with the axes of those it was trained on, or say which these are: --orientation.")
    say(f"Written to {args.output}. Next: unet-bundle predict {args.output} SCANS OUTPUT")
    return EXIT_OK
