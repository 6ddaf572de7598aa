"""``unet-bundle demo``: the whole path on scans it makes itself."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import say
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import EXIT_OK

MINUTES = 3.5
ORGANS = ("lobe", "bean")

EPILOG = """\
Makes a small labelled data set (two organs that touch, a thin vessel; oblique, anisotropic, noisy), plans a bundle
for it, trains it some minutes, scores it, and segments a scan the network never saw. All is left in the output folder.

example:
  unet-bundle demo --output demo --max-minutes 3"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "demo",
        help="see all of it at work on scans made up for the purpose",
        description="Plan, train, evaluate and predict on a made-up data set.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--max-minutes", type=float, default=MINUTES, help=f"of training (default: {MINUTES:g})")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from unet_bundle.cli import main
    from unet_bundle.phantom import make_phantom, phantom_card

    root: Path = args.output
    dataset, bundle, card = root / "dataset", root / "bundle", root / "card.yaml"
    if root.exists() and not _is_ours(root):
        raise ConfigError(f"{root} is not empty and not an earlier demo: give another --output.")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    card.write_text(phantom_card(), encoding="utf-8")
    say("1. Making scans")
    make_phantom(dataset, seed=args.seed)

    steps = (
        ("2. Planning", ["plan", str(dataset), "--card", str(card), "--output", str(bundle)]),
        ("3. Training", ["train", str(bundle), str(dataset), "--max-minutes", f"{args.max_minutes:g}"]),
        ("4. Scoring on the cases kept back", ["evaluate", str(bundle), str(dataset)]),
        (
            "5. Segmenting a scan nobody trained on",
            ["predict", str(bundle), str(dataset / "imagesTs"), str(root / "result")],
        ),
    )
    for title, arguments in steps:
        say(f"\n{title}: unet-bundle {' '.join(arguments)}")
        code = main(arguments)
        if code != EXIT_OK:
            return code
    _close(root, _draw(root))
    return EXIT_OK


def _is_ours(root: Path) -> bool:
    """Whether the folder may be emptied: it is empty, or an earlier demo, which wrote its card first."""
    from unet_bundle.phantom import phantom_card

    if not root.is_dir():
        return False
    card = root / "card.yaml"
    return not any(root.iterdir()) or (card.is_file() and card.read_text(encoding="utf-8") == phantom_card())


def _draw(root: Path) -> float:
    """The picture of the unseen scan and the curves of the training; returns the mean Dice of the two organs there."""
    from unet_bundle.evaluation.curves import training_curves
    from unet_bundle.evaluation.picture import overlay_picture
    from unet_bundle.evaluation.scores import dice_table
    from unet_bundle.io import LoadImaged, output_name
    from unet_bundle.planning.card import load_card

    card = load_card(root / "card.yaml", {})
    scan = next((root / "dataset" / "imagesTs").glob("*.nii.gz"))
    paths: dict[Hashable, Any] = {
        "image": str(scan),
        "label": str(root / "dataset" / "labelsTs" / scan.name),
        "pred": str(root / "result" / output_name(scan)),
    }
    loaded = LoadImaged(["image", "label", "pred"])(paths)
    names = [name for name, _ in sorted(card.labels.items(), key=lambda item: item[1])][1:]
    dice = dict(zip(names, dice_table(loaded["pred"], loaded["label"], len(card.labels)), strict=True))
    colors = {name: card.terms[name]["color"] for name in names}
    overlay_picture(
        loaded["image"][0].numpy(),
        loaded["label"][0].numpy(),
        loaded["pred"][0].numpy(),
        card.labels,
        root / "result.png",
        "A scan the network never saw",
        affine=loaded["image"].affine.numpy(),
        colors=colors,
        dice={name: float("nan") if value is None else value for name, value in dice.items()},
    )
    with (root / "bundle" / "runs" / "fold_0" / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = {
        "training loss": [(float(row["epoch"]), float(row["loss"])) for row in rows],
        "mean": [(float(row["epoch"]), float(row["validation_dice"])) for row in rows if row["validation_dice"]],
    }
    training_curves(curves, root / "curves.png", "Training of the demo")
    return sum(dice[name] or 0.0 for name in ORGANS) / len(ORGANS)


def _close(root: Path, dice_unseen: float) -> None:
    classes = json.loads((root / "bundle" / "eval" / "scores.json").read_text(encoding="utf-8"))["classes"]
    dice_validation = sum(classes[name] or 0.0 for name in ORGANS) / len(ORGANS)
    bundle = root / "bundle"
    say(
        f"""
Mean Dice of the two organs ({" and ".join(ORGANS)}):
  {dice_validation:.3f} on the cases kept back, {dice_unseen:.3f} on the unseen scan

Look at
  {root / "result.png"}        the unseen scan, what is true and what was found
  {root / "curves.png"}        loss and validation score
  {root / "result"}            the label map (NIfTI), on the scan's own grid
  {bundle / "docs" / "README.md"}   every choice of the plan with its reason

Try next
  unet-bundle train {bundle} {root / "dataset"} --max-minutes 10
  unet-bundle predict {bundle} YOUR_SCAN.nii.gz segmentations/
  tensorboard --logdir {bundle / "runs"}
  unet-bundle plan YOUR_DATASET --output YOUR_BUNDLE"""
    )
