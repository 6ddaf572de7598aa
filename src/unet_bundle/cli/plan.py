"""``unet-bundle plan``: look at the scans, write the bundle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from unet_bundle.cli.check import check_before_planning
from unet_bundle.cli.workflow import check_folder, read_json, say
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import EXIT_OK

EPILOG = """\
DATASET is a folder of labelled scans in any layout that `unet-bundle check` knows; it is checked first.
Every choice and its reason stands in BUNDLE/docs/README.md; every value can be changed in BUNDLE/configs.

examples:
  unet-bundle plan Task04_Hippocampus --output bundle --card configs/hippocampus.yaml
  unet-bundle plan Task04_Hippocampus --output bundle --memory 24GB
  unet-bundle plan --fingerprint configs/hippocampus.fingerprint.json --card configs/hippocampus.yaml --output bundle"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "plan",
        help="look at labelled scans and write a bundle configured for them",
        description="Measure a data set and write a complete MONAI bundle with a U-Net configured for it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", type=Path, nargs="?", metavar="DATASET", help="folder of labelled scans")
    parser.add_argument("--output", type=Path, required=True, metavar="BUNDLE", help="folder to write the bundle to")
    parser.add_argument("--card", type=Path, help="YAML task card: what no program can find out about the scans")
    parser.add_argument(
        "--memory", choices=["cpu", "8GB", "24GB", "80GB"], default="cpu", help="what training may use (default: cpu)"
    )
    parser.add_argument(
        "--configuration",
        choices=["full", "low", "2d"],
        help="look at the scans at full or at low resolution, or slice by slice (default: the card's, or by the scans)",
    )
    parser.add_argument(
        "--fingerprint",
        type=Path,
        metavar="JSON",
        help="with DATASET: also write the measurements there; without: plan from them",
    )
    parser.add_argument(
        "--scores", type=Path, metavar="JSON", help="scores.json of an evaluation, for the bundle's documentation"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be planned, write nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plan a bundle."""
    from unet_bundle.io import case_name, find_cases, read_description
    from unet_bundle.io.files import write_text
    from unet_bundle.io.splits import read_splits
    from unet_bundle.planning.bundle import bundle_files, to_json, write_bundle
    from unet_bundle.planning.card import load_card
    from unet_bundle.planning.fingerprint import measure_fingerprint
    from unet_bundle.planning.plan import make_plan

    if args.dataset is None:
        if args.fingerprint is None or args.card is None:
            raise ConfigError("Give a DATASET, or --fingerprint and --card of one that was measured before.")
        card = load_card(args.card, {})
        fingerprint = read_json(args.fingerprint, "give the file of an earlier --fingerprint")
    else:
        check_folder(args.dataset)
        card = load_card(args.card, read_description(args.dataset))
        check_before_planning(args.dataset, card)
        cases = find_cases(args.dataset, card.image_files, card.label_files)
        fingerprint = measure_fingerprint(cases, card)

    names = None if args.dataset is None else {case_name(case["image"]) for case in cases}
    splits = None if card.splits_file is None else read_splits(Path(card.splits_file), names, card.subject)
    plan = make_plan(fingerprint, card, args.memory, args.configuration)
    say(
        f"{plan.name}: {fingerprint['num_cases']} cases of {fingerprint['num_subjects']} subjects,"
        f" planned for {args.memory}"
    )
    for name in ("configuration", "spacing", "patch_size", "batch_size", "normalization", "mirror_axes"):
        say(f"  {name:14} {json.dumps(getattr(plan, name))}")
    say(f"  {'channels':14} {json.dumps(plan.network['channels'])}")
    say(f"  {'encoder':14} {plan.network.get('encoder', 'plain')}")
    say(f"  {'strides':14} {json.dumps(plan.network['strides'])}")
    say(f"  {'memory':14} about {plan.memory_bytes / 1e9:.1f} GB for a training step")
    if plan.configuration == "2d":
        say(f"Slices: {plan.reasons['configuration']}.")
    if plan.advice is not None:
        say(f"Low resolution is advisable: {plan.advice}; get it with --configuration low.")
    if args.dry_run:
        return EXIT_OK
    scores = (
        None
        if args.scores is None
        else read_json(args.scores, "give the scores.json that `unet-bundle evaluate` wrote")
    )
    write_bundle(bundle_files(plan, fingerprint, card, scores, splits), args.output)
    if args.dataset is not None and args.fingerprint is not None:
        args.fingerprint.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.fingerprint, to_json(fingerprint))
    say(f"Written to {args.output}; each choice and its reason: {args.output / 'docs' / 'README.md'}")
    say(f"Next: unet-bundle train {args.output} {args.dataset or 'DATASET'}")
    return EXIT_OK
