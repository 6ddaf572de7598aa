"""Regions or classes? Trains on both kinds of outputs of the same labels, and scores what both paint.

    python scripts/ablation_regions.py DATASET --card configs/hippocampus.yaml --epochs 12 --json table.json \
        --regions '{"hippocampus": [1, 2], "anterior": [1]}'

One training has an output for each class (softmax), the other one for each region (sigmoids), the rest is equal: cases,
plan, steps and seed. Dice of the classes and of the regions, on the validation part of fold 0, is taken from the label
maps of either.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from ablation_sparse import call

from unet_bundle.io import case_name, find_cases

Values = dict[str, list[int]]


def main() -> None:
    """Train, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--regions", type=json.loads, required=True, help="of the card: values by name, larger first")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    card = yaml.safe_load(args.card.read_text(encoding="utf-8"))
    classes = {name: [value] for name, value in card["labels"].items() if value}
    painted = {**args.regions, **classes}
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, parts in (("classes", {}), ("regions", {"regions": args.regions})):
            folder = Path(name) / kind
            folder.mkdir()
            (folder / "card.yaml").write_text(yaml.safe_dump({**card, **parts}, sort_keys=False), encoding="utf-8")
            predictions = predict(args, folder)
            table[kind] = scores(args.dataset, predictions, painted)
            shown = ", ".join(f"{part} {value:.4f}" for part, value in table[kind].items())
            sys.stdout.write(f"{kind}: {shown}\n")
            sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def predict(args: argparse.Namespace, folder: Path) -> Path:
    """The folder of label maps of a bundle that is planned by the folder's card, trained and evaluated."""
    bundle, output = folder / "bundle", folder / "output"
    call("plan", args.dataset, "--card", folder / "card.yaml", "--output", bundle)
    settings = ["--max_epochs", args.epochs, "--val_interval", max(args.epochs // 4, 1), "--seed", args.seed]
    call("train", bundle, args.dataset, *settings)
    call("evaluate", bundle, args.dataset, "--output-dir", output)
    return output


def scores(dataset: Path, predictions: Path, painted: Values) -> dict[str, float]:
    """Mean Dice over the cases that have a label map, of each set of values."""
    found = []
    for case in find_cases(dataset):
        path = predictions / f"{case_name(case['image'])}_seg.nii.gz"
        if path.exists():
            truth, ours = (np.asarray(nib.load(file).dataobj) for file in (case["label"], path))
            found.append([dice(np.isin(truth, values), np.isin(ours, values)) for values in painted.values()])
    if not found:
        sys.exit(f"No label maps in {predictions}.")
    return dict(zip(painted, np.mean(found, axis=0).tolist(), strict=True))


def dice(truth: Any, ours: Any) -> float:
    """Of two masks; 1 where both are empty."""
    either = truth.sum() + ours.sum()
    return float(2 * (truth & ours).sum() / either) if either else 1.0


if __name__ == "__main__":
    main()
