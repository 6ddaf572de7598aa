"""``unet-bundle evaluate``: score a bundle on the cases of a fold, or of each, on their own grids."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unet_bundle.cli.cases import check_model, make_folder, run_one_by_one, say_refused
from unet_bundle.cli.folds import (
    add_folds,
    best_weights,
    check_one_choice,
    folds_of,
    refuse_overrides,
    run_folder,
    say_failed,
)
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
from unet_bundle.runtime import EXIT_CASES_FAILED, EXIT_OK

logger = logging.getLogger(__name__)

FILES = ("inference.json", "evaluate.json")

EPILOG = f"""\
Predictions go to the scans' own grids and are compared with the untouched label files there.
Writes to the output folder: the predictions; scores.csv and scores.json, for each case and class with Dice, HD95,
surface Dice and the difference of the volumes, and where label files number objects, for each case how well those were
found; pictures of the worst cases; volumes.csv.
With --choose-cleaning also cleaning.json: whether dropping small objects or filling holes raises the Dice of a class.
A case that is refused is named at the end; the others are scored, the exit code is 1.
--folds scores each fold's cases with that fold's own weights, runs/fold_N/best.pt, which never saw them. Each fold has
a folder fold_N of its own in the output folder; cross_validation.csv and .json have them side by side and together.
{OVERRIDES_HELP}

examples:
  unet-bundle evaluate bundle Task04_Hippocampus
  unet-bundle evaluate bundle Task04_Hippocampus --folds all
  unet-bundle evaluate bundle Task04_Hippocampus --part all --output-dir scores
  unet-bundle evaluate bundle Task04_Hippocampus --choose-cleaning --write"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "evaluate",
        help="score a bundle against label files, on their own grid",
        description="Score a trained bundle on the validation cases of a fold.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_bundle(parser)
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of labelled scans")
    parser.add_argument("--fold", type=int, help="which fold's cases (default: 0)")
    add_folds(parser, "the cases kept back of these folds, each by its own weights")
    parser.add_argument(
        "--part", choices=["validation", "train", "all"], default="validation", help="default: validation"
    )
    parser.add_argument("--output-dir", type=Path, help="default: BUNDLE/eval")
    parser.add_argument(
        "--choose-cleaning", action="store_true", help="find out which cleaning of label maps helps, for each class"
    )
    parser.add_argument(
        "--write", action="store_true", help="with --choose-cleaning: put what helps into the bundle's inference.json"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, run nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate a bundle."""
    if args.write and not args.choose_cleaning:
        raise ConfigError("--write puts into the bundle what --choose-cleaning finds: give both.")
    check_folder(args.dataset)
    check_one_choice(args)
    output = args.output_dir or args.bundle / "eval"
    if args.folds is not None:
        return _evaluate_folds(args, folds_of(args.bundle, args.folds, args.overrides), output)
    cases, missing = _evaluate(args, args.fold or 0, output)
    _say_missing(missing, cases)
    return EXIT_CASES_FAILED if missing else EXIT_OK


def _evaluate(
    args: argparse.Namespace, fold: int, output: Path, more: Mapping[str, Any] = MappingProxyType({})
) -> tuple[int, dict[str, str]]:
    """Score the cases of a fold; returns their number, and why some have no scores."""
    from unet_bundle.evaluation import ChooseCleaning, SaveScores

    own = {"dataset_dir": str(args.dataset), "output_dir": str(output), "fold": fold, "part": args.part, **more}
    if args.choose_cleaning:
        if "choose_cleaning" not in read_config(args.bundle, FILES[1]):
            raise ConfigError(
                "--choose-cleaning needs classes, each labelled in full: not for a bundle with ignore or regions."
            )
        own["choose_cleaning"] = True
    overrides = parse_overrides(args.overrides, own)
    say(f"MONAI: {monai_line(args.bundle, FILES, overrides)}")
    workflow = load_workflow(args.bundle, FILES, overrides, "infer")
    check_model(workflow)
    cases = len(workflow.parser.get_parsed_content("dataset::data"))
    if "scored_weights" not in workflow.parser:
        raise ConfigError("configs/evaluate.json does not say which weights it scores: plan the bundle again.")
    workflow.parser.get_parsed_content("scored_weights")  # refused before a folder is made
    if args.dry_run:
        say(f"{cases} cases; nothing was run.")
        return cases, {}
    make_folder(output)
    handlers = workflow.parser.get_parsed_content("handlers")
    scores = next(h for h in handlers if isinstance(h, SaveScores))
    chooser = next((h for h in handlers if isinstance(h, ChooseCleaning)), None)
    with scores.one_by_one() as missing, nullcontext() if chooser is None else chooser.one_by_one():
        missing.update(run_one_by_one(workflow))
    workflow.finalize()
    if len(missing) < cases and args.folds is None:
        _say_report(output)
    if chooser is not None and chooser.chosen is not None:
        say(f"Which cleaning helps, with all figures: {output / 'cleaning.json'}")
        if args.write:
            _write_cleaning(args.bundle, chooser.chosen.as_config())
    return cases, missing


def _evaluate_folds(args: argparse.Namespace, folds: list[int], output: Path) -> int:
    """Score each fold with its own weights, and write what they have together."""
    if args.part != "validation":
        raise ConfigError(
            f"--part {args.part} does not go with --folds, which scores the cases kept back: leave it out."
        )
    if args.choose_cleaning:
        raise ConfigError("--choose-cleaning looks at the cases of one fold: give --fold in place of --folds.")
    refuse_overrides(args.overrides, ["checkpoint", "ensemble"])
    # A bundle whose inference averages the folds would score cases with weights that saw them.
    alone: Overrides = {"ensemble": []} if read_config(args.bundle, FILES[0]).get("ensemble") else {}
    failed: dict[int, str] = {}
    missing: dict[str, str] = {}
    reports: dict[int, Any] = {}
    cases = 0
    for fold in folds:
        folder = output / f"fold_{fold}"
        try:
            weights = {"checkpoint": str(best_weights(args.bundle, fold, to_score=True)), **alone}
            count, refused = _evaluate(args, fold, folder, weights)
        except CheckpointError as error:
            failed[fold] = str(error)
            continue
        cases += count
        missing |= {f"fold {fold}, {name}": reason for name, reason in refused.items()}
        if len(refused) < count and not args.dry_run:
            reports[fold] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    if reports:
        unfinished = _unfinished(args.bundle, list(reports))
        _write_folds(reports, output, list(unfinished))
        for fold, (done, wanted) in unfinished.items():
            logger.warning(
                "Fold %d is not trained to its end (%d of %d epochs), its scores are of the best weights so far:"
                " go on by unet-bundle train --folds all --resume.", fold, done, wanted,
            )  # fmt: skip
    if failed:
        say(f"{len(failed)} of {len(folds)} folds could not be scored:")
        say_failed(failed)
    _say_missing(missing, cases)
    return EXIT_CASES_FAILED if missing or failed else EXIT_OK


def _unfinished(bundle: Path, folds: list[int]) -> dict[int, tuple[int, int]]:
    """Epochs done and wanted of each fold whose run did not come to its end."""
    from unet_bundle.training.run_state import epochs_of_unfinished

    epochs = {fold: epochs_of_unfinished(run_folder(bundle, fold)) for fold in folds}
    return {fold: both for fold, both in epochs.items() if both is not None}


def _write_folds(reports: dict[int, Any], output: Path, unfinished: list[int]) -> None:
    from unet_bundle.evaluation.cross_validation import as_csv, as_table, gather
    from unet_bundle.io.files import write_text

    gathered = gather(reports, unfinished)
    write_text(output / "cross_validation.json", json.dumps(gathered, indent=2) + "\n")
    write_text(output / "cross_validation.csv", as_csv(gathered))
    say("\nDice on the original grids, mean ± standard deviation over the cases kept back:")
    for line in as_table(gathered):
        say(f"  {line}")
    _say_one_sided(gathered)
    say(f"All metrics: {output / 'cross_validation.csv'}; each case: {output / 'fold_N' / 'scores.csv'}")


def _say_missing(missing: dict[str, str], cases: int) -> None:
    if missing:
        say(f"{len(missing)} of {cases} cases could not be scored and are in none of the figures:")
    say_refused(missing)


def _write_cleaning(bundle: Path, values: dict[str, Any]) -> None:
    """Put the values of cleaning into inference.json, all or nothing."""
    from unet_bundle.io.files import write_text
    from unet_bundle.planning.bundle import to_json

    config = read_config(bundle, "inference.json")
    before = {key: config[key] for key in values}
    path = bundle / "configs" / "inference.json"
    if before == values:
        say(f"{path} says so already: {_shown(values)}")
        return
    write_text(path, to_json({**config, **values}))
    say(f"Written to {path}: {_shown(values)}")
    say(f"There before: {_shown(before)}; the scores above are of labels cleaned that way.")


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())


def _say_report(output: Path) -> None:
    from unet_bundle.evaluation.report import as_table, describe_objects

    report = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    say(f"Means of {len(report['cases'])} cases, on their original grids:")
    for line in as_table(report):
        say(f"  {line}")
    if "objects" in report:
        say(f"Objects: {describe_objects(report)}")
    _say_one_sided(report)
    say(f"Each case: {output / 'scores.csv'}; worst: {', '.join(report['worst']) or '-'}")


def _say_one_sided(report: Mapping[str, Any]) -> None:
    one_sided = sum(report["one_sided"].values())
    if one_sided:
        say(f"{one_sided} times a class is in only one of label and prediction; counted as the worst case.")
