"""``unet-bundle train``: train a bundle on the folds but one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import (
    OVERRIDES_HELP,
    Overrides,
    add_bundle,
    check_folder,
    load_workflow,
    monai_line,
    parse_overrides,
    say,
)
from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.runtime import EXIT_OK

FILES = ("train.json",)

EPILOG = f"""\
A run keeps its state, best weights, curves.csv and TensorBoard logs in BUNDLE/runs/fold_N.
At its end the best weights go to BUNDLE/models/model.pt, if they score better than those that are there.
Interrupted, by Ctrl-C or a scheduler's SIGTERM? The same line with --resume goes on where it was; killed? from the
last saved state, ten minutes old at most. --resume auto begins where there is nothing to resume.
{OVERRIDES_HELP}

examples:
  unet-bundle train bundle Task04_Hippocampus --max-minutes 60
  unet-bundle train bundle Task04_Hippocampus --fold 1 --max-epochs 100 --learning_rate 0.0005
  unet-bundle train bundle Task04_Hippocampus --max-minutes 60 --resume"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "train",
        help="train a bundle",
        description="Train a bundle on all folds but one and validate on that one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_bundle(parser)
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of labelled scans")
    parser.add_argument("--fold", type=int, default=0, help="the fold to validate on (default: 0)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--max-minutes", type=float, help="train this long, reading the scans not counted; the epochs are counted out"
    )
    length.add_argument("--max-epochs", type=int, help="default: what the plan says")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="true",
        choices=("true", "auto"),
        metavar="auto",
        help="go on with the run that is in the run folder; auto: if there is one that is not done, else begin",
    )
    parser.add_argument("--dry-run", action="store_true", help="forecast time and memory, train nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train a bundle."""
    if args.max_minutes is not None and not args.max_minutes > 0:
        raise ConfigError(f"--max-minutes must be positive, not {args.max_minutes:g}.")
    check_folder(args.dataset)
    own: Overrides = {"dataset_dir": str(args.dataset), "fold": args.fold}
    for key in ("max_minutes", "max_epochs"):
        if getattr(args, key) is not None:
            own[key] = getattr(args, key)
    if args.resume:
        own["resume"] = args.resume if args.resume == "auto" else True
    overrides = parse_overrides(args.overrides, own)
    say(f"MONAI: {monai_line(args.bundle, FILES, overrides)}")
    workflow = load_workflow(args.bundle, FILES, overrides, "train")
    if args.resume == "true":
        _check_run(Path(workflow.parser.get_parsed_content("output_dir")))
    _forecast(workflow.parser)
    if args.dry_run:
        say("Nothing was trained.")
        return EXIT_OK
    workflow.run()
    workflow.finalize()
    bundle = args.bundle
    say(f"Trained; curves and checkpoints: {workflow.parser.get_parsed_content('output_dir')}")
    say(f"Next: unet-bundle evaluate {bundle} {args.dataset}" + (f" --fold {args.fold}" if args.fold else ""))
    return EXIT_OK


def _check_run(folder: Path) -> None:
    """Refuse to resume what is not there, before scans are read."""
    from unet_bundle.networks.checkpoint import short_name
    from unet_bundle.training.checkpoints import LAST

    if not (folder / LAST).is_file():
        raise CheckpointError(
            f"{short_name(folder / LAST)} is missing, there is no run to resume: start anew without --resume."
        )


def _forecast(parser: Any) -> None:
    """Say how much there is to train on, and what it will take."""
    from monai.bundle import ConfigParser

    from unet_bundle.memory import free_memory_bytes
    from unet_bundle.planning.memory import training_memory_bytes
    from unet_bundle.precision import resolve_precision
    from unet_bundle.training.forecast import seconds_per_step

    def value(key: str) -> Any:
        return parser.get_parsed_content(key)

    cases, validation = len(value("train::dataset::data")), len(value("validate::dataset::data"))
    say(f"{cases} cases to train on, {validation} to validate on.")
    network, device, batch, patch = parser["network_def"], value("device"), value("batch_size"), value("patch_size")
    precision = resolve_precision(value("precision"), device)
    say(f"Runs on {device} in {str(precision).removeprefix('torch.')}.")
    arguments = {key: item for key, item in network.items() if not key.startswith("_")}
    memory = training_memory_bytes(arguments, patch, batch, str(precision).removeprefix("torch."))
    say(f"Memory: about {memory / 1e9:.1f} GB for a step; {free_memory_bytes() / 1e9:.0f} GB of memory are free.")
    seconds = seconds_per_step(
        lambda: ConfigParser({"network": network}).get_parsed_content("network"),
        value("loss"), [batch, network["in_channels"], *patch], value("num_classes"), device, value("precision"),
    )  # fmt: skip
    minutes = value("max_minutes")
    if minutes is not None:
        steps = minutes * 60 / seconds
        say(f"Time: {minutes:g} minutes, at most {steps:.0f} steps of about {seconds:.2f} s; validations are in it.")
    else:
        steps = value("max_epochs") * value("iterations_per_epoch")
        say(f"Time: {steps} steps of about {seconds:.2f} s: {steps * seconds / 60:.0f} minutes, and the validations.")
