"""``unet-bundle train``: train a bundle on the folds but one, or each fold in turn."""

from __future__ import annotations

import argparse
import gc
import logging
from pathlib import Path
from typing import Any

from unet_bundle.cli.folds import add_folds, check_one_choice, folds_of, refuse_overrides, run_folder, say_failed
from unet_bundle.cli.workflow import (
    OVERRIDES_HELP,
    Overrides,
    add_bundle,
    check_folder,
    load_workflow,
    monai_line,
    parse_overrides,
    read_config,
    say,
)
from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK, our_error

logger = logging.getLogger(__name__)

FILES = ("train.json",)

EPILOG = f"""\
A run keeps its state, best weights, curves.csv and TensorBoard logs in BUNDLE/runs/fold_N.
At its end the best weights go to BUNDLE/models/model.pt, if they score better than those that are there.
Interrupted, by Ctrl-C or a scheduler's SIGTERM? The same line with --resume goes on where it was; killed? from the
last saved state, ten minutes old at most. --resume auto begins where there is nothing to resume, and does nothing where
the run is done.
--folds trains one fold after another, for a cross-validation; with --resume those that are done are skipped. A fold
that fails is named at the end and the others are trained, the exit code is 1.
{OVERRIDES_HELP}

examples:
  unet-bundle train bundle Task04_Hippocampus --max-minutes 60
  unet-bundle train bundle Task04_Hippocampus --fold 1 --max-epochs 100 --learning_rate 0.0005
  unet-bundle train bundle Task04_Hippocampus --max-minutes 60 --resume
  unet-bundle train bundle Task04_Hippocampus --folds all --max-minutes 60
  unet-bundle train bundle Task04_Hippocampus --pretrained other_bundle --learning_rate 0.0003"""


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
    parser.add_argument("--fold", type=int, help="the fold to validate on (default: 0)")
    add_folds(parser, "train these folds one after another")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--max-minutes",
        type=float,
        help="train each fold this long, reading the scans not counted; the epochs are counted out",
    )
    length.add_argument("--max-epochs", type=int, help="default: what the plan says")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="true",
        choices=("true", "auto"),
        metavar="auto",
        help="go on with the run that is in the run folder; auto: begin if there is none, do nothing if it is done",
    )
    parser.add_argument(
        "--pretrained", type=Path, metavar="FILE_OR_BUNDLE", help="start from these weights, as far as they fit"
    )
    parser.add_argument("--dry-run", action="store_true", help="forecast time and memory, train nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train a bundle."""
    if args.max_minutes is not None and not args.max_minutes > 0:
        raise ConfigError(f"--max-minutes must be positive, not {args.max_minutes:g}.")
    check_folder(args.dataset)
    check_one_choice(args)
    if args.folds is not None:
        return _train_folds(args, folds_of(args.bundle, args.folds, args.overrides))
    fold = args.fold or 0
    folder = _train(args, fold, resume=args.resume)
    if folder is not None:
        say(f"Trained; curves and checkpoints: {folder}")
        say(f"Next: unet-bundle evaluate {args.bundle} {args.dataset}" + (f" --fold {fold}" if fold else ""))
    return EXIT_OK


def _train_folds(args: argparse.Namespace, folds: list[int]) -> int:
    """Train one fold after another; one that fails does not end the others."""
    refuse_overrides(args.overrides, ["output_dir", "fold", "checkpoint"])
    todo = [fold for fold in folds if not (args.resume and _is_finished(args, fold))]
    if len(todo) < len(folds):
        say(f"{len(folds) - len(todo)} of {len(folds)} folds are trained already and skipped.")
    if todo:
        order = f"Folds {', '.join(map(str, todo))}, one after another" if todo[1:] else f"Fold {todo[0]}"
        say(f"{order}{_total_time(args, len(todo))}.")
    if args.dry_run:
        for fold in todo[:1]:  # the others take as much
            _train(args, fold, resume=_resume(args, fold), folds=len(todo))
        return EXIT_OK
    failed: dict[int, str] = {}
    for fold in todo:
        say(f"\nFold {fold}:")
        try:
            _train(args, fold, resume=_resume(args, fold), folds=len(todo))
        except Exception as error:
            ours = our_error(error)
            if isinstance(ours, ConfigError) and fold == todo[0]:
                raise  # hardly any other fold will fare better
            failed[fold] = str(ours) if ours is not None else f"{type(error).__name__}: {error}".partition("\n")[0]
            logger.log(logging.WARNING, "Fold %d failed: %s", fold, failed[fold], exc_info=ours is None)
        gc.collect()  # engines and handlers hold each other, and the scans of their fold
    if failed:
        say(f"{len(failed)} of {len(todo)} folds failed; the same line with --resume trains only these:")
        say_failed(failed)
        return EXIT_CASES_FAILED
    say(f"\nTrained; curves and checkpoints: {args.bundle / 'runs'}")
    say(f"Next: unet-bundle evaluate {args.bundle} {args.dataset} --folds {args.folds}")
    return EXIT_OK


def _total_time(args: argparse.Namespace, count: int) -> str:
    if args.max_minutes is None:
        return ""
    if count == 1:
        return f", {args.max_minutes:g} minutes, reading not counted"
    return f", {args.max_minutes:g} minutes each: {count * args.max_minutes:g} minutes in all, reading not counted"


def _train(args: argparse.Namespace, fold: int, *, resume: str | None, folds: int = 1) -> Path | None:
    """Train one fold of `folds`; returns the folder of its run, None if nothing was trained."""
    own: Overrides = {"dataset_dir": str(args.dataset), "fold": fold}
    for key in ("max_minutes", "max_epochs"):
        if getattr(args, key) is not None:
            own[key] = getattr(args, key)
    if args.pretrained is not None:
        own["pretrained"] = str(args.pretrained)
    if resume:
        own["resume"] = resume if resume == "auto" else True
    overrides = parse_overrides(args.overrides, own)
    from unet_bundle.training.run_state import is_finished

    say(f"MONAI: {monai_line(args.bundle, FILES, overrides)}")
    workflow = load_workflow(args.bundle, FILES, overrides, "train")
    folder = Path(workflow.parser.get_parsed_content("output_dir"))
    if resume == "auto" and is_finished(folder, workflow.parser.get_parsed_content("max_epochs")):
        say(f"The run in {folder} is done: nothing is trained. Without --resume it is trained anew.")
        return None
    if resume == "true":
        _check_run(folder)
    _forecast(workflow.parser, folds)
    if args.dry_run:
        say("Nothing was trained.")
        return None
    workflow.run()
    workflow.finalize()
    return folder


def _is_finished(args: argparse.Namespace, fold: int) -> bool:
    from unet_bundle.training.run_state import is_finished

    epochs = read_config(args.bundle, FILES[0])["max_epochs"] if args.max_epochs is None else args.max_epochs
    try:
        return is_finished(run_folder(args.bundle, fold), epochs)
    except CheckpointError:
        return False  # said when its turn comes


def _resume(args: argparse.Namespace, fold: int) -> str | None:
    """How a fold that is not finished goes on: from its state, or from nothing if it has none."""
    from unet_bundle.training.checkpoints import LAST

    has_state = (run_folder(args.bundle, fold) / LAST).is_file()
    return "true" if args.resume and has_state else None


def _check_run(folder: Path) -> None:
    """Refuse to resume what is not there, before scans are read."""
    from unet_bundle.networks.checkpoint import short_name
    from unet_bundle.training.checkpoints import LAST

    if not (folder / LAST).is_file():
        raise CheckpointError(
            f"{short_name(folder / LAST)} is missing, there is no run to resume: start anew without --resume."
        )


def _forecast(parser: Any, folds: int = 1) -> None:
    """Say how much there is to train on, and what it will take; `folds` of this kind."""
    from monai.bundle import ConfigParser

    from unet_bundle.memory import free_memory_bytes
    from unet_bundle.planning.memory import training_memory_bytes
    from unet_bundle.planning.template.shared import UNET
    from unet_bundle.precision import resolve_precision
    from unet_bundle.training.forecast import seconds_per_step

    def value(key: str) -> Any:
        return parser.get_parsed_content(key)

    cases, validation = len(value("train::dataset::data")), len(value("validate::dataset::data"))
    say(f"{cases} cases to train on, {validation} to validate on.")
    network, device, batch, patch = parser["network_def"], value("device"), value("batch_size"), value("patch_size")
    precision = resolve_precision(value("precision"), device)
    say(f"Runs on {device} in {str(precision).removeprefix('torch.')}.")
    free = f"{free_memory_bytes() / 1e9:.0f} GB of memory are free"
    if network["_target_"] == UNET:
        arguments = {key: item for key, item in network.items() if not key.startswith("_")}
        memory = training_memory_bytes(arguments, patch, batch, str(precision).removeprefix("torch."))
        say(f"Memory: about {memory / 1e9:.1f} GB for a step; {free}.")
    else:
        say(f"Memory: {free}; what a step of {network['_target_']} takes is not known.")
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
        minutes = steps * seconds / 60
        each = f" a fold, {folds * minutes:.0f} in all" if folds > 1 else ""
        say(f"Time: {steps} steps of about {seconds:.2f} s: {minutes:.0f} minutes{each}, and the validations.")
